# The role by which the cluster makes volumes.
terraform {
  source = "${get_repo_root()}/terraform//modules/ebs-role"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
}

inputs = {
  name = "${local.values.name}-ebs"
}
