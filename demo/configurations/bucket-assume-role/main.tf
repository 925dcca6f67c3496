# One bucket, made through a role whose trust policy asks for MFA. The provider assumes the role in the plan already,
# so the environment needs "plans and applies".
terraform {
  required_version = ">= 1.5"
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
    role_arn = var.role_arn
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
