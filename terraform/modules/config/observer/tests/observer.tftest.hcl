variables {
  cluster_name        = "hub"
  observee_ca_content = "pem"
  image               = { repository = "registry.example/parallax", tag = "1" }
  tls_queriers = {
    eu-1 = { stores = ["eu-1.mesh.example:443"], certificate_dns_names = ["eu-1.mesh.example"], external_labels = { cluster = "eu-1" } }
    us-1 = { stores = ["us-1.mesh.example:443"], certificate_dns_names = ["*.mesh.example"], external_labels = { cluster = "us-1" } }
  }
  store_gateways = {
    eu-1 = { bucket = "metrics-eu-1", region = "eu-west-3" }
  }
}

run "values_and_documents" {
  command = plan
  assert {
    condition     = yamldecode(output.helm_values).tlsQueriers["eu-1"].serverName == "eu-1.mesh.example"
    error_message = "the server name is the host"
  }
  assert {
    condition     = yamldecode(output.objstore_yaml["eu-1"]).config.bucket == "metrics-eu-1"
    error_message = "the bucket's document"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).grafana.additionalDataSources[0].url == "http://parallax-query.monitoring.svc:10902"
    error_message = "Grafana asks the mesh"
  }
  assert {
    condition     = output.clusters == tolist(["eu-1", "us-1"])
    error_message = "all clusters"
  }
}

run "the_shortest_form_of_the_terragrunt_style" {
  command = plan
  variables {
    tls_queriers   = { observee = { stores = ["thanos-sidecar.demo.example.com:443"] } }
    store_gateways = { observee = { bucket = "thanos-store-observee", region = "eu-west-3" } }
  }
}

run "a_disabled_cluster_is_left_out" {
  command = plan
  variables {
    tls_queriers = {
      eu-1 = { stores = ["eu-1.mesh.example:443"] }
      us-1 = { stores = ["us-1.mesh.example:443"], enabled = false }
    }
  }
  assert {
    condition     = join(",", keys(yamldecode(output.helm_values).tlsQueriers)) == "eu-1"
    error_message = "us-1 is disabled"
  }
}

run "a_cluster_with_another_ca_gets_a_secret_of_its_own" {
  command = plan
  variables {
    tls_queriers   = { "eu.1" = { stores = ["eu-1.mesh.example:443"], ca_pem = "other" } }
    store_gateways = {}
  }
  assert {
    condition     = output.tls_secrets["eu.1"] == "parallax-querier-eu-1-tls" && output.own_ca["eu.1"] == "other"
    error_message = "its own CA"
  }
}

run "one_bucket_for_two_clusters_is_refused" {
  command = plan
  variables {
    store_gateways = {
      eu-1 = { bucket = "metrics", region = "eu-west-3" }
      us-1 = { bucket = "metrics", region = "eu-west-3" }
    }
  }
  expect_failures = [var.store_gateways]
}

run "one_bucket_with_two_prefixes_is_two_buckets" {
  command = plan
  variables {
    store_gateways = {
      eu-1 = { bucket = "metrics", region = "eu-west-3", prefix = "a" }
      us-1 = { bucket = "metrics", region = "eu-west-3", prefix = "b" }
    }
  }
}

run "equal_external_labels_are_refused" {
  command = plan
  variables {
    tls_queriers = {
      eu-1 = { stores = ["eu-1.mesh.example:443"], external_labels = { cluster = "eu" } }
      us-1 = { stores = ["us-1.mesh.example:443"], external_labels = { cluster = "eu" } }
    }
  }
  expect_failures = [var.tls_queriers]
}

run "a_key_that_is_not_the_clusters_name_is_refused" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["eu-1.mesh.example:443"], external_labels = { cluster = "other" } } }
  }
  expect_failures = [var.tls_queriers]
}

run "names_that_kubernetes_cannot_tell_apart_are_refused" {
  command = plan
  variables {
    tls_queriers = {
      "eu.1" = { stores = ["a.mesh.example:443"] }
      eu-1   = { stores = ["b.mesh.example:443"] }
    }
  }
  expect_failures = [var.tls_queriers]
}

