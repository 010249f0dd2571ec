variables {
  cluster_name = "eu-1"
  trust_domain = "mesh.example"
  entry        = { host = "eu-1.mesh.example" }
  certificate  = { dns_names = ["eu-1.mesh.example"] }
  image        = { repository = "registry.example/parallax", tag = "1" }
}

run "values_of_both_charts" {
  command = plan
  assert {
    condition     = yamldecode(output.helm_values).entry.endpoints[1] == "prometheus-kube-prometheus-stack-prometheus-1.prometheus-operated.monitoring.svc:10901"
    error_message = "the sidecars are not where the operator puts them"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).prometheus.prometheusSpec.externalLabels == { cluster = "eu-1" }
    error_message = "external labels"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).prometheus.prometheusSpec.thanos.image == "registry.example/parallax:1"
    error_message = "the sidecar is not our image"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).prometheus.thanosServiceMonitor.relabelings[0].replacement == "thanos-sidecar"
    error_message = "the job of sidecars"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).grafana.enabled == false
    error_message = "Grafana belongs to the hub"
  }
  assert {
    condition     = output.grpc_endpoint == "eu-1.mesh.example:443" && output.identity == "spiffe://mesh.example/observee/eu-1"
    error_message = "what the observer gets"
  }
}

run "a_wildcard_certificate_names_the_host" {
  command = plan
  variables {
    certificate = { dns_names = ["*.mesh.example"] }
  }
}

run "a_host_that_the_certificate_does_not_name_is_refused" {
  command = plan
  variables {
    certificate = { dns_names = ["other.mesh.example"] }
  }
  expect_failures = [output.helm_values]
}

run "an_unknown_entry_mode_is_refused" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", mode = "carrier-pigeon" }
  }
  expect_failures = [var.entry]
}

run "a_gateway_without_a_name_is_refused" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", mode = "gateway" }
  }
  expect_failures = [var.entry]
}

run "raw_retention_below_downsampling_is_refused" {
  command = plan
  variables {
    compactor = { retention_raw = "40h" }
  }
  expect_failures = [var.compactor]
}

run "five_minute_retention_below_downsampling_is_refused" {
  command = plan
  variables {
    compactor = { retention_5m = "1w" }
  }
  expect_failures = [var.compactor]
}

run "without_downsampling_retention_may_be_short" {
  command = plan
  variables {
    compactor = { retention_raw = "1d", retention_5m = "1d", downsampling = false }
  }
}

run "keeping_everything_is_no_short_retention" {
  command = plan
  variables {
    compactor = { retention_raw = "0d", retention_5m = "0d" }
  }
}

run "prometheus_must_keep_what_an_upload_may_take" {
  command = plan
  variables {
    prometheus = { retention = "4h" }
  }
  expect_failures = [var.prometheus]
}

run "the_cluster_label_is_not_set_twice" {
  command = plan
  variables {
    external_labels = { cluster = "other" }
  }
  expect_failures = [var.external_labels]
}

run "a_cluster_name_that_no_certificate_can_carry_is_refused" {
  command = plan
  variables {
    cluster_name = "EU_1"
  }
  expect_failures = [var.cluster_name]
}

run "rules_of_retention_and_shared_compactors" {
  command = plan
  variables {
    compactor = {
      retention_rules = [{ match = "{team=\"a\"}", raw = "7d", one_hour = "0d" }]
      replica_labels  = ["prometheus_replica"]
      deduplication   = "penalty"
      replicas        = 2
      shards          = 3
    }
  }
  assert {
    condition     = yamldecode(output.helm_values).compactor.retention.rules == [{ "1h" = "0d", match = "{team=\"a\"}", raw = "7d" }]
    error_message = "the rule"
  }
  assert {
    condition     = yamldecode(output.helm_values).compactor.shared == { enabled = true, replicas = 2 } && yamldecode(output.helm_values).compactor.shards == 3
    error_message = "shared"
  }
}

