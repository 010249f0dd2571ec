mock_provider "tls" {}

variables {
  trust_domain = "mesh.example"
  clients      = { hub = {} }
  servers      = { eu-1 = { dns_names = ["eu-1.mesh.example"] } }
  ingresses    = { eu-1 = {} }
}

run "two_cas_and_a_leaf_each" {
  assert {
    condition     = toset(keys(tls_self_signed_cert.ca)) == toset(["observers/g1", "observees/g1"])
    error_message = "a CA per direction"
  }
  assert {
    condition     = tls_cert_request.leaf["observee/eu-1"].uris == tolist(["spiffe://mesh.example/observee/eu-1"])
    error_message = "the identity"
  }
  assert {
    condition     = tls_locally_signed_cert.leaf["observee/eu-1"].allowed_uses == tolist(["digital_signature", "server_auth"]) && tls_locally_signed_cert.leaf["ingress/eu-1"].allowed_uses == tolist(["digital_signature", "client_auth"])
    error_message = "a server serves, an ingress asks"
  }
  assert {
    condition     = tls_locally_signed_cert.leaf["observer/hub"].ca_cert_pem == tls_self_signed_cert.ca["observers/g1"].cert_pem
    error_message = "observers are signed by their own CA"
  }
}

run "in_a_rotation_both_generations_are_trusted_and_one_signs" {
  variables {
    generations        = ["g1", "g2"]
    signing_generation = "g2"
  }
  assert {
    condition     = strcontains(output.trusted_ca_content, tls_self_signed_cert.ca["observers/g1"].cert_pem) && strcontains(output.trusted_ca_content, tls_self_signed_cert.ca["observers/g2"].cert_pem)
    error_message = "both are trusted"
  }
  assert {
    condition     = tls_locally_signed_cert.leaf["observer/hub"].ca_private_key_pem == tls_private_key.ca["observers/g2"].private_key_pem_pkcs8
    error_message = "g2 signs"
  }
  assert {
    condition     = tls_self_signed_cert.ca["observers/g1"].subject[0].common_name != tls_self_signed_cert.ca["observers/g2"].subject[0].common_name
    error_message = "each generation has a subject of its own"
  }
}

run "signing_with_a_generation_nobody_trusts_is_refused" {
  command = plan
  variables {
    signing_generation = "g9"
  }
  expect_failures = [tls_locally_signed_cert.leaf]
}

run "a_brought_ca_signs" {
  variables {
    generate_ca = false
    ca          = { observers_cert_pem = "oc", observers_key_pem = "ok", observees_cert_pem = "ec", observees_key_pem = "ek" }
  }
  assert {
    condition     = length(tls_self_signed_cert.ca) == 0 && tls_locally_signed_cert.leaf["observee/eu-1"].ca_cert_pem == "ec" && output.trusted_ca_content == "oc\n"
    error_message = "the brought CA"
  }
}

run "trust_only_has_a_bundle_and_no_leaves" {
  variables {
    generate_ca           = false
    clients               = {}
    servers               = {}
    ingresses             = {}
    additional_trusted_ca = { observers = ["-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"] }
  }
  assert {
    condition     = strcontains(output.trusted_ca_content, "BEGIN CERTIFICATE") && length(tls_locally_signed_cert.leaf) == 0
    error_message = "only trust"
  }
}

run "leaves_without_a_ca_are_refused" {
  command = plan
  variables {
    generate_ca = false
  }
  expect_failures = [tls_locally_signed_cert.leaf]
}

run "a_private_key_among_the_trusted_is_refused" {
  command = plan
  variables {
    additional_trusted_ca = { observers = ["-----BEGIN CERTIFICATE-----\nA\n-----BEGIN PRIVATE KEY-----"] }
  }
  expect_failures = [var.additional_trusted_ca]
}

run "a_server_without_a_name_is_refused" {
  command = plan
  variables {
    servers = { eu-1 = { dns_names = [] } }
  }
  expect_failures = [var.servers]
}

run "a_curve_that_parallax_refuses_is_refused" {
  command = plan
  variables {
    curve = "P521"
  }
  expect_failures = [var.curve]
}

run "revocation_lists_travel_behind_the_cas" {
  variables {
    revocation_lists = { observers = ["-----BEGIN X509 CRL-----\nA\n-----END X509 CRL-----\n"] }
  }
  assert {
    condition     = strcontains(output.trusted_ca_content, "X509 CRL") && !strcontains(output.observee_ca_content, "X509 CRL")
    error_message = "the list is in the bundle of its side only"
  }
}

run "a_revocation_list_that_is_none_is_refused" {
  command = plan
  variables {
    revocation_lists = { observers = ["revoked: eu-1"] }
  }
  expect_failures = [var.revocation_lists]
}

run "an_encrypted_ca_key_is_refused" {
  command = plan
  variables {
    generate_ca = false
    ca          = { observers_cert_pem = "oc", observers_key_pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----", observees_cert_pem = "ec", observees_key_pem = "ek" }
  }
  expect_failures = [var.ca]
}