run "one_store_in_two_clusters_is_refused" {
  command = plan
  variables {
    tls_queriers = {
      eu-1 = { stores = ["eu-1.mesh.example:443"] }
      us-1 = { stores = ["eu-1.mesh.example:443"] }
    }
  }
  expect_failures = [var.tls_queriers]
}

run "an_endpoint_without_its_ca_is_refused" {
  command = plan
  variables {
    observee_ca_content = ""
  }
  expect_failures = [output.helm_values]
}

run "a_host_that_the_certificate_does_not_name_is_refused" {
  command = plan
  variables {
    tls_queriers   = { eu-1 = { stores = ["eu-1.mesh.example:443"], certificate_dns_names = ["us-1.mesh.example"] } }
    store_gateways = {}
  }
  expect_failures = [var.tls_queriers]
}

run "a_store_with_an_unknown_prefix_is_refused" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["https://eu-1.mesh.example:443"] } }
  }
  expect_failures = [var.tls_queriers]
}

run "a_name_to_look_up_needs_stacked" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["dns+eu-1.mesh.example:443"] } }
  }
  expect_failures = [output.helm_values]
}

run "stacked_looks_names_up" {
  command = plan
  variables {
    mode         = "stacked"
    tls_queriers = { eu-1 = { stores = ["dns+eu-1.mesh.example:443"], certificate_dns_names = ["eu-1.mesh.example"] } }
  }
  assert {
    condition     = yamldecode(output.helm_values).tlsQueriers["eu-1"].serverName == "eu-1.mesh.example"
    error_message = "the prefix is no part of the name in the certificate"
  }
}

run "service_records_need_the_name_in_the_certificate" {
  command = plan
  variables {
    mode         = "stacked"
    tls_queriers = { eu-1 = { stores = ["dnssrv+_grpc._tcp.eu-1.mesh.example"] } }
  }
  expect_failures = [var.tls_queriers]
}

run "several_stores_need_stacked" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["a.mesh.example:443", "b.mesh.example:443"] } }
  }
  expect_failures = [output.helm_values]
}

run "a_cluster_that_is_no_more_keeps_its_bucket" {
  command = plan
  variables {
    store_gateways = { old = { bucket = "old", region = "eu-west-3" } }
  }
  assert {
    condition     = output.clusters == tolist(["eu-1", "old", "us-1"])
    error_message = "its history is expected, too"
  }
}

run "shards_need_stacked" {
  command = plan
  variables {
    store_gateways = { eu-1 = { bucket = "metrics-eu-1", region = "eu-west-3", shards = 2 } }
  }
  expect_failures = [output.helm_values]
}

run "a_cluster_of_another_name_needs_stacked" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["eu-1.mesh.example:443"], cluster = "other" } }
  }
  expect_failures = [output.helm_values]
}

run "both_modes_judge_what_a_cluster_claims" {
  command = plan
  variables {
    query = { foreign_labels = "refuse", cluster_label = "site", compression = "snappy", max_frame_bytes = "32MiB", info_interval = "10s" }
    tls_queriers = {
      eu-1 = { stores = ["eu-1.mesh.example:443"], identity = "dns", authority = "grpc.eu-1", compression = "zstd", foreign_labels = "inject", external_labels = { site = "eu-1" } }
    }
  }
  assert {
    condition     = yamldecode(output.helm_values).observer.foreignLabels == "refuse" && yamldecode(output.helm_values).observer.clusterLabel == "site" && yamldecode(output.helm_values).observer.compression == "snappy"
    error_message = "of all clusters"
  }
  assert {
    condition     = yamldecode(output.helm_values).tlsQueriers["eu-1"].foreignLabels == "inject" && yamldecode(output.helm_values).tlsQueriers["eu-1"].compression == "zstd" && yamldecode(output.helm_values).tlsQueriers["eu-1"].identity == "dns"
    error_message = "of one cluster"
  }
}

run "a_hub_over_several_clusters_answers_for_those_on_its_list" {
  command = plan
  variables {
    tls_queriers = { region-eu = { stores = ["hub.eu.example:443"], delegated = ["eu-1", "eu-2"] } }
  }
  assert {
    condition     = yamldecode(output.helm_values).tlsQueriers["region-eu"].delegated == ["eu-1", "eu-2"]
    error_message = "the list"
  }
}

