//! One checked set of credentials, ready for handshakes.
//!
//! Invariants: a [`Material`] exists only if all of it is good: the pair matches, every PEM block parsed, the CA bundle holds at least one anchor that
//! is valid now, the leaf's usage and role fit the purpose. Each set gets TLS configurations of its own and nothing resumes a session, because a
//! resumed session skips the verification of the peer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::bundle::{TrustBundle, digest_text};
use crate::certificate::{Facts, parse_bundle};
use crate::crl::RevocationList;
use crate::explain::{Explanation, Side, explain};
use crate::identity::{PeerIdentity, TrustDomain};
use crate::verify::{
    Anchors, ClientVerifier, ExpectedServer, PeerSide, ServerVerifier, check_leaf, identity_of,
};

/// The protocol id of HTTP/2, which gRPC negotiates.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// A certificate chain, its key, and the bundle that verifies peers: PEM texts.
#[derive(Clone, Default)]
pub struct CredentialPem {
    pub cert: Option<String>,
    pub key: Option<String>,
    pub ca: Option<String>,
}

impl std::fmt::Debug for CredentialPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialPem")
            .field("cert", &self.cert.is_some())
            .field("key", &self.key.is_some())
            .field("ca", &self.ca.is_some())
            .finish()
    }
}

/// What a set of credentials is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Certificate and key are needed. With a CA, clients must present a certificate; without, this is TLS that hides and proves the server only.
    Server,
    /// A CA is needed (unless nothing is to be verified); certificate and key are what the server asks for, if it does.
    Client {
        /// Accept any server. For `--grpc-client-tls-skip-verify`; the connection is then open to anybody in between.
        skip_verify: bool,
    },
}

/// The oldest protocol version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    #[default]
    Tls13,
}

impl TlsVersion {
    fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => ONLY_TLS13,
        }
    }
}

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A purpose with its protocol settings. Made from a [`Purpose`] it asks for TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsProfile {
    pub purpose: Purpose,
    pub min_version: TlsVersion,
}

impl From<Purpose> for TlsProfile {
    fn from(purpose: Purpose) -> Self {
        Self { purpose, min_version: TlsVersion::default() }
    }
}

/// The names of the three inputs in errors: file names, or the flags.
#[derive(Clone, Debug)]
pub(crate) struct Subjects {
    pub cert: String,
    pub key: String,
    pub ca: String,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { cert: "certificate".to_owned(), key: "private key".to_owned(), ca: "CA bundle".to_owned() }
    }
}

/// A checked set of credentials.
pub struct Material {
    profile: TlsProfile,
    own: Option<Own>,
    anchors: Option<Anchors>,
    /// Of the anchors, in the order of the bundle, as DER.
    anchor_names: Vec<Vec<u8>>,
    server: Option<Arc<ServerConfig>>,
    client_by_name: Option<Arc<ClientConfig>>,
    clients: Option<Arc<ClientVerifier>>,
    digest: String,
    trust_digest: Option<String>,
}

struct Own {
    key: Arc<CertifiedKey>,
    facts: Facts,
    identity: Option<PeerIdentity>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("profile", &self.profile)
            .field("identity", &self.identity())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Material {
    /// Checks `pem` at `now` and builds the configurations.
    pub(crate) fn build(
        pem: &CredentialPem,
        profile: TlsProfile,
        subjects: &Subjects,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let own = match (&pem.cert, &pem.key) {
            (Some(cert), Some(key)) => Some(Own::build(cert, key, profile.purpose, subjects)?),
            (Some(_), None) => {
                return Err(Error::Incomplete { given: "a certificate", missing: "its private key" });
            }
            (None, Some(_)) => {
                return Err(Error::Incomplete { given: "a private key", missing: "its certificate" });
            }
            (None, None) => None,
        };
        let anchors = match &pem.ca {
            Some(ca) => Some(Anchors::new(&subjects.ca, TrustBundle::parse(&subjects.ca, ca)?, now)?),
            None => None,
        };
        let digest = fingerprint(pem).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut material = Self {
            profile,
            own,
            anchor_names: names(anchors.as_ref()),
            anchors,
            server: None,
            client_by_name: None,
            clients: None,
            digest,
            trust_digest: pem.ca.as_deref().map(digest_text),
        };
        match profile.purpose {
            Purpose::Server => {
                material.clients = material.build_client_verifier(subjects)?.map(Arc::new);
                material.server = Some(Arc::new(material.build_server(subjects)?));
            }
            Purpose::Client { skip_verify } => {
                if material.anchors.is_none() && !skip_verify {
                    return Err(Error::NoTrust);
                }
                let config = material.build_client(ExpectedServer::Name)?;
                material.client_by_name = Some(Arc::new(config));
            }
        }
        Ok(material)
    }

    /// The configuration for accepting. Errors: these are client credentials.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.server.clone().ok_or_else(|| self.wrong_purpose("server"))
    }

