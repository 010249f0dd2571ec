output "tls_querier" {
  description = "The element of the observer's tls_queriers for this cluster."
  value = {
    stores                = [module.config.grpc_endpoint]
    server_name           = module.config.server_name
    identity              = module.config.identity
    certificate_dns_names = var.certificate.dns_names
    external_labels       = module.config.external_labels
  }
}

output "store_gateway" {
  description = "The element of the observer's store_gateways for this cluster."
  value = {
    type            = var.bucket.type
    bucket          = var.bucket.bucket
    region          = var.bucket.region
    endpoint        = var.bucket.endpoint
    prefix          = var.bucket.prefix
    kms_key_id      = var.bucket.kms_key_id
    insecure        = var.bucket.insecure
    path_style      = var.bucket.path_style
    storage_account = var.bucket.storage_account
  }
}

output "grpc_endpoint" {
  description = "host:port that observers dial."
  value       = module.config.grpc_endpoint
}

output "server_name" {
  description = "Name that observers expect in the certificate."
  value       = module.config.server_name
}

output "identity" {
  description = "Identity that observers expect."
  value       = module.config.identity
}

output "bucket" {
  description = "Name of this cluster's bucket."
  value       = var.bucket.bucket
}

output "region" {
  description = "Region of this cluster's bucket."
  value       = var.bucket.region
}

output "external_labels" {
  description = "The labels of every series of this cluster."
  value       = module.config.external_labels
}

output "trusted_ca_sha256" {
  description = "Digest of the bundle this cluster trusts: the same everywhere when a rotation step is through."
  value       = sha256(var.trusted_ca_content)
}

output "prometheus_stack_values" {
  description = "Values of kube-prometheus-stack, for those who install it themselves."
  value       = module.config.prometheus_stack_values
}
