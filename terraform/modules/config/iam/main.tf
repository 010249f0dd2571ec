# The least a component needs of a bucket, as an IAM document. No providers.
#
# Shippers never delete, gateways never write, only the compactor does all three.

variable "access" {
  description = "reader (store gateway), writer (sidecar) or compactor."
  type        = string

  validation {
    condition     = contains(["reader", "writer", "compactor"], var.access)
    error_message = "access \"${var.access}\" is not known: use reader, writer or compactor."
  }
}

variable "bucket_arns" {
  description = "ARNs of the buckets, such as arn:aws:s3:::metrics-eu-1."
  type        = list(string)

  validation {
    condition     = length(var.bucket_arns) > 0 && alltrue([for arn in var.bucket_arns : can(regex("^arn:aws[a-z-]*:s3:::[^/*]+$", arn))])
    error_message = "bucket_arns must be ARNs of whole buckets (arn:aws:s3:::name), without a path or a wildcard, and at least one."
  }
}

variable "prefix" {
  description = "Only objects below this prefix; empty for the whole bucket."
  type        = string
  default     = ""
}

variable "kms_key_arns" {
  description = "Keys that encrypt the bucket."
  type        = list(string)
  default     = []
}

locals {
  objects = [for arn in var.bucket_arns : var.prefix == "" ? "${arn}/*" : "${arn}/${trim(var.prefix, "/")}/*"]
  actions = {
    reader    = ["s3:GetObject"]
    writer    = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    compactor = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
  }
  listing = merge(
    { Sid = "List", Effect = "Allow", Action = ["s3:ListBucket", "s3:GetBucketLocation"], Resource = var.bucket_arns },
    var.prefix == "" ? {} : { Condition = { StringLike = { "s3:prefix" = ["${trim(var.prefix, "/")}/*"] } } },
  )
  keys = length(var.kms_key_arns) == 0 ? [] : [{
    Sid      = "Keys"
    Effect   = "Allow"
    Action   = var.access == "reader" ? ["kms:Decrypt"] : ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource = var.kms_key_arns
  }]
}

output "policy" {
  description = "IAM document (JSON)."
  value = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [for statement in [local.listing] : jsondecode(jsonencode(statement))],
      [{ Sid = "Objects", Effect = "Allow", Action = local.actions[var.access], Resource = local.objects }],
      local.keys,
    )
  })
}
