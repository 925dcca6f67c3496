"""Running Terraform: its process, its working directory, its environment and its output."""
