# The observee's bucket, readable by the hub.
terraform {
  source = "${get_repo_root()}/terraform//modules/bucket"
}

locals {
  values = read_terragrunt_config(find_in_parent_folders("root.hcl")).locals.values
}

inputs = {
  bucket = "${local.values.prefix}-metrics-${local.values.name}"
  region = local.values.aws_region
  # By name and not by dependency: the hub depends on its observees, not the other way round.
  reader_principals = ["arn:aws:iam::${local.values.aws_account_id}:root"]
}
