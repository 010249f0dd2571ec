//! Issuing leaves, signing requests, renewing.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, SubjectPublicKeyInfo};
use sha2::{Digest as _, Sha256};

use super::{Authority, Book, Change, MAX_LIFETIME, issued_file, timestamp};
use crate::Error;
use crate::certificate::{Facts, format_time, parse_bundle};
use crate::csr::CertificateRequest;
use crate::identity::PeerIdentity;
use crate::issuing::Generation;
use crate::leaf_files::LeafFiles;
use crate::ledger::{Event, Leaf, LeafRecord};
use crate::profile::{Hierarchy, LeafRequest, leaf_params};
use crate::state::issued_place;

/// Where a leaf goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// The caller takes it. It is in the inventory but cannot be renewed from there.
    Caller,
    /// `leaves/<role>/<name>` within the state.
    State,
    /// A directory (for a signed request: a file), absolute.
    Place(PathBuf),
}

impl Home {
    fn record(&self, identity: &PeerIdentity) -> Option<String> {
        match self {
            Self::Caller => None,
            Self::State => Some(format!("leaves/{}/{}", identity.role(), identity.name())),
            Self::Place(path) => Some(path.display().to_string()),
        }
    }
}

/// A certificate for a key that the holder made.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    pub identity: PeerIdentity,
    pub serial: String,
    pub not_after: SystemTime,
    pub cert_pem: String,
    pub ca_pem: String,
    /// What was asked for and not granted.
    pub dropped: Vec<String>,
}

/// When a leaf is due.
#[derive(Clone, Copy, Debug)]
pub struct RenewPolicy {
    /// The part of its life after which it is renewed.
    pub at: f64,
    /// The part of its life by which that moves, so that leaves of one hour are not renewed in one second.
    pub jitter: f64,
    /// Renew what is not due, too.
    pub force: bool,
    /// Keep the key. A requested leaf always does: we never had it.
    pub keep_key: bool,
}

impl Default for RenewPolicy {
    fn default() -> Self {
        Self { at: 0.66, jitter: 0.05, force: false, keep_key: false }
    }
}

/// A leaf that was renewed.
#[derive(Clone, Debug)]
pub struct Renewed {
    pub identity: PeerIdentity,
    pub former_serial: String,
    pub serial: String,
    pub not_after: SystemTime,
    pub home: Option<String>,
}

/// When the leaf is due. The jitter follows from the serial number, so that asking twice gives one answer.
pub fn renew_at(record: &LeafRecord, policy: RenewPolicy) -> SystemTime {
    let digest = Sha256::digest(&record.serial);
    let number = digest.iter().take(4).fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
    // In -1 ..= 1.
    let offset = f64::from(number) / f64::from(u32::MAX) * 2.0 - 1.0;
    let part = (policy.at + policy.jitter * offset).clamp(0.0, 1.0);
    let (start, end) = (SystemTime::from(record.not_before), SystemTime::from(record.not_after));
    start + end.duration_since(start).unwrap_or_default().mul_f64(part)
}

impl Authority {
    /// Makes a key and signs a leaf that is valid from now on. The caller keeps it.
    pub fn issue(&self, request: &LeafRequest) -> Result<LeafFiles, Error> {
        self.issue_at(request, SystemTime::now())
    }

    /// Makes a key and signs a leaf that is valid from `now` (less the backdating) on. Errors: another trust domain, names that are not allowed, an
    /// authority that is not valid at `now`.
    pub fn issue_at(&self, request: &LeafRequest, now: SystemTime) -> Result<LeafFiles, Error> {
        self.issue_to(request, &Home::Caller, now)
    }

