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
    condition     = var.mode == "stacked" || !anytrue(flatten([for querier in local.queriers : [for store in querier.stores : strcontains(store, "+")]]))
    error_message = "A tls_querier has a name to look up (dns+, dnssrv+): mode inline asks one address per cluster. Give host:port, or use mode = \"stacked\"."
  }
  precondition {
    condition = var.mode == "stacked" || (
      alltrue([for querier in local.queriers : querier.cluster == null]) &&
      alltrue([for gateway in local.gateways : gateway.cluster == null && gateway.shards == 1 && gateway.replicas == 1 && length(gateway.relabel) == 0 && gateway.min_time == null && gateway.max_time == null])
    )
    error_message = "cluster, shards, replicas, relabel, min_time and max_time of tls_queriers and store_gateways need mode = \"stacked\": in mode inline the key is the cluster's name, and each of query.replicas reads every bucket whole."
  }
  precondition {
    condition     = var.mode == "stacked" || (var.cache.existing_secret == "" && length(var.local_stores) == 0 && var.target_files == "")
    error_message = "cache.existing_secret, local_stores and target_files need mode = \"stacked\": in mode inline the observer's file has its caches in itself, and every store is a cluster of tls_queriers."
  }
  precondition {
    condition     = var.mode == "inline" || (var.query.info_interval == "" && var.query.hedge_delay == "")
    error_message = "query.info_interval and query.hedge_delay need mode = \"inline\"."
  }
  precondition {
    condition     = var.http == null || !var.query_frontend.enabled
    error_message = "query_frontend asks the querier in plain text and without a password: leave http out, or the frontend."
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
