# Dashboards and alerts of the mesh.
include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "cluster_providers" {
  path = "${get_repo_root()}/terraform/live/_units/cluster-providers.hcl"
}

terraform {
  source = "${get_repo_root()}/terraform//modules/monitoring"
}

dependency "observer" {
  config_path = "../eks-addons"
  mock_outputs = {
    clusters = ["observee"]
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

inputs = {
  clusters = dependency.observer.outputs.clusters
}
