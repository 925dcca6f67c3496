# One bucket, made with the credentials of the run itself. A plan of a new bucket asks AWS only who the caller is, so
# that "applies only" plans it with the long-lived keys and asks for a code before the apply.
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

provider "aws" {
  region = "eu-west-1"
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
