# The mesh's certificates. Two CAs, by direction: one signs observers (clients), one signs observees (servers), so that a stolen server key cannot ask.
#
# Leaves carry one SPIFFE identity, spiffe://<trust domain>/observer|observee|ingress/<name>, and the DNS names given. Keys are in this module's
# state: give it a state of its own, readable by few.

locals {
  generated = var.generate_ca ? toset(flatten([for side in ["observers", "observees"] : [for generation in var.generations : "${side}/${generation}"]])) : toset([])
  signing   = coalesce(var.signing_generation, var.generations[0])
  # nonsensitive: whether there is a CA to sign with is no secret, its key is.
  brought  = nonsensitive(var.ca != null)
  can_sign = var.generate_ca || local.brought

  signer = {
    for side in ["observers", "observees"] : side => local.brought ? {
      cert = side == "observers" ? var.ca.observers_cert_pem : var.ca.observees_cert_pem
      key  = side == "observers" ? var.ca.observers_key_pem : var.ca.observees_key_pem
      } : {
      cert = try(tls_self_signed_cert.ca["${side}/${local.signing}"].cert_pem, "")
      key  = try(tls_private_key.ca["${side}/${local.signing}"].private_key_pem_pkcs8, "")
    }
  }
  bundle = {
    for side in ["observers", "observees"] : side => join("", [
      for pem in concat(
        local.brought ? [nonsensitive(side == "observers" ? var.ca.observers_cert_pem : var.ca.observees_cert_pem)] : [],
        [for generation in var.generations : tls_self_signed_cert.ca["${side}/${generation}"].cert_pem if var.generate_ca],
        side == "observers" ? var.additional_trusted_ca.observers : var.additional_trusted_ca.observees,
        side == "observers" ? var.revocation_lists.observers : var.revocation_lists.observees,
      ) : "${trimspace(pem)}\n"
    ])
  }

  leaves = merge(
    { for name, leaf in var.clients : "observer/${name}" => merge(leaf, { name = name, side = "observers", use = "client_auth" }) },
    { for name, leaf in var.ingresses : "ingress/${name}" => merge(leaf, { name = name, side = "observers", use = "client_auth" }) },
    { for name, leaf in var.servers : "observee/${name}" => merge(leaf, { name = name, side = "observees", use = "server_auth" }) },
  )
  identities = { for key, leaf in local.leaves : key => "spiffe://${var.trust_domain}/${key}" }
}

resource "tls_private_key" "ca" {
  for_each    = local.generated
  algorithm   = "ECDSA"
  ecdsa_curve = var.curve
}

resource "tls_self_signed_cert" "ca" {
  for_each              = local.generated
  private_key_pem       = tls_private_key.ca[each.key].private_key_pem
  is_ca_certificate     = true
  set_subject_key_id    = true
  validity_period_hours = var.ca_validity_hours
  allowed_uses          = ["cert_signing", "crl_signing", "digital_signature"]

  subject {
    # A subject per generation: two CAs of one name could not be told apart while both are trusted.
    common_name = "parallax ${var.trust_domain} ${replace(each.key, "/", " ")}"
  }
}

resource "tls_private_key" "leaf" {
  for_each    = local.leaves
  algorithm   = "ECDSA"
  ecdsa_curve = var.curve
}

resource "tls_cert_request" "leaf" {
  for_each        = local.leaves
  private_key_pem = tls_private_key.leaf[each.key].private_key_pem
  dns_names       = each.value.dns_names
  uris            = [local.identities[each.key]]

  subject {
    common_name = each.value.name
  }
}

resource "tls_locally_signed_cert" "leaf" {
  for_each              = local.leaves
  cert_request_pem      = tls_cert_request.leaf[each.key].cert_request_pem
  ca_cert_pem           = local.signer[each.value.side].cert
  ca_private_key_pem    = local.signer[each.value.side].key
  validity_period_hours = each.value.validity_hours
  early_renewal_hours   = each.value.early_renewal_hours
  set_subject_key_id    = true
  allowed_uses          = ["digital_signature", each.value.use]

  lifecycle {
    precondition {
      condition     = local.can_sign
      error_message = "There is no CA to sign ${each.key} with: set generate_ca = true, or bring one in ca. A trust-only mesh has no clients, ingresses or servers."
    }
    precondition {
      condition     = local.brought || contains(var.generations, local.signing)
      error_message = "signing_generation \"${local.signing}\" is not in generations: add it there first, apply everywhere, then sign with it."
    }
    precondition {
      condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", each.value.name))
      error_message = "\"${each.value.name}\" cannot be a name in the mesh: use lower-case letters, digits, '-' and '.', at most 63."
    }
    precondition {
      condition     = each.value.early_renewal_hours < each.value.validity_hours
      error_message = "early_renewal_hours of ${each.key} is not below its validity_hours: it would be renewed at every apply."
    }
  }
}
