include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "iam_observee" {
  path = "${get_repo_root()}/terraform/live/_units/iam-observee.hcl"
}
