include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "vpc" {
  path = "${get_repo_root()}/terraform/live/_units/vpc.hcl"
}
