output "trusted_ca_content" {
  description = "PEM bundle that signs observers: what observees trust."
  value       = local.bundle["observers"]
}

output "thanos_ca" {
  description = "The same, under the name that users of the Terragrunt style know."
  value       = local.bundle["observers"]
}

output "observee_ca_content" {
  description = "PEM bundle that signs observees: what observers trust."
  value       = local.bundle["observees"]
}

output "clients" {
  description = "Client leaves by hub: cert_pem, key_pem (PKCS#8), ca_pem (who to trust)."
  value = {
    for name, leaf in var.clients : name => {
      cert_pem = tls_locally_signed_cert.leaf["observer/${name}"].cert_pem
      key_pem  = tls_private_key.leaf["observer/${name}"].private_key_pem_pkcs8
      ca_pem   = local.bundle["observees"]
    }
  }
  sensitive = true
}

output "ingresses" {
  description = "Client leaves of proxies, as clients."
  value = {
    for name, leaf in var.ingresses : name => {
      cert_pem = tls_locally_signed_cert.leaf["ingress/${name}"].cert_pem
      key_pem  = tls_private_key.leaf["ingress/${name}"].private_key_pem_pkcs8
      ca_pem   = local.bundle["observees"]
    }
  }
  sensitive = true
}

output "servers" {
  description = "Server leaves by cluster: cert_pem, key_pem (PKCS#8), ca_pem (who to trust)."
  value = {
    for name, leaf in var.servers : name => {
      cert_pem = tls_locally_signed_cert.leaf["observee/${name}"].cert_pem
      key_pem  = tls_private_key.leaf["observee/${name}"].private_key_pem_pkcs8
      ca_pem   = local.bundle["observers"]
    }
  }
  sensitive = true
}

output "server_dns_names" {
  description = "What each cluster's certificate names."
  value       = { for name, leaf in var.servers : name => leaf.dns_names }
}

output "identities" {
  description = "Identities by role/name, for allow lists."
  value       = local.identities
}

output "not_after" {
  description = "When each leaf ends."
  value       = { for key, leaf in tls_locally_signed_cert.leaf : key => leaf.validity_end_time }
}
