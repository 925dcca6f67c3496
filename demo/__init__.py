"""What `make demo` runs beside the application: a local AWS stand-in and a sample organization."""
