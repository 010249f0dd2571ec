# One cluster's bucket on S3: private, encrypted, TLS only. Old versions and broken uploads are dropped, so that what the compactor deletes is freed.

variable "bucket" {
  description = "Name of the bucket. One cluster, one bucket."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket must be an S3 bucket name: 3 to 63 lower-case letters, digits, '-' and '.'."
  }
}

variable "region" {
  description = "Region of the bucket; the aws provider must be of the same."
  type        = string
}

variable "force_destroy" {
  description = "Let a destroy delete the blocks, too."
  type        = bool
  default     = false
}

variable "versioning" {
  description = "Keep overwritten and deleted objects for noncurrent_days."
  type        = bool
  default     = false
}

variable "noncurrent_days" {
  description = "Days until an old version is dropped."
  type        = number
  default     = 7
}

variable "abort_multipart_days" {
  description = "Days until a broken upload is dropped."
  type        = number
  default     = 7
}

variable "transitions" {
  description = "Move blocks to a cheaper class after days. Only classes that can be read at once: a query or the compactor may read any block any time."
  type        = list(object({ days = number, storage_class = string }))
  default     = []

  validation {
    condition     = alltrue([for rule in var.transitions : contains(["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"], rule.storage_class)])
    error_message = "A transition moves blocks to a class that cannot be read at once (GLACIER and DEEP_ARCHIVE need a restore first): use STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING or GLACIER_IR."
  }
  validation {
    condition     = alltrue([for rule in var.transitions : rule.days >= 30])
    error_message = "A transition before 30 days costs more than it saves: compaction rewrites young blocks, and these classes bill 30 days at least."
  }
}

variable "expiration_days" {
  description = "Not supported: set it to see why."
  type        = number
  default     = null

  validation {
    condition     = var.expiration_days == null
    error_message = "The bucket must not expire objects: it would cut blocks in pieces. Set retention in the compactor (compactor.retention_raw, _5m, _1h)."
  }
}

variable "kms_key_arn" {
  description = "KMS key for encryption; without one SSE-S3 is used."
  type        = string
  default     = null
}

variable "reader_principals" {
  description = "ARNs of roles in other accounts that may read: the hub's store gateways."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.reader_principals : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|root)", arn))])
    error_message = "reader_principals must be ARNs of roles (or account roots), never \"*\"."
  }
}

variable "access_log_bucket" {
  description = "Bucket for access logs; none without it."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags."
  type        = map(string)
  default     = {}
}

resource "aws_s3_bucket" "this" {
  bucket        = var.bucket
  force_destroy = var.force_destroy
  tags          = var.tags
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id
  versioning_configuration {
    status = var.versioning ? "Enabled" : "Suspended"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    bucket_key_enabled = var.kms_key_arn != null
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    id     = "broken-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_multipart_days
    }
  }
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
    # What a deletion leaves when the last old version has gone: listings would grow for ever.
    expiration {
      expired_object_delete_marker = true
    }
  }
  dynamic "rule" {
    for_each = length(var.transitions) == 0 ? [] : [var.transitions]
    content {
      id     = "cheaper-classes"
      status = "Enabled"
      filter {}
      dynamic "transition" {
        for_each = rule.value
        content {
          days          = transition.value.days
          storage_class = transition.value.storage_class
        }
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid       = "OnlyTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.this.arn, "${aws_s3_bucket.this.arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      }],
      [for statement in [
        { Sid = "ReadersList", Action = ["s3:ListBucket", "s3:GetBucketLocation"], Resource = aws_s3_bucket.this.arn },
        { Sid = "ReadersGet", Action = ["s3:GetObject"], Resource = "${aws_s3_bucket.this.arn}/*" },
      ] : merge(statement, { Effect = "Allow", Principal = { AWS = var.reader_principals } }) if length(var.reader_principals) > 0],
    )
  })

  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_logging" "this" {
  count         = var.access_log_bucket == null ? 0 : 1
  bucket        = aws_s3_bucket.this.id
  target_bucket = var.access_log_bucket
  target_prefix = "${var.bucket}/"
}

output "bucket" {
  description = "Name of the bucket: known at plan, so that what uses it is checked there."
  value       = var.bucket
  depends_on  = [aws_s3_bucket.this]
}

output "region" {
  description = "Region of the bucket."
  value       = var.region
}

output "arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.this.arn
}

output "kms_key_arn" {
  description = "The KMS key, or null."
  value       = var.kms_key_arn
}
