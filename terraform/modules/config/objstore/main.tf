# Thanos' objstore YAML for one bucket. No providers: what goes in comes out as text.

variable "bucket" {
  description = "The bucket. Without credentials the pod's own identity is used (IRSA, Pod Identity, Workload Identity)."
  type = object({
    type       = optional(string, "S3")
    bucket     = string
    region     = optional(string)
    endpoint   = optional(string)
    prefix     = optional(string, "")
    insecure   = optional(bool, false)
    kms_key_id = optional(string)
    encryption = optional(bool, true)
    path_style = optional(bool, false)
    # AZURE: bucket is the container.
    storage_account = optional(string)
  })

  validation {
    condition     = contains(["S3", "GCS", "AZURE", "FILESYSTEM"], var.bucket.type)
    error_message = "bucket.type \"${var.bucket.type}\" is not known: use S3 (also for S3-compatible storage, with endpoint), GCS, AZURE or FILESYSTEM."
  }
  validation {
    condition     = var.bucket.type != "S3" || var.bucket.region != null || var.bucket.endpoint != null
    error_message = "Bucket \"${var.bucket.bucket}\" has neither region nor endpoint: give the region of an AWS bucket, or host:port of an S3-compatible one."
  }
  validation {
    condition     = var.bucket.type != "AZURE" || var.bucket.storage_account != null
    error_message = "Container \"${var.bucket.bucket}\" has no storage_account: give the account it is in."
  }
  validation {
    condition     = var.bucket.endpoint == null || !can(regex("://", var.bucket.endpoint))
    error_message = "bucket.endpoint is host[:port] without a scheme; for plain HTTP set insecure = true."
  }
  validation {
    condition     = var.bucket.kms_key_id == null || var.bucket.encryption
    error_message = "bucket.kms_key_id is given but encryption = false: drop one of them."
  }
}

variable "credentials" {
  description = "Static keys of an S3-compatible storage without identities of its own, a GCS service account key as JSON, or the key of an Azure storage account."
  type = object({
    access_key          = optional(string)
    secret_key          = optional(string)
    service_account     = optional(string)
    storage_account_key = optional(string)
  })
  default   = null
  sensitive = true
}

locals {
  keys = var.credentials == null ? { access_key = null, secret_key = null, service_account = null, storage_account_key = null } : var.credentials
  encryption = var.bucket.kms_key_id != null ? { type = "SSE-KMS", kms_key_id = var.bucket.kms_key_id } : (
    var.bucket.encryption && var.bucket.endpoint == null ? { type = "SSE-S3" } : null
  )
  # What differs by kind of storage; what is null is left out.
  config = {
    S3 = {
      bucket             = var.bucket.bucket
      region             = var.bucket.region
      endpoint           = var.bucket.endpoint != null ? var.bucket.endpoint : "s3.${coalesce(var.bucket.region, "us-east-1")}.amazonaws.com"
      insecure           = var.bucket.insecure ? true : null
      bucket_lookup_type = var.bucket.path_style ? "path" : null
      sse_config         = local.encryption
      access_key         = local.keys.access_key
      secret_key         = local.keys.secret_key
    }
    GCS = {
      bucket          = var.bucket.bucket
      service_account = local.keys.service_account
    }
    AZURE = {
      storage_account     = var.bucket.storage_account
      container           = var.bucket.bucket
      endpoint            = var.bucket.endpoint
      storage_account_key = local.keys.storage_account_key
    }
    FILESYSTEM = {
      directory = var.bucket.bucket
    }
  }
  document = merge(
    { type = var.bucket.type, config = { for key, value in local.config[var.bucket.type] : key => value if value != null } },
    var.bucket.prefix == "" ? {} : { prefix = var.bucket.prefix },
  )
}

output "objstore_yaml" {
  description = "The document of --objstore.config, for a Secret. Sensitive: it may hold keys."
  value       = yamlencode(local.document)
  sensitive   = true
}

output "identity" {
  description = "What makes this bucket itself: two clusters with the same value write into one another."
  value       = join("/", [var.bucket.type, coalesce(var.bucket.storage_account, var.bucket.endpoint, "default"), var.bucket.bucket, var.bucket.prefix])
}
