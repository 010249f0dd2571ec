variable "cluster_name" {
  description = "Name of the hub."
  type        = string
}

variable "trust_domain" {
  description = "Name of the mesh in certificates; needed with generate_ca and client_issuer."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace of Parallax, Prometheus and Grafana."
  type        = string
  default     = "monitoring"
}

variable "create_namespace" {
  description = "Create the namespace."
  type        = bool
  default     = true
}

variable "mode" {
  description = "inline (one process, a certificate per cluster) or stacked (a Deployment per cluster)."
  type        = string
  default     = "inline"
}

variable "tls_queriers" {
  description = "Clusters to ask, by name: { observee = { stores = [\"host:443\"] } }, or the observee modules' output tls_querier."
  type = map(object({
    enabled               = optional(bool, true)
    stores                = list(string)
    server_name           = optional(string)
    identity              = optional(string)
    ca_pem                = optional(string)
    existing_secret       = optional(string)
    certificate_dns_names = optional(list(string))
    external_labels       = optional(map(string))
    authority             = optional(string)
    compression           = optional(string)
    foreign_labels        = optional(string)
    # Value of the cluster label, if it is not the key; "" if this cluster has none (mode stacked).
    cluster = optional(string)
    # Of a hub over several clusters, whose name is the key: those that it may answer for.
    delegated = optional(list(string))
    # Where it is; labels that all its series carry; how long one call waits for it; whether there is no answer without it.
    region   = optional(string)
    labels   = optional(map(string))
    budget   = optional(string)
    required = optional(bool)
    # mode inline: others that serve the same data, in the order of preference, and after which silence the next of them is asked, too.
    endpoints   = optional(list(object({ address = string, server_name = optional(string), authority = optional(string) })))
    hedge_delay = optional(string)
  }))
}

variable "store_gateways" {
  description = "Buckets to read, by cluster: { observee = { bucket, region } }, or the observee modules' output store_gateway."
  type = map(object({
    enabled         = optional(bool, true)
    type            = optional(string, "S3")
    bucket          = string
    region          = optional(string)
    endpoint        = optional(string)
    prefix          = optional(string, "")
    kms_key_id      = optional(string)
    insecure        = optional(bool, false)
    path_style      = optional(bool, false)
    storage_account = optional(string)
    credentials     = optional(object({ access_key = optional(string), secret_key = optional(string), service_account = optional(string), storage_account_key = optional(string) }))
    # mode stacked
    cluster = optional(string)
    shards  = optional(number, 1)
    relabel = optional(list(object({
      action        = string
      source_labels = optional(list(string))
      separator     = optional(string)
      regex         = optional(string)
      modulus       = optional(number)
      target_label  = optional(string)
    })), [])
    # A Secret that is there, with the objstore YAML under objstore.yaml; none is made then.
    existing_secret = optional(string)
    replicas        = optional(number, 1)
    min_time        = optional(string)
    max_time        = optional(string)
    storage_size    = optional(string, "20Gi")
  }))
  default = {}
}

variable "client" {
  description = "The hub's client leaf, an element of the pki module's output clients. Null with generate_ca or client_existing_secret."
  type = object({
    cert_pem = string
    key_pem  = string
  })
  default   = null
  sensitive = true
}

variable "client_existing_secret" {
  description = "A Secret that is there with the hub's leaf: tls.crt, tls.key and ca.crt (the CA of observees); none is made then."
  type        = string
  default     = null
}

variable "client_issuer" {
  description = "A cert-manager issuer that makes the hub's leaf, instead of client: its key is in no state then. It needs trust_domain, and observees trust that issuer's CA."
  type        = object({ name = string, kind = optional(string, "ClusterIssuer") })
  default     = null
}

variable "observee_ca_content" {
  description = "PEM bundle that signs observees, from the pki module; every tls_querier without a ca_pem of its own is verified with it."
  type        = string
  default     = ""

  validation {
    condition     = !can(regex("PRIVATE KEY", var.observee_ca_content))
    error_message = "observee_ca_content holds a private key: give the certificates only."
  }
}

variable "generate_ca" {
  description = "Keep the CAs in this state, as the Terragrunt style of old does; a pki unit of its own is better. Leaves of observees are then in output servers."
  type        = bool
  default     = false
}

