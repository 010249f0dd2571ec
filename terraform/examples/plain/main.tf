# A mesh as one root module: the CAs, two observee clusters with a bucket each, the hub that asks both. Providers cannot be made in a loop, so a cluster is a
# block of three modules here; terraform/live shows the same with a folder per cluster and a state per unit.

variable "trust_domain" {
  description = "Name of the mesh in certificates; hosts are <cluster>.<trust_domain>."
  type        = string
}

variable "bucket_prefix" {
  description = "Begin of the buckets' names, which are unique in the world."
  type        = string
}

variable "image" {
  description = "Where you pushed the image (terraform/README.md)."
  type        = object({ repository = string, tag = string })
}

variable "eks" {
  description = "What the EKS clusters are: OIDC providers for the roles of service accounts. Outputs of your eks modules."
  type = map(object({
    oidc_provider_arn = string
    oidc_issuer_url   = string
  }))
}

variable "kubeconfig" {
  description = "File with a context for each cluster, of its name."
  type        = string
  default     = "~/.kube/config"
}

locals {
  clusters = ["eu-1", "us-1"]
  hosts    = { for name in local.clusters : name => "${name}.${var.trust_domain}" }
}

module "pki" {
  source       = "../../modules/pki"
  trust_domain = var.trust_domain
  clients      = { hub = {} }
  servers      = { for name, host in local.hosts : name => { dns_names = [host] } }
}

# ---- cluster eu-1 ----

module "bucket_eu_1" {
  source            = "../../modules/bucket"
  providers         = { aws = aws.eu_1 }
  bucket            = "${var.bucket_prefix}-eu-1"
  region            = "eu-west-1"
  reader_principals = [module.iam_hub.role_arns["observer"]]
}

module "iam_eu_1" {
  source            = "../../modules/iam"
  providers         = { aws = aws.eu_1 }
  name_prefix       = "eu-1"
  oidc_provider_arn = var.eks["eu-1"].oidc_provider_arn
  oidc_issuer_url   = var.eks["eu-1"].oidc_issuer_url
  grants = {
    sidecar   = { access = "writer", bucket_arn = "arn:aws:s3:::${var.bucket_prefix}-eu-1", service_account = "kube-prometheus-stack-prometheus" }
    compactor = { access = "compactor", bucket_arn = "arn:aws:s3:::${var.bucket_prefix}-eu-1", service_account = "parallax-compactor" }
  }
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
  entry                       = { host = local.hosts["eu-1"] }
  bucket                      = { bucket = module.bucket_eu_1.bucket, region = module.bucket_eu_1.region }
  external_labels             = { region = "eu-west-1" }
  service_account_annotations = module.iam_eu_1.service_account_annotations
}

# ---- cluster us-1 ----

module "bucket_us_1" {
  source            = "../../modules/bucket"
  providers         = { aws = aws.us_1 }
  bucket            = "${var.bucket_prefix}-us-1"
  region            = "us-east-1"
  reader_principals = [module.iam_hub.role_arns["observer"]]
}

module "iam_us_1" {
  source            = "../../modules/iam"
  providers         = { aws = aws.us_1 }
  name_prefix       = "us-1"
  oidc_provider_arn = var.eks["us-1"].oidc_provider_arn
  oidc_issuer_url   = var.eks["us-1"].oidc_issuer_url
  grants = {
    sidecar   = { access = "writer", bucket_arn = "arn:aws:s3:::${var.bucket_prefix}-us-1", service_account = "kube-prometheus-stack-prometheus" }
    compactor = { access = "compactor", bucket_arn = "arn:aws:s3:::${var.bucket_prefix}-us-1", service_account = "parallax-compactor" }
  }
}

module "observee_us_1" {
  source                      = "../../modules/observee"
  providers                   = { kubernetes = kubernetes.us_1, helm = helm.us_1 }
  cluster_name                = "us-1"
  image                       = var.image
  trust_domain                = var.trust_domain
  trusted_ca_content          = module.pki.trusted_ca_content
  server                      = module.pki.servers["us-1"]
  certificate                 = { dns_names = module.pki.server_dns_names["us-1"] }
  entry                       = { host = local.hosts["us-1"] }
  bucket                      = { bucket = module.bucket_us_1.bucket, region = module.bucket_us_1.region }
  external_labels             = { region = "us-east-1" }
  service_account_annotations = module.iam_us_1.service_account_annotations
}

# ---- the hub ----

module "iam_hub" {
  source            = "../../modules/iam"
  providers         = { aws = aws.eu_1 }
  name_prefix       = "hub"
  oidc_provider_arn = var.eks["hub"].oidc_provider_arn
  oidc_issuer_url   = var.eks["hub"].oidc_issuer_url
  grants = {
    observer = { access = "reader", service_account = "parallax-observer", bucket_arns = [for name in local.clusters : "arn:aws:s3:::${var.bucket_prefix}-${name}"] }
  }
}

module "observer" {
  source                      = "../../modules/observer"
  providers                   = { kubernetes = kubernetes.hub, helm = helm.hub }
  cluster_name                = "hub"
  image                       = var.image
  client                      = module.pki.clients["hub"]
  observee_ca_content         = module.pki.observee_ca_content
  service_account_annotations = module.iam_hub.service_account_annotations

  # A new cluster is its block above and one line in each of these two.
  tls_queriers = {
    eu-1 = module.observee_eu_1.tls_querier
    us-1 = module.observee_us_1.tls_querier
  }
  store_gateways = {
    eu-1 = module.observee_eu_1.store_gateway
    us-1 = module.observee_us_1.store_gateway
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

output "endpoints" {
  description = "What the hub asks."
  value       = module.observer.endpoints
}
