include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "ebs_role" {
  path = "${get_repo_root()}/terraform/live/_units/ebs-role.hcl"
}
