# The mesh's CAs and leaves, in a state of their own. Every cluster_values.yaml of this environment is a leaf: a new folder is a new certificate.
include "root" {
  path = find_in_parent_folders("root.hcl")
}

terraform {
  source = "${get_repo_root()}/terraform//modules/pki"
}

locals {
  values   = yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml"))
  home     = dirname(find_in_parent_folders("env_tags.yaml"))
  clusters = [for path in fileset(local.home, "*/clusters/*/cluster_values.yaml") : yamldecode(file("${local.home}/${path}"))]
}

inputs = {
  trust_domain = local.values.default_domain_name
  clients      = { for cluster in local.clusters : cluster.name => {} if cluster.role == "observer" }
  servers = {
    for cluster in local.clusters : cluster.name => { dns_names = ["${cluster.name}.${local.values.default_domain_name}"] } if cluster.role == "observee"
  }
  # To rotate: add "g2", apply everywhere; set signing_generation = "g2", apply everywhere; remove "g1".
  generations = ["g1"]
}
