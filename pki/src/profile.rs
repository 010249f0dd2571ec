//! What our certificates look like: the templates of authorities and leaves, and the request for a leaf.
//!
//! Invariants: one URI name per leaf, the identity; the extended key usage is the one of the identity's direction; serial numbers are 128 random
//! bits that nobody chooses; every authority has a name of its own (webpki picks revocation lists by name); nothing ends after its issuer.
//! Source of the profile: RFC 5280, X509-SVID.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber, SignatureAlgorithm,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Error;
use crate::identity::{PeerIdentity, Role, check_dns_name};

/// How far `notBefore` lies in the past, so that a peer whose clock is a little behind accepts the certificate.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Validity of a leaf unless the request says otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Validity of an authority.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// Most DNS names, and most addresses, in one leaf.
pub const MAX_ALTERNATIVE_NAMES: usize = 64;
/// Longest common name, in bytes (X.520 `ub-common-name`).
const MAX_COMMON_NAME_BYTES: usize = 64;

/// The two authorities of a trust domain, by direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hierarchy {
    /// Signs what observers (and ingresses) present as clients.
    Observers,
    /// Signs what observees present as servers.
    Observees,
}

impl Hierarchy {
    pub const ALL: [Self; 2] = [Self::Observers, Self::Observees];

    /// The name in paths and texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observers => "observers",
            Self::Observees => "observees",
        }
    }

    /// Who signs for `role`.
    pub fn of(role: Role) -> Self {
        match role {
            Role::Observer | Role::Ingress => Self::Observers,
            Role::Observee => Self::Observees,
        }
    }

    /// Whom the holders of this hierarchy's leaves talk to.
    pub fn opposite(self) -> Self {
        match self {
            Self::Observers => Self::Observees,
            Self::Observees => Self::Observers,
        }
    }
}

/// The kind of key that an authority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    #[default]
    P256,
    P384,
}

impl KeyKind {
    pub(crate) fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl std::str::FromStr for KeyKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "p256" => Ok(Self::P256),
            "p384" => Ok(Self::P384),
            _ => Err(Error::Name {
                what: "key algorithm",
                text: text.to_owned(),
                reason: "it is neither p256 nor p384",
            }),
        }
    }
}

/// A leaf that is asked for.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// Decides the authority and the usage.
    pub identity: PeerIdentity,
    /// Host names beside the default `<cluster>.<trust domain>` of an observee.
    pub dns_names: Vec<String>,
    /// Addresses at which a server is dialled without a name.
    pub addresses: Vec<IpAddr>,
    /// From now on; cut short where the authority ends earlier.
    pub lifetime: Duration,
}

impl LeafRequest {
    /// A request with the default lifetime and no further names.
    pub fn new(identity: PeerIdentity) -> Self {
        Self { identity, dns_names: Vec::new(), addresses: Vec::new(), lifetime: LEAF_LIFETIME }
    }

    #[must_use]
    pub fn dns(mut self, name: impl Into<String>) -> Self {
        self.dns_names.push(name.into());
        self
    }

    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }
}

/// The template of generation `generation`; `spki_digest` tells authorities of one generation apart.
pub(crate) fn authority_params(
    trust_domain: &str,
    hierarchy: Hierarchy,
    generation: u32,
    spki_digest: &[u8],
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, Error> {
    let common_name = authority_name(trust_domain, hierarchy, generation, spki_digest);
    let mut params = named_params(common_name.clone())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, now + lifetime, &common_name)?;
    Ok(params)
}

fn authority_name(trust_domain: &str, hierarchy: Hierarchy, generation: u32, spki_digest: &[u8]) -> String {
    let mark: String = spki_digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let kind = hierarchy.as_str();
    let full = format!("parallax {trust_domain} {kind} g{generation} {mark}");
    if full.len() <= MAX_COMMON_NAME_BYTES { full } else { format!("parallax {kind} g{generation} {mark}") }
}

/// The template of a leaf that is valid from `now` to `not_after`.
pub(crate) fn leaf_params(
    request: &LeafRequest,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let identity = &request.identity;
    let refuse = |reason: String| Error::Refused { identity: identity.to_string(), reason };
    if request.dns_names.len() > MAX_ALTERNATIVE_NAMES || request.addresses.len() > MAX_ALTERNATIVE_NAMES {
        return Err(refuse(format!(
            "more than {MAX_ALTERNATIVE_NAMES} DNS names or addresses; ask for fewer"
        )));
    }
    let mut params = named_params(identity.name().to_owned())?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match Hierarchy::of(identity.role()) {
        Hierarchy::Observers => ExtendedKeyUsagePurpose::ClientAuth,
        Hierarchy::Observees => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    let ascii = |text: String| text.try_into().map_err(|error: rcgen::Error| refuse(error.to_string()));
    params.subject_alt_names.push(SanType::URI(ascii(identity.to_string())?));
    let mut names = Vec::new();
    if identity.role() == Role::Observee {
        names.push(format!("{}.{}", identity.name(), identity.trust_domain()));
    }
    names.extend(request.dns_names.iter().cloned());
    let mut seen = Vec::new();
    for name in names {
        check_dns_name(&name)?;
        if !seen.contains(&name) {
            params.subject_alt_names.push(SanType::DnsName(ascii(name.clone())?));
            seen.push(name);
        }
    }
    params.subject_alt_names.extend(request.addresses.iter().map(|address| SanType::IpAddress(*address)));
    set_validity(&mut params, now, not_after, &identity.to_string())?;
    Ok(params)
}

fn named_params(common_name: String) -> Result<CertificateParams, Error> {
    let subject = common_name.clone();
    let mut params = CertificateParams::new(Vec::<String>::new())
        .map_err(|error| Error::Signing { subject, reason: error.to_string() })?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.serial_number = Some(random_serial());
    Ok(params)
}

/// 128 random bits. The top bit is cleared so that DER needs no padding byte, the next is set so that the length is always 16 bytes.
fn random_serial() -> SerialNumber {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn set_validity(
    params: &mut CertificateParams,
    now: SystemTime,
    not_after: SystemTime,
    subject: &str,
) -> Result<(), Error> {
    params.not_before = offset_time(now - BACKDATE, subject)?;
    params.not_after = offset_time(not_after, subject)?;
    Ok(())
}

/// A time as rcgen takes it, to the second.
pub(crate) fn offset_time(time: SystemTime, subject: &str) -> Result<OffsetDateTime, Error> {
    let duration = time.duration_since(UNIX_EPOCH).map_err(|_| Error::Signing {
        subject: subject.to_owned(),
        reason: "the clock is before 1970".to_owned(),
    })?;
    Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(duration.as_secs()))
}
