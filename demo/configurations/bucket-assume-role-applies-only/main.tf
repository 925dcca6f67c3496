# One bucket, made through a role whose trust policy asks for MFA, for an environment with "applies only": the plan
# runs with the long-lived keys, which the role would refuse, so the role is assumed only while applying.
terraform {
  required_version = ">= 1.10" # terraform.applying
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

variable "bucket_name" {
  type        = string
  description = "Name of the bucket to keep."
}

variable "role_arn" {
  type        = string
  description = "The role to assume; its trust policy asks for MFA."
}

provider "aws" {
  region = "eu-west-1"

  assume_role {
    role_arn = terraform.applying ? var.role_arn : null
  }
}

resource "aws_s3_bucket" "this" {
  bucket        = var.bucket_name
  force_destroy = true

  tags = {
    ManagedBy = "Lockstep"
  }
}

output "bucket_arn" {
  value = aws_s3_bucket.this.arn
}
