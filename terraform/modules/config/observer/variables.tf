variable "cluster_name" {
  description = "Name of this hub."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", var.cluster_name))
    error_message = "cluster_name \"${var.cluster_name}\": use 1 to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit."
  }
}

variable "namespace" {
  description = "Namespace of Parallax."
  type        = string
  default     = "monitoring"
}

variable "mode" {
  description = "inline: one process asks every cluster, each over its own certificates. stacked: a Deployment per cluster beneath a global querier."
  type        = string
  default     = "inline"

  validation {
    condition     = contains(["inline", "stacked"], var.mode)
    error_message = "mode \"${var.mode}\" is not known: use inline or stacked."
  }
}

variable "tls_queriers" {
  description = <<-EOT
    Clusters to ask, by name. `stores` are host:port (one in mode inline). Best taken from the outputs of the observee module, which also gives what the
    certificate names (`certificate_dns_names`) and the cluster's external labels; both are then checked here.
  EOT
  type = map(object({
    enabled               = optional(bool, true)
    stores                = list(string)
    server_name           = optional(string)
    identity              = optional(string)
    ca_pem                = optional(string)
    existing_secret       = optional(string)
    certificate_dns_names = optional(list(string))
    external_labels       = optional(map(string))
    # What a proxy routes by; snappy or zstd (between ours); drop, inject or refuse.
    authority      = optional(string)
    compression    = optional(string)
    foreign_labels = optional(string)
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

  validation {
    condition     = alltrue([for name, querier in var.tls_queriers : can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", name))])
    error_message = "Keys of tls_queriers are cluster names: lower-case letters, digits, '-' and '.'."
  }
  validation {
    condition     = length(var.tls_queriers) == length(distinct([for name in keys(var.tls_queriers) : replace(name, ".", "-")]))
    error_message = "Two keys of tls_queriers differ only by '.' and '-': objects of Kubernetes would have one name. Name one of the clusters otherwise."
  }
  validation {
    condition     = alltrue([for name, querier in var.tls_queriers : length(querier.stores) > 0])
    error_message = "A tls_querier without stores: give the grpc_endpoint of its observee, or remove it."
  }
  validation {
    condition = alltrue(flatten([
      for name, querier in var.tls_queriers : [
        for store in querier.stores : can(regex("^(([a-zA-Z0-9.-]+|\\[[0-9a-fA-F:.]+\\]):[0-9]+|dns(dualstack)?\\+[a-zA-Z0-9._-]+:[0-9]+|dnssrv(noa)?\\+[a-zA-Z0-9._-]+(:[0-9]+)?)$", store))
      ]
    ]))
    error_message = "A store is host:port without a scheme, such as eu-1.mesh.example.com:443, or a name to look up: dns+host:port, dnssrv+name, dnssrvnoa+name."
  }
  validation {
    condition     = alltrue([for name, querier in var.tls_queriers : querier.server_name != null || !anytrue([for store in querier.stores : startswith(store, "dnssrv") || startswith(store, "[")])])
    error_message = "A tls_querier finds its hosts by service records (dnssrv+, dnssrvnoa+) or by an address: give server_name, the name in their certificate."
  }
  validation {
    condition = alltrue([
      for querier in var.tls_queriers : querier.identity == null ? true : can(regex("^(spiffe://[^/]+/observee/[^/]+|dns)$", querier.identity))
    ])
    error_message = "identity of a tls_querier is spiffe://<trust domain>/observee/<cluster>, or dns for any certificate with its name."
  }
  validation {
    condition = alltrue([
      for querier in var.tls_queriers : (querier.compression == null ? true : contains(["none", "snappy", "zstd"], querier.compression)) &&
      (querier.foreign_labels == null ? true : contains(["drop", "inject", "refuse"], querier.foreign_labels))
    ])
    error_message = "A tls_querier's compression is none, snappy or zstd, its foreign_labels drop, inject or refuse."
  }
  validation {
    condition = alltrue([
      for querier in var.tls_queriers : var.mode == "inline" ? querier.hedge_delay == null || querier.endpoints != null : querier.hedge_delay == null && querier.endpoints == null
    ])
    error_message = "endpoints and hedge_delay of a tls_querier are for mode inline (stacked: list every store in stores), and hedge_delay needs endpoints."
  }
  validation {
    condition = alltrue([
      for querier in var.tls_queriers : querier.delegated == null ? true : (
        length(querier.delegated) > 0 && (querier.foreign_labels == null ? var.query.foreign_labels : querier.foreign_labels) != "inject" && querier.cluster != ""
      )
    ])
    error_message = "delegated of a tls_querier lists the clusters that this hub may answer for, at least one; it needs the hub's own name (the key, or cluster), and foreign_labels drop or refuse."
  }
  validation {
    condition     = length(flatten([for querier in var.tls_queriers : querier.stores])) == length(distinct(flatten([for querier in var.tls_queriers : querier.stores])))
    error_message = "The same store stands in two tls_queriers: one address is one cluster."
  }
  validation {
    condition = length([for querier in var.tls_queriers : querier if querier.external_labels != null]) == length(distinct([
      for querier in var.tls_queriers : jsonencode(querier.external_labels) if querier.external_labels != null
    ]))
    error_message = "Two tls_queriers have the same external labels: their series could not be told apart. Give each cluster its own value of the label `cluster`."
  }
  validation {
    condition = alltrue([
      for name, querier in var.tls_queriers : querier.external_labels == null ? true : (
        (querier.cluster == null ? name : querier.cluster) == "" || lookup(querier.external_labels, var.query.cluster_label, "") == (querier.cluster == null ? name : querier.cluster)
      )
    ])
    error_message = "A key of tls_queriers is not the cluster's own value of the label `cluster`: what a cluster sends under another name is left out of answers. Give each cluster its own value of the label `cluster`, and use it as key (or set cluster of the tls_querier, in mode stacked)."
  }
  validation {
    condition = alltrue([
      for name, querier in var.tls_queriers : querier.certificate_dns_names == null ? true : anytrue([
        for dns in querier.certificate_dns_names :
        dns == coalesce(querier.server_name, split(":", replace(querier.stores[0], "/^[a-z]+[+]/", ""))[0]) ||
        (startswith(dns, "*.") && replace(coalesce(querier.server_name, split(":", replace(querier.stores[0], "/^[a-z]+[+]/", ""))[0]), "/^[^.]+/", "*") == dns)
      ])
    ])
    error_message = "A tls_querier's certificate does not name the host it dials: set server_name to a name in the certificate, or add the host to the certificate's dns_names."
  }
}

variable "store_gateways" {
  description = "Buckets to read, by cluster name; best taken from the outputs of the bucket module."
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
    existing_secret             = optional(string)
    replicas                    = optional(number, 1)
    min_time                    = optional(string)
    max_time                    = optional(string)
    storage_size                = optional(string, "20Gi")
    service_account_annotations = optional(map(string), {})
  }))
  default = {}

  validation {
    condition = length(var.store_gateways) == length(distinct([
      for gateway in var.store_gateways : join("/", [gateway.type, coalesce(gateway.storage_account, gateway.endpoint, "-"), gateway.bucket, gateway.prefix])
    ]))
    error_message = "Two store_gateways read the same bucket: each cluster needs a bucket (or a prefix) of its own, or compaction mixes their blocks."
  }
  validation {
    condition     = length(var.store_gateways) == length(distinct([for name in keys(var.store_gateways) : replace(name, ".", "-")]))
    error_message = "Two keys of store_gateways differ only by '.' and '-': objects of Kubernetes would have one name. Name one of the clusters otherwise."
  }
}

variable "observee_ca_content" {
  description = "PEM bundle that signs observees' server certificates, for every tls_querier without a ca_pem of its own."
  type        = string
  default     = ""
}

variable "client_secret" {
  description = "Secret with the observer's leaf: tls.crt, tls.key and ca.crt (the CA of observees)."
  type        = string
  default     = "parallax-observer-tls"
}

variable "client_certificate" {
  description = "Lets cert-manager fill client_secret: its issuer, and the mesh's trust domain for the identity. ca.crt of the Secret trusted_ca_secret then says whom to trust."
  type = object({
    issuer            = object({ name = string, kind = optional(string, "ClusterIssuer") })
    trust_domain      = string
    trusted_ca_secret = optional(string, "parallax-observee-ca")
  })
  default = null
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

  validation {
    condition     = contains(["none", "snappy", "zstd"], var.query.compression) && contains(["drop", "inject", "refuse"], var.query.foreign_labels)
    error_message = "query.compression is none, snappy or zstd, query.foreign_labels drop, inject or refuse."
  }
  validation {
    condition     = contains(["", "penalty", "chain", "gap-aware"], var.query.deduplication_func)
    error_message = "query.deduplication_func is penalty, chain or gap-aware."
  }
  validation {
    condition     = var.query.distributed || length(var.query.partition_labels) == 0
    error_message = "query.partition_labels are for query.distributed = true."
  }
}

variable "upward" {
  description = <<-EOT
    For a querier above this hub: mTLS on its gRPC port. `secret` holds tls.crt and tls.key (the leaf of an observee, whose name is this hub's) and ca.crt (the CA of observers);
    allowed_identities and forwarded_certificates are as those of an observee's entry.
  EOT
  type = object({
    secret                 = string
    allowed_identities     = optional(list(string), [])
    forwarded_certificates = optional(string, "")
  })
  default = null
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

  validation {
    condition     = var.http == null ? true : var.http.tls || var.http.credentials
    error_message = "http: say what web.yaml asks for, tls or credentials (or both), or probes and scrapes fail."
  }
  validation {
    condition     = var.http == null ? true : !var.http.tls || (var.http.ca_secret != "" && var.http.server_name != "")
    error_message = "http.tls: scrapes need ca_secret (a Secret with ca.crt) and server_name, the name in the certificate."
  }
  validation {
    condition     = var.http == null ? true : var.http.grafana_secret != ""
    error_message = "http.grafana_secret: Grafana asks the hub, and needs its password or its CA. Name a Secret with PARALLAX_USER, PARALLAX_PASSWORD and PARALLAX_CA."
  }
}

variable "cache" {
  description = <<-EOT
    What store gateways remember beside their own memory. `memcached`: one in this cluster, for gateways and the query frontend. `index_yaml` and `chunks_yaml`: Thanos'
    documents of --index-cache.config and --store.caching-bucket.config. `existing_secret` (mode stacked): a Secret with index-cache.yaml and caching-bucket.yaml.
  EOT
  type = object({
    memcached       = optional(object({ replicas = optional(number, 2), memory_megabytes = optional(number, 512) }))
    index_yaml      = optional(string)
    chunks_yaml     = optional(string)
    existing_secret = optional(string, "")
  })
  default = {}

  validation {
    condition     = alltrue([for text in [var.cache.index_yaml, var.cache.chunks_yaml] : text == null ? true : contains(["IN-MEMORY", "MEMCACHED", "REDIS"], try(yamldecode(text).type, ""))])
    error_message = "cache.index_yaml and cache.chunks_yaml are YAML documents with a type: IN-MEMORY, MEMCACHED or REDIS."
  }
  validation {
    condition     = alltrue([for text in [var.cache.index_yaml, var.cache.chunks_yaml] : text == null ? true : !can(yamldecode(text).config.password)])
    error_message = "cache.index_yaml or cache.chunks_yaml holds a password, which would stand in a ConfigMap: put both documents in a Secret and name it in cache.existing_secret (mode = \"stacked\")."
  }
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
  description = "The hub's own Prometheus (kube-prometheus-stack)."
  type = object({
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
  description = "Annotations of the service account that reads the buckets in mode inline (IRSA)."
  type        = map(string)
  default     = {}
}

variable "image" {
  description = "The image of Parallax."
  type        = object({ repository = string, tag = string })
}
