//! Revocation lists: reading them, and asking whether a certificate is on one.
//!
//! Invariants: a list counts only if a CA of the same bundle signed it; a certificate is on a list only if the list's signer signed the certificate
//! too, so two generations of one name, or one serial number under two of them, cannot be confused (webpki picks lists by name alone, and
//! then refuses every leaf of the generation that has none). A list that is past its next update still revokes what it revokes.
//!
//! Lists travel inside the bundle file, behind the certificates: other programs skip the blocks they do not know, and CAs and lists change in one step.
//! Delta and indirect lists are refused.

use std::collections::HashSet;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::Error;
use crate::certificate::system_time;

/// A list that a CA of the bundle signed.
#[derive(Clone)]
pub struct RevocationList {
    /// DER of the issuer's name.
    issuer_raw: Vec<u8>,
    /// The signer's certificate.
    signer: CertificateDer<'static>,
    /// Big-endian, without leading zeros. Empty: the list has no number.
    number: Vec<u8>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
    /// Serial numbers, big-endian, without leading zeros.
    serials: HashSet<Vec<u8>>,
}

impl std::fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationList")
            .field("number", &self.number_text())
            .field("revoked", &self.serials.len())
            .finish_non_exhaustive()
    }
}

impl RevocationList {
    /// Reads DER. `anchors` are the CAs that may have signed it; `subject` names the list in errors.
    pub fn read(subject: &str, der: &[u8], anchors: &[CertificateDer<'static>]) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
        let (rest, list) = CertificateRevocationList::from_der(der)
            .map_err(|error| malformed(format!("it is not a revocation list ({error})")))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the revocation list".to_owned()));
        }
        if let Some(extension) = list.extensions().iter().find(|extension| extension.critical) {
            return Err(malformed(format!(
                "it has the critical extension {}; only complete lists are taken",
                extension.oid
            )));
        }
        let delta = |extension: &ParsedExtension<'_>| {
            matches!(extension, ParsedExtension::IssuingDistributionPoint(_))
        };
        if list.extensions().iter().any(|extension| delta(extension.parsed_extension())) {
            return Err(malformed("it is a list for a part of the certificates only".to_owned()));
        }
        let issuer_raw = list.issuer().as_raw().to_vec();
        let signer = anchors.iter().find(|anchor| signed(anchor, &issuer_raw, &list)).ok_or_else(|| {
            malformed(format!("none of the CAs beside it signed it (it says {})", list.issuer()))
        })?;
        Ok(Self {
            signer: signer.clone(),
            number: list.crl_number().map(|number| trimmed(&number.to_bytes_be())).unwrap_or_default(),
            this_update: system_time(list.last_update().timestamp()),
            next_update: list.next_update().map(|time| system_time(time.timestamp())),
            serials: list.iter_revoked_certificates().map(|entry| trimmed(entry.raw_serial())).collect(),
            issuer_raw,
        })
    }

    /// True if the list revokes the DER certificate `der`. What cannot be read is not on any list; it is refused elsewhere.
    pub fn revokes(&self, der: &[u8]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        if certificate.issuer().as_raw() != self.issuer_raw
            || !self.serials.contains(&trimmed(certificate.raw_serial()))
        {
            return false;
        }
        let Ok((_, signer)) = X509Certificate::from_der(&self.signer) else { return true };
        certificate.verify_signature(Some(signer.public_key())).is_ok()
    }

    /// The certificate of the CA that signed the list.
    pub fn signer(&self) -> &CertificateDer<'static> {
        &self.signer
    }

    /// How many certificates are on it.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    pub fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// When a newer list is due.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.next_update
    }

    /// True if `self` is an older list than `other`, by number.
    pub fn is_older_than(&self, other: &Self) -> bool {
        (self.number.len(), &self.number) < (other.number.len(), &other.number)
    }

    /// The list's number, hexadecimal.
    pub fn number_text(&self) -> String {
        let text: String = self.number.iter().map(|byte| format!("{byte:02x}")).collect();
        if text.is_empty() { "0".to_owned() } else { text }
    }
}

fn signed(anchor: &CertificateDer<'_>, issuer_raw: &[u8], list: &CertificateRevocationList<'_>) -> bool {
    X509Certificate::from_der(anchor).is_ok_and(|(_, anchor)| {
        anchor.subject().as_raw() == issuer_raw && list.verify_signature(anchor.public_key()).is_ok()
    })
}

fn trimmed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}
