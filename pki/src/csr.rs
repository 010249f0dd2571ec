//! Certificate requests: what is taken from one is the public key, and nothing else; what it asks for beyond what the operator grants is shown and refused.
//!
//! Invariants: a request proves that its sender has the key (its signature is checked); a key that peers would not accept is refused here; names are
//! granted by the operator, never copied. Why so strict: a request is written by whoever wants the certificate (csi-driver-spiffe does the same).

use std::net::IpAddr;

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer as _, GeneralName};
use x509_parser::public_key::PublicKey;

use crate::Error;
use crate::certificate::address;
use crate::identity::PeerIdentity;
use crate::profile::LeafRequest;

/// Largest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
const MIN_RSA_BITS: usize = 2048;

/// A request whose signature is good.
#[derive(Debug)]
pub struct CertificateRequest {
    pub(crate) public_key: SubjectPublicKeyInfo,
    /// Names of type URI.
    pub uris: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// What else it asks for, in words: never granted.
    pub extras: Vec<String>,
}

impl CertificateRequest {
    /// Reads one request, PEM or DER. `subject` names it in errors.
    pub fn parse(subject: &str, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(Error::TooLarge {
                subject: subject.to_owned(),
                limit_bytes: MAX_REQUEST_BYTES as u64,
            });
        }
        let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
        let from_pem;
        let der = if bytes.starts_with(b"\x30") {
            bytes
        } else {
            from_pem = CertificateSigningRequestDer::from_pem_slice(bytes)
                .map_err(|error| malformed(format!("it holds no certificate request ({error})")))?;
            &from_pem
        };
        Self::read(der).map_err(malformed)
    }

    fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| format!("it is not a certificate request ({error})"))?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate request".to_owned());
        }
        let key = &request.certification_request_info.subject_pki;
        if let Ok(PublicKey::RSA(rsa)) = key.parsed()
            && rsa.key_size() < MIN_RSA_BITS
        {
            return Err(format!(
                "its RSA key has {} bits; at least {MIN_RSA_BITS} are needed",
                rsa.key_size()
            ));
        }
        let public_key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| {
            "its kind of key is not supported; use ECDSA P-256 or P-384, Ed25519 or RSA".to_owned()
        })?;
        request.verify_signature().map_err(|error| {
            format!("its signature does not fit its key ({error}): the sender may not have the key")
        })?;
        let mut parsed = Self {
            public_key,
            uris: Vec::new(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            extras: Vec::new(),
        };
        for attribute in request.certification_request_info.attributes() {
            match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(requested) => {
                    for extension in &requested.extensions {
                        parsed.note(extension)?;
                    }
                }
                ParsedCriAttribute::ChallengePassword(_) => {}
                _ => parsed.extras.push(format!("the attribute {}", attribute.oid)),
            }
        }
        Ok(parsed)
    }

    fn note(&mut self, extension: &X509Extension<'_>) -> Result<(), String> {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.note_name(name);
                }
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                self.extras.push("to be a CA".to_owned());
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                self.extras.push("to sign certificates or revocation lists".to_owned());
            }
            // The profile decides these; asking for them is usual.
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectKeyIdentifier(_) => {}
            ParsedExtension::ParseError { .. } => {
                return Err(format!("its extension {} cannot be read", extension.oid));
            }
            _ if extension.critical => {
                return Err(format!(
                    "it asks for the critical extension {}, which is not known here",
                    extension.oid
                ));
            }
            _ => self.extras.push(format!("the extension {}", extension.oid)),
        }
        Ok(())
    }

    fn note_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => self.addresses.push(address),
                None => self.extras.push("an address of an odd length".to_owned()),
            },
            other => self.extras.push(format!("the name {other}")),
        }
    }

    /// What is asked for beyond `granted`, in words. Empty: nothing.
    pub fn beyond(&self, granted: &LeafRequest) -> Vec<String> {
        let mut beyond = self.extras.clone();
        let uri = granted.identity.to_string();
        beyond.extend(
            self.uris.iter().filter(|asked| **asked != uri).map(|asked| format!("the identity {asked}")),
        );
        let default = format!("{}.{}", granted.identity.name(), granted.identity.trust_domain());
        let granted_name = |name: &String| granted.dns_names.contains(name) || *name == default;
        beyond.extend(
            self.dns_names
                .iter()
                .filter(|name| !granted_name(name))
                .map(|name| format!("the DNS name {name}")),
        );
        let addresses = self.addresses.iter().filter(|asked| !granted.addresses.contains(asked));
        beyond.extend(addresses.map(|asked| format!("the address {asked}")));
        beyond
    }

    /// An identity that the request names and that is not the one granted: never a mistake to be smoothed over.
    pub fn other_identity(&self, granted: &PeerIdentity) -> Option<&str> {
        let uri = granted.to_string();
        self.uris.iter().find(|asked| **asked != uri).map(String::as_str)
    }
}
