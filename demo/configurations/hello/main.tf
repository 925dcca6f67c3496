# Needs no provider download and no AWS: the resources are built into Terraform.
terraform {
  required_version = ">= 1.5"
}

variable "greeting" {
  type        = string
  description = "What to say."
  default     = "Hello"
}

variable "names" {
  type        = list(string)
  description = "Whom to greet."
  default     = ["alice", "bob"]
}

resource "terraform_data" "greeting" {
  for_each = toset(var.names)
  input    = "${var.greeting}, ${each.key}!"
}

resource "terraform_data" "summary" {
  input            = "${length(var.names)} greeted"
  triggers_replace = [var.greeting]
  depends_on       = [terraform_data.greeting]
}

output "greetings" {
  value = [for greeting in terraform_data.greeting : greeting.output]
}
