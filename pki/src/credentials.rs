//! Credentials that change while they are used: a watch of checked [`Material`].
//!
//! Invariants: subscribers see only sets that passed every check; a bad new set leaves the good one in place and is logged once, not at every
//! look. A set is replaced as a whole. New handshakes take the current set; what to do with connections of the former one is the holder's business.
//!
//! Files are compared by content, not by time or event: it works on projected volumes, NFS and plain directories alike.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::Error;
use crate::certificate::Facts;
use crate::material::{CredentialPem, Material, Subjects, TlsProfile, fingerprint};
use crate::state::read_bounded;

/// How often files are looked at unless told otherwise.
pub const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Where a set of credentials lies. `None`: there is none of the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// PEM chain, leaf first.
    pub cert: Option<PathBuf>,
    /// PEM private key (PKCS#8, SEC1 or PKCS#1).
    pub key: Option<PathBuf>,
    /// PEM bundle that verifies the peers.
    pub ca: Option<PathBuf>,
}

impl CredentialFiles {
    /// The three files as `pki issue` writes them into `directory`.
    pub fn in_directory(directory: &std::path::Path) -> Self {
        use crate::leaf_files::{CA_FILE, CERTIFICATE_FILE, KEY_FILE};
        Self {
            cert: Some(directory.join(CERTIFICATE_FILE)),
            key: Some(directory.join(KEY_FILE)),
            ca: Some(directory.join(CA_FILE)),
        }
    }

    /// Why the private key is not private; `None` if it is, or cannot be looked at. Mounted secrets are like that unless they are told otherwise, so this is
    /// a warning, where an authority's own state makes it an error.
    pub fn key_exposure(&self) -> Option<String> {
        let path = self.key.as_deref()?;
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o006 != 0).then(|| {
            format!(
                "mode {mode:04o} lets everybody on this machine at it; chmod 600 {}, or defaultMode: 0400 of a mounted secret",
                path.display()
            )
        })
    }

    fn read(&self) -> Result<CredentialPem, Error> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(read_bounded).transpose();
        Ok(CredentialPem { cert: read(&self.cert)?, key: read(&self.key)?, ca: read(&self.ca)? })
    }

    fn subjects(&self) -> Subjects {
        let defaults = Subjects::default();
        let name = |path: &Option<PathBuf>, default: String| {
            path.as_deref().map_or(default, |path| path.display().to_string())
        };
        Subjects {
            cert: name(&self.cert, defaults.cert),
            key: name(&self.key, defaults.key),
            ca: name(&self.ca, defaults.ca),
        }
    }
}

/// How the last changes went.
#[derive(Clone, Debug)]
pub struct CredentialStatus {
    /// When the current set was taken up.
    pub last_success: SystemTime,
    /// Sets taken up, the first included.
    pub successes: u64,
    /// Sets refused.
    pub failures: u64,
    /// Why the last look failed; `None` after a success.
    pub last_error: Option<String>,
}

/// A handle to a set of credentials that may be replaced. Cloning is cheap; all clones see the same set.
#[derive(Clone)]
pub struct CredentialSource {
    inner: Arc<Inner>,
}

struct Inner {
    profile: TlsProfile,
    subjects: Subjects,
    files: Option<CredentialFiles>,
    sender: watch::Sender<Arc<Material>>,
    log: Mutex<ChangeLog>,
    /// Open connections by the name of the peer's issuer.
    connections: Mutex<BTreeMap<String, usize>>,
}

/// Names of issuers that are told apart; connections to others are counted together.
const MAX_ISSUERS: usize = 32;

/// An open connection, counted until this is dropped.
pub struct CountedConnection {
    inner: Arc<Inner>,
    issuer: String,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut connections = self.inner.connections();
        if let Some(count) = connections.get_mut(&self.issuer) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.issuer);
            }
        }
    }
}

struct ChangeLog {
    status: CredentialStatus,
    /// Digest of the last set that was looked at, good or bad, or of the error in reading it.
    seen: [u8; 32],
}

