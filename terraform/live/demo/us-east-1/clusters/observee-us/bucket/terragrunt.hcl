include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "bucket" {
  path = "${get_repo_root()}/terraform/live/_units/bucket.hcl"
}
