output "helm_values" {
  description = "Values of the parallax chart."
  value       = yamlencode(local.chart_values)

  precondition {
    condition = anytrue([
      for name in var.certificate.dns_names :
      name == var.entry.host || (startswith(name, "*.") && replace(var.entry.host, "/^[^.]+/", "*") == name)
    ])
    error_message = "The certificate of ${var.cluster_name} does not name its host ${var.entry.host} (it names ${join(", ", var.certificate.dns_names)}): add the host to dns_names of servers[\"${var.cluster_name}\"] in the pki module."
  }
}

output "prometheus_stack_values" {
  description = "Values of kube-prometheus-stack."
  value       = yamlencode(local.prometheus_stack_values)
}

output "grpc_endpoint" {
  description = "host:port that observers dial."
  value       = "${var.entry.host}:${var.entry.port}"
}

output "server_name" {
  description = "Name that observers expect in the certificate."
  value       = var.entry.host
}

output "identity" {
  description = "Identity that observers expect there."
  value       = local.identity
}

output "external_labels" {
  description = "The labels that every series of this cluster carries."
  value       = local.labels
}

output "entry_annotations" {
  description = "Annotations of the entry's Service, route or Ingress."
  value       = var.entry.annotations
}