    /// As [`Authority::issue_at`]; the leaf is also written to `home`, and renewed there by [`Authority::renew`].
    pub fn issue_to(&self, request: &LeafRequest, home: &Home, now: SystemTime) -> Result<LeafFiles, Error> {
        self.change(now, |book, change| {
            self.add_leaf(book, change, request, home.record(&request.identity), now)
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

    /// Signs the key of `request` for `granted`. What the request asks for beyond that is refused, or left out if `drop_extra`; the identity of somebody
    /// else is refused always.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        granted: &LeafRequest,
        home: &Home,
        drop_extra: bool,
        now: SystemTime,
    ) -> Result<SignedRequest, Error> {
        let refuse = |reason: String| Error::Refused { identity: granted.identity.to_string(), reason };
        if let Some(other) = request.other_identity(&granted.identity) {
            return Err(refuse(format!(
                "the request is for {other}; sign it for that one, or have it made again"
            )));
        }
        let dropped = request.beyond(granted);
        if !dropped.is_empty() && !drop_extra {
            return Err(refuse(format!(
                "the request asks for more than is granted: {}; grant names with --dns and --ip, or leave them out with --drop-extra",
                dropped.join(", ")
            )));
        }
        let home = home.record(&granted.identity);
        let (record, cert_pem, ca_pem) = self.change(now, |book, change| {
            self.add_requested(book, change, (granted, home), &request.public_key, now)
        })?;
        Ok(SignedRequest {
            identity: granted.identity.clone(),
            serial: record.serial,
            not_after: record.not_after.into(),
            cert_pem,
            ca_pem,
            dropped,
        })
    }

    /// Replaces current leaves that `select` picks and that are due. Errors: one cannot be signed; those before it are renewed.
    pub fn renew(
        &self,
        select: impl Fn(&Leaf) -> bool,
        policy: RenewPolicy,
        now: SystemTime,
    ) -> Result<Vec<Renewed>, Error> {
        let ledger = self.ledger();
        let signing = |hierarchy| ledger.phase(hierarchy).map(crate::rotation::Phase::signing);
        let due = |leaf: &&Leaf| {
            leaf.record.home.is_some()
                && select(leaf)
                && (policy.force
                    || signing(leaf.record.hierarchy) != Some(leaf.record.generation)
                    || renew_at(&leaf.record, policy) <= now)
        };
        let due: Vec<Leaf> = ledger.current().into_iter().filter(due).cloned().collect();
        due.iter().map(|leaf| self.renew_leaf(leaf, policy, now)).collect()
    }

    /// One entry of the journal per leaf: an interruption costs at most one.
    fn renew_leaf(&self, leaf: &Leaf, policy: RenewPolicy, now: SystemTime) -> Result<Renewed, Error> {
        let record = &leaf.record;
        let request = LeafRequest {
            identity: leaf.identity.clone(),
            dns_names: record.dns_names.clone(),
            addresses: record.addresses.clone(),
            lifetime: Duration::from_secs(record.lifetime_s),
        };
        let (serial, not_after) = self.change(now, |book, change| {
            if record.requested {
                let key = self.issued_key(record)?;
                let granted = (&request, record.home.clone());
                let (new, ..) = self.add_requested(book, change, granted, &key, now)?;
                return Ok((new.serial, new.not_after.into()));
            }
            let kept = if policy.keep_key { self.delivered_key(record)? } else { None };
            let files = match kept {
                Some(key) => {
                    self.add_leaf_with_key(book, change, (&request, record.home.clone()), &key, now)?
                }
                None => self.add_leaf(book, change, &request, record.home.clone(), now)?,
            };
            Ok((files.serial, files.not_after))
        })?;
        Ok(Renewed {
            identity: leaf.identity.clone(),
            former_serial: record.serial.clone(),
            serial,
            not_after,
            home: record.home.clone(),
        })
    }

    /// The public key of an issued certificate, from the state.
    fn issued_key(&self, record: &LeafRecord) -> Result<SubjectPublicKeyInfo, Error> {
        let subject = format!("the certificate {}", record.serial);
        let malformed = |reason: String| Error::Malformed { subject: subject.clone(), reason };
        let state = self.state.as_ref().ok_or_else(|| malformed("it is not kept in memory".to_owned()))?;
        let pem = state.text(&issued_place(record.hierarchy, &record.serial))?;
        let certificates = parse_bundle(&subject, &pem)?;
        let facts = certificates.first().map(|der| Facts::read(der)).transpose().map_err(malformed)?;
        let public_key = facts.map(|facts| facts.public_key).unwrap_or_default();
        SubjectPublicKeyInfo::from_der(&public_key).map_err(|error| malformed(error.to_string()))
    }

    /// The key in the leaf's directory, for `--keep-key`.
    fn delivered_key(&self, record: &LeafRecord) -> Result<Option<KeyPair>, Error> {
        let (Some(state), Some(home)) = (&self.state, &record.home) else { return Ok(None) };
        let path = state.directory().join(home).join(crate::leaf_files::KEY_FILE);
        let pem = zeroize::Zeroizing::new(crate::state::read_bounded(&path)?);
        crate::key_file::read_key(&path.display().to_string(), &pem, None).map(Some)
    }

    fn add_leaf(
        &self,
        book: &Book,
        change: &mut Change,
        request: &LeafRequest,
        home: Option<String>,
        now: SystemTime,
    ) -> Result<LeafFiles, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| Error::Signing {
            subject: request.identity.to_string(),
            reason: error.to_string(),
        })?;
        self.add_leaf_with_key(book, change, (request, home), &key, now)
    }

