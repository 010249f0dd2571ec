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

run "a_store_with_a_discovery_prefix_is_refused" {
  command = plan
  variables {
    tls_queriers = { eu-1 = { stores = ["dns+eu-1.mesh.example:443"] } }
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

run "a_bucket_without_a_querier_needs_stacked" {
  command = plan
  variables {
    store_gateways = { old = { bucket = "old", region = "eu-west-3" } }
  }
  expect_failures = [output.helm_values]
}

run "stacked_takes_both" {
  command = plan
  variables {
    mode           = "stacked"
    tls_queriers   = { eu-1 = { stores = ["a.mesh.example:443", "b.mesh.example:443"] } }
    store_gateways = { old = { bucket = "old", region = "eu-west-3" } }
  }
}
