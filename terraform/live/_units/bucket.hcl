# The observee's bucket, readable by the hub.
terraform {
  source = "${get_repo_root()}/terraform//modules/bucket"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
}

inputs = {
  bucket = "${local.values.prefix}-metrics-${local.values.name}"
  region = local.values.aws_region
  # By name and not by dependency: the hub depends on its observees, not the other way round.
  reader_principals = ["arn:aws:iam::${local.values.aws_account_id}:root"]
}
