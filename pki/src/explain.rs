//! One clear sentence, and one word for a metric label, for each way in which a handshake fails.
//!
//! Invariant: the sentence names the subject (the peer as the caller calls it), whose certificate is meant, and what to look at; of a certificate that is
//! refused it names the identity in it, the rule, and what to do (`refusal.rs`). rustls' own errors hide
//! behind `io::Error`s of several layers and speak of alerts; here they are found and put into words. In TLS 1.3 a client learns that
//! its certificate was refused only after its own handshake is done, so the same sentences serve for errors of an established stream.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use crate::certificate::format_time;
use crate::refusal::{refused_with, rule_of, rule_of_rejection, told};
use crate::verify::PeerRejection;

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Why a connection could not be secured; [`FailureReason::as_str`] is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureReason {
    WrongCa,
    Expired,
    NotYetValid,
    MissingCertificate,
    WrongName,
    WrongRole,
    Revoked,
    BadCertificate,
    PlainText,
    ProtocolVersion,
    Protocol,
    Timeout,
    Refused,
    Unreachable,
    Closed,
    Other,
}

impl FailureReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongCa => "wrong_ca",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::MissingCertificate => "missing_certificate",
            Self::WrongName => "wrong_name",
            Self::WrongRole => "wrong_role",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::PlainText => "plain_text",
            Self::ProtocolVersion => "protocol_version",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

/// A failure in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub reason: FailureReason,
    /// A sentence without its final dot; it does not repeat the peer's address.
    pub text: String,
}

