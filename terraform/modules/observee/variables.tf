variable "cluster_name" {
  description = "Name of this cluster in the mesh."
  type        = string
}

variable "trust_domain" {
  description = "Name of the mesh in certificates."
  type        = string
}

variable "namespace" {
  description = "Namespace of Prometheus and Parallax."
  type        = string
  default     = "monitoring"
}

variable "create_namespace" {
  description = "Create the namespace."
  type        = bool
  default     = true
}

variable "trusted_ca_content" {
  description = "PEM bundle that signs observers: whoever holds a leaf of it may ask this cluster. An output of the pki module."
  type        = string

  validation {
    condition     = can(regex("-----BEGIN CERTIFICATE-----", var.trusted_ca_content))
    error_message = "trusted_ca_content must be a PEM bundle (-----BEGIN CERTIFICATE-----): without it nobody could be let in. Take it from the pki module's output of that name."
  }
  validation {
    condition     = !can(regex("PRIVATE KEY", var.trusted_ca_content))
    error_message = "trusted_ca_content holds a private key: give the certificates only."
  }
}

variable "server" {
  description = "This cluster's server leaf, an element of the pki module's output servers. Null with certificate.issuer or certificate.existing_secret."
  type = object({
    cert_pem = string
    key_pem  = string
  })
  default   = null
  sensitive = true
}

variable "ingress" {
  description = "For a proxy of yours that ends TLS (entry.mode none): the leaf by which it asks Parallax, an element of the pki module's output ingresses. It becomes the Secret parallax-ingress-tls."
  type = object({
    cert_pem = string
    key_pem  = string
    ca_pem   = string
  })
  default   = null
  sensitive = true
}

variable "certificate" {
  description = <<-EOT
    What the server certificate names, and where it comes from if not from `server`: a cert-manager issuer, or a Secret that is there
    (tls.crt, tls.key and ca.crt, the CA of observers), such as one made from `parallax pki issue --out`.
  EOT
  type = object({
    dns_names       = list(string)
    issuer          = optional(object({ name = string, kind = optional(string, "ClusterIssuer") }))
    existing_secret = optional(string)
  })

  validation {
    condition     = var.certificate.issuer == null || var.certificate.existing_secret == null
    error_message = "certificate has an issuer and an existing_secret: cert-manager would overwrite that Secret. Keep one of them."
  }
}

variable "entry" {
  description = "How observers come in; see modules/config/observee."
  type = object({
    mode          = optional(string, "l4")
    host          = string
    port          = optional(number, 443)
    replicas      = optional(number, 2)
    class_name    = optional(string)
    entry_point   = optional(string, "websecure")
    gateway       = optional(object({ name = string, namespace = optional(string), section = optional(string) }))
    annotations   = optional(map(string), {})
    allowed_cidrs = optional(list(string), [])

    allowed_identities     = optional(list(string), [])
    forwarded_certificates = optional(string, "")
    endpoints              = optional(list(string))
  })
}

variable "bucket" {
  description = "This cluster's bucket; best taken from the bucket module."
  type = object({
    type            = optional(string, "S3")
    bucket          = string
    region          = optional(string)
    endpoint        = optional(string)
    prefix          = optional(string, "")
    insecure        = optional(bool, false)
    kms_key_id      = optional(string)
    path_style      = optional(bool, false)
    storage_account = optional(string)
    # A Secret that is there, with the objstore YAML under objstore.yaml; none is made then.
    existing_secret = optional(string)
  })
}

variable "bucket_credentials" {
  description = "Static keys, for storage without identities of its own."
  type = object({
    access_key          = optional(string)
    secret_key          = optional(string)
    service_account     = optional(string)
    storage_account_key = optional(string)
  })
  default   = null
  sensitive = true
}

variable "external_labels" {
  description = "Labels of every series, besides `cluster`."
  type        = map(string)
  default     = {}
}

variable "replica_label" {
  description = "The external label that tells the replicas of Prometheus apart."
  type        = string
  default     = "prometheus_replica"
}

variable "prometheus" {
  description = "Prometheus of kube-prometheus-stack; with install = false only its values are rendered (output prometheus_stack_values)."
  type = object({
    install       = optional(bool, true)
    version       = optional(string, "88.5.3")
    release       = optional(string, "kube-prometheus-stack")
    replicas      = optional(number, 2)
    retention     = optional(string, "24h")
    storage_size  = optional(string, "50Gi")
    storage_class = optional(string)
  })
  default = {}
}

variable "compactor" {
  description = "Compaction, downsampling, retention; see modules/config/observee."
  type = object({
    enabled           = optional(bool, true)
    downsampling      = optional(bool, true)
    retention_raw     = optional(string, "30d")
    retention_5m      = optional(string, "180d")
    retention_1h      = optional(string, "0d")
    retention_dry_run = optional(bool, false)
    # The first rule that fits a block's external labels decides; what it does not say, the three above do.
    retention_rules = optional(list(object({
      match        = string
      raw          = optional(string)
      five_minutes = optional(string)
      one_hour     = optional(string)
    })), [])
    # Labels that tell replicas apart: their blocks become one. penalty merges as queries do; "" keeps every sample.
    replica_labels      = optional(list(string), [])
    deduplication       = optional(string, "")
    vertical_compaction = optional(bool, false)
    concurrency         = optional(number, 1)
    # Several pods share the bucket by leases; shards give each a fixed part of the groups.
    replicas      = optional(number, 1)
    shards        = optional(number, 1)
    storage_class = optional(string)
    storage_size  = optional(string, "100Gi")
    image         = optional(string, "")
  })
  default = {}
}

variable "sidecar" {
  description = "Flags of the sidecar beside the operator's own, without dashes: { extra_args = { \"hash-func\" = \"SHA256\" } }."
  type        = object({ extra_args = optional(map(string), {}) })
  default     = {}
}

variable "http" {
  description = "TLS and passwords of the HTTP servers; see the chart's httpServer. secret: web.yaml and the files it names."
  type = object({
    secret          = string
    tls             = optional(bool, false)
    credentials     = optional(bool, false)
    password_secret = optional(string, "")
    ca_secret       = optional(string, "")
    server_name     = optional(string, "")
  })
  default = null
}

variable "service_account_annotations" {
  description = "Annotations by component (sidecar, compactor): the iam module's output."
  type        = map(map(string))
  default     = {}
}

variable "image" {
  description = "The image of Parallax."
  type        = object({ repository = optional(string, "ghcr.io/parallax/parallax"), tag = optional(string, "0.1.0") })
  default     = {}
}

variable "chart" {
  description = "The parallax chart: a path, or a name in a repository."
  type        = object({ chart = optional(string), repository = optional(string), version = optional(string) })
  default     = {}
}

variable "extra_values" {
  description = "More values (YAML) for the parallax chart, over ours."
  type        = list(string)
  default     = []
}

variable "prometheus_stack_extra_values" {
  description = "More values (YAML) for kube-prometheus-stack, over ours."
  type        = list(string)
  default     = []
}
