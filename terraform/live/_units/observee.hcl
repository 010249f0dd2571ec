# One observee: Prometheus with our sidecar, the entry, the compactor. It trusts what pki says signs observers.
terraform {
  source = "${get_repo_root()}/terraform//modules/observee"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
  host = "${local.values.name}.${local.values.default_domain_name}"
}

dependency "pki" {
  config_path = "${dirname(find_in_parent_folders("env_tags.yaml"))}/pki"
  mock_outputs = {
    trusted_ca_content = "-----BEGIN CERTIFICATE-----\nMOCK\n-----END CERTIFICATE-----\n"
    servers            = { (local.values.name) = { cert_pem = "mock", key_pem = "mock", ca_pem = "mock" } }
    server_dns_names   = { (local.values.name) = [local.host] }
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

dependency "bucket" {
  config_path = "${get_original_terragrunt_dir()}/../bucket"
  mock_outputs = {
    bucket = "mock"
    region = "eu-west-1"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

dependency "iam" {
  config_path = "${get_original_terragrunt_dir()}/../iam"
  mock_outputs = {
    service_account_annotations = {}
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

inputs = {
  cluster_name       = local.values.name
  trust_domain       = local.values.default_domain_name
  trusted_ca_content = dependency.pki.outputs.trusted_ca_content
  server             = dependency.pki.outputs.servers[local.values.name]
  certificate        = { dns_names = dependency.pki.outputs.server_dns_names[local.values.name] }
  image              = { repository = local.values.image_repository, tag = local.values.image_tag }
  entry = {
    mode = "l4"
    host = local.host
    annotations = {
      "service.beta.kubernetes.io/aws-load-balancer-type" = "nlb"
      # The entry has fewer pods than there are zones.
      "service.beta.kubernetes.io/aws-load-balancer-cross-zone-load-balancing-enabled" = "true"
      # Where external-dns runs, it makes the name; elsewhere nobody reads this.
      "external-dns.alpha.kubernetes.io/hostname" = local.host
    }
  }
  bucket          = { bucket = dependency.bucket.outputs.bucket, region = dependency.bucket.outputs.region }
  external_labels = { region = local.values.aws_region }
  # Of cluster_values.yaml, if it says: compactor: { retention_raw: 90d }, prometheus: { retention: 48h }.
  compactor                   = lookup(local.values, "compactor", {})
  prometheus                  = lookup(local.values, "prometheus", {})
  service_account_annotations = dependency.iam.outputs.service_account_annotations
}