impl Explanation {
    fn new(reason: FailureReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// A refusal of the certificate of `who`.
    pub fn refusal(reason: FailureReason, sentence: &str, who: Option<&str>) -> Self {
        Self { reason, text: told(sentence, who, rule_of(reason)) }
    }
}

/// Explains an error of connecting, of a handshake, or of a stream. `error` may wrap the cause at any depth. Of a handshake that failed, call it where that
/// has just ended: then the text says whose certificate was refused.
pub fn explain(error: &(dyn StdError + 'static), side: Side) -> Explanation {
    explain_to(error, side, None)
}

/// The same for one who holds `own` certificate, by its identity, which the peer may have refused.
pub fn explain_to(error: &(dyn StdError + 'static), side: Side, own: Option<&str>) -> Explanation {
    if let Some(tls) = find::<rustls::Error>(error) {
        return explain_tls(tls, side, own);
    }
    if let Some(io) = find::<io::Error>(error) {
        return explain_io(io, side);
    }
    Explanation::new(FailureReason::Other, chain_text(error))
}

/// The first error of type `E` in the chain of `error`, looking into `io::Error`s as well.
pub fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    /// More layers than any real error has; a chain that loops ends here.
    const MAX_DEPTH: usize = 32;
    let mut current = Some(error);
    for _ in 0..MAX_DEPTH {
        let error = current?;
        if let Some(found) = error.downcast_ref::<E>() {
            // An io::Error that wraps another is only a shell.
            let shell = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some();
            if !shell {
                return Some(found);
            }
        }
        current = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The texts of the whole chain, each said once.
pub fn chain_text(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn explain_tls(error: &rustls::Error, side: Side, own: Option<&str>) -> Explanation {
    use FailureReason as R;
    let peer = peer_name(side);
    match error {
        rustls::Error::InvalidCertificate(error) => explain_certificate(error, side),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert, side, own),
        rustls::Error::NoCertificatesPresented => Explanation::refusal(
            R::MissingCertificate,
            &format!("the {peer} presented no certificate; one is required"),
            None,
        ),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::InvalidEmptyPayload,
        ) => match side {
            Side::Server => Explanation::new(R::PlainText, "the client sent plain text to this TLS port"),
            Side::Client => Explanation::new(
                R::PlainText,
                "the server does not speak TLS on this port (is it a plain text port?)",
            ),
        },
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => Explanation::new(
            R::ProtocolVersion,
            format!("the {peer} does not speak a TLS version that is allowed here"),
        ),
        rustls::Error::NoApplicationProtocol => Explanation::new(
            R::Protocol,
            format!("the {peer} offers no application protocol that we speak (h2)"),
        ),
        other => Explanation::new(R::Other, format!("TLS with the {peer} failed: {other}")),
    }
}

/// We verified the peer's certificate and refused it.
fn explain_certificate(error: &CertificateError, side: Side) -> Explanation {
    let who = refused_with(error);
    if let CertificateError::Other(other) = error
        && let Some(rejection) = other.0.downcast_ref::<PeerRejection>()
    {
        let sentence = format!("the {}'s certificate is refused: {rejection}", peer_name(side));
        let text = told(&sentence, who.as_deref(), rule_of_rejection(rejection));
        return Explanation::new(rejection_reason(rejection), text);
    }
    let (reason, sentence) = certificate_sentence(error, peer_name(side));
    Explanation::refusal(reason, &sentence, who.as_deref())
}

fn certificate_sentence(error: &CertificateError, peer: &str) -> (FailureReason, String) {
    use FailureReason as R;
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            R::WrongCa,
            format!(
                "the {peer}'s certificate is not signed by a CA in our bundle (wrong CA file, or the peer belongs to another mesh)"
            ),
        ),
        CertificateError::Expired => (R::Expired, format!("the {peer}'s certificate has expired")),
        CertificateError::ExpiredContext { not_after, .. } => {
            (R::Expired, format!("the {peer}'s certificate expired at {}", unix_text(*not_after)))
        }
        CertificateError::NotValidYet => {
            (R::NotYetValid, format!("the {peer}'s certificate is not valid yet (is a clock wrong?)"))
        }
        CertificateError::NotValidYetContext { not_before, .. } => (
            R::NotYetValid,
            format!(
                "the {peer}'s certificate is not valid before {} (is a clock wrong?)",
                unix_text(*not_before)
            ),
        ),
        CertificateError::NotValidForName => {
            (R::WrongName, format!("the {peer}'s certificate does not carry the name it was dialled by"))
        }
        CertificateError::NotValidForNameContext { expected, presented } => (
            R::WrongName,
            format!(
                "the {peer}'s certificate is not for {}; it is for {} (a server name can be set)",
                expected.to_str(),
                presented_text(presented)
            ),
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            R::WrongRole,
            format!("the {peer}'s certificate is not meant for {peer} authentication (wrong role?)"),
        ),
        CertificateError::Revoked => (R::Revoked, format!("the {peer}'s certificate is revoked")),
        CertificateError::Other(other) => {
            (R::BadCertificate, format!("the {peer}'s certificate is refused: {}", other.0))
        }
        other => (R::BadCertificate, format!("the {peer}'s certificate is refused: {other}")),
    }
}

fn rejection_reason(rejection: &PeerRejection) -> FailureReason {
    match rejection {
        PeerRejection::WrongRole { .. } | PeerRejection::WrongUsage(_) | PeerRejection::NoUsage(_) => {
            FailureReason::WrongRole
        }
        PeerRejection::WrongIdentity { .. }
        | PeerRejection::WrongCluster(_)
        | PeerRejection::WrongTrustDomain { .. } => FailureReason::WrongName,
        PeerRejection::AnchorsExpired => FailureReason::WrongCa,
        _ => FailureReason::BadCertificate,
    }
}

/// The peer refused something of ours and said so; `own` is the identity in our certificate.
fn explain_alert(alert: AlertDescription, side: Side, own: Option<&str>) -> Explanation {
    use FailureReason as R;
    let peer = peer_name(side);
    let refused = format!("the {peer} refused our certificate");
    let (reason, sentence) = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            (R::WrongCa, format!("{refused}: it is not signed by a CA that the {peer} trusts"))
        }
        AlertDescription::CertificateExpired => (
            R::Expired,
            format!("{refused}: it has expired or is not valid yet (check its dates and both clocks)"),
        ),
        AlertDescription::CertificateRevoked => (R::Revoked, format!("{refused}: it is revoked")),
        AlertDescription::CertificateRequired => {
            (R::MissingCertificate, format!("the {peer} requires a client certificate and none was given"))
        }
        AlertDescription::UnsupportedCertificate => (
            R::WrongRole,
            format!(
                "{refused}: it is not meant for this use (a server's certificate presented by a client?)"
            ),
        ),
        AlertDescription::BadCertificate => {
            (R::BadCertificate, format!("{refused} (or got none): {alert:?}"))
        }
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            (R::BadCertificate, format!("{refused} (its name, identity or role): {alert:?}"))
        }
        AlertDescription::ProtocolVersion => {
            let text = format!("the {peer} does not speak TLS 1.3 or refuses our versions");
            return Explanation::new(R::ProtocolVersion, text);
        }
        AlertDescription::UnrecognisedName => {
            (R::WrongName, format!("the {peer} does not serve the name it was asked for (SNI)"))
        }
        AlertDescription::NoApplicationProtocol => {
            let text = format!("the {peer} does not speak the application protocol (h2)");
            return Explanation::new(R::Protocol, text);
        }
        other => return Explanation::new(R::Other, format!("the {peer} ended the TLS handshake: {other:?}")),
    };
    // Without a certificate there is no identity; of an unknown name it is not ours that counts.
    let own = own.filter(|_| !matches!(reason, R::MissingCertificate | R::WrongName));
    Explanation::refusal(reason, &sentence, own)
}

fn explain_io(error: &io::Error, side: Side) -> Explanation {
    use FailureReason as R;
    let peer = peer_name(side);
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Explanation::new(R::Refused, "the connection was refused (nothing listens there)")
        }
        io::ErrorKind::TimedOut => Explanation::new(R::Timeout, format!("the {peer} did not answer in time")),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Explanation::new(R::Closed, format!("the {peer} closed the connection ({error})"))
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Explanation::new(R::Unreachable, format!("the {peer} cannot be reached ({error})"))
        }
        _ => Explanation::new(R::Other, error.to_string()),
    }
}

fn peer_name(side: Side) -> &'static str {
    match side {
        Side::Client => "server",
        Side::Server => "client",
    }
}

fn unix_text(time: rustls_pki_types::UnixTime) -> String {
    format_time(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs()))
}

/// rustls lists names as `DnsName("a")`; shown as they would be dialled.
fn presented_text(presented: &[String]) -> String {
    const SHOWN: usize = 8;
    if presented.is_empty() {
        return "no name".to_owned();
    }
    let mut names: Vec<&str> = presented
        .iter()
        .take(SHOWN)
        .map(|name| {
            name.split_once('(')
                .map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'))
                .trim_matches('"')
        })
        .collect();
    if presented.len() > SHOWN {
        names.push("…");
    }
    names.join(", ")
}
