//! What a refused certificate's text says beside the cause: whose it is, by which rule it was refused, and what to do.
//!
//! Invariant: the identity is that of the very certificate that was refused, or it is not said. rustls hands an error out without the certificate, so a
//! verifier notes whom it refused, for whoever explains that error on the same thread: a handshake fails in the call in which its verifier ran. What a peer
//! wrote into its certificate is shown escaped and short.

use std::cell::RefCell;
use std::ptr;
use std::sync::Arc;

use rustls::CertificateError;

use crate::certificate::Facts;
use crate::explain::FailureReason;
use crate::verify::PeerRejection;

/// Most names of a certificate that are shown, and how long one may be.
const SHOWN_NAMES: usize = 3;
const SHOWN_CHARACTERS: usize = 120;

const TRUSTED_CAS: &str = "rule of trusted CAs: give it a certificate of a CA in the bundle (pki issue), or put its CA into the bundle (pki bundle)";
const ROLES: &str = "rule of roles: a client shows a leaf of pki issue --observer or --ingress, a server one of pki issue --observee";
const IDENTITIES: &str =
    "rule of identities: issue it anew (pki issue); pki verify says of a file what is wrong with it";

thread_local! {
    static REFUSED: RefCell<Option<(CertificateError, String)>> = const { RefCell::new(None) };
}

/// Notes whose certificate has just been refused with `error`.
pub(crate) fn note(error: &rustls::Error, certificate: &[u8]) {
    if let rustls::Error::InvalidCertificate(error) = error {
        REFUSED.set(Some((error.clone(), presented(certificate))));
    }
}

/// Whose certificate was refused with `error`, if that was the last one on this thread.
pub(crate) fn refused_with(error: &CertificateError) -> Option<String> {
    REFUSED.take().filter(|(noted, _)| is_same(noted, error)).map(|(_, who)| who)
}

fn is_same(one: &CertificateError, other: &CertificateError) -> bool {
    match (one, other) {
        // Errors of our own do not compare.
        (CertificateError::Other(one), CertificateError::Other(other)) => {
            ptr::addr_eq(Arc::as_ptr(&one.0), Arc::as_ptr(&other.0))
        }
        (one, other) => one == other,
    }
}

/// Whom a certificate names: its URIs, or else that it has none, and its DNS names.
fn presented(certificate: &[u8]) -> String {
    let Ok(facts) = Facts::read(certificate) else { return "a certificate that cannot be read".to_owned() };
    if !facts.uris.is_empty() {
        return listed(&facts.uris);
    }
    if facts.dns_names.is_empty() {
        return "no identity".to_owned();
    }
    format!("no identity, but {}", listed(&facts.dns_names))
}

fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names
        .iter()
        .take(SHOWN_NAMES)
        .map(|name| name.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect())
        .collect();
    if names.len() > SHOWN_NAMES {
        shown.push(format!("and {} more", names.len() - SHOWN_NAMES));
    }
    shown.join(", ")
}

/// The text of a refusal.
pub(crate) fn told(sentence: &str, who: Option<&str>, rule: Option<&str>) -> String {
    let who = who.map(|who| format!(" [{who}]")).unwrap_or_default();
    let rule = rule.map(|rule| format!("; {rule}")).unwrap_or_default();
    format!("{sentence}{who}{rule}")
}

/// The rule behind a refusal for `reason`, and what to do. `None`: it is no matter of certificates.
pub(crate) fn rule_of(reason: FailureReason) -> Option<&'static str> {
    use FailureReason as R;
    match reason {
        R::WrongCa => Some(TRUSTED_CAS),
        R::Expired => Some("rule of validity: renew it (pki renew), and compare the clocks of both sides"),
        R::NotYetValid => Some("rule of validity: compare the clocks of both sides"),
        R::MissingCertificate => {
            Some("rule of client certificates: give the client one (pki issue --observer)")
        }
        R::WrongName => Some(
            "rule of server names: dial it by a name that it has, set the server name, or issue it with the name (pki issue --dns)",
        ),
        R::WrongRole => Some(ROLES),
        R::Revoked => {
            Some("rule of revocation: if its holder may go on, issue another certificate (pki issue)")
        }
        R::BadCertificate => Some(IDENTITIES),
        R::PlainText
        | R::ProtocolVersion
        | R::Protocol
        | R::Timeout
        | R::Refused
        | R::Unreachable
        | R::Closed
        | R::Other => None,
    }
}

/// The same for what is refused beyond its path. `None`: its text has the rule.
pub(crate) fn rule_of_rejection(rejection: &PeerRejection) -> Option<&'static str> {
    use PeerRejection as P;
    match rejection {
        P::NoUsage(_) | P::WrongUsage(_) | P::WrongRole { .. } => Some(ROLES),
        P::Unreadable(_) | P::NoName | P::SeveralIdentities(_) | P::BadIdentity(_) => Some(IDENTITIES),
        P::WrongTrustDomain { .. } => Some(
            "rule of trust domains: the peers of a mesh have leaves of one authority (pki issue); give it one of ours",
        ),
        P::WrongIdentity { .. } => {
            Some("rule of expected identities: mend the address, or the identity that is stated for it")
        }
        P::AnchorsExpired => Some(
            "rule of trusted CAs: rotate the CA (pki rotate ca), or bring the current bundle here (pki bundle)",
        ),
        P::WrongCluster(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_certificate_it_was_is_told_once_and_for_that_error_alone() {
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        note(&expired, b"garbage");
        assert_eq!(refused_with(&CertificateError::Revoked), None, "that was another refusal");
        note(&expired, b"garbage");
        assert_eq!(refused_with(&CertificateError::Expired).unwrap(), "a certificate that cannot be read");
        assert_eq!(refused_with(&CertificateError::Expired), None);
        let own = || CertificateError::Other(rustls::OtherError(Arc::new(PeerRejection::NoName)));
        let (one, other) = (own(), own());
        note(&rustls::Error::InvalidCertificate(one.clone()), b"");
        assert_eq!(refused_with(&other), None);
        note(&rustls::Error::InvalidCertificate(one.clone()), b"");
        assert!(refused_with(&one).is_some());
    }

    #[test]
    fn names_of_a_stranger_are_shown_short_and_harmless() {
        let long = "x".repeat(1000);
        let names = ["a\nb\u{1b}[31m".to_owned(), long, "c".to_owned(), "d".to_owned()];
        let shown = listed(&names);
        assert!(shown.starts_with(r"a\nb\u{1b}[31m, xxx") && shown.ends_with("c, and 1 more"), "{shown}");
        assert!(shown.len() < 200, "{shown}");
    }
}
