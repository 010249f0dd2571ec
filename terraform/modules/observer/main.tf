# The hub: Secrets, queriers and store gateways, and kube-prometheus-stack with Grafana on top of them.

module "pki" {
  source = "../pki"
  count  = var.generate_ca ? 1 : 0

  trust_domain = coalesce(var.trust_domain, "trust-domain-is-not-set")
  clients      = { (var.cluster_name) = {} }
  servers      = { for name, server in var.generated_servers : name => { dns_names = server.dns_names } }
}

locals {
  chart  = coalesce(var.chart.chart, "${path.module}/../../charts/parallax")
  client = var.generate_ca ? module.pki[0].clients[var.cluster_name] : var.client
  ca     = var.generate_ca ? module.pki[0].observee_ca_content : var.observee_ca_content
}

module "config" {
  source = "../config/observer"

  cluster_name = var.cluster_name
  namespace    = var.namespace
  mode         = var.mode
  tls_queriers = var.tls_queriers
  store_gateways = {
    for name, gateway in var.store_gateways :
    name => merge(gateway, { service_account_annotations = lookup(var.service_account_annotations, name, {}) })
  }
  observee_ca_content         = var.generate_ca ? "generated" : (var.client_existing_secret != null ? "in the Secret" : var.observee_ca_content)
  client_secret               = coalesce(var.client_existing_secret, "parallax-observer-tls")
  cache                       = var.cache
  query_frontend              = var.query_frontend
  client_certificate          = var.client_issuer == null ? null : { issuer = var.client_issuer, trust_domain = coalesce(var.trust_domain, "trust-domain-is-not-set") }
  replica_labels              = var.replica_labels
  query                       = var.query
  local_stores                = var.local_stores
  target_files                = var.target_files
  http                        = var.http
  prometheus                  = var.prometheus
  external_labels             = var.external_labels
  service_account_annotations = lookup(var.service_account_annotations, "observer", {})
  image                       = var.image
  upward = var.upward == null ? null : {
    secret                 = coalesce(var.upward.existing_secret, "parallax-upward-tls")
    allowed_identities     = var.upward.allowed_identities
    forwarded_certificates = var.upward.forwarded_certificates
  }
}

resource "kubernetes_namespace_v1" "this" {
  count = var.create_namespace ? 1 : 0
  metadata {
    name = var.namespace
  }
}

locals {
  namespace = var.create_namespace ? kubernetes_namespace_v1.this[0].metadata[0].name : var.namespace
}

resource "kubernetes_secret_v1" "client" {
  count = var.client_existing_secret == null && var.client_issuer == null ? 1 : 0
  metadata {
    name      = "parallax-observer-tls"
    namespace = local.namespace
  }
  type = "kubernetes.io/tls"
  data = {
    "tls.crt" = try(local.client.cert_pem, "")
    "tls.key" = try(local.client.key_pem, "")
    "ca.crt"  = local.ca
  }

  lifecycle {
    precondition {
      condition     = var.generate_ca || nonsensitive(var.client != null)
      error_message = "The hub has no client certificate: set client to module.pki.clients[\"${var.cluster_name}\"], client_existing_secret, client_issuer, or generate_ca = true."
    }
    precondition {
      condition     = !var.generate_ca || var.trust_domain != null
      error_message = "generate_ca needs trust_domain, the name of the mesh in certificates."
    }
  }
}

# With cert-manager the leaf's Secret is its own; whom to trust still comes from here.
resource "kubernetes_secret_v1" "observee_ca" {
  count = var.client_issuer == null ? 0 : 1
  metadata {
    name      = "parallax-observee-ca"
    namespace = local.namespace
  }
  data = { "ca.crt" = local.ca }

  lifecycle {
    precondition {
      condition     = var.trust_domain != null
      error_message = "client_issuer needs trust_domain, the name of the mesh in certificates."
    }
    precondition {
      condition     = var.client_existing_secret == null && !var.generate_ca
      error_message = "The hub's leaf comes from one place: keep client_issuer, client_existing_secret or generate_ca."
    }
  }
}

# A cluster whose CA is another: the hub's leaf again, with that CA.
resource "kubernetes_secret_v1" "querier" {
  for_each = module.config.own_ca
  metadata {
    name      = module.config.tls_secrets[each.key]
    namespace = local.namespace
  }
  type = "kubernetes.io/tls"
  data = {
    "tls.crt" = try(local.client.cert_pem, "")
    "tls.key" = try(local.client.key_pem, "")
    "ca.crt"  = each.value
  }

  lifecycle {
    precondition {
      condition     = var.client_existing_secret == null && var.client_issuer == null
      error_message = "${each.key} has a ca_pem, but the hub's leaf is not from here: make one with that leaf and this CA, and name it in existing_secret of the tls_querier."
    }
  }
}

# What a querier above the hub sees.
resource "kubernetes_secret_v1" "upward" {
  count = var.upward != null && try(var.upward.existing_secret, null) == null ? 1 : 0
  metadata {
    name      = "parallax-upward-tls"
    namespace = local.namespace
  }
  type = "kubernetes.io/tls"
  data = {
    "tls.crt" = try(var.upward_server.cert_pem, "")
    "tls.key" = try(var.upward_server.key_pem, "")
    "ca.crt"  = try(var.upward_server.ca_pem, "")
  }

  lifecycle {
    precondition {
      condition     = nonsensitive(var.upward_server != null)
      error_message = "upward has no certificate: set upward_server to module.pki.servers[\"${var.cluster_name}\"] (add it to servers there), or upward.existing_secret."
    }
  }
}

resource "kubernetes_secret_v1" "objstore" {
  for_each = { for name, gateway in var.store_gateways : name => gateway if gateway.enabled && gateway.existing_secret == null }
  metadata {
    name      = "parallax-objstore-${replace(each.key, ".", "-")}"
    namespace = local.namespace
  }
  data = { "objstore.yaml" = module.config.objstore_yaml[each.key] }
}

resource "helm_release" "parallax" {
  name       = "parallax"
  namespace  = local.namespace
  chart      = local.chart
  repository = var.chart.repository
  version    = var.chart.version
  values     = concat([module.config.helm_values], var.extra_values)
  # Images, volumes and load balancers of a new cluster take their time.
  timeout = 900

  # The stack brings the kinds ServiceMonitor and PrometheusRule.
  depends_on = [kubernetes_secret_v1.client, kubernetes_secret_v1.querier, kubernetes_secret_v1.observee_ca, kubernetes_secret_v1.objstore, kubernetes_secret_v1.upward, helm_release.prometheus_stack]
}

resource "helm_release" "prometheus_stack" {
  count      = var.prometheus.install ? 1 : 0
  name       = var.prometheus.release
  namespace  = local.namespace
  chart      = "kube-prometheus-stack"
  repository = "https://prometheus-community.github.io/helm-charts"
  version    = var.prometheus.version
  values     = concat([module.config.prometheus_stack_values], var.prometheus_stack_extra_values)
  # Images, volumes and load balancers of a new cluster take their time.
  timeout = 900
}