run "a_rule_below_downsampling_is_refused" {
  command = plan
  variables {
    compactor = { retention_rules = [{ match = "{team=\"a\"}", five_minutes = "9d" }] }
  }
  expect_failures = [var.compactor]
}

run "a_rule_that_says_nothing_is_refused" {
  command = plan
  variables {
    compactor = { retention_rules = [{ match = "{team=\"a\"}" }] }
  }
  expect_failures = [var.compactor]
}

run "deduplication_without_replica_labels_is_refused" {
  command = plan
  variables {
    compactor = { deduplication = "penalty" }
  }
  expect_failures = [var.compactor]
}

run "what_only_parallax_has_is_refused_for_another_image" {
  command = plan
  variables {
    compactor = { image = "quay.io/thanos/thanos:v0.41.0", replicas = 2 }
  }
  expect_failures = [var.compactor]
}

run "who_may_ask_by_name" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", allowed_identities = ["observer/hub", "spiffe://mesh.example/observer/second"] }
  }
  assert {
    condition     = yamldecode(output.helm_values).entry.allowedIdentities == ["observer/hub", "spiffe://mesh.example/observer/second"]
    error_message = "the list"
  }
}

run "an_observee_on_the_list_is_refused" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", allowed_identities = ["observee/us-1"] }
  }
  expect_failures = [var.entry]
}

run "where_tls_passes_through_nothing_is_forwarded" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", mode = "l4", forwarded_certificates = "xfcc" }
  }
  expect_failures = [var.entry]
}

run "a_proxy_of_ones_own_forwards_certificates" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", mode = "none", allowed_identities = ["observer/hub"], forwarded_certificates = "xfcc" }
  }
  assert {
    condition     = yamldecode(output.helm_values).entry.forwardedCertificates == "xfcc"
    error_message = "the header"
  }
}

run "an_unknown_header_is_refused" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", mode = "none", forwarded_certificates = "apache" }
  }
  expect_failures = [var.entry]
}

run "sources_cannot_be_narrowed_behind_a_gateway" {
  command = plan
  variables {
    entry = { host = "eu-1.mesh.example", mode = "gateway", gateway = { name = "gw" }, allowed_cidrs = ["192.0.2.0/24"] }
  }
  expect_failures = [var.entry]
}

run "sidecars_elsewhere_and_flags_of_the_operators" {
  command = plan
  variables {
    entry   = { host = "eu-1.mesh.example", endpoints = ["dnssrv+_grpc._tcp.prometheus-operated.other.svc"] }
    sidecar = { extra_args = { "hash-func" = "SHA256" } }
  }
  assert {
    condition     = yamldecode(output.helm_values).entry.endpoints == ["dnssrv+_grpc._tcp.prometheus-operated.other.svc"]
    error_message = "endpoints"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).prometheus.prometheusSpec.thanos.additionalArgs == [{ name = "hash-func", value = "SHA256" }]
    error_message = "flags"
  }
}

run "flags_with_dashes_are_refused" {
  command = plan
  variables {
    sidecar = { extra_args = { "--hash-func" = "SHA256" } }
  }
  expect_failures = [var.sidecar]
}

run "http_with_tls_and_passwords" {
  command = plan
  variables {
    http = { secret = "web", tls = true, credentials = true, password_secret = "scraper", ca_secret = "web-ca", server_name = "parallax" }
  }
  assert {
    condition     = yamldecode(output.helm_values).httpServer == { existingSecret = "web", tls = true, credentials = true, scrape = { passwordSecret = "scraper", caSecret = "web-ca", serverName = "parallax" } }
    error_message = "the Secret and what it asks for"
  }
}

run "http_that_asks_for_nothing_is_refused" {
  command = plan
  variables {
    http = { secret = "web" }
  }
  expect_failures = [var.http]
}

run "http_that_nobody_can_scrape_is_refused" {
  command = plan
  variables {
    http = { secret = "web", tls = true }
  }
  expect_failures = [var.http]
}
