//! TLS and basic authentication of an HTTP server, replaced while it serves.
//!
//! Invariants: each connection takes the rules that are current when it is accepted for TLS, each request those that are current when it comes for its
//! password; rules that have TLS are never replaced by rules without. A password costs a thread of its own and is remembered, so that guesses do not hold up
//! those who serve.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parallax_pki::CredentialSource;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::Error;

/// Passwords that are looked at side by side.
const MAX_CHECKS: usize = 2;
/// Judgements that are remembered.
const MAX_REMEMBERED: usize = 100;
/// Most work (as a power of two) that one password may cost: a few seconds.
const MAX_COST: u32 = 15;
/// Looked at for users who do not exist, so that they take as long as others. Of no password.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuujMmdNDXTK0nSCgRShBTYj8.YJwDX0q2";

/// What an HTTP server asks of its clients. By default nothing, in plain text.
#[derive(Clone, Debug, Default)]
pub struct HttpSecurity {
    rules: Arc<ArcSwap<HttpRules>>,
}

/// One set of rules.
#[derive(Clone, Debug, Default)]
pub struct HttpRules {
    /// `None`: plain text.
    pub tls: Option<CredentialSource>,
    /// `None`: no password is asked for.
    pub users: Option<Users>,
}

impl HttpSecurity {
    pub fn new(rules: HttpRules) -> Self {
        Self { rules: Arc::new(ArcSwap::from_pointee(rules)) }
    }

    pub(super) fn current(&self) -> Arc<HttpRules> {
        self.rules.load_full()
    }

    /// Errors: the rules in use have TLS or passwords, and these have not.
    pub fn replace(&self, rules: HttpRules) -> Result<(), Error> {
        let current = self.current();
        if current.tls.is_some() && rules.tls.is_none() || current.users.is_some() && rules.users.is_none() {
            return Err(Error::Weaker);
        }
        self.rules.store(Arc::new(rules));
        Ok(())
    }
}

/// Who may ask, with bcrypt hashes of their passwords.
#[derive(Clone)]
pub struct Users {
    shared: Arc<Shared>,
}

struct Shared {
    hashes: BTreeMap<String, String>,
    checks: Semaphore,
    remembered: Mutex<HashMap<[u8; 32], bool>>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.shared.hashes.keys()).finish()
    }
}

impl Users {
    /// `hashes` by the user's name. Errors: one is no bcrypt hash, or costs too much.
    pub fn new(hashes: BTreeMap<String, String>) -> Result<Self, Error> {
        for (user, hash) in &hashes {
            let refuse = |reason: String| Error::User { user: user.clone(), reason };
            let parts: bcrypt::HashParts =
                hash.parse().map_err(|error| refuse(format!("its password is no bcrypt hash ({error})")))?;
            if parts.get_cost() > MAX_COST {
                return Err(refuse(format!(
                    "its bcrypt hash has the cost {}; at most {MAX_COST} is taken",
                    parts.get_cost()
                )));
            }
            if user.is_empty() || user.contains(':') {
                return Err(refuse("a user's name is not empty and has no colon".to_owned()));
            }
        }
        let checks = Semaphore::new(MAX_CHECKS);
        Ok(Self { shared: Arc::new(Shared { hashes, checks, remembered: Mutex::default() }) })
    }

    /// Whether these headers of a request carry a user and the password.
    pub(super) async fn admit(&self, headers: &http::HeaderMap) -> bool {
        let Some((user, password)) = credentials(headers) else { return false };
        let known = self.shared.hashes.get(&user);
        let hash = known.map_or(NOBODY, String::as_str).to_owned();
        let key = fingerprint(&[&user, &hash, &password]);
        let remembered = || self.shared.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judged) = remembered().get(&key) {
            return *judged;
        }
        // The semaphore is never closed.
        let Ok(_check) = self.shared.checks.acquire().await else { return false };
        let is_known = known.is_some();
        let checking = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let judged = checking.await.unwrap_or(false) && is_known;
        let mut remembered = remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, judged);
        judged
    }
}

fn credentials(headers: &http::HeaderMap) -> Option<(String, String)> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn fingerprint(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}
