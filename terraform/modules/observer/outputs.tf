output "query_url" {
  description = "The Prometheus API of the mesh, inside the cluster."
  value       = module.config.query_url
}

output "endpoints" {
  description = "What is asked, by cluster."
  value       = module.config.endpoints
}

output "clusters" {
  description = "Names of all clusters of the mesh: input of the monitoring module, which must come after the stack."
  value       = module.config.clusters
  depends_on  = [helm_release.prometheus_stack]
}

output "thanos_ca" {
  description = "With generate_ca: the bundle that signs observers."
  value       = var.generate_ca ? module.pki[0].trusted_ca_content : null
}

output "trusted_ca_content" {
  description = "With generate_ca: the bundle that signs observers."
  value       = var.generate_ca ? module.pki[0].trusted_ca_content : null
}

output "servers" {
  description = "With generate_ca: the observees' server leaves."
  value       = var.generate_ca ? module.pki[0].servers : {}
  sensitive   = true
}

output "prometheus_stack_values" {
  description = "Values of kube-prometheus-stack, for those who install it themselves."
  value       = module.config.prometheus_stack_values
}