impl std::fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialSource")
            .field("files", &self.inner.files)
            .field("material", &self.current())
            .finish()
    }
}

impl CredentialSource {
    /// Credentials held in memory; [`CredentialSource::swap`] replaces them. Errors: the set is not good.
    pub fn from_pem(pem: CredentialPem, profile: impl Into<TlsProfile>) -> Result<Self, Error> {
        Self::start(&pem, profile.into(), Subjects::default(), None)
    }

    /// Credentials read from files, once. Errors: a file cannot be read; the set is not good.
    pub fn from_files(files: CredentialFiles, profile: impl Into<TlsProfile>) -> Result<Self, Error> {
        let pem = files.read()?;
        if let Some(reason) = files.key_exposure() {
            tracing::warn!(reason, "the private key is not private");
        }
        Self::start(&pem, profile.into(), files.subjects(), Some(files))
    }

    fn start(
        pem: &CredentialPem,
        profile: TlsProfile,
        subjects: Subjects,
        files: Option<CredentialFiles>,
    ) -> Result<Self, Error> {
        let now = SystemTime::now();
        let material = Material::build(pem, profile, &subjects, now)?;
        if let Some(reason) = material.leaf().and_then(|leaf| leaf.outside_validity(now)) {
            tracing::error!(certificate = subjects.cert, reason, "peers will refuse our certificate");
        }
        let status = CredentialStatus { last_success: now, successes: 1, failures: 0, last_error: None };
        let log = Mutex::new(ChangeLog { status, seen: fingerprint(pem) });
        let (sender, _) = watch::channel(Arc::new(material));
        let connections = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { profile, subjects, files, sender, log, connections }) })
    }

    /// Looks at the files every `interval` for as long as a clone of this handle exists. Does nothing for credentials in memory. Must be called within a
    /// tokio runtime.
    #[must_use]
    pub fn poll_every(self, interval: Duration) -> Self {
        if self.inner.files.is_none() {
            return self;
        }
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(poll(weak, interval.max(Duration::from_millis(10))));
        self
    }

    /// The set to use for the next handshake.
    pub fn current(&self) -> Arc<Material> {
        Arc::clone(&self.inner.sender.borrow())
    }

    /// A receiver that is told of each new set.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Material>> {
        self.inner.sender.subscribe()
    }

    /// Counts an open connection with a peer that shows `leaf` (DER): a rotation waits until connections made with old leaves are gone.
    pub fn count_connection(&self, leaf: Option<&[u8]>) -> CountedConnection {
        let issuer =
            leaf.and_then(|leaf| Facts::read(leaf).ok()).map(|facts| facts.issuer).unwrap_or_default();
        let mut connections = self.inner.connections();
        let told_apart = connections.contains_key(&issuer) || connections.len() < MAX_ISSUERS;
        let issuer = if told_apart { issuer } else { "others".to_owned() };
        *connections.entry(issuer.clone()).or_insert(0) += 1;
        CountedConnection { inner: Arc::clone(&self.inner), issuer }
    }

    /// Open connections by the name of the peer's issuer.
    pub fn connections_by_issuer(&self) -> BTreeMap<String, usize> {
        self.inner.connections().clone()
    }

    /// How the last changes went.
    pub fn status(&self) -> CredentialStatus {
        self.inner.log().status.clone()
    }

    /// What the credentials are for.
    pub fn profile(&self) -> TlsProfile {
        self.inner.profile
    }

    /// Replaces the set. Errors: the new set is not good, or its leaf is not valid now while the one in use is; the old set stays. A set equal to the
    /// current one changes nothing.
    pub fn swap(&self, pem: &CredentialPem) -> Result<(), Error> {
        let result = self.inner.offer(pem);
        self.inner.note(&result, fingerprint(pem));
        result.map(|_| ())
    }

    /// Looks at the files now. `Ok(true)`: a new set is in use. Errors as for [`CredentialSource::swap`]; credentials in memory never change by this.
    pub fn reload(&self) -> Result<bool, Error> {
        self.inner.reload()
    }
}