    /// The configuration for connecting to a server that is `expected`. Errors: these are server credentials.
    pub fn client_config(&self, expected: &ExpectedServer) -> Result<Arc<ClientConfig>, Error> {
        let by_name = self.client_by_name.as_ref().ok_or_else(|| self.wrong_purpose("client"))?;
        match expected {
            ExpectedServer::Name => Ok(Arc::clone(by_name)),
            other => Ok(Arc::new(self.build_client(other.clone())?)),
        }
    }

    /// True if a server made of this demands certificates of its clients.
    pub fn requires_client_certificate(&self) -> bool {
        self.profile.purpose == Purpose::Server && self.anchors.is_some()
    }

    /// Our own identity, if our certificate carries one.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.own.as_ref()?.identity.as_ref()
    }

    /// Our own leaf, if there is one.
    pub fn leaf(&self) -> Option<&Facts> {
        self.own.as_ref().map(|own| &own.facts)
    }

    /// SHA-256 over certificate, key and bundle, lower-case hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// SHA-256 of the bundle that verifies peers, lower-case hexadecimal.
    pub fn trust_digest(&self) -> Option<&str> {
        self.trust_digest.as_deref()
    }

    /// The CAs that verify peers.
    pub fn trusted(&self) -> impl Iterator<Item = Facts> {
        self.anchors.iter().flat_map(Anchors::certificates).filter_map(|der| Facts::read(der).ok())
    }

    /// True if a peer whose leaf has this issuer (DER) shows a leaf of a CA that is on its way out: the bundle's first CA is the one that signs, and the issuer
    /// is another one of the bundle. Of a bundle that others made the order may mean nothing.
    pub fn is_of_former_ca(&self, issuer: &[u8]) -> bool {
        match self.anchor_names.split_first() {
            Some((signing, others)) => signing != issuer && others.iter().any(|name| name == issuer),
            None => false,
        }
    }

    /// True if the DER certificate `anchor` verifies peers.
    pub(crate) fn trusts(&self, anchor: &CertificateDer<'_>) -> bool {
        self.anchors.iter().flat_map(Anchors::certificates).any(|known| known == anchor)
    }

    /// The revocation lists that peers are held against.
    pub fn revocation_lists(&self) -> &[RevocationList] {
        self.anchors.as_ref().map(Anchors::lists).unwrap_or_default()
    }

    /// Judges the chain of a client that was accepted earlier, as a new handshake at `now` would. For servers: connections outlive the trust they were
    /// accepted under. Without a CA, every chain passes.
    pub fn recheck_client(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Explanation> {
        let Some(verifier) = &self.clients else { return Ok(()) };
        let verified = match chain.split_first() {
            Some((leaf, intermediates)) => verifier.verify_client_cert(leaf, intermediates, unix_time(now)),
            None => Err(rustls::Error::NoCertificatesPresented),
        };
        verified.map(|_| ()).map_err(|error| explain(&error, Side::Server))
    }

    /// Judges the chain of a server that was accepted earlier, as a new handshake at `now` would.
    pub fn recheck_server(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        expected: &ExpectedServer,
        now: SystemTime,
    ) -> Result<(), Explanation> {
        let verifier = self.server_verifier(expected.clone());
        let verified = match chain.split_first() {
            Some((leaf, intermediates)) => {
                verifier.verify_server_cert(leaf, intermediates, name, &[], unix_time(now))
            }
            None => Err(rustls::Error::NoCertificatesPresented),
        };
        verified.map(|_| ()).map_err(|error| explain(&error, Side::Client))
    }

    /// What a server with this bundle would say of a client's chain at `now`. Errors: the bundle is not good.
    pub fn judge_client(
        bundle: &str,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Result<(), Explanation>, Error> {
        let material = Self::trusting(bundle, Purpose::Server, now)?;
        Ok(material.recheck_client(chain, now))
    }

    /// What a client with this bundle would say of a server's chain at `now`. Errors: the bundle is not good.
    pub fn judge_server(
        bundle: &str,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        expected: &ExpectedServer,
        now: SystemTime,
    ) -> Result<Result<(), Explanation>, Error> {
        let material = Self::trusting(bundle, Purpose::Client { skip_verify: false }, now)?;
        Ok(material.recheck_server(chain, name, expected, now))
    }

    /// Only the part that judges peers.
    fn trusting(bundle: &str, purpose: Purpose, now: SystemTime) -> Result<Self, Error> {
        let subjects = Subjects::default();
        let anchors = Anchors::new(&subjects.ca, TrustBundle::parse(&subjects.ca, bundle)?, now)?;
        let mut material = Self {
            profile: purpose.into(),
            own: None,
            anchors: Some(anchors),
            anchor_names: Vec::new(),
            server: None,
            client_by_name: None,
            clients: None,
            digest: String::new(),
            trust_digest: Some(digest_text(bundle)),
        };
        material.clients = material.build_client_verifier(&subjects)?.map(Arc::new);
        Ok(material)
    }

    fn server_verifier(&self, expectation: ExpectedServer) -> ServerVerifier {
        let skip = self.profile.purpose == (Purpose::Client { skip_verify: true });
        let anchors = if skip { None } else { self.anchors.clone() };
        ServerVerifier::new(anchors, crate::provider(), self.trust_domain(), expectation)
    }

    fn trust_domain(&self) -> Option<TrustDomain> {
        self.identity().map(|identity| identity.trust_domain().clone())
    }

    fn wrong_purpose(&self, side: &'static str) -> Error {
        Error::WrongPurpose {
            subject: "this set of credentials".to_owned(),
            side,
            reason: "it was loaded for the other side".to_owned(),
        }
    }

    fn build_client_verifier(&self, subjects: &Subjects) -> Result<Option<ClientVerifier>, Error> {
        let Some(anchors) = &self.anchors else { return Ok(None) };
        ClientVerifier::new(anchors.clone(), crate::provider(), self.trust_domain())
            .map(Some)
            .map_err(|source| Error::Tls { subject: subjects.ca.clone(), source })
    }

    fn build_server(&self, subjects: &Subjects) -> Result<ServerConfig, Error> {
        let own = self.own.as_ref().ok_or(Error::Incomplete {
            given: "TLS for a server",
            missing: "a certificate and its private key",
        })?;
        let failed = |source| Error::Tls { subject: subjects.cert.clone(), source };
        let builder = ServerConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(self.profile.min_version.supported())
            .map_err(failed)?;
        let builder = match &self.clients {
            Some(verifier) => {
                let verifier: Arc<dyn ClientCertVerifier> = Arc::<ClientVerifier>::clone(verifier);
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        Ok(config)
    }

    fn build_client(&self, expectation: ExpectedServer) -> Result<ClientConfig, Error> {
        let verifier = self.server_verifier(expectation);
        let builder = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(self.profile.min_version.supported())
            .map_err(|source| Error::Tls { subject: "a client".to_owned(), source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.own {
            Some(own) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key))))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        Ok(config)
    }
}

fn names(anchors: Option<&Anchors>) -> Vec<Vec<u8>> {
    let certificates = anchors.into_iter().flat_map(Anchors::certificates);
    certificates.filter_map(|der| Facts::read(der).ok()).map(|facts| facts.subject_raw).collect()
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

impl Own {
    fn build(cert: &str, key: &str, purpose: Purpose, subjects: &Subjects) -> Result<Self, Error> {
        let chain: Vec<CertificateDer<'static>> = parse_bundle(&subjects.cert, cert)?;
        let leaf = chain.first().ok_or_else(|| Error::Malformed {
            subject: subjects.cert.clone(),
            reason: "it holds no certificate".to_owned(),
        })?;
        let facts = Facts::read(leaf)
            .map_err(|reason| Error::Malformed { subject: subjects.cert.clone(), reason })?;
        let side = match purpose {
            Purpose::Server => PeerSide::Server,
            Purpose::Client { .. } => PeerSide::Client,
        };
        let identity = check_own_leaf(leaf, &facts, side, subjects)?;
        let key = parse_key(key, subjects)?;
        let key = CertifiedKey::from_der(chain, key, &crate::provider()).map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => {
                Error::KeyMismatch { cert: subjects.cert.clone(), key: subjects.key.clone() }
            }
            other => Error::Tls { subject: subjects.key.clone(), source: other },
        })?;
        Ok(Self { key: Arc::new(key), facts, identity })
    }
}

/// Our own leaf must pass the checks that our peers make, except that a foreign one may lack usage and names (its peers may be foreign as well).
fn check_own_leaf(
    leaf: &[u8],
    facts: &Facts,
    side: PeerSide,
    subjects: &Subjects,
) -> Result<Option<PeerIdentity>, Error> {
    let side_name = match side {
        PeerSide::Client => "client",
        PeerSide::Server => "server",
    };
    let refuse =
        |reason: String| Error::WrongPurpose { subject: subjects.cert.clone(), side: side_name, reason };
    let identity = identity_of(facts).map_err(|reason| refuse(reason.to_string()))?;
    if identity.is_none() && facts.usage.is_none() {
        tracing::warn!(file = subjects.cert, "the certificate states no usage; strict peers will refuse it");
        return Ok(None);
    }
    check_leaf(leaf, side, None).map_err(|reason| refuse(reason.to_string()))
}

fn parse_key(pem: &str, subjects: &Subjects) -> Result<PrivateKeyDer<'static>, Error> {
    let malformed = |reason: String| Error::Malformed { subject: subjects.key.clone(), reason };
    if pem.len() as u64 > crate::certificate::MAX_PEM_BYTES {
        return Err(Error::TooLarge {
            subject: subjects.key.clone(),
            limit_bytes: crate::certificate::MAX_PEM_BYTES,
        });
    }
    if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(malformed(
            "the key is encrypted; decrypt it first, for example with `openssl pkey`".to_owned(),
        ));
    }
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| malformed(format!("it holds no private key that can be read ({error})")))
}

/// SHA-256 over the three texts, each behind its length.
pub(crate) fn fingerprint(pem: &CredentialPem) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [&pem.cert, &pem.key, &pem.ca] {
        let text = part.as_deref().unwrap_or_default();
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().into()
}
