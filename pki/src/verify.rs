//! The two verifiers: of clients, by servers, and of servers, by clients.
//!
//! Invariants, beyond what webpki checks (path, dates of the leaf, usage if present, no authority as a leaf):
//! - a leaf without extended key usage or without any alternative name is refused; webpki takes it as good for everything;
//! - a trust anchor is used only within its own validity, judged at the handshake; webpki's anchors carry no dates;
//! - if a leaf carries SPIFFE names, there is exactly one, it parses strictly, its role fits the direction, and its trust domain is ours if we have one.
//!
//! A leaf without SPIFFE name is accepted by chain (a Thanos querier's, a public-style certificate): what it may do is decided by whoever
//! asks for an identity.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::Error;
use crate::access::{AccessDenied, check_endpoint};
use crate::bundle::TrustBundle;
use crate::certificate::{Facts, format_time};
use crate::crl::RevocationList;
use crate::identity::{PeerIdentity, Role, TrustDomain};
use crate::refusal;

/// Why a certificate with a good path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRejection {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it has no extended key usage; {0} authentication must be stated")]
    NoUsage(&'static str),
    #[error("it is not meant for {0} authentication")]
    WrongUsage(&'static str),
    #[error("it has no alternative name (DNS, IP or URI)")]
    NoName,
    #[error("it has {0} SPIFFE names; exactly one is allowed")]
    SeveralIdentities(usize),
    #[error("{0}")]
    BadIdentity(String),
    #[error("{identity} is an {role}, which may not act as a {side}")]
    WrongRole { identity: PeerIdentity, role: Role, side: &'static str },
    #[error("{identity} is not of the trust domain {expected}")]
    WrongTrustDomain { identity: PeerIdentity, expected: TrustDomain },
    #[error("it belongs to {presented}, but {expected} was expected")]
    WrongIdentity { presented: String, expected: PeerIdentity },
    #[error(transparent)]
    WrongCluster(#[from] AccessDenied),
    #[error("every CA that could vouch for it has expired")]
    AnchorsExpired,
}

/// Which side the judged certificate is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSide {
    Client,
    Server,
}

impl PeerSide {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// The SPIFFE identity in a certificate: `Ok(None)` if it carries no SPIFFE name.
pub fn identity_of(facts: &Facts) -> Result<Option<PeerIdentity>, PeerRejection> {
    let mut names = facts
        .uris
        .iter()
        .filter(|uri| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")));
    let Some(first) = names.next() else { return Ok(None) };
    let more = names.count();
    if more > 0 {
        return Err(PeerRejection::SeveralIdentities(more + 1));
    }
    first.parse().map(Some).map_err(|error: Error| PeerRejection::BadIdentity(error.to_string()))
}

/// The checks beyond the path. Gives back the identity, if the certificate carries one.
pub fn check_leaf(
    der: &[u8],
    side: PeerSide,
    trust_domain: Option<&TrustDomain>,
) -> Result<Option<PeerIdentity>, PeerRejection> {
    let facts = Facts::read(der).map_err(PeerRejection::Unreadable)?;
    let usage = facts.usage.ok_or(PeerRejection::NoUsage(side.as_str()))?;
    let allowed = match side {
        PeerSide::Client => usage.client,
        PeerSide::Server => usage.server,
    };
    if !allowed {
        return Err(PeerRejection::WrongUsage(side.as_str()));
    }
    if facts.uris.is_empty() && facts.dns_names.is_empty() && facts.addresses.is_empty() {
        return Err(PeerRejection::NoName);
    }
    let Some(identity) = identity_of(&facts)? else { return Ok(None) };
    let role = identity.role();
    let fits = match side {
        PeerSide::Client => matches!(role, Role::Observer | Role::Ingress),
        PeerSide::Server => role == Role::Observee,
    };
    if !fits {
        return Err(PeerRejection::WrongRole { identity, role, side: side.as_str() });
    }
    if let Some(expected) = trust_domain
        && identity.trust_domain() != expected
    {
        return Err(PeerRejection::WrongTrustDomain { identity, expected: expected.clone() });
    }
    Ok(Some(identity))
}

/// Trust anchors with the dates that webpki forgets.
#[derive(Clone)]
pub struct Anchors {
    certificates: Arc<[(SystemTime, CertificateDer<'static>)]>,
    all: Arc<RootCertStore>,
    first_expiry: SystemTime,
    lists: Arc<[RevocationList]>,
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchors").field("count", &self.certificates.len()).finish_non_exhaustive()
    }
}

impl Anchors {
    /// Those of the bundle's certificates that are valid at `now`; the others are logged and left out. Errors: none is left; one is unfit as an anchor.
    pub(crate) fn new(subject: &str, bundle: TrustBundle, now: SystemTime) -> Result<Self, Error> {
        let mut kept = Vec::with_capacity(bundle.anchors.len());
        let mut detail = String::new();
        warn_of_old_lists(subject, &bundle.lists, now);
        for certificate in bundle.anchors {
            let facts = Facts::read(&certificate)
                .map_err(|reason| Error::Malformed { subject: subject.to_owned(), reason })?;
            match facts.outside_validity(now) {
                Some(reason) => {
                    detail = format!("{}: {reason}", facts.subject);
                    tracing::warn!(
                        file = subject,
                        ca = facts.subject,
                        reason,
                        "a CA certificate is left out"
                    );
                }
                None => kept.push((facts.not_after, certificate)),
            }
        }
        let first_expiry = kept
            .iter()
            .map(|(not_after, _)| *not_after)
            .min()
            .ok_or_else(|| Error::AnchorsExpired { subject: subject.to_owned(), detail })?;
        let all = store(kept.iter().map(|(_, certificate)| certificate))
            .map_err(|source| Error::Tls { subject: subject.to_owned(), source })?;
        let lists = bundle.lists.into();
        Ok(Self { certificates: kept.into(), all: Arc::new(all), first_expiry, lists })
    }

    /// Refuses a chain with a revoked certificate in it.
    fn check_revocation(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let mut chain = std::iter::once(end_entity).chain(intermediates);
        if chain.any(|certificate| self.lists.iter().any(|list| list.revokes(certificate))) {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(())
    }

    /// The anchors' certificates, in the order of the file.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.certificates.iter().map(|(_, certificate)| certificate)
    }

    /// The revocation lists of the bundle.
    pub fn lists(&self) -> &[RevocationList] {
        &self.lists
    }

    /// The anchors that have not expired at `now`.
    fn valid_at(&self, now: UnixTime) -> Result<Arc<RootCertStore>, rustls::Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        if now <= self.first_expiry {
            return Ok(Arc::clone(&self.all));
        }
        let left =
            self.certificates.iter().filter(|(not_after, _)| now <= *not_after).map(|(_, anchor)| anchor);
        let left = store(left)?;
        if left.is_empty() {
            return Err(rejection(PeerRejection::AnchorsExpired));
        }
        Ok(Arc::new(left))
    }

    /// How many anchors there are.
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    /// Never true: no anchors is an error when they are made.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }
}

fn warn_of_old_lists(subject: &str, lists: &[RevocationList], now: SystemTime) {
    for list in lists {
        if let Some(due) = list.next_update().filter(|due| *due < now) {
            tracing::warn!(
                file = subject,
                list = list.number_text(),
                due = %format_time(due),
                "a newer revocation list is overdue; this one stays in force"
            );
        }
    }
}

fn store<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

fn rejection(reason: PeerRejection) -> rustls::Error {
    let error = match reason {
        // These have a TLS alert of their own, which tells the peer more than "unknown".
        PeerRejection::WrongUsage(_) | PeerRejection::NoUsage(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    rustls::Error::InvalidCertificate(error)
}

/// What servers verify clients with.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    anchors: Anchors,
    webpki: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    trust_domain: Option<TrustDomain>,
}

impl ClientVerifier {
    pub(crate) fn new(
        anchors: Anchors,
        provider: Arc<CryptoProvider>,
        trust_domain: Option<TrustDomain>,
    ) -> Result<Self, rustls::Error> {
        let webpki = Self::webpki(Arc::clone(&anchors.all), &provider)?;
        Ok(Self { anchors, webpki, provider, trust_domain })
    }

    fn webpki(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let roots = self.anchors.valid_at(now)?;
        let verified = if Arc::ptr_eq(&roots, &self.anchors.all) {
            self.webpki.verify_client_cert(end_entity, intermediates, now)?
        } else {
            Self::webpki(roots, &self.provider)?.verify_client_cert(end_entity, intermediates, now)?
        };
        self.anchors.check_revocation(end_entity, intermediates)?;
        check_leaf(end_entity, PeerSide::Client, self.trust_domain.as_ref()).map_err(rejection)?;
        Ok(verified)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).inspect_err(|error| refusal::note(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// How a client decides that a server is the right one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExpectedServer {
    /// The dialled name (or its override) must stand in the certificate.
    #[default]
    Name,
    /// As [`ExpectedServer::Name`]; and if the certificate carries an identity, it is this cluster's. One without (from a public CA) is taken by its name.
    NameOfCluster(String),
    /// The certificate must carry this identity; names play no part, so addresses, discovery and shared ingresses work.
    Identity(PeerIdentity),
}

/// What clients verify servers with.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    /// `None`: nothing is verified (the operator asked for it).
    anchors: Option<Anchors>,
    provider: Arc<CryptoProvider>,
    trust_domain: Option<TrustDomain>,
    expectation: ExpectedServer,
}

impl ServerVerifier {
    pub(crate) fn new(
        anchors: Option<Anchors>,
        provider: Arc<CryptoProvider>,
        trust_domain: Option<TrustDomain>,
        expectation: ExpectedServer,
    ) -> Self {
        Self { anchors, provider, trust_domain, expectation }
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(anchors) = &self.anchors else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let roots = anchors.valid_at(now)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)?;
        anchors.check_revocation(end_entity, intermediates)?;
        let identity =
            check_leaf(end_entity, PeerSide::Server, self.trust_domain.as_ref()).map_err(rejection)?;
        match &self.expectation {
            ExpectedServer::Name => verify_server_name(&parsed, server_name)?,
            ExpectedServer::NameOfCluster(cluster) => {
                if let Some(identity) = &identity {
                    check_endpoint(identity, cluster).map_err(|denied| rejection(denied.into()))?;
                }
                verify_server_name(&parsed, server_name)?;
            }
            ExpectedServer::Identity(expected) if identity.as_ref() == Some(expected) => {}
            ExpectedServer::Identity(expected) => {
                let presented =
                    identity.map_or_else(|| "no identity".to_owned(), |identity| identity.to_string());
                return Err(rejection(PeerRejection::WrongIdentity {
                    presented,
                    expected: expected.clone(),
                }));
            }
        }
        Ok(ServerCertVerified::assertion())
    }
}

/// For a client that is told to trust whoever answers (`insecure_skip_verify`): any certificate will do, but the handshake must be signed with
/// its key.
pub fn any_server(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(ServerVerifier::new(None, provider, None, ExpectedServer::Name))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, server_name, now)
            .inspect_err(|error| refusal::note(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The validity of `facts` as a short text, for logs.
pub fn validity_text(facts: &Facts) -> String {
    format!("{} to {}", format_time(facts.not_before), format_time(facts.not_after))
}
