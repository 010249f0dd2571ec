# Providers of the unit that installs things into the cluster.
locals {
  region = yamldecode(file(find_in_parent_folders("region_values.yaml"))).aws_region
}

dependency "eks" {
  config_path = "${get_original_terragrunt_dir()}/../eks"
  mock_outputs = {
    cluster_name                       = "mock"
    cluster_endpoint                   = "https://mock.example.com"
    cluster_certificate_authority_data = "bW9jaw=="
    oidc_provider_arn                  = "arn:aws:iam::123456789012:oidc-provider/oidc.example.com/id/MOCK"
    cluster_oidc_issuer_url            = "https://oidc.example.com/id/MOCK"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

generate "provider_cluster" {
  path      = "provider_cluster.tf"
  if_exists = "overwrite"
  contents  = <<-EOT
    locals {
      cluster_access = {
        host                   = "${dependency.eks.outputs.cluster_endpoint}"
        cluster_ca_certificate = base64decode("${dependency.eks.outputs.cluster_certificate_authority_data}")
        exec = {
          api_version = "client.authentication.k8s.io/v1beta1"
          command     = "aws"
          args        = ["eks", "get-token", "--region", "${local.region}", "--cluster-name", "${dependency.eks.outputs.cluster_name}"]
        }
      }
    }
    provider "kubernetes" {
      host                   = local.cluster_access.host
      cluster_ca_certificate = local.cluster_access.cluster_ca_certificate
      exec {
        api_version = local.cluster_access.exec.api_version
        command     = local.cluster_access.exec.command
        args        = local.cluster_access.exec.args
      }
    }
    provider "helm" {
      kubernetes = local.cluster_access
    }
  EOT
}
