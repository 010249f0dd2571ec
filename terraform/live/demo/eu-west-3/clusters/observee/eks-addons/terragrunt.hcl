include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "cluster_providers" {
  path = "${get_repo_root()}/terraform/live/_units/cluster-providers.hcl"
}

include "observee" {
  path = "${get_repo_root()}/terraform/live/_units/observee.hcl"
}
