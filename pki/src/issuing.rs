//! One generation of an authority: its certificate, its key (opened when it is first needed), and what it signs.
//!
//! Invariants: what is signed carries the issuer's name byte for byte; a generation signs only within its own validity; its key is in memory only after
//! something was to be signed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, PublicKeyData,
    RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Error;
use crate::certificate::{Facts, format_time, parse_bundle};
use crate::identity::TrustDomain;
use crate::key_file::{Passphrase, read_key};
use crate::ledger::{Leaf, RevocationReason};
use crate::profile::{Hierarchy, KeyKind, authority_params, offset_time};
use crate::state::{check_private, read_bounded};

/// How long a revocation list says that it is good for. Lists that are overdue stay in force here; others (nginx) refuse everybody then.
pub const LIST_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Gives the passphrase of the state's keys when one is needed.
pub type Unlock = Arc<dyn Fn() -> Result<Option<Passphrase>, Error> + Send + Sync>;

/// A generation of an authority.
pub(crate) struct Generation {
    pub hierarchy: Hierarchy,
    pub number: u32,
    pub facts: Facts,
    pub der: CertificateDer<'static>,
    pub cert_pem: String,
    pub imported: bool,
    key: OnceLock<Arc<KeyPair>>,
    /// Where the key lies, if it is not open yet.
    key_path: Option<PathBuf>,
}

impl Generation {
    /// Makes a key and a certificate that is valid from `now` on.
    pub(crate) fn generate(
        trust_domain: &TrustDomain,
        hierarchy: Hierarchy,
        number: u32,
        kind: KeyKind,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let subject = format!("the {} authority of {trust_domain}", hierarchy.as_str());
        let failed =
            |error: rcgen::Error| Error::Signing { subject: subject.clone(), reason: error.to_string() };
        let key = KeyPair::generate_for(kind.algorithm()).map_err(failed)?;
        let digest = Sha256::digest(key.subject_public_key_info());
        let params = authority_params(trust_domain.as_str(), hierarchy, number, &digest, now, lifetime)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::with_key(&subject, hierarchy, number, certificate.pem(), key, false)
    }

    /// Takes over a CA that others made. Errors: it is no CA, is not valid at `now`, or the key is another's.
    pub(crate) fn import(
        subject: &str,
        hierarchy: Hierarchy,
        number: u32,
        cert_pem: &str,
        key: KeyPair,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let generation = Self::with_key(subject, hierarchy, number, cert_pem.to_owned(), key, true)?;
        let malformed =
            |reason: &str| Error::Malformed { subject: subject.to_owned(), reason: reason.to_owned() };
        if !generation.facts.is_authority {
            return Err(malformed("it is not a CA certificate that may sign certificates"));
        }
        if let Some(reason) = generation.facts.outside_validity(now) {
            return Err(malformed(&reason));
        }
        generation.issuer(generation.key.get().ok_or_else(|| malformed("it has no key"))?)?;
        Ok(generation)
    }

    /// A generation of a state; the key is read when it is needed.
    pub(crate) fn load(
        hierarchy: Hierarchy,
        number: u32,
        cert_pem: String,
        key_path: Option<PathBuf>,
        imported: bool,
    ) -> Result<Self, Error> {
        let subject = format!("ca.crt of {} g{number}", hierarchy.as_str());
        let (der, facts) = only_certificate(&subject, &cert_pem)?;
        Ok(Self { hierarchy, number, facts, der, cert_pem, imported, key: OnceLock::new(), key_path })
    }

