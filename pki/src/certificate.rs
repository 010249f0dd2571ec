//! Reading certificates: PEM bundles, and the few fields of a certificate that we judge.
//!
//! Invariants: a bundle has as many parsed certificates as PEM blocks, at least one, or it is an error that names the block (the plain PEM readers
//! answer "no certificates" for garbage). Sizes are bounded before anything is parsed.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use crate::Error;

/// Largest PEM text that is read, in bytes.
pub const MAX_PEM_BYTES: u64 = 1 << 20;
/// Most certificates in one bundle or chain.
pub const MAX_CERTIFICATES: usize = 256;

const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// All certificates of `pem`; `subject` names it in errors.
pub fn parse_bundle(subject: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
    if pem.len() as u64 > MAX_PEM_BYTES {
        return Err(Error::TooLarge { subject: subject.to_owned(), limit_bytes: MAX_PEM_BYTES });
    }
    let blocks = pem.matches(BEGIN_CERTIFICATE).count();
    if blocks == 0 {
        return Err(malformed("it holds no PEM certificate".to_owned()));
    }
    if blocks > MAX_CERTIFICATES {
        return Err(malformed(format!("it holds more than {MAX_CERTIFICATES} certificates")));
    }
    let mut certificates = Vec::with_capacity(blocks);
    for parsed in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let number = certificates.len() + 1;
        let certificate =
            parsed.map_err(|error| malformed(format!("certificate {number} of {blocks}: {error}")))?;
        Facts::read(&certificate)
            .map_err(|reason| malformed(format!("certificate {number} of {blocks}: {reason}")))?;
        certificates.push(certificate);
    }
    if certificates.len() != blocks {
        return Err(malformed(format!("only {} of {blocks} certificates could be read", certificates.len())));
    }
    Ok(certificates)
}

/// What we judge a certificate by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The subject, as text.
    pub subject: String,
    /// The common name, if there is one.
    pub common_name: Option<String>,
    /// The first organization of the subject.
    pub organization: Option<String>,
    /// The first organizational unit of the subject.
    pub organizational_unit: Option<String>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Names of type URI, as they stand.
    pub uris: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// `None`: there is no extended key usage.
    pub usage: Option<Usage>,
    /// The subject key identifier.
    pub key_identifier: Option<Vec<u8>>,
    /// The issuer, as text.
    pub issuer: String,
    /// DER of the subject: how servers name the CAs they accept.
    pub subject_raw: Vec<u8>,
    /// DER of the issuer.
    pub issuer_raw: Vec<u8>,
    /// May sign certificates: it is a CA and, if it states what its key is for, that is among it.
    pub is_authority: bool,
    /// DER of the public key (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
}

/// The extended key usages we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub client: bool,
    pub server: bool,
}

impl Facts {
    /// Reads a DER certificate. The error is the reason alone; the caller knows the subject.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(der)
            .map_err(|error| format!("it is not an X.509 certificate ({error})"))?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let usage = parsed.extended_key_usage().map_err(|error| format!("extended key usage: {error}"))?;
        let usage = usage.map(|extension| Usage {
            client: extension.value.client_auth || extension.value.any,
            server: extension.value.server_auth || extension.value.any,
        });
        let mut facts = Self {
            subject: parsed.subject().to_string(),
            common_name: first_text(parsed.subject().iter_common_name()),
            organization: first_text(parsed.subject().iter_organization()),
            organizational_unit: first_text(parsed.subject().iter_organizational_unit()),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: system_time(parsed.validity().not_before.timestamp()),
            not_after: system_time(parsed.validity().not_after.timestamp()),
            uris: Vec::new(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage,
            key_identifier: key_identifier(&parsed),
            issuer: parsed.issuer().to_string(),
            subject_raw: parsed.subject().as_raw().to_vec(),
            issuer_raw: parsed.issuer().as_raw().to_vec(),
            is_authority: is_authority(&parsed)?,
            public_key: parsed.public_key().raw.to_vec(),
        };
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("subject alternative name: {error}"))?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => facts.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => facts.dns_names.push((*dns).to_owned()),
                GeneralName::IPAddress(bytes) => facts.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(facts)
    }

    /// `None` while `now` lies within the validity, else what is wrong with it.
    pub fn outside_validity(&self, now: SystemTime) -> Option<String> {
        if now < self.not_before {
            Some(format!("it is not valid before {}", format_time(self.not_before)))
        } else if now > self.not_after {
            Some(format!("it expired at {}", format_time(self.not_after)))
        } else {
            None
        }
    }

    /// The names a client may dial, for texts.
    pub fn dialled_names(&self) -> String {
        let names: Vec<String> =
            self.dns_names.iter().cloned().chain(self.addresses.iter().map(IpAddr::to_string)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

fn first_text<'a>(mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    values.next().and_then(|value| value.as_str().ok()).map(str::to_owned)
}

fn is_authority(parsed: &X509Certificate<'_>) -> Result<bool, String> {
    let constraints = parsed.basic_constraints().map_err(|error| format!("basic constraints: {error}"))?;
    let usage = parsed.key_usage().map_err(|error| format!("key usage: {error}"))?;
    Ok(constraints.is_some_and(|constraints| constraints.value.ca)
        && usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

fn key_identifier(parsed: &X509Certificate<'_>) -> Option<Vec<u8>> {
    parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

pub(crate) fn system_time(unix_seconds: i64) -> SystemTime {
    match u64::try_from(unix_seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => UNIX_EPOCH,
    }
}

/// A DER name as text.
pub fn name_text(der: &[u8]) -> String {
    x509_parser::x509::X509Name::from_der(der)
        .map_or_else(|_| "a name that cannot be read".to_owned(), |(_, name)| name.to_string())
}

/// UTC to the second, for texts.
pub fn format_time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| "a time out of range".to_owned(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn the_first_of_each_field_of_a_subject_is_read() {
        crate::install_provider();
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        for (field, value) in [
            (DnType::OrganizationName, "acme"),
            (DnType::OrganizationalUnitName, "roadrunners"),
            (DnType::CommonName, "coyote"),
        ] {
            params.distinguished_name.push(field, value);
        }
        let key = KeyPair::generate().unwrap();
        let facts = Facts::read(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(facts.organization.as_deref(), Some("acme"));
        assert_eq!(facts.organizational_unit.as_deref(), Some("roadrunners"));
        assert_eq!(facts.common_name.as_deref(), Some("coyote"));
    }
}
