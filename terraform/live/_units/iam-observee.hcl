# Roles of the observee's components.
terraform {
  source = "${get_repo_root()}/terraform//modules/iam"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
}

dependency "eks" {
  config_path = "${get_original_terragrunt_dir()}/../eks"
  mock_outputs = {
    oidc_provider_arn       = "arn:aws:iam::123456789012:oidc-provider/oidc.example.com/id/MOCK"
    cluster_oidc_issuer_url = "https://oidc.example.com/id/MOCK"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

dependency "bucket" {
  config_path = "${get_original_terragrunt_dir()}/../bucket"
  mock_outputs = {
    arn = "arn:aws:s3:::mock"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

inputs = {
  name_prefix       = local.values.name
  oidc_provider_arn = dependency.eks.outputs.oidc_provider_arn
  oidc_issuer_url   = dependency.eks.outputs.cluster_oidc_issuer_url
  grants = {
    sidecar   = { access = "writer", bucket_arn = dependency.bucket.outputs.arn, service_account = "kube-prometheus-stack-prometheus" }
    compactor = { access = "compactor", bucket_arn = dependency.bucket.outputs.arn, service_account = "parallax-compactor" }
  }
}
