# The hub. A new cluster is its folder and one line here; its address, certificate names, labels and bucket come from its outputs.
include "root" {
  path = find_in_parent_folders("root.hcl")
}

include "cluster_providers" {
  path = "${get_repo_root()}/terraform/live/_units/cluster-providers.hcl"
}

terraform {
  source = "${get_repo_root()}/terraform//modules/observer"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
  home = dirname(find_in_parent_folders("env_tags.yaml"))
}

# ---- one line per observee ----
dependency "observee" { config_path = "${dirname(find_in_parent_folders("env_tags.yaml"))}/eu-west-3/clusters/observee/eks-addons" }
dependency "observee-us" { config_path = "${dirname(find_in_parent_folders("env_tags.yaml"))}/us-east-1/clusters/observee-us/eks-addons" }

dependency "pki" {
  config_path = "${dirname(find_in_parent_folders("env_tags.yaml"))}/pki"
  mock_outputs = {
    clients             = { observer = { cert_pem = "mock", key_pem = "mock", ca_pem = "mock" } }
    observee_ca_content = "-----BEGIN CERTIFICATE-----\nMOCK\n-----END CERTIFICATE-----\n"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

dependency "iam" {
  config_path = "../iam"
  mock_outputs = {
    service_account_annotations = {}
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

inputs = {
  cluster_name                = local.values.name
  client                      = dependency.pki.outputs.clients[local.values.name]
  observee_ca_content         = dependency.pki.outputs.observee_ca_content
  service_account_annotations = dependency.iam.outputs.service_account_annotations
  image                       = { repository = local.values.image_repository, tag = local.values.image_tag }
  tls_queriers                = { for name, unit in dependency : name => unit.outputs.tls_querier if can(unit.outputs.tls_querier) }
  store_gateways              = { for name, unit in dependency : name => unit.outputs.store_gateway if can(unit.outputs.store_gateway) }
}
