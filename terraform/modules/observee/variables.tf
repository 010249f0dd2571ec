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
  description = "This cluster's server leaf, an element of the pki module's output servers. Null if cert-manager fills the Secret (certificate.issuer)."
  type = object({
    cert_pem = string
    key_pem  = string
  })
  default   = null
  sensitive = true
}

variable "certificate" {
  description = "What the server certificate names, and who makes it if not Terraform."
  type = object({
    dns_names = list(string)
    issuer    = optional(object({ name = string, kind = optional(string, "ClusterIssuer") }))
  })
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
    proxy_secret  = optional(string)
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
    version       = optional(string)
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
    enabled       = optional(bool, true)
    downsampling  = optional(bool, true)
    retention_raw = optional(string, "30d")
    retention_5m  = optional(string, "180d")
    retention_1h  = optional(string, "0d")
    storage_size  = optional(string, "100Gi")
    image         = optional(string, "")
  })
  default = {}
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
