# Dashboards and alerts of the mesh, for the hub's Grafana and Prometheus. The files are the chart's (charts/parallax/dashboards, rules).

variable "namespace" {
  description = "Namespace of Grafana and Prometheus."
  type        = string
  default     = "monitoring"
}

variable "clusters" {
  description = "Expected clusters (output clusters of the observer module): one that is missing altogether is an alert, too."
  type        = list(string)
  default     = []
}

variable "dashboards" {
  description = "Put the dashboards where Grafana's sidecar finds them."
  type        = bool
  default     = true
}

variable "alerts" {
  description = "Create the rules (PrometheusRule, so the Prometheus Operator must be there)."
  type        = bool
  default     = true
}

variable "disabled_alerts" {
  description = "Names of alerts to leave out."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.disabled_alerts : startswith(name, "Parallax") || startswith(name, "Thanos")])
    error_message = "disabled_alerts must be names of our alerts: they begin with Parallax (charts/parallax/rules)."
  }
}

variable "dashboard_label" {
  description = "Label by which Grafana's sidecar finds dashboards."
  type        = string
  default     = "grafana_dashboard"
}

variable "chart" {
  description = "The parallax chart: a path, or a name in a repository."
  type        = object({ chart = optional(string), repository = optional(string), version = optional(string) })
  default     = {}
}

locals {
  values = {
    mesh = { role = "monitoring" }
    monitoring = {
      dashboards     = { enabled = var.dashboards, label = var.dashboard_label }
      prometheusRule = { enabled = var.alerts, disabled = var.disabled_alerts }
      clusters       = var.clusters
    }
  }
}

resource "helm_release" "monitoring" {
  name       = "parallax-monitoring"
  namespace  = var.namespace
  chart      = coalesce(var.chart.chart, "${path.module}/../../charts/parallax")
  repository = var.chart.repository
  version    = var.chart.version
  values     = [yamlencode(local.values)]
  # Images, volumes and load balancers of a new cluster take their time.
  timeout = 900
}

output "values" {
  description = "The chart's values."
  value       = yamlencode(local.values)
}
