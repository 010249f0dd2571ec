variable "cluster_name" {
  description = "Name of this cluster in the mesh: the value of the external label `cluster` and part of its certificate's identity."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", var.cluster_name))
    error_message = "cluster_name \"${var.cluster_name}\": use 1 to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit."
  }
}

variable "trust_domain" {
  description = "Name of the mesh in certificates, such as mesh.example.com."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", var.trust_domain))
    error_message = "trust_domain must be a lower-case DNS name such as mesh.example.com."
  }
}

variable "namespace" {
  description = "Namespace of Prometheus and of Parallax."
  type        = string
  default     = "monitoring"
}

variable "entry" {
  description = <<-EOT
    How observers come in. In every mode TLS passes through, and mTLS ends in Parallax itself.
    `l4`: a Service of type LoadBalancer; `gateway`: a TLSRoute on an existing Gateway; `traefik`: an IngressRouteTCP; `nginx`: an Ingress of an ingress-nginx that
    runs with --enable-ssl-passthrough; `none`: only a ClusterIP Service, for a proxy of yours.
  EOT
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
    # Who may ask (observer/hub, observer/*, ingress/eu-1, a SPIFFE name, dns:name); mode none: the header in which a proxy that ends TLS passes certificates on (nginx, ingress-nginx, xfcc, traefik).
    allowed_identities     = optional(list(string), [])
    forwarded_certificates = optional(string, "")
    # host:port or names to look up (dns+, dnssrv+) of the sidecars; by default those of kube-prometheus-stack.
    endpoints = optional(list(string))
  })

  validation {
    condition = alltrue([
      for identity in var.entry.allowed_identities :
      can(regex("^(spiffe://[^/]+/(observer|ingress)/[^/]+|dns:[A-Za-z0-9.-]+|((observer|ingress)/)?([*]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?))$", identity))
    ])
    error_message = "entry.allowed_identities are observer/<hub>, observer/*, ingress/<name>, spiffe://<trust domain>/observer/<hub> or dns:<name>: only observers and ingresses ask."
  }
  validation {
    condition     = contains(["", "xfcc", "nginx", "ingress-nginx", "traefik"], var.entry.forwarded_certificates)
    error_message = "entry.forwarded_certificates \"${var.entry.forwarded_certificates}\" is not known: use nginx, ingress-nginx, xfcc or traefik."
  }
  validation {
    condition     = var.entry.forwarded_certificates == "" || var.entry.mode == "none"
    error_message = "entry.forwarded_certificates is for mode none, behind a proxy of yours that ends TLS: in other modes TLS passes through, and Parallax sees the observers' certificates itself."
  }
  validation {
    condition     = length(var.entry.allowed_cidrs) == 0 || contains(["l4", "none"], var.entry.mode)
    error_message = "entry.allowed_cidrs narrow the load balancer of mode l4, or pods (none): in mode gateway, traefik or nginx narrow the proxy itself."
  }
  validation {
    condition     = contains(["l4", "gateway", "traefik", "nginx", "none"], var.entry.mode)
    error_message = "entry.mode \"${var.entry.mode}\" is not known: use l4, gateway, traefik, nginx or none."
  }
  validation {
    condition     = var.entry.mode != "gateway" || var.entry.gateway != null
    error_message = "entry.mode is gateway: name the Gateway in entry.gateway = { name, namespace }."
  }
  validation {
    condition     = can(regex("^[a-z0-9.-]+$", var.entry.host))
    error_message = "entry.host must be a DNS name: observers send it as server name, and it must stand in the certificate."
  }
}

variable "certificate" {
  description = "The server certificate: a Secret with tls.crt, tls.key and ca.crt (the CA of observers), its DNS names, or a cert-manager issuer that fills it."
  type = object({
    secret_name = optional(string, "parallax-entry-tls")
    dns_names   = list(string)
    issuer      = optional(object({ name = string, kind = optional(string, "ClusterIssuer") }))
  })
}

variable "external_labels" {
  description = "Labels of every series of this cluster, besides `cluster`."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.external_labels), "cluster")
    error_message = "external_labels must not set `cluster`: it is cluster_name."
  }
}

variable "replica_label" {
  description = "The external label that tells the replicas of Prometheus apart."
  type        = string
  default     = "prometheus_replica"
}

variable "prometheus" {
  description = "Prometheus of kube-prometheus-stack. `release` is the name that its objects carry."
  type = object({
    release       = optional(string, "kube-prometheus-stack")
    replicas      = optional(number, 2)
    retention     = optional(string, "24h")
    storage_size  = optional(string, "50Gi")
    storage_class = optional(string)
  })
  default = {}

  validation {
    condition     = can(regex("^[0-9]+[hdwy]$", var.prometheus.retention))
    error_message = "prometheus.retention must be a number with h, d, w or y."
  }
  validation {
    condition = !can(regex("^[0-9]+[hdwy]$", var.prometheus.retention)) || (
      tonumber(regex("^[0-9]+", var.prometheus.retention)) * { h = 1, d = 24, w = 168, y = 8760 }[substr(var.prometheus.retention, -1, 1)] >= 6
    )
    error_message = "prometheus.retention is below 6h: blocks are finished after 2h and uploaded after that, so anything shorter loses data in the first long upload failure."
  }
}

variable "bucket" {
  description = "Secret with the objstore YAML of this cluster's bucket."
  type = object({
    secret_name = optional(string, "parallax-objstore")
    secret_key  = optional(string, "objstore.yaml")
  })
  default = {}
}

