# What every unit shares: values and tags (global < env < region < cluster), the state, the providers.

locals {
  global  = yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml"))
  region  = try(yamldecode(file(find_in_parent_folders("region_values.yaml"))), { aws_region = local.global.tf_state_bucket_region })
  cluster = try(yamldecode(file(find_in_parent_folders("cluster_values.yaml"))), {})

  values = merge(local.global, local.region, local.cluster)
  tags = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_tags.yaml")),
    yamldecode(file(find_in_parent_folders("env_tags.yaml"))),
    try({ Cluster = local.cluster.name }, {}),
  )
}

# A state per unit; the one of pki holds CA keys: give its path to few.
remote_state {
  backend = "s3"
  generate = {
    path      = "backend.tf"
    if_exists = "overwrite"
  }
  config = {
    bucket       = "${local.values.prefix}-terraform-state"
    key          = "${path_relative_to_include()}/terraform.tfstate"
    region       = local.values.tf_state_bucket_region
    encrypt      = true
    use_lockfile = true
  }
}

generate "provider_aws" {
  path      = "provider_aws.tf"
  if_exists = "overwrite"
  contents  = <<-EOT
    provider "aws" {
      region              = "${local.values.aws_region}"
      allowed_account_ids = ["${local.values.aws_account_id}"]
      default_tags {
        tags = ${jsonencode(local.tags)}
      }
    }
  EOT
}