    fn add_leaf_with_key(
        &self,
        book: &Book,
        change: &mut Change,
        (request, home): (&LeafRequest, Option<String>),
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<LeafFiles, Error> {
        let (record, cert_pem) = self.sign(book, (request, home), key, false, now)?;
        let files = LeafFiles {
            identity: request.identity.clone(),
            serial: record.serial.clone(),
            not_after: record.not_after.into(),
            cert_pem,
            key_pem: key.serialize_pem(),
            ca_pem: book.bundle(record.hierarchy.opposite()),
        };
        if record.home.is_some() {
            let pending = PathBuf::from("pending").join(&record.serial);
            for (name, bytes) in files.files() {
                change.stage(pending.join(name), bytes);
            }
        }
        change.files.push(issued_file(record.hierarchy, &record.serial, &files.cert_pem));
        change.events.push(Event::LeafIssued(Box::new(record)));
        Ok(files)
    }

    fn add_requested(
        &self,
        book: &Book,
        change: &mut Change,
        granted: (&LeafRequest, Option<String>),
        key: &SubjectPublicKeyInfo,
        now: SystemTime,
    ) -> Result<(LeafRecord, String, String), Error> {
        let (record, cert_pem) = self.sign(book, granted, key, true, now)?;
        if record.home.is_some() {
            let pending = PathBuf::from("pending").join(&record.serial);
            change.stage(pending.join(crate::leaf_files::CERTIFICATE_FILE), cert_pem.as_bytes());
        }
        change.files.push(issued_file(record.hierarchy, &record.serial, &cert_pem));
        change.events.push(Event::LeafIssued(Box::new(record.clone())));
        let ca_pem = book.bundle(record.hierarchy.opposite());
        Ok((record, cert_pem, ca_pem))
    }

    fn sign(
        &self,
        book: &Book,
        (request, home): (&LeafRequest, Option<String>),
        public_key: &impl rcgen::PublicKeyData,
        requested: bool,
        now: SystemTime,
    ) -> Result<(LeafRecord, String), Error> {
        let identity = &request.identity;
        let subject = identity.to_string();
        if *identity.trust_domain() != self.trust_domain {
            let reason = format!(
                "this authority signs for {} only; use the state of the other mesh (--state)",
                self.trust_domain
            );
            return Err(Error::Refused { identity: subject, reason });
        }
        let hierarchy = Hierarchy::of(identity.role());
        let generation = book.signing_or_error(hierarchy)?;
        generation.check_validity(&subject, now)?;
        let not_after = leaf_end(request, generation, now)?;
        let params = leaf_params(request, now, not_after)?;
        let (cert_pem, facts) = generation.sign_leaf(&subject, &params, public_key, self.unlock.as_ref())?;
        let record = LeafRecord {
            hierarchy,
            generation: generation.number,
            serial: facts.serial,
            identity: subject,
            not_before: timestamp(facts.not_before)?,
            not_after: timestamp(facts.not_after)?,
            dns_names: request.dns_names.clone(),
            addresses: request.addresses.clone(),
            lifetime_s: request.lifetime.as_secs(),
            requested,
            home,
        };
        Ok((record, cert_pem))
    }
}

fn leaf_end(request: &LeafRequest, issuer: &Generation, now: SystemTime) -> Result<SystemTime, Error> {
    let refuse = |reason: &str| {
        Err(Error::Refused { identity: request.identity.to_string(), reason: reason.to_owned() })
    };
    if request.lifetime.is_zero() {
        return refuse("its lifetime is zero; give at least --days 1");
    }
    if request.lifetime > MAX_LIFETIME {
        return refuse("its lifetime is longer than 20 years; give fewer --days");
    }
    let asked = now + request.lifetime;
    let end = issuer.facts.not_after;
    if asked > end {
        tracing::warn!(
            identity = %request.identity,
            until = %format_time(end),
            "the authority ends before the certificate that was asked for; the certificate ends with it"
        );
    }
    Ok(asked.min(end))
}
