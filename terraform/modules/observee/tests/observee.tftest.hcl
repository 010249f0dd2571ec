mock_provider "kubernetes" {}
mock_provider "helm" {}

variables {
  cluster_name       = "eu-1"
  trust_domain       = "mesh.example"
  trusted_ca_content = "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"
  server             = { cert_pem = "cert", key_pem = "key" }
  certificate        = { dns_names = ["eu-1.mesh.example"] }
  entry              = { host = "eu-1.mesh.example" }
  bucket             = { bucket = "metrics-eu-1", region = "eu-west-3" }
}

run "secrets_releases_and_what_the_observer_gets" {
  assert {
    condition     = kubernetes_secret_v1.entry[0].data["ca.crt"] == var.trusted_ca_content
    error_message = "whom to trust"
  }
  assert {
    condition     = !strcontains(helm_release.parallax.values[0], "key_pem") && length(helm_release.prometheus_stack) == 1
    error_message = "no key in values"
  }
  assert {
    condition     = output.tls_querier.stores == ["eu-1.mesh.example:443"] && output.store_gateway.bucket == "metrics-eu-1"
    error_message = "outputs"
  }
}

run "prometheus_of_ones_own" {
  variables {
    prometheus = { install = false }
  }
  assert {
    condition     = length(helm_release.prometheus_stack) == 0 && strcontains(output.prometheus_stack_values, "externalLabels")
    error_message = "values are still rendered"
  }
}

run "cert_manager_fills_the_secret" {
  variables {
    server      = null
    certificate = { dns_names = ["eu-1.mesh.example"], issuer = { name = "mesh" } }
  }
  assert {
    condition     = length(kubernetes_secret_v1.entry) == 0 && kubernetes_secret_v1.trusted_ca[0].data["ca.crt"] == var.trusted_ca_content
    error_message = "only the CA comes from here"
  }
}

run "no_server_certificate_is_refused" {
  command = plan
  variables {
    server = null
  }
  expect_failures = [kubernetes_secret_v1.entry]
}

run "a_ca_that_is_none_is_refused" {
  command = plan
  variables {
    trusted_ca_content = "oops"
  }
  expect_failures = [var.trusted_ca_content]
}

run "a_key_in_the_bundle_is_refused" {
  command = plan
  variables {
    trusted_ca_content = "-----BEGIN CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\n"
  }
  expect_failures = [var.trusted_ca_content]
}
