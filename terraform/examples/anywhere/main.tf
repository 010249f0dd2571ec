# A hub and one cluster on any Kubernetes and any bucket: S3-compatible storage with static keys (terraform.tfvars), GCS with Workload Identity (gcs.tfvars), Azure with
# an account's key (azure.tfvars). A cluster more is its block and a line in each of the hub's two maps.

variable "trust_domain" {
  description = "Name of the mesh in certificates; hosts are <cluster>.<trust_domain>."
  type        = string
}

variable "image" {
  description = "Where you pushed the image (terraform/README.md)."
  type        = object({ repository = string, tag = string })
}

variable "bucket" {
  description = "The cluster's bucket, which is there."
  type = object({
    type            = optional(string, "S3")
    bucket          = string
    region          = optional(string)
    endpoint        = optional(string)
    insecure        = optional(bool, false)
    path_style      = optional(bool, false)
    storage_account = optional(string)
  })
}

variable "credentials" {
  description = "Static keys of the bucket, from the environment: TF_VAR_credentials='{ access_key = \"…\", secret_key = \"…\" }'. None where pods have identities."
  type = object({
    access_key          = optional(string)
    secret_key          = optional(string)
    storage_account_key = optional(string)
  })
  default   = null
  sensitive = true
}

variable "service_account_annotations" {
  description = "Annotations by component (sidecar, compactor, observer), where pods have identities."
  type        = map(map(string))
  default     = {}
}

variable "entry" {
  description = "How the hub comes in; see modules/config/observee."
  type        = object({ mode = optional(string, "l4"), class_name = optional(string), annotations = optional(map(string), {}) })
  default     = {}
}

variable "storage_class" {
  description = "Storage class of Prometheus' and Parallax' volumes; the cluster's default if null."
  type        = string
  default     = null
}

variable "kubeconfig" {
  description = "File with the contexts hub and eu-1."
  type        = string
  default     = "~/.kube/config"
}

locals {
  host = "eu-1.${var.trust_domain}"
}

module "pki" {
  source       = "../../modules/pki"
  trust_domain = var.trust_domain
  clients      = { hub = {} }
  servers      = { eu-1 = { dns_names = [local.host] } }
}

module "observee_eu_1" {
  source                      = "../../modules/observee"
  providers                   = { kubernetes = kubernetes.eu_1, helm = helm.eu_1 }
  cluster_name                = "eu-1"
  image                       = var.image
  trust_domain                = var.trust_domain
  trusted_ca_content          = module.pki.trusted_ca_content
  server                      = module.pki.servers["eu-1"]
  certificate                 = { dns_names = module.pki.server_dns_names["eu-1"] }
  entry                       = merge(var.entry, { host = local.host })
  bucket                      = var.bucket
  bucket_credentials          = var.credentials
  prometheus                  = { storage_class = var.storage_class }
  compactor                   = { storage_class = var.storage_class }
  service_account_annotations = var.service_account_annotations
}

module "observer" {
  source                      = "../../modules/observer"
  providers                   = { kubernetes = kubernetes.hub, helm = helm.hub }
  cluster_name                = "hub"
  image                       = var.image
  client                      = module.pki.clients["hub"]
  observee_ca_content         = module.pki.observee_ca_content
  prometheus                  = { storage_class = var.storage_class }
  cache                       = { memcached = {} }
  service_account_annotations = var.service_account_annotations

  tls_queriers = {
    eu-1 = module.observee_eu_1.tls_querier
  }
  store_gateways = {
    eu-1 = merge(module.observee_eu_1.store_gateway, { credentials = var.credentials })
  }
}

module "monitoring" {
  source    = "../../modules/monitoring"
  providers = { helm = helm.hub }
  clusters  = module.observer.clusters
}

output "query_url" {
  description = "The Prometheus API of the mesh, inside the hub."
  value       = module.observer.query_url
}