    fn with_key(
        subject: &str,
        hierarchy: Hierarchy,
        number: u32,
        cert_pem: String,
        key: KeyPair,
        imported: bool,
    ) -> Result<Self, Error> {
        let (der, facts) = only_certificate(subject, &cert_pem)?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(Error::KeyMismatch { cert: subject.to_owned(), key: "its private key".to_owned() });
        }
        let key = OnceLock::from(Arc::new(key));
        Ok(Self { hierarchy, number, facts, der, cert_pem, imported, key, key_path: None })
    }

    /// How errors call it.
    pub(crate) fn name(&self) -> String {
        format!("{} g{}", self.hierarchy.as_str(), self.number)
    }

    /// The key, opened if need be.
    pub(crate) fn key(&self, unlock: Option<&Unlock>) -> Result<Arc<KeyPair>, Error> {
        if let Some(key) = self.key.get() {
            return Ok(Arc::clone(key));
        }
        let subject = format!("ca.key of {}", self.name());
        let path = self.key_path.as_ref().ok_or_else(|| Error::Signing {
            subject: format!("with {}", self.name()),
            reason: "its key was destroyed when it was retired".to_owned(),
        })?;
        check_private(path)?;
        let pem = zeroize::Zeroizing::new(read_bounded(path)?);
        let passphrase = match unlock {
            Some(unlock) if crate::key_file::is_encrypted(&pem) => unlock()?,
            _ => None,
        };
        let key = read_key(&subject, &pem, passphrase.as_ref())?;
        if self.facts.public_key != key.subject_public_key_info() {
            return Err(Error::KeyMismatch { cert: format!("ca.crt of {}", self.name()), key: subject });
        }
        Ok(Arc::clone(self.key.get_or_init(|| Arc::new(key))))
    }

    /// Signs a leaf for `public_key`.
    pub(crate) fn sign_leaf(
        &self,
        subject: &str,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
        unlock: Option<&Unlock>,
    ) -> Result<(String, Facts), Error> {
        let failed = |reason: String| Error::Signing { subject: subject.to_owned(), reason };
        let key = self.key(unlock)?;
        let certificate =
            params.signed_by(public_key, &self.issuer(&key)?).map_err(|error| failed(error.to_string()))?;
        let facts = Facts::read(certificate.der()).map_err(failed)?;
        if facts.issuer_raw != self.facts.subject_raw {
            return Err(failed(
                "the CA's name is written in a way that cannot be repeated exactly".to_owned(),
            ));
        }
        Ok((certificate.pem(), facts))
    }

    /// Signs the revocation list `number` with `revoked` on it. PEM.
    pub(crate) fn sign_list(
        &self,
        number: u64,
        revoked: &[(&str, SystemTime, RevocationReason)],
        now: SystemTime,
        unlock: Option<&Unlock>,
    ) -> Result<String, Error> {
        let subject = format!("the revocation list of {}", self.name());
        let failed = |reason: String| Error::Signing { subject: subject.clone(), reason };
        let key = self.key(unlock)?;
        let issuer = self.issuer(&key)?;
        let mut entries = Vec::with_capacity(revoked.len());
        for (serial, time, reason) in revoked {
            let bytes =
                serial_bytes(serial).ok_or_else(|| failed(format!("{serial} is no serial number")))?;
            entries.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes),
                revocation_time: offset_time(*time, &subject)?,
                reason_code: reason_code(*reason),
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: offset_time(now, &subject)?,
            next_update: offset_time(now + LIST_LIFETIME, &subject)?,
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: self.key_identifier(),
        };
        let list = params.signed_by(&issuer).map_err(|error| match error {
            rcgen::Error::IssuerNotCrlSigner => {
                failed("its certificate does not allow it (key usage without cRLSign)".to_owned())
            }
            other => failed(other.to_string()),
        })?;
        list.pem().map_err(|error| failed(error.to_string()))
    }

    /// True if `now` lies within the CA's validity; else the reason.
    pub(crate) fn check_validity(&self, identity: &str, now: SystemTime) -> Result<(), Error> {
        match self.facts.outside_validity(now) {
            Some(reason) => Err(Error::Refused {
                identity: identity.to_owned(),
                reason: format!(
                    "the {0} authority cannot sign: {reason}; replace it (pki rotate ca {0}), or set the clock",
                    self.hierarchy.as_str()
                ),
            }),
            None => Ok(()),
        }
    }

    fn key_identifier(&self) -> KeyIdMethod {
        match &self.facts.key_identifier {
            Some(identifier) => KeyIdMethod::PreSpecified(identifier.clone()),
            None => KeyIdMethod::Sha256,
        }
    }

    fn issuer<'k>(&self, key: &'k KeyPair) -> Result<Issuer<'static, &'k KeyPair>, Error> {
        let failed = |reason: String| Error::Signing { subject: format!("with {}", self.name()), reason };
        check_name_parts(&self.der).map_err(failed)?;
        Issuer::from_ca_cert_der(&self.der, key).map_err(|error| failed(error.to_string()))
    }
}

/// rcgen takes names whose parts have one attribute each, and panics at a part that has none.
fn check_name_parts(der: &[u8]) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let mut parts = certificate.subject().iter().peekable();
    if parts.peek().is_none() {
        return Err("its certificate has no name".to_owned());
    }
    if parts.any(|part| part.iter().count() != 1) {
        return Err("its certificate's name has parts with several attributes, or none".to_owned());
    }
    Ok(())
}

fn only_certificate(subject: &str, pem: &str) -> Result<(CertificateDer<'static>, Facts), Error> {
    let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
    let mut certificates = parse_bundle(subject, pem)?.into_iter();
    match (certificates.next(), certificates.next()) {
        (Some(der), None) => {
            let facts = Facts::read(&der).map_err(malformed)?;
            Ok((der, facts))
        }
        _ => Err(malformed("it holds several certificates; a CA is one".to_owned())),
    }
}

fn reason_code(reason: RevocationReason) -> Option<rcgen::RevocationReason> {
    match reason {
        RevocationReason::Unspecified => None,
        RevocationReason::KeyCompromise => Some(rcgen::RevocationReason::KeyCompromise),
        RevocationReason::Superseded => Some(rcgen::RevocationReason::Superseded),
        RevocationReason::CessationOfOperation => Some(rcgen::RevocationReason::CessationOfOperation),
    }
}

/// The bytes of a hexadecimal serial number.
pub(crate) fn serial_bytes(serial: &str) -> Option<Vec<u8>> {
    if serial.is_empty() || !serial.len().is_multiple_of(2) || !serial.is_ascii() {
        return None;
    }
    (0..serial.len())
        .step_by(2)
        .map(|start| u8::from_str_radix(serial.get(start..start + 2)?, 16).ok())
        .collect()
}

/// What a list says of `leaf`.
pub(crate) fn list_entry(leaf: &Leaf) -> Option<(&str, SystemTime, RevocationReason)> {
    leaf.revoked.map(|(time, reason)| (leaf.record.serial.as_str(), SystemTime::from(time), reason))
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("name", &self.name())
            .field("until", &format_time(self.facts.not_after))
            .finish_non_exhaustive()
    }
}