variable "generated_servers" {
  description = "With generate_ca: server leaves to sign, by cluster, with their dns_names."
  type        = map(object({ dns_names = list(string) }))
  default     = {}
}

variable "replica_labels" {
  description = "Labels that tell replicas apart."
  type        = list(string)
  default     = ["prometheus_replica"]
}

variable "query" {
  description = "How long a query and a silent cluster may take."
  type = object({
    replicas         = optional(number, 2)
    timeout          = optional(string, "2m")
    response_timeout = optional(string, "5s")
    storage_size     = optional(string, "20Gi")
    # Answer with what is there, and warn of what is missing; false is an error instead.
    partial_response = optional(bool, true)
    max_held_bytes   = optional(string, "")
    sync_interval    = optional(string, "")
    # What becomes of labels by which a cluster claims to be another (drop, inject, refuse), and the label that holds a cluster's name.
    foreign_labels = optional(string, "drop")
    cluster_label  = optional(string, "cluster")
    # Of calls to clusters: none, snappy, or zstd where all of them are ours.
    compression     = optional(string, "none")
    max_frame_bytes = optional(string, "")
    # mode inline
    info_interval = optional(string, "")
    hedge_delay   = optional(string, "")
    # How replicas become one series where a query does not say: penalty, chain or gap-aware.
    deduplication_func = optional(string, "")
    # Evaluate aggregations where the data is, by the clusters' entries; partition_labels tell them apart, by default all but replica_labels.
    distributed      = optional(bool, false)
    partition_labels = optional(list(string), [])
  })
  default = {}
}

variable "upward" {
  description = "mTLS on the hub's gRPC port, for a querier above it: upward_server, or a Secret that is there (tls.crt, tls.key, ca.crt). See modules/config/observer."
  type = object({
    existing_secret        = optional(string)
    allowed_identities     = optional(list(string), [])
    forwarded_certificates = optional(string, "")
  })
  default = null

  validation {
    condition = var.upward == null ? true : alltrue([
      for identity in var.upward.allowed_identities :
      can(regex("^(spiffe://[^/]+/(observer|ingress)/[^/]+|dns:[A-Za-z0-9.-]+|((observer|ingress)/)?([*]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?))$", identity))
    ])
    error_message = "upward.allowed_identities are observer/<hub>, observer/*, ingress/<name>, spiffe://<trust domain>/observer/<hub> or dns:<name>."
  }
}

variable "upward_server" {
  description = "The leaf that the hub shows upward: the element of the pki module's output servers whose name is this hub's."
  type = object({
    cert_pem = string
    key_pem  = string
    ca_pem   = string
  })
  default   = null
  sensitive = true
}

variable "local_stores" {
  description = "More StoreAPIs in this cluster, plain text (mode stacked): host:port or names to look up (dns+, dnssrv+)."
  type        = list(string)
  default     = []
}

variable "target_files" {
  description = "A ConfigMap of files of StoreAPIs in Prometheus' format of file discovery (mode stacked)."
  type        = string
  default     = ""
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
    # For Grafana: a Secret with PARALLAX_USER, PARALLAX_PASSWORD and PARALLAX_CA (PEM), as far as web.yaml asks for them.
    grafana_secret = optional(string, "")
  })
  default = null
}

variable "cache" {
  description = "What store gateways remember beside their own memory; see modules/config/observer."
  type = object({
    memcached       = optional(object({ replicas = optional(number, 2), memory_megabytes = optional(number, 512) }))
    index_yaml      = optional(string)
    chunks_yaml     = optional(string)
    existing_secret = optional(string, "")
  })
  default = {}
}

variable "query_frontend" {
  description = "Thanos' query frontend before the querier; Grafana asks it then."
  type = object({
    enabled        = optional(bool, false)
    replicas       = optional(number, 2)
    split_interval = optional(string, "12h")
  })
  default = {}
}

variable "prometheus" {
  description = "The hub's kube-prometheus-stack with Grafana; with install = false only its values are rendered."
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

variable "external_labels" {
  description = "External labels of the hub's own Prometheus, besides `cluster`."
  type        = map(string)
  default     = {}
}

variable "service_account_annotations" {
  description = "Annotations by cluster whose bucket is read (mode stacked), or under `observer` (mode inline): the iam module's output."
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