variable "compactor" {
  description = "Compaction, downsampling and retention of this cluster's bucket. A retention of 0d keeps that resolution for ever."
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
    replicas                    = optional(number, 1)
    shards                      = optional(number, 1)
    storage_class               = optional(string)
    storage_size                = optional(string, "100Gi")
    image                       = optional(string, "")
    service_account_annotations = optional(map(string), {})
  })
  default = {}

  validation {
    condition = alltrue([
      for value in [var.compactor.retention_raw, var.compactor.retention_5m, var.compactor.retention_1h] : can(regex("^[0-9]+[hdwy]$", value))
    ])
    error_message = "compactor.retention_* must be a number with h, d, w or y, such as 30d; 0d keeps everything."
  }
  validation {
    condition = (
      !var.compactor.downsampling || !can(regex("^[0-9]+[hdwy]$", var.compactor.retention_raw)) ||
      tonumber(regex("^[0-9]+", var.compactor.retention_raw)) == 0 ||
      tonumber(regex("^[0-9]+", var.compactor.retention_raw)) * { h = 1, d = 24, w = 168, y = 8760 }[substr(var.compactor.retention_raw, -1, 1)] > 40
    )
    error_message = "compactor.retention_raw is 40h or less: blocks are downsampled to 5m when they span 40h, so raw data would be gone before. Keep more than 40h, or set downsampling = false."
  }
  validation {
    condition = (
      !var.compactor.downsampling || !can(regex("^[0-9]+[hdwy]$", var.compactor.retention_5m)) ||
      tonumber(regex("^[0-9]+", var.compactor.retention_5m)) == 0 ||
      tonumber(regex("^[0-9]+", var.compactor.retention_5m)) * { h = 1, d = 24, w = 168, y = 8760 }[substr(var.compactor.retention_5m, -1, 1)] > 240
    )
    error_message = "compactor.retention_5m is 10d or less: blocks are downsampled to 1h when they span 10d, so 5m data would be gone before. Keep more than 10d, or set downsampling = false."
  }
  validation {
    condition = alltrue(flatten([
      for rule in var.compactor.retention_rules : [for value in [rule.raw, rule.five_minutes, rule.one_hour] : value == null ? true : can(regex("^[0-9]+[hdwy]$", value))]
    ]))
    error_message = "A time in compactor.retention_rules must be a number with h, d, w or y, such as 30d; 0d keeps everything."
  }
  validation {
    condition = alltrue([
      for rule in var.compactor.retention_rules : can(regex("^\\{.*\\}$", rule.match)) && !alltrue([for value in [rule.raw, rule.five_minutes, rule.one_hour] : value == null])
    ])
    error_message = "Each of compactor.retention_rules needs match, a selector such as {team=\"a\"}, and at least one of raw, five_minutes and one_hour."
  }
  validation {
    condition = !var.compactor.downsampling || alltrue(flatten([
      for rule in var.compactor.retention_rules : [
        for value, hours in merge(
          can(regex("^[0-9]+[hdwy]$", rule.raw)) ? { (rule.raw) = 40 } : {},
          can(regex("^[0-9]+[hdwy]$", rule.five_minutes)) ? { (rule.five_minutes) = 240 } : {},
        ) :
        tonumber(regex("^[0-9]+", value)) == 0 || tonumber(regex("^[0-9]+", value)) * { h = 1, d = 24, w = 168, y = 8760 }[substr(value, -1, 1)] > hours
      ]
    ]))
    error_message = "One of compactor.retention_rules keeps less than downsampling needs: more than 40h of raw and 10d of five_minutes, or set downsampling = false."
  }
  validation {
    condition     = contains(["", "penalty"], var.compactor.deduplication)
    error_message = "compactor.deduplication \"${var.compactor.deduplication}\" is not known: use \"\" (every sample is kept) or penalty (as queries do)."
  }
  validation {
    condition     = var.compactor.deduplication == "" || length(var.compactor.replica_labels) > 0
    error_message = "compactor.deduplication needs compactor.replica_labels, the labels that tell replicas apart (here: [\"prometheus_replica\"])."
  }
  validation {
    condition     = var.compactor.image == "" || (length(var.compactor.retention_rules) == 0 && !var.compactor.retention_dry_run && var.compactor.replicas == 1 && var.compactor.shards == 1)
    error_message = "compactor.image is another program's: retention_rules, retention_dry_run, replicas and shards are Parallax' own. Leave them out, or image."
  }
}

variable "sidecar" {
  description = "The sidecar beside Prometheus. The annotations go to Prometheus' service account (IRSA); extra_args are flags without dashes, such as { \"hash-func\" = \"SHA256\" }."
  type = object({
    service_account_annotations = optional(map(string), {})
    extra_args                  = optional(map(string), {})
  })
  default = {}

  validation {
    condition     = alltrue([for name, value in var.sidecar.extra_args : can(regex("^[a-z]", name))])
    error_message = "sidecar.extra_args are flags without dashes: { \"hash-func\" = \"SHA256\" }."
  }
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

  validation {
    condition     = var.http == null ? true : var.http.tls || var.http.credentials
    error_message = "http: say what web.yaml asks for, tls or credentials (or both), or probes and scrapes fail."
  }
  validation {
    condition     = var.http == null ? true : !var.http.tls || (var.http.ca_secret != "" && var.http.server_name != "")
    error_message = "http.tls: scrapes need ca_secret (a Secret with ca.crt) and server_name, the name in the certificate."
  }
}

variable "image" {
  description = "The image of Parallax."
  type        = object({ repository = string, tag = string })
}
