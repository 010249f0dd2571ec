include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "eks" {
  path = "${get_repo_root()}/terraform/live/_units/eks.hcl"
}