run "several_clusters_of_one_name_are_refused" {
  command = plan
  variables {
    tls_queriers = { region-eu = { stores = ["hub.eu.example:443"], delegated = ["eu-1", "eu-2"], foreign_labels = "inject" } }
  }
  expect_failures = [var.tls_queriers]
}

run "aggregations_are_evaluated_where_the_data_is" {
  command = plan
  variables {
    query = { distributed = true, partition_labels = ["cluster"] }
  }
  assert {
    condition     = yamldecode(output.helm_values).observer.distributed == { enabled = true, partitionLabels = ["cluster"] }
    error_message = "distributed"
  }
}

run "partition_labels_without_distribution_are_refused" {
  command = plan
  variables {
    query = { partition_labels = ["cluster"] }
  }
  expect_failures = [var.query]
}

run "an_unknown_compression_is_refused" {
  command = plan
  variables {
    query = { compression = "gzip" }
  }
  expect_failures = [var.query]
}

run "an_unknown_compression_of_one_cluster_is_refused" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["eu-1.mesh.example:443"], compression = "gzip" } }
  }
  expect_failures = [var.tls_queriers]
}

run "an_identity_that_serves_nothing_is_refused" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["eu-1.mesh.example:443"], identity = "spiffe://mesh.example/observer/hub" } }
  }
  expect_failures = [var.tls_queriers]
}

run "addresses_that_the_binary_takes" {
  command = plan
  variables {
    mode = "stacked"
    tls_queriers = {
      v6   = { stores = ["[2001:db8::1]:443"], server_name = "v6.mesh.example" }
      dual = { stores = ["dnsdualstack+dual.mesh.example:443"], certificate_dns_names = ["dual.mesh.example"] }
    }
    local_stores = ["dnssrv+_grpc._tcp.thanos-ruler-operated.monitoring.svc"]
    target_files = "stores"
  }
  assert {
    condition     = yamldecode(output.helm_values).tlsQueriers.dual.serverName == "dual.mesh.example" && yamldecode(output.helm_values).localStores == ["dnssrv+_grpc._tcp.thanos-ruler-operated.monitoring.svc"] && yamldecode(output.helm_values).observer.targetFiles == "stores"
    error_message = "addresses"
  }
}

run "local_stores_need_stacked" {
  command = plan
  variables {
    local_stores = ["ruler:10901"]
  }
  expect_failures = [output.helm_values]
}

run "info_interval_needs_inline" {
  command = plan
  variables {
    mode  = "stacked"
    query = { info_interval = "10s" }
  }
  expect_failures = [output.helm_values]
}

run "hedge_delay_needs_inline" {
  command = plan
  variables {
    mode  = "stacked"
    query = { hedge_delay = "100ms" }
  }
  expect_failures = [output.helm_values]
}

run "a_cluster_may_have_several_endpoints" {
  command = plan
  variables {
    query = { hedge_delay = "200ms", deduplication_func = "gap-aware" }
    tls_queriers = {
      eu-1 = { stores = ["eu-1.mesh.example:443"], endpoints = [{ address = "eu-1b.mesh.example:443", server_name = "b.example" }], hedge_delay = "50ms" }
    }
  }
  assert {
    condition     = yamldecode(output.helm_values).observer.hedgeDelay == "200ms" && yamldecode(output.helm_values).observer.deduplicationFunc == "gap-aware"
    error_message = "of all clusters"
  }
  assert {
    condition     = yamldecode(output.helm_values).tlsQueriers["eu-1"].endpoints[0].serverName == "b.example" && yamldecode(output.helm_values).tlsQueriers["eu-1"].hedgeDelay == "50ms"
    error_message = "of one cluster"
  }
}

run "several_endpoints_are_for_mode_inline" {
  command = plan
  variables {
    mode         = "stacked"
    tls_queriers = { eu-1 = { stores = ["eu-1.mesh.example:443"], endpoints = [{ address = "eu-1b.mesh.example:443" }] } }
  }
  expect_failures = [var.tls_queriers]
}

