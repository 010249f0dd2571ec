variable "trust_domain" {
  description = "Name of the mesh in certificates, such as mesh.example.com."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", var.trust_domain))
    error_message = "trust_domain must be a lower-case DNS name such as mesh.example.com."
  }
}

variable "generate_ca" {
  description = "Make the CAs here. With false, bring them (ca) or only trust what others signed (additional_trusted_ca)."
  type        = bool
  default     = true
}

variable "generations" {
  description = "Generations of the generated CAs. To rotate: add a name (everybody then trusts both), apply everywhere; change signing_generation, apply everywhere; remove the old name."
  type        = list(string)
  default     = ["g1"]

  validation {
    condition     = length(var.generations) > 0 && alltrue([for name in var.generations : can(regex("^[a-z0-9-]{1,20}$", name))])
    error_message = "generations must have at least one name of lower-case letters, digits and '-'; each generation gets a subject of its own."
  }
  validation {
    condition     = length(var.generations) == length(distinct(var.generations))
    error_message = "generations must differ: two CAs with one subject cannot be told apart."
  }
}

variable "signing_generation" {
  description = "The generation that signs leaves; by default the first."
  type        = string
  default     = null
}

variable "ca" {
  description = "CAs brought from elsewhere: one signs observers (clients), one observees (servers)."
  type = object({
    observers_cert_pem = string
    observers_key_pem  = string
    observees_cert_pem = string
    observees_key_pem  = string
  })
  default   = null
  sensitive = true

  validation {
    condition     = var.ca == null ? true : !strcontains(var.ca.observers_key_pem, "ENCRYPTED") && !strcontains(var.ca.observees_key_pem, "ENCRYPTED")
    error_message = "ca holds an encrypted key, which Terraform cannot sign with. Issue leaves where the passphrase is (parallax pki issue) and give them to the clusters (server, client, or existing Secrets); here, only trust (additional_trusted_ca)."
  }
}

variable "revocation_lists" {
  description = "PEM revocation lists (`parallax pki revoke`); they travel in the bundles behind the CAs. Parallax refuses what is on them and cuts open connections; other programs pass over them."
  type = object({
    observers = optional(list(string), [])
    observees = optional(list(string), [])
  })
  default = {}

  validation {
    condition     = alltrue([for pem in concat(var.revocation_lists.observers, var.revocation_lists.observees) : can(regex("-----BEGIN X509 CRL-----", pem))])
    error_message = "revocation_lists must hold PEM revocation lists (-----BEGIN X509 CRL-----)."
  }
}

variable "additional_trusted_ca" {
  description = "PEM bundles to trust besides: the CAs of another mesh, or the next ones in a rotation."
  type = object({
    observers = optional(list(string), [])
    observees = optional(list(string), [])
  })
  default = {}

  validation {
    condition     = alltrue([for pem in concat(var.additional_trusted_ca.observers, var.additional_trusted_ca.observees) : can(regex("-----BEGIN CERTIFICATE-----", pem))])
    error_message = "additional_trusted_ca must hold PEM certificates."
  }
  validation {
    condition     = alltrue([for pem in concat(var.additional_trusted_ca.observers, var.additional_trusted_ca.observees) : !can(regex("PRIVATE KEY", pem))])
    error_message = "additional_trusted_ca holds a private key: give certificates only."
  }
}

variable "clients" {
  description = "Client leaves by hub name: the observers."
  type = map(object({
    dns_names           = optional(list(string), [])
    validity_hours      = optional(number, 2160)
    early_renewal_hours = optional(number, 720)
  }))
  default = {}
}

variable "ingresses" {
  description = "Client leaves of proxies that end TLS before an observee (entry mode none), by name."
  type = map(object({
    dns_names           = optional(list(string), [])
    validity_hours      = optional(number, 2160)
    early_renewal_hours = optional(number, 720)
  }))
  default = {}
}

variable "servers" {
  description = "Server leaves by cluster name: the observees. dns_names must hold the host that observers dial."
  type = map(object({
    dns_names           = list(string)
    validity_hours      = optional(number, 2160)
    early_renewal_hours = optional(number, 720)
  }))
  default = {}

  validation {
    condition     = alltrue([for name, server in var.servers : length(server.dns_names) > 0])
    error_message = "Each of servers needs dns_names: the host of the cluster's entry at least."
  }
}

variable "ca_validity_hours" {
  description = "Life of a generated CA."
  type        = number
  default     = 17520
}

variable "curve" {
  description = "P256 or P384."
  type        = string
  default     = "P256"

  validation {
    condition     = contains(["P256", "P384"], var.curve)
    error_message = "curve must be P256 or P384: other curves are refused by Parallax."
  }
}
