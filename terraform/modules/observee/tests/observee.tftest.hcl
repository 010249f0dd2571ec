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

run "secrets_that_are_there" {
  variables {
    server      = null
    certificate = { dns_names = ["eu-1.mesh.example"], existing_secret = "from-pki" }
    bucket      = { bucket = "metrics-eu-1", region = "eu-west-3", existing_secret = "from-vault" }
  }
  assert {
    condition     = length(kubernetes_secret_v1.entry) + length(kubernetes_secret_v1.trusted_ca) + length(kubernetes_secret_v1.objstore) == 0
    error_message = "nothing is made"
  }
  assert {
    condition     = yamldecode(helm_release.parallax.values[0]).entry.tls.existingSecret == "from-pki" && yamldecode(helm_release.parallax.values[0]).objstore.existingSecret == "from-vault" && strcontains(helm_release.prometheus_stack[0].values[0], "from-vault")
    error_message = "they are used"
  }
}

run "cert_manager_over_ones_own_secret_is_refused" {
  command = plan
  variables {
    certificate = { dns_names = ["eu-1.mesh.example"], existing_secret = "mine", issuer = { name = "mesh" } }
  }
  expect_failures = [var.certificate]
}

run "a_directory_cannot_be_shared_by_compactors" {
  command = plan
  variables {
    bucket    = { type = "FILESYSTEM", bucket = "/data" }
    compactor = { replicas = 2 }
  }
  expect_failures = [helm_release.parallax]
}

run "a_proxy_of_ones_own_gets_a_leaf" {
  variables {
    entry   = { host = "eu-1.mesh.example", mode = "none", forwarded_certificates = "ingress-nginx", allowed_identities = ["observer/hub"] }
    ingress = { cert_pem = "ic", key_pem = "ik", ca_pem = "ia" }
  }
  assert {
    condition     = kubernetes_secret_v1.ingress[0].data["tls.key"] == "ik" && yamldecode(helm_release.parallax.values[0]).entry.forwardedCertificates == "ingress-nginx"
    error_message = "its Secret, and the header in which it says who asks"
  }
}

run "who_may_ask_and_what_the_sidecar_is_told" {
  variables {
    entry   = { host = "eu-1.mesh.example", allowed_identities = ["observer/hub"] }
    sidecar = { extra_args = { "hash-func" = "SHA256" } }
    http    = { secret = "web", credentials = true, password_secret = "scraper" }
  }
  assert {
    condition     = yamldecode(helm_release.parallax.values[0]).entry.allowedIdentities == ["observer/hub"] && yamldecode(helm_release.parallax.values[0]).httpServer.scrape.passwordSecret == "scraper"
    error_message = "the chart's values"
  }
  assert {
    condition     = strcontains(helm_release.prometheus_stack[0].values[0], "hash-func")
    error_message = "the sidecar's flag"
  }
}
