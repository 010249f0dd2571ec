# A role per component with the least it needs of its bucket, for service accounts: IRSA or EKS Pod Identity.

variable "name_prefix" {
  description = "Begin of the roles' names, such as the cluster's name."
  type        = string
}

variable "mode" {
  description = "irsa or pod_identity."
  type        = string
  default     = "irsa"

  validation {
    condition     = contains(["irsa", "pod_identity"], var.mode)
    error_message = "mode \"${var.mode}\" is not known: use irsa or pod_identity."
  }
}

variable "cluster_name" {
  description = "EKS cluster, for pod_identity."
  type        = string
  default     = null
}

variable "oidc_provider_arn" {
  description = "ARN of the cluster's OIDC provider, for irsa."
  type        = string
  default     = null
}

variable "oidc_issuer_url" {
  description = "URL of the cluster's OIDC issuer, for irsa."
  type        = string
  default     = null
}

variable "grants" {
  description = "By name: which service account gets which access to which bucket (bucket_arn) or buckets (bucket_arns). access: reader (store gateway), writer (sidecar), compactor."
  type = map(object({
    bucket_arn      = optional(string)
    bucket_arns     = optional(list(string), [])
    access          = string
    namespace       = optional(string, "monitoring")
    service_account = string
    prefix          = optional(string, "")
    kms_key_arns    = optional(list(string), [])
  }))

  validation {
    condition     = alltrue([for grant in var.grants : !can(regex("[*?]", grant.service_account)) && !can(regex("[*?]", grant.namespace))])
    error_message = "A grant names one service account in one namespace: wildcards would let any pod with a fitting name in."
  }
  validation {
    condition     = length([for grant in var.grants : grant if grant.access == "compactor"]) == length(distinct([for grant in var.grants : "${jsonencode(compact(concat([grant.bucket_arn], grant.bucket_arns)))}/${grant.prefix}" if grant.access == "compactor"]))
    error_message = "Two compactors are granted the same bucket: two compactors on one bucket destroy blocks. Keep one per bucket (or prefix)."
  }
}

variable "permissions_boundary" {
  description = "ARN of a permissions boundary."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags."
  type        = map(string)
  default     = {}
}

locals {
  issuer = var.oidc_issuer_url == null ? "" : replace(var.oidc_issuer_url, "https://", "")
  trust = {
    for name, grant in var.grants : name => {
      irsa = jsonencode({
        Version = "2012-10-17"
        Statement = [{
          Effect    = "Allow"
          Principal = { Federated = var.oidc_provider_arn }
          Action    = "sts:AssumeRoleWithWebIdentity"
          Condition = { StringEquals = {
            "${local.issuer}:sub" = "system:serviceaccount:${grant.namespace}:${grant.service_account}"
            "${local.issuer}:aud" = "sts.amazonaws.com"
          } }
        }]
      })
      pod_identity = jsonencode({
        Version = "2012-10-17"
        Statement = [{
          Effect    = "Allow"
          Principal = { Service = "pods.eks.amazonaws.com" }
          Action    = ["sts:AssumeRole", "sts:TagSession"]
        }]
      })
    }
  }
}

module "policy" {
  source   = "../config/iam"
  for_each = var.grants

  access       = each.value.access
  bucket_arns  = compact(concat([each.value.bucket_arn], each.value.bucket_arns))
  prefix       = each.value.prefix
  kms_key_arns = each.value.kms_key_arns
}

resource "aws_iam_role" "this" {
  for_each             = var.grants
  name                 = "${var.name_prefix}-parallax-${each.key}"
  description          = "Parallax: ${each.value.access} of ${join(", ", [for arn in compact(concat([each.value.bucket_arn], each.value.bucket_arns)) : replace(arn, "arn:aws:s3:::", "")])}"
  assume_role_policy   = local.trust[each.key][var.mode]
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags

  lifecycle {
    precondition {
      condition     = var.mode != "irsa" || (var.oidc_provider_arn != null && var.oidc_issuer_url != null)
      error_message = "mode irsa needs oidc_provider_arn and oidc_issuer_url of the EKS cluster (or use mode = \"pod_identity\" with cluster_name)."
    }
    precondition {
      condition     = var.mode != "pod_identity" || var.cluster_name != null
      error_message = "mode pod_identity needs cluster_name."
    }
  }
}

resource "aws_iam_role_policy" "this" {
  for_each = var.grants
  name     = "bucket"
  role     = aws_iam_role.this[each.key].id
  policy   = module.policy[each.key].policy
}

resource "aws_eks_pod_identity_association" "this" {
  for_each        = { for name, grant in var.grants : name => grant if var.mode == "pod_identity" }
  cluster_name    = var.cluster_name
  namespace       = each.value.namespace
  service_account = each.value.service_account
  role_arn        = aws_iam_role.this[each.key].arn
  tags            = var.tags
}

output "role_arns" {
  description = "Role by grant; the hub's go to reader_principals of the buckets."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}

output "service_account_annotations" {
  description = "Annotations of the service account by grant; empty with Pod Identity, which needs none."
  value       = { for name, role in aws_iam_role.this : name => var.mode == "irsa" ? { "eks.amazonaws.com/role-arn" = role.arn } : {} }
}
