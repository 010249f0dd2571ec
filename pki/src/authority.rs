//! The authority of a trust domain: two issuing keys, one per direction, and the leaves they sign.
//!
//! Invariants: a leaf is signed by the authority of its role's direction and carries the bundle of the other; it never outlives its issuer; a leaf is
//! recorded before it is handed out. An authority in memory ([`Authority::in_memory`]) is the same without a record.
//!
//! Left to later work: encryption of the keys at rest, rotation, revocation.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::certificate::{Facts, format_time, parse_bundle};
use crate::identity::{PeerIdentity, TrustDomain};
use crate::leaf_files::LeafFiles;
use crate::profile::{
    AUTHORITY_LIFETIME, Hierarchy, LeafRequest, authority_params, issuer_params, leaf_params,
};
use crate::state::{State, StoredAuthority};

/// Longest lifetime that may be asked for.
pub const MAX_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How to make an authority.
#[derive(Clone, Debug)]
pub struct AuthorityOptions {
    pub trust_domain: TrustDomain,
    /// Validity of both issuing certificates.
    pub lifetime: Duration,
}

impl AuthorityOptions {
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, lifetime: AUTHORITY_LIFETIME }
    }
}

/// Both issuing authorities of a trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    observers: Issuing,
    observees: Issuing,
    state: Option<State>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

struct Issuing {
    hierarchy: Hierarchy,
    generation: u32,
    facts: Facts,
    cert_pem: String,
    bundle_pem: String,
    key: KeyPair,
}

impl Authority {
    /// Makes an authority and stores it in `directory`, which must not exist or be empty. The keys are stored unencrypted, for their owner only.
    pub fn init(directory: &Path, options: &AuthorityOptions) -> Result<Self, Error> {
        let mut authority = Self::in_memory(options, SystemTime::now())?;
        let stored = [authority.observers.stored(), authority.observees.stored()];
        authority.state = Some(State::create(directory, options.trust_domain.as_str(), &stored)?);
        Ok(authority)
    }