impl Inner {
    fn connections(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> std::sync::MutexGuard<'_, ChangeLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload(&self) -> Result<bool, Error> {
        let Some(files) = &self.files else { return Ok(false) };
        let read = files.read();
        let mark = match &read {
            Ok(pem) => fingerprint(pem),
            Err(error) => Sha256::digest(error.to_string()).into(),
        };
        {
            let log = self.log();
            // A refused set is tried again even if it has not changed: time may have made it valid.
            if log.seen == mark && log.status.last_error.is_none() {
                return Ok(false);
            }
        }
        let result = read.and_then(|pem| self.offer(&pem));
        self.note(&result, mark);
        result
    }

    /// Checks and publishes; `Ok(false)` if the set is the current one.
    fn offer(&self, pem: &CredentialPem) -> Result<bool, Error> {
        let now = SystemTime::now();
        let material = Material::build(pem, self.profile, &self.subjects, now)?;
        let current = Arc::clone(&self.sender.borrow());
        if current.digest() == material.digest() {
            return Ok(false);
        }
        let valid = |facts: Option<&Facts>| facts.is_none_or(|facts| facts.outside_validity(now).is_none());
        if valid(current.leaf())
            && let Some(detail) = material.leaf().and_then(|leaf| leaf.outside_validity(now))
        {
            return Err(Error::NotValidNow { subject: self.subjects.cert.clone(), detail });
        }
        check_no_step_back(&self.subjects.ca, &current, &material)?;
        self.sender.send_replace(Arc::new(material));
        Ok(true)
    }

    fn note(&self, result: &Result<bool, Error>, mark: [u8; 32]) {
        let mut log = self.log();
        let known = log.seen == mark;
        log.seen = mark;
        match result {
            Ok(changed) => {
                log.status.last_error = None;
                if *changed {
                    log.status.successes += 1;
                    log.status.last_success = SystemTime::now();
                    let material = self.sender.borrow();
                    let until = material.leaf().map(|leaf| crate::certificate::format_time(leaf.not_after));
                    tracing::info!(
                        certificate = self.subjects.cert,
                        valid_until = until.as_deref().unwrap_or("no certificate"),
                        "new credentials are in use"
                    );
                }
            }
            Err(error) => {
                let text = error.to_string();
                if known && log.status.last_error.as_ref() == Some(&text) {
                    return;
                }
                log.status.failures += 1;
                log.status.last_error = Some(text);
                tracing::error!(%error, "new credentials are refused; those in use stay");
            }
        }
    }
}

/// Revocation lists never go back: whoever could put an old one in place would bring a revoked certificate to life again.
fn check_no_step_back(subject: &str, current: &Material, offered: &Material) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Malformed { subject: subject.to_owned(), reason });
    for known in current.revocation_lists() {
        let number = known.number_text();
        match offered.revocation_lists().iter().find(|list| list.signer() == known.signer()) {
            Some(list) if list.is_older_than(known) => {
                return refuse(format!(
                    "its revocation list has the number {}, the one in use {number}: it is an older one",
                    list.number_text()
                ));
            }
            Some(_) => {}
            // A CA that is no longer trusted takes its list along.
            None if offered.trusts(known.signer()) => {
                return refuse(format!(
                    "the revocation list {number} of a CA that it still trusts is missing"
                ));
            }
            None => {}
        }
    }
    Ok(())
}

async fn poll(weak: Weak<Inner>, interval: Duration) {
    let mut ticker = tokio::time::interval(interval);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticker.tick().await;
    loop {
        ticker.tick().await;
        let Some(inner) = weak.upgrade() else { return };
        // File systems may hang; a handshake must not wait for them. The outcome is noted inside.
        let _ = tokio::task::spawn_blocking(move || inner.reload().map(|_| ())).await;
    }
}
