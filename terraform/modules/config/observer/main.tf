# What the hub needs, as values: the parallax chart (queriers and gateways) and kube-prometheus-stack (Prometheus, Grafana with our data source).

locals {
  queriers = { for name, querier in var.tls_queriers : name => querier if querier.enabled }
  gateways = { for name, gateway in var.store_gateways : name => gateway if gateway.enabled }
  # A cluster with a CA of its own gets a Secret of its own; the others share the observer's.
  secrets = {
    for name, querier in local.queriers : name =>
    querier.existing_secret != null ? querier.existing_secret : (querier.ca_pem != null ? "parallax-querier-${replace(name, ".", "-")}-tls" : var.client_secret)
  }
  without_ca = [
    for name, querier in local.queriers : name
    if querier.existing_secret == null && querier.ca_pem == null && var.observee_ca_content == ""
  ]
  scheme = try(var.http.tls, false) ? "https" : "http"
  url    = var.query_frontend.enabled ? "http://parallax-query-frontend.${var.namespace}.svc:10902" : "${local.scheme}://parallax-query.${var.namespace}.svc:10902"

  chart_values = {
    image = var.image
    mesh  = { role = "observer", cluster = var.cluster_name, replicaLabels = var.replica_labels }
    observer = {
      mode            = var.mode
      replicas        = var.query.replicas
      queryTimeout    = var.query.timeout
      responseTimeout = var.query.response_timeout
      tlsSecret       = var.client_secret
      certManager = var.client_certificate == null ? { enabled = false, issuerRef = null, uri = "", trustedCaSecret = "" } : {
        enabled         = true
        issuerRef       = var.client_certificate.issuer
        uri             = "spiffe://${var.client_certificate.trust_domain}/observer/${var.cluster_name}"
        trustedCaSecret = var.client_certificate.trusted_ca_secret
      }
      partialResponse = var.query.partial_response
      maxHeldBytes    = var.query.max_held_bytes
      syncInterval    = var.query.sync_interval
      foreignLabels   = var.query.foreign_labels
      clusterLabel    = var.query.cluster_label
      compression     = var.query.compression == "none" ? "" : var.query.compression
      maxFrameBytes   = var.query.max_frame_bytes
      infoInterval    = var.query.info_interval
      hedgeDelay      = var.query.hedge_delay

      deduplicationFunc = var.query.deduplication_func

      distributed    = { enabled = var.query.distributed, partitionLabels = var.query.partition_labels }
      storage        = { size = var.query.storage_size }
      serviceAccount = { annotations = var.service_account_annotations }
      targetFiles    = var.target_files
      upward = {
        tlsSecret             = try(var.upward.secret, "")
        allowedIdentities     = try(var.upward.allowed_identities, [])
        forwardedCertificates = try(var.upward.forwarded_certificates, "")
      }
    }
    localStores = var.local_stores
    httpServer = {
      existingSecret = try(var.http.secret, "")
      tls            = try(var.http.tls, false)
      credentials    = try(var.http.credentials, false)
      scrape         = { passwordSecret = try(var.http.password_secret, ""), caSecret = try(var.http.ca_secret, ""), serverName = try(var.http.server_name, "") }
    }
    queryFrontend = { enabled = var.query_frontend.enabled, replicas = var.query_frontend.replicas, splitInterval = var.query_frontend.split_interval }
    cache = {
      memcached      = merge({ enabled = var.cache.memcached != null }, var.cache.memcached == null ? {} : { replicas = var.cache.memcached.replicas, memoryMegabytes = var.cache.memcached.memory_megabytes })
      index          = try(yamldecode(var.cache.index_yaml), null)
      chunks         = try(yamldecode(var.cache.chunks_yaml), null)
      existingSecret = var.cache.existing_secret
    }
    tlsQueriers = {
      for name, querier in local.queriers : name => {
        stores     = querier.stores
        serverName = coalesce(querier.server_name, split(":", replace(querier.stores[0], "/^[a-z]+[+]/", ""))[0])
        identity   = querier.identity
        tlsSecret  = local.secrets[name]
        cluster    = querier.cluster

        authority     = querier.authority
        compression   = querier.compression
        foreignLabels = querier.foreign_labels
        delegated     = querier.delegated

        region   = querier.region
        labels   = querier.labels
        budget   = querier.budget
        required = querier.required

        endpoints  = querier.endpoints == null ? null : [for one in querier.endpoints : { address = one.address, serverName = one.server_name, authority = one.authority }]
        hedgeDelay = querier.hedge_delay
      }
    }
    storeGateways = {
      for name, gateway in local.gateways : name => {
        objstoreSecret = coalesce(gateway.existing_secret, "parallax-objstore-${replace(name, ".", "-")}")
        cluster        = gateway.cluster
        shards         = gateway.shards
        relabel        = [for rule in gateway.relabel : { for key, value in rule : key => value if value != null }]
        replicas       = gateway.replicas
        minTime        = gateway.min_time
        maxTime        = gateway.max_time
        storage        = { size = gateway.storage_size }
        serviceAccount = { annotations = gateway.service_account_annotations }
      }
    }
  }

  # Grafana fills in $__env{…} itself, from a Secret: nothing secret stands in values.
  data_source = merge(
    {
      name = "Parallax", uid = "parallax", type = "prometheus", access = "proxy", url = local.url, isDefault = true,
      jsonData = merge(
        { httpMethod = "POST", timeInterval = "30s", prometheusType = "Thanos", queryTimeout = var.query.timeout },
        { for key, value in { tlsAuthWithCACert = true, serverName = try(var.http.server_name, "") } : key => value if local.scheme == "https" },
      )
    },
    { for key, value in { basicAuth = true, basicAuthUser = "$__env{PARALLAX_USER}" } : key => value if try(var.http.password_secret, "") != "" },
    { for key, value in { secureJsonData = merge(
      { for name in ["basicAuthPassword"] : name => "$__env{PARALLAX_PASSWORD}" if try(var.http.password_secret, "") != "" },
      { for name in ["tlsCACert"] : name => "$__env{PARALLAX_CA}" if local.scheme == "https" },
    ) } : key => value if var.http != null },
  )

  prometheus_storage = merge(
    { accessModes = ["ReadWriteOnce"], resources = { requests = { storage = var.prometheus.storage_size } } },
    var.prometheus.storage_class == null ? {} : { storageClassName = var.prometheus.storage_class },
  )
  prometheus_stack_values = {
    fullnameOverride = var.prometheus.release
    grafana = {
      enabled       = true
      envFromSecret = try(var.http.grafana_secret, "")
      sidecar = {
        dashboards  = { enabled = true, label = "grafana_dashboard" }
        datasources = { defaultDatasourceEnabled = false }
      }
      additionalDataSources = [
        local.data_source,
        { name = "Prometheus", uid = "prometheus-local", type = "prometheus", access = "proxy", isDefault = false,
        url = "http://${var.prometheus.release}-prometheus.${var.namespace}.svc:9090" },
      ]
    }
    prometheus = {
      prometheusSpec = {
        replicas                                = var.prometheus.replicas
        replicaExternalLabelName                = var.replica_labels[0]
        externalLabels                          = merge(var.external_labels, { cluster = var.cluster_name })
        retention                               = var.prometheus.retention
        serviceMonitorSelectorNilUsesHelmValues = false
        ruleSelectorNilUsesHelmValues           = false
        topologySpreadConstraints = [{
          maxSkew           = 1
          topologyKey       = "topology.kubernetes.io/zone"
          whenUnsatisfiable = "ScheduleAnyway"
          labelSelector     = { matchLabels = { "app.kubernetes.io/name" = "prometheus", prometheus = "${var.prometheus.release}-prometheus" } }
        }]
        storageSpec = { volumeClaimTemplate = { spec = local.prometheus_storage } }
      }
    }
  }
}

# One objstore document per bucket; this checks each bucket, too.
module "objstore" {
  source   = "../objstore"
  for_each = local.gateways

  bucket = {
    type       = each.value.type, bucket = each.value.bucket, region = each.value.region, endpoint = each.value.endpoint, prefix = each.value.prefix,
    kms_key_id = each.value.kms_key_id, insecure = each.value.insecure, path_style = each.value.path_style, storage_account = each.value.storage_account
  }
  credentials = each.value.credentials
}
