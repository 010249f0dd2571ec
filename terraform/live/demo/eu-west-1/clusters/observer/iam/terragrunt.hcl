# The hub's store gateways read every bucket of this environment.
include "root" {
  path = find_in_parent_folders("root.hcl")
}

terraform {
  source = "${get_repo_root()}/terraform//modules/iam"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
  home     = dirname(find_in_parent_folders("env_tags.yaml"))
  clusters = [for path in fileset(local.home, "*/clusters/*/cluster_values.yaml") : yamldecode(file("${local.home}/${path}"))]
}

dependency "eks" {
  config_path = "../eks"
  mock_outputs = {
    oidc_provider_arn       = "arn:aws:iam::123456789012:oidc-provider/oidc.example.com/id/MOCK"
    cluster_oidc_issuer_url = "https://oidc.example.com/id/MOCK"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

inputs = {
  name_prefix       = local.values.name
  oidc_provider_arn = dependency.eks.outputs.oidc_provider_arn
  oidc_issuer_url   = dependency.eks.outputs.cluster_oidc_issuer_url
  grants = {
    observer = {
      access          = "reader"
      service_account = "parallax-observer"
      bucket_arns     = [for cluster in local.clusters : "arn:aws:s3:::${local.values.prefix}-metrics-${cluster.name}" if cluster.role == "observee"]
    }
  }
}
