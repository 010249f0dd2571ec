//! A trust bundle: the CAs that verify a peer, and their revocation lists, in one PEM text.
//!
//! Invariants: at least one certificate; as many parsed blocks as there are in the text, or an error that names the block; each list is signed by a
//! certificate of the bundle. Blocks of other kinds are ignored.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::certificate::parse_bundle;
use crate::crl::RevocationList;

const BEGIN_LIST: &str = "-----BEGIN X509 CRL-----";
/// Most revocation lists in one bundle.
const MAX_LISTS: usize = 64;

/// A parsed bundle.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    pub anchors: Vec<CertificateDer<'static>>,
    pub lists: Vec<RevocationList>,
}

impl TrustBundle {
    /// Reads a bundle; `subject` names it in errors.
    pub fn parse(subject: &str, pem: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { subject: subject.to_owned(), reason };
        let anchors = parse_bundle(subject, pem)?;
        let blocks = pem.matches(BEGIN_LIST).count();
        if blocks > MAX_LISTS {
            return Err(malformed(format!("it holds more than {MAX_LISTS} revocation lists")));
        }
        let mut lists: Vec<RevocationList> = Vec::with_capacity(blocks);
        for parsed in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
            let name = format!("{subject}: revocation list {} of {blocks}", lists.len() + 1);
            let der = parsed
                .map_err(|error| Error::Malformed { subject: name.clone(), reason: error.to_string() })?;
            let list = RevocationList::read(&name, &der, &anchors)?;
            if lists.iter().any(|known| known.signer() == list.signer()) {
                return Err(Error::Malformed {
                    subject: name,
                    reason: "its CA has two lists here".to_owned(),
                });
            }
            lists.push(list);
        }
        if lists.len() != blocks {
            return Err(malformed(format!(
                "only {} of {blocks} revocation lists could be read",
                lists.len()
            )));
        }
        Ok(Self { anchors, lists })
    }

    /// The list that revokes one of `chain` (DER, leaf first).
    pub fn revoking_list<'c>(&self, chain: impl IntoIterator<Item = &'c [u8]>) -> Option<&RevocationList> {
        chain.into_iter().find_map(|certificate| self.lists.iter().find(|list| list.revokes(certificate)))
    }
}

/// SHA-256 of a text, lower-case hexadecimal: how bundles are compared.
pub fn digest_text(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
