# What one observee cluster needs, as values: the parallax chart (entry, compactor) and kube-prometheus-stack (Prometheus with our sidecar).

locals {
  labels       = merge(var.external_labels, { cluster = var.cluster_name })
  objects_name = "${var.prometheus.release}-prometheus"
  # Stable names of the replicas: the operator's StatefulSet behind its governing Service.
  sidecars = [
    for ordinal in range(var.prometheus.replicas) :
    "prometheus-${local.objects_name}-${ordinal}.prometheus-operated.${var.namespace}.svc:10901"
  ]

  chart_values = {
    image = var.image
    mesh  = { role = "observee", cluster = var.cluster_name, replicaLabels = [var.replica_label] }
    objstore = {
      existingSecret = var.bucket.secret_name
      key            = var.bucket.secret_key
    }
    entry = {
      enabled      = true
      mode         = var.entry.mode
      host         = var.entry.host
      port         = var.entry.port
      replicas     = var.entry.replicas
      endpoints    = var.entry.endpoints == null ? local.sidecars : var.entry.endpoints
      className    = var.entry.class_name
      entryPoint   = var.entry.entry_point
      gateway      = var.entry.gateway
      annotations  = var.entry.annotations
      allowedCidrs = var.entry.allowed_cidrs

      allowedIdentities     = var.entry.allowed_identities
      forwardedCertificates = var.entry.forwarded_certificates
      tls = {
        existingSecret = var.certificate.secret_name
        certManager = {
          enabled   = var.certificate.issuer != null
          issuerRef = var.certificate.issuer
          uri       = local.identity
          dnsNames  = var.certificate.dns_names
        }
      }
    }
    compactor = {
      enabled = var.compactor.enabled
      image   = var.compactor.image
      retention = {
        raw         = var.compactor.retention_raw
        fiveMinutes = var.compactor.retention_5m
        oneHour     = var.compactor.retention_1h
        dryRun      = var.compactor.retention_dry_run
        rules = [
          for rule in var.compactor.retention_rules :
          { for key, value in { match = rule.match, raw = rule.raw, "5m" = rule.five_minutes, "1h" = rule.one_hour } : key => value if value != null }
        ]
      }
      downsampling       = var.compactor.downsampling
      replicaLabels      = var.compactor.replica_labels
      deduplicationFunc  = var.compactor.deduplication
      verticalCompaction = var.compactor.vertical_compaction
      concurrency        = var.compactor.concurrency
      shards             = var.compactor.shards
      shared             = { enabled = var.compactor.replicas > 1, replicas = max(2, var.compactor.replicas) }
      storage            = { size = var.compactor.storage_size, className = var.compactor.storage_class }
      serviceAccount     = { annotations = var.compactor.service_account_annotations }
    }
    httpServer = {
      existingSecret = try(var.http.secret, "")
      tls            = try(var.http.tls, false)
      credentials    = try(var.http.credentials, false)
      scrape         = { passwordSecret = try(var.http.password_secret, ""), caSecret = try(var.http.ca_secret, ""), serverName = try(var.http.server_name, "") }
    }
    monitoring = { prometheusRule = { enabled = true } }
  }

  identity = "spiffe://${var.trust_domain}/observee/${var.cluster_name}"

  thanos = {
    image               = "${var.image.repository}:${var.image.tag}"
    objectStorageConfig = { existingSecret = { name = var.bucket.secret_name, key = var.bucket.secret_key } }
    additionalArgs      = [for name, value in var.sidecar.extra_args : { name = name, value = value }]
  }
  prometheus_storage = merge(
    { accessModes = ["ReadWriteOnce"], resources = { requests = { storage = var.prometheus.storage_size } } },
    var.prometheus.storage_class == null ? {} : { storageClassName = var.prometheus.storage_class },
  )
  prometheus_stack_values = {
    fullnameOverride = var.prometheus.release
    grafana          = { enabled = false }
    prometheus = {
      serviceAccount = { annotations = var.sidecar.service_account_annotations }
      thanosService  = { enabled = true }
      # The job as Thanos' dashboards look for it; it would be the Service's name.
      thanosServiceMonitor = { enabled = true, relabelings = [{ action = "replace", targetLabel = "job", replacement = "thanos-sidecar" }] }
      prometheusSpec = {
        replicas                                = var.prometheus.replicas
        replicaExternalLabelName                = var.replica_label
        externalLabels                          = local.labels
        retention                               = var.prometheus.retention
        disableCompaction                       = true
        serviceMonitorSelectorNilUsesHelmValues = false
        ruleSelectorNilUsesHelmValues           = false
        topologySpreadConstraints = [{
          maxSkew           = 1
          topologyKey       = "topology.kubernetes.io/zone"
          whenUnsatisfiable = "ScheduleAnyway"
          labelSelector     = { matchLabels = { "app.kubernetes.io/name" = "prometheus", prometheus = local.objects_name } }
        }]
        storageSpec = { volumeClaimTemplate = { spec = local.prometheus_storage } }
        thanos      = { for key, value in local.thanos : key => value if length(value) > 0 }
      }
    }
  }
}
