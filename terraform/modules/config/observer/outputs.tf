output "helm_values" {
  description = "Values of the parallax chart."
  value       = yamlencode(local.chart_values)

  precondition {
    condition     = length(local.without_ca) == 0
    error_message = "No CA for ${join(", ", local.without_ca)}: set observee_ca_content (an output of the pki module), or ca_pem or existing_secret of the tls_querier. Without one no connection could be verified."
  }
  precondition {
    condition     = var.mode == "stacked" || alltrue([for querier in local.queriers : length(querier.stores) == 1])
    error_message = "A tls_querier has several stores: mode inline asks one address per cluster. Put a load balancer before them, make each a tls_querier, or use mode = \"stacked\"."
  }
  precondition {
    condition     = var.mode == "stacked" || length(setsubtract(keys(local.gateways), keys(local.queriers))) == 0
    error_message = "store_gateways without a tls_querier of the same name: ${join(", ", setsubtract(keys(local.gateways), keys(local.queriers)))}. In mode inline a bucket belongs to a cluster that is asked; add it to tls_queriers or use mode = \"stacked\"."
  }
}

output "prometheus_stack_values" {
  description = "Values of kube-prometheus-stack."
  value       = yamlencode(local.prometheus_stack_values)
}

output "objstore_yaml" {
  description = "objstore YAML by cluster, for Secrets named parallax-objstore-<cluster>."
  value       = { for name, module in module.objstore : name => module.objstore_yaml }
  sensitive   = true
}

output "tls_secrets" {
  description = "Name of the Secret of each tls_querier."
  value       = local.secrets
}

output "own_ca" {
  description = "The tls_queriers whose CA differs from observee_ca_content: name to PEM."
  value       = { for name, querier in local.queriers : name => querier.ca_pem if querier.ca_pem != null && querier.existing_secret == null }
}

output "query_url" {
  description = "The Prometheus API of the mesh, inside the cluster."
  value       = local.url
}

output "endpoints" {
  description = "What is asked, by cluster."
  value       = { for name, querier in local.queriers : name => querier.stores }
}

output "clusters" {
  description = "Names of all clusters of the mesh."
  value       = sort(distinct(concat(keys(local.queriers), keys(local.gateways))))
}
