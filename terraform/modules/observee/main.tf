# One cluster of the mesh: its Secrets, Prometheus with our sidecar, the entry for observers and the compactor.

locals {
  # Whether there is a leaf is no secret, its key is.
  makes_ingress = nonsensitive(var.ingress != null)
  chart         = coalesce(var.chart.chart, "${path.module}/../../charts/parallax")
}

module "config" {
  source = "../config/observee"

  cluster_name    = var.cluster_name
  trust_domain    = var.trust_domain
  namespace       = var.namespace
  entry           = var.entry
  certificate     = { dns_names = var.certificate.dns_names, issuer = var.certificate.issuer, secret_name = coalesce(var.certificate.existing_secret, "parallax-entry-tls") }
  bucket          = { secret_name = coalesce(var.bucket.existing_secret, "parallax-objstore") }
  external_labels = var.external_labels
  replica_label   = var.replica_label
  prometheus      = var.prometheus
  compactor       = merge(var.compactor, { service_account_annotations = lookup(var.service_account_annotations, "compactor", {}) })
  sidecar         = { service_account_annotations = lookup(var.service_account_annotations, "sidecar", {}), extra_args = var.sidecar.extra_args }
  http            = var.http
  image           = var.image
}

module "objstore" {
  source      = "../config/objstore"
  bucket      = var.bucket
  credentials = var.bucket_credentials
}

resource "kubernetes_namespace_v1" "this" {
  count = var.create_namespace ? 1 : 0
  metadata {
    name = var.namespace
  }
}

locals {
  # Known only when the namespace is there.
  namespace = var.create_namespace ? kubernetes_namespace_v1.this[0].metadata[0].name : var.namespace
}

resource "kubernetes_secret_v1" "objstore" {
  count = var.bucket.existing_secret == null ? 1 : 0
  metadata {
    name      = "parallax-objstore"
    namespace = local.namespace
  }
  data = { "objstore.yaml" = module.objstore.objstore_yaml }
}

resource "kubernetes_secret_v1" "entry" {
  count = var.certificate.issuer == null && var.certificate.existing_secret == null ? 1 : 0
  metadata {
    name      = "parallax-entry-tls"
    namespace = local.namespace
  }
  type = "kubernetes.io/tls"
  data = {
    "tls.crt" = try(var.server.cert_pem, "")
    "tls.key" = try(var.server.key_pem, "")
    "ca.crt"  = var.trusted_ca_content
  }

  lifecycle {
    precondition {
      condition     = nonsensitive(var.server != null)
      error_message = "${var.cluster_name} has no server certificate: set server to module.pki.servers[\"${var.cluster_name}\"], certificate.issuer to let cert-manager make one, or certificate.existing_secret to one that is there."
    }
  }
}

resource "kubernetes_secret_v1" "ingress" {
  count = local.makes_ingress ? 1 : 0
  metadata {
    name      = "parallax-ingress-tls"
    namespace = local.namespace
  }
  type = "kubernetes.io/tls"
  data = {
    "tls.crt" = var.ingress.cert_pem
    "tls.key" = var.ingress.key_pem
    "ca.crt"  = var.ingress.ca_pem
  }
}

# With cert-manager the Secret is its own; whom to trust still comes from here.
resource "kubernetes_secret_v1" "trusted_ca" {
  count = var.certificate.issuer == null ? 0 : 1
  metadata {
    name      = "parallax-trusted-ca"
    namespace = local.namespace
  }
  data = { "ca.crt" = var.trusted_ca_content }
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

  lifecycle {
    precondition {
      condition     = var.compactor.replicas == 1 || var.bucket.type != "FILESYSTEM"
      error_message = "compactor.replicas is ${var.compactor.replicas}, but a FILESYSTEM bucket has no conditional writes to share it by: use one."
    }
  }

  # The stack brings the kinds ServiceMonitor and PrometheusRule.
  depends_on = [kubernetes_secret_v1.objstore, kubernetes_secret_v1.entry, kubernetes_secret_v1.trusted_ca, kubernetes_secret_v1.ingress, helm_release.prometheus_stack]
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

  depends_on = [kubernetes_secret_v1.objstore]
}