    /// Opens the authority that [`Authority::init`] stored in `directory`.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let (state, trust_domain) = State::open(directory)?;
        Ok(Self {
            trust_domain: TrustDomain::new(&trust_domain)?,
            observers: Issuing::load(&state, Hierarchy::Observers)?,
            observees: Issuing::load(&state, Hierarchy::Observees)?,
            state: Some(state),
        })
    }

    /// An authority that lives as long as the value, valid from `now` on. For tests and for demonstrations.
    pub fn in_memory(options: &AuthorityOptions, now: SystemTime) -> Result<Self, Error> {
        Ok(Self {
            trust_domain: options.trust_domain.clone(),
            observers: Issuing::generate(options, Hierarchy::Observers, now)?,
            observees: Issuing::generate(options, Hierarchy::Observees, now)?,
            state: None,
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// PEM of the authorities that verify the leaves of `hierarchy`.
    pub fn bundle_pem(&self, hierarchy: Hierarchy) -> &str {
        &self.issuing(hierarchy).bundle_pem
    }

    /// When the authority of `hierarchy` ends.
    pub fn not_after(&self, hierarchy: Hierarchy) -> SystemTime {
        self.issuing(hierarchy).facts.not_after
    }

    /// Makes a key and signs a leaf that is valid from now on.
    pub fn issue(&self, request: &LeafRequest) -> Result<LeafFiles, Error> {
        self.issue_at(request, SystemTime::now())
    }

    /// Makes a key and signs a leaf that is valid from `now` (less the backdating) on. Errors: another trust domain, names that are not allowed, an
    /// authority that is not valid at `now`.
    pub fn issue_at(&self, request: &LeafRequest, now: SystemTime) -> Result<LeafFiles, Error> {
        let identity = &request.identity;
        let refuse = |reason: String| Error::Refused { identity: identity.to_string(), reason };
        if *identity.trust_domain() != self.trust_domain {
            return Err(refuse(format!("this authority signs for {} only", self.trust_domain)));
        }
        let hierarchy = Hierarchy::of(identity.role());
        let issuing = self.issuing(hierarchy);
        if let Some(reason) = issuing.facts.outside_validity(now) {
            return Err(refuse(format!("the {} authority cannot sign: {reason}", hierarchy.as_str())));
        }
        let not_after = self.leaf_end(request, issuing, now)?;
        let params = leaf_params(request, now, not_after)?;
        let failed =
            |error: rcgen::Error| Error::Signing { subject: identity.to_string(), reason: error.to_string() };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &issuing.issuer()?).map_err(failed)?;
        let facts = Facts::read(certificate.der())
            .map_err(|reason| Error::Signing { subject: identity.to_string(), reason })?;
        let cert_pem = certificate.pem();
        if let Some(state) = &self.state {
            let _lock = state.lock()?;
            state.record_leaf(hierarchy, &facts.serial, &cert_pem)?;
        }
        Ok(LeafFiles {
            identity: identity.clone(),
            serial: facts.serial,
            not_after: facts.not_after,
            cert_pem,
            key_pem: key.serialize_pem(),
            ca_pem: self.issuing(hierarchy.opposite()).bundle_pem.clone(),
        })
    }

    /// Short for a server leaf of `cluster` that may be dialled by `names` (host names or addresses).
    pub fn issue_observee(&self, cluster: &str, names: &[&str]) -> Result<LeafFiles, Error> {
        let mut request = LeafRequest::new(PeerIdentity::observee(&self.trust_domain, cluster)?);
        for name in names {
            request = match name.parse() {
                Ok(address) => request.address(address),
                Err(_) => request.dns(*name),
            };
        }
        self.issue(&request)
    }

    /// Short for a client leaf of `hub`.
    pub fn issue_observer(&self, hub: &str) -> Result<LeafFiles, Error> {
        self.issue(&LeafRequest::new(PeerIdentity::observer(&self.trust_domain, hub)?))
    }

    fn leaf_end(
        &self,
        request: &LeafRequest,
        issuing: &Issuing,
        now: SystemTime,
    ) -> Result<SystemTime, Error> {
        let refuse = |reason: &str| {
            Err(Error::Refused { identity: request.identity.to_string(), reason: reason.to_owned() })
        };
        if request.lifetime.is_zero() {
            return refuse("its lifetime is zero");
        }
        if request.lifetime > MAX_LIFETIME {
            return refuse("its lifetime is longer than 20 years");
        }
        let asked = now + request.lifetime;
        if asked > issuing.facts.not_after {
            tracing::warn!(
                identity = %request.identity,
                until = %format_time(issuing.facts.not_after),
                "the authority ends before the certificate that was asked for; the certificate ends with it"
            );
        }
        Ok(asked.min(issuing.facts.not_after))
    }

    fn issuing(&self, hierarchy: Hierarchy) -> &Issuing {
        match hierarchy {
            Hierarchy::Observers => &self.observers,
            Hierarchy::Observees => &self.observees,
        }
    }
}

impl Issuing {
    const FIRST_GENERATION: u32 = 1;

    fn generate(options: &AuthorityOptions, hierarchy: Hierarchy, now: SystemTime) -> Result<Self, Error> {
        let subject = format!("the {} authority of {}", hierarchy.as_str(), options.trust_domain);
        if options.lifetime.is_zero() || options.lifetime > MAX_LIFETIME {
            return Err(Error::Signing {
                subject,
                reason: "its lifetime must be above zero and at most 20 years".to_owned(),
            });
        }
        let failed =
            |error: rcgen::Error| Error::Signing { subject: subject.clone(), reason: error.to_string() };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let digest = Sha256::digest(key.subject_public_key_info());
        let generation = Self::FIRST_GENERATION;
        let params = authority_params(
            options.trust_domain.as_str(),
            hierarchy,
            generation,
            &digest,
            now,
            options.lifetime,
        )?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let facts = Facts::read(certificate.der())
            .map_err(|reason| Error::Signing { subject: subject.clone(), reason })?;
        let cert_pem = certificate.pem();
        Ok(Self { hierarchy, generation, facts, bundle_pem: cert_pem.clone(), cert_pem, key })
    }

    fn load(state: &State, hierarchy: Hierarchy) -> Result<Self, Error> {
        let stored = state.newest_authority(hierarchy)?;
        let subject = format!("ca.crt of {} g{}", hierarchy.as_str(), stored.generation);
        let malformed = |reason: String| Error::Malformed { subject: subject.clone(), reason };
        let certificates = parse_bundle(&subject, &stored.cert_pem)?;
        let certificate = certificates.first().ok_or_else(|| malformed("it is empty".to_owned()))?;
        let facts = Facts::read(certificate).map_err(malformed)?;
        let key = KeyPair::from_pem(&stored.key_pem).map_err(|error| Error::Malformed {
            subject: format!("ca.key of {} g{}", hierarchy.as_str(), stored.generation),
            reason: error.to_string(),
        })?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| Error::Malformed { subject: subject.clone(), reason: error.to_string() })?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            let key_name = format!("ca.key of {} g{}", hierarchy.as_str(), stored.generation);
            return Err(Error::KeyMismatch { cert: subject, key: key_name });
        }
        let (bundle_name, bundle_pem) = state.bundle(hierarchy)?;
        parse_bundle(&bundle_name, &bundle_pem)?;
        Ok(Self {
            hierarchy,
            generation: stored.generation,
            facts,
            cert_pem: stored.cert_pem,
            bundle_pem,
            key,
        })
    }

    fn stored(&self) -> StoredAuthority {
        StoredAuthority {
            hierarchy: self.hierarchy,
            generation: self.generation,
            cert_pem: self.cert_pem.clone(),
            key_pem: self.key.serialize_pem(),
        }
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, Error> {
        let missing = |what: &str| Error::Signing {
            subject: format!("with the {} authority", self.hierarchy.as_str()),
            reason: format!("its certificate has no {what}"),
        };
        let name = self.facts.common_name.clone().ok_or_else(|| missing("common name"))?;
        let identifier =
            self.facts.key_identifier.clone().ok_or_else(|| missing("subject key identifier"))?;
        Ok(Issuer::new(issuer_params(name, identifier)?, &self.key))
    }
}
