mock_provider "kubernetes" {}
mock_provider "helm" {}
mock_provider "tls" {}

variables {
  cluster_name        = "hub"
  client              = { cert_pem = "cert", key_pem = "key" }
  observee_ca_content = "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"
  tls_queriers        = { observee = { stores = ["observee.mesh.example:443"] } }
  store_gateways      = { observee = { bucket = "metrics", region = "eu-west-3" } }
}

run "secrets_and_releases" {
  assert {
    condition     = kubernetes_secret_v1.client[0].data["ca.crt"] == var.observee_ca_content && strcontains(kubernetes_secret_v1.objstore["observee"].data["objstore.yaml"], "metrics")
    error_message = "secrets"
  }
  assert {
    condition     = strcontains(helm_release.prometheus_stack[0].values[0], "parallax-query.monitoring.svc:10902")
    error_message = "Grafana's data source"
  }
  assert {
    condition     = output.clusters == tolist(["observee"]) && output.thanos_ca == null
    error_message = "outputs"
  }
}

run "the_ca_in_this_state_as_of_old" {
  variables {
    generate_ca         = true
    trust_domain        = "mesh.example"
    client              = null
    observee_ca_content = ""
    generated_servers   = { observee = { dns_names = ["observee.mesh.example"] } }
  }
  assert {
    condition     = output.thanos_ca != null && keys(nonsensitive(output.servers)) == tolist(["observee"])
    error_message = "thanos_ca and the observee's leaf"
  }
}

run "no_client_certificate_is_refused" {
  command = plan
  variables {
    client = null
  }
  expect_failures = [kubernetes_secret_v1.client]
}

run "a_key_in_the_bundle_is_refused" {
  command = plan
  variables {
    observee_ca_content = "-----BEGIN PRIVATE KEY-----"
  }
  expect_failures = [var.observee_ca_content]
}

run "a_secret_that_is_there" {
  variables {
    client                 = null
    observee_ca_content    = ""
    client_existing_secret = "from-pki"
  }
  assert {
    condition     = length(kubernetes_secret_v1.client) == 0 && yamldecode(helm_release.parallax.values[0]).observer.tlsSecret == "from-pki"
    error_message = "it is used, and none is made"
  }
}

run "another_ca_beside_a_secret_that_is_there_is_refused" {
  command = plan
  variables {
    client                 = null
    client_existing_secret = "from-pki"
    tls_queriers           = { observee = { stores = ["observee.mesh.example:443"], ca_pem = "other" } }
  }
  expect_failures = [kubernetes_secret_v1.querier]
}

run "cert_manager_makes_the_leaf" {
  variables {
    client        = null
    client_issuer = { name = "observers" }
    trust_domain  = "mesh.example"
  }
  assert {
    condition     = length(kubernetes_secret_v1.client) == 0 && kubernetes_secret_v1.observee_ca[0].data["ca.crt"] == var.observee_ca_content
    error_message = "only whom to trust comes from here"
  }
  assert {
    condition     = yamldecode(helm_release.parallax.values[0]).observer.certManager == { enabled = true, issuerRef = { kind = "ClusterIssuer", name = "observers" }, trustedCaSecret = "parallax-observee-ca", uri = "spiffe://mesh.example/observer/hub" }
    error_message = "the certificate"
  }
}

run "cert_manager_without_a_trust_domain_is_refused" {
  command = plan
  variables {
    client        = null
    client_issuer = { name = "observers" }
  }
  expect_failures = [kubernetes_secret_v1.observee_ca]
}

run "the_hub_shows_a_leaf_upward" {
  variables {
    upward        = { allowed_identities = ["observer/global"] }
    upward_server = { cert_pem = "uc", key_pem = "uk", ca_pem = "ua" }
  }
  assert {
    condition     = kubernetes_secret_v1.upward[0].data["ca.crt"] == "ua" && yamldecode(helm_release.parallax.values[0]).observer.upward.tlsSecret == "parallax-upward-tls"
    error_message = "its Secret"
  }
}

run "upward_without_a_leaf_is_refused" {
  command = plan
  variables {
    upward = {}
  }
  expect_failures = [kubernetes_secret_v1.upward]
}

run "an_observee_may_not_ask_upward" {
  command = plan
  variables {
    upward = { existing_secret = "up", allowed_identities = ["observee/eu-1"] }
  }
  expect_failures = [var.upward]
}