run "an_unknown_way_to_deduplicate_is_refused" {
  command = plan
  variables {
    query = { deduplication_func = "penalti" }
  }
  expect_failures = [var.query]
}

run "a_querier_above_comes_in_over_mtls" {
  command = plan
  variables {
    upward = { secret = "up", allowed_identities = ["observer/global"] }
  }
  assert {
    condition     = yamldecode(output.helm_values).observer.upward == { tlsSecret = "up", allowedIdentities = ["observer/global"], forwardedCertificates = "" }
    error_message = "upward"
  }
}

run "grafana_gets_its_password_from_a_secret" {
  command = plan
  variables {
    http = { secret = "web", tls = true, credentials = true, password_secret = "scraper", ca_secret = "web-ca", server_name = "parallax", grafana_secret = "grafana-parallax" }
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).grafana.envFromSecret == "grafana-parallax" && yamldecode(output.prometheus_stack_values).grafana.additionalDataSources[0].url == "https://parallax-query.monitoring.svc:10902"
    error_message = "the Secret and the address"
  }
  assert {
    condition     = yamldecode(output.prometheus_stack_values).grafana.additionalDataSources[0].secureJsonData == { basicAuthPassword = "$__env{PARALLAX_PASSWORD}", tlsCACert = "$__env{PARALLAX_CA}" } && yamldecode(output.prometheus_stack_values).grafana.additionalDataSources[0].jsonData.serverName == "parallax"
    error_message = "the data source"
  }
}

run "http_without_grafanas_secret_is_refused" {
  command = plan
  variables {
    http = { secret = "web", credentials = true }
  }
  expect_failures = [var.http]
}

run "a_frontend_before_a_password_is_refused" {
  command = plan
  variables {
    http           = { secret = "web", credentials = true, password_secret = "scraper", grafana_secret = "grafana-parallax" }
    query_frontend = { enabled = true }
  }
  expect_failures = [output.helm_values]
}

run "shards_rules_and_caches_of_gateways" {
  command = plan
  variables {
    mode = "stacked"
    store_gateways = {
      eu-1 = { bucket = "metrics-eu-1", region = "eu-west-3", shards = 2, relabel = [{ action = "keep", source_labels = ["team"], regex = "a" }], existing_secret = "mine" }
    }
    cache          = { memcached = { replicas = 3 }, chunks_yaml = "type: REDIS\nconfig: {addr: redis:6379}\n" }
    query_frontend = { enabled = true }
  }
  assert {
    condition     = yamldecode(output.helm_values).storeGateways["eu-1"].shards == 2 && yamldecode(output.helm_values).storeGateways["eu-1"].relabel == [{ action = "keep", source_labels = ["team"], regex = "a" }]
    error_message = "shards and rules"
  }
  assert {
    condition     = yamldecode(output.helm_values).storeGateways["eu-1"].objstoreSecret == "mine"
    error_message = "a Secret that is there"
  }
  assert {
    condition     = yamldecode(output.helm_values).cache.memcached.replicas == 3 && yamldecode(output.helm_values).cache.chunks.type == "REDIS" && yamldecode(output.helm_values).cache.index == null
    error_message = "caches"
  }
  assert {
    condition     = output.query_url == "http://parallax-query-frontend.monitoring.svc:10902"
    error_message = "Grafana asks the frontend"
  }
}

run "a_password_in_a_document_is_refused" {
  command = plan
  variables {
    cache = { index_yaml = "type: REDIS\nconfig: {addr: redis:6379, password: p}\n" }
  }
  expect_failures = [var.cache]
}

run "an_unknown_cache_is_refused" {
  command = plan
  variables {
    cache = { index_yaml = "type: GROUPCACHE\n" }
  }
  expect_failures = [var.cache]
}

run "stacked_takes_both" {
  command = plan
  variables {
    mode           = "stacked"
    tls_queriers   = { eu-1 = { stores = ["a.mesh.example:443", "b.mesh.example:443"] } }
    store_gateways = { old = { bucket = "old", region = "eu-west-3" } }
  }
}
