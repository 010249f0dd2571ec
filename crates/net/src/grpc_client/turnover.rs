//! When calls move to a new connection: the credentials changed, the server's leaf is of a CA that is on its way out, or the connection is old.
//!
//! A server that has renewed its leaf does not say so to those who are connected. While a CA is being replaced the bundle names the new one first; who is
//! connected by a leaf of another one then looks again, soon and ever more rarely, so that a rotation need not wait for connections to grow old.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use parallax_pki::Material;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Inner;

/// Pauses between attempts to connect anew.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);
/// How soon to look again at a server whose leaf is of a former CA, at first and at last.
const FORMER_CA: Duration = Duration::from_secs(2);
const FORMER_CA_LIMIT: Duration = Duration::from_secs(600);

/// The issuer of the leaf that the server showed last.
#[derive(Debug, Default)]
pub(super) struct Shown {
    issuer: Mutex<Vec<u8>>,
    changed: Notify,
}

impl Shown {
    /// A handshake was done: `issuer` is DER.
    pub(super) fn note(&self, issuer: Vec<u8>) {
        *self.issuer.lock().unwrap_or_else(PoisonError::into_inner) = issuer;
        self.changed.notify_one();
    }

    fn is_of_former_ca(&self, material: &Material) -> bool {
        material.is_of_former_ca(&self.issuer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Moves the calls of `inner` whenever it is time, until `stop`.
pub(super) async fn turn_over(
    inner: Weak<Inner>,
    mut changes: watch::Receiver<Arc<Material>>,
    shown: Arc<Shown>,
    max_age: Duration,
    stop: CancellationToken,
) {
    let mut plan = Plan::new(max_age, Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                plan.credentials_changed();
            }
            () = shown.changed.notified() => {
                plan.leaf_seen(shown.is_of_former_ca(&changes.borrow()), Instant::now());
                continue;
            }
            () = tokio::time::sleep_until(plan.due()) => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        match inner.prove().await {
            Ok(live) => {
                inner.current.store(Arc::new(live));
                plan.moved(Instant::now());
                tracing::debug!(address = inner.address, "calls moved to a new connection");
            }
            Err(reason) => {
                // That an endpoint is down is said by whoever asks it.
                if plan.has_new_credentials {
                    tracing::warn!(
                        reason,
                        "no connection with the new credentials yet; the old one stays in use"
                    );
                }
                plan.failed(Instant::now());
            }
        }
    }
}

/// When to move next.
struct Plan {
    max_age: Duration,
    old_at: Instant,
    /// After an attempt that failed.
    again_at: Option<Instant>,
    backoff: Duration,
    has_new_credentials: bool,
    former_ca_at: Option<Instant>,
    former_ca_pause: Duration,
}

impl Plan {
    fn new(max_age: Duration, now: Instant) -> Self {
        Self {
            max_age,
            old_at: now + spread(max_age),
            again_at: None,
            backoff: BACKOFF,
            has_new_credentials: false,
            former_ca_at: None,
            former_ca_pause: FORMER_CA,
        }
    }

    fn due(&self) -> Instant {
        // While attempts fail, only their backoff counts.
        self.again_at.unwrap_or_else(|| self.former_ca_at.map_or(self.old_at, |at| at.min(self.old_at)))
    }

    fn credentials_changed(&mut self) {
        (self.has_new_credentials, self.backoff, self.former_ca_pause) = (true, BACKOFF, FORMER_CA);
    }

    fn leaf_seen(&mut self, is_of_former_ca: bool, now: Instant) {
        if !is_of_former_ca {
            (self.former_ca_at, self.former_ca_pause) = (None, FORMER_CA);
            return;
        }
        self.former_ca_at = Some(now + self.former_ca_pause);
        self.former_ca_pause = (self.former_ca_pause * 2).min(FORMER_CA_LIMIT);
    }

    fn moved(&mut self, now: Instant) {
        self.old_at = now + spread(self.max_age);
        (self.again_at, self.former_ca_at) = (None, None);
        (self.backoff, self.has_new_credentials) = (BACKOFF, false);
    }

    fn failed(&mut self, now: Instant) {
        self.again_at = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_LIMIT);
    }
}

/// A tenth more or less, so that the connections of a hub do not move together.
fn spread(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2001;
    let share = 0.9 + f64::from(u32::try_from(random).unwrap_or_default()) / 10_000.0;
    age.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_leaf_of_a_former_ca_is_looked_at_again_ever_more_rarely_until_it_is_gone() {
        let now = Instant::now();
        let mut plan = Plan::new(HOUR, now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            plan.leaf_seen(true, now);
            pauses.push(plan.due().duration_since(now).as_secs());
            plan.moved(now);
        }
        assert_eq!(pauses[..4], [2, 4, 8, 16]);
        assert_eq!(pauses[11], 600);
        plan.leaf_seen(false, now);
        let age = plan.due().duration_since(now);
        assert!(age >= HOUR.mul_f64(0.9) && age <= HOUR.mul_f64(1.1), "{age:?}");
        plan.leaf_seen(true, now);
        assert_eq!(plan.due().duration_since(now), FORMER_CA);
    }

    #[test]
    fn an_attempt_that_fails_is_repeated_with_growing_pauses_and_no_sooner() {
        let now = Instant::now();
        let mut plan = Plan::new(HOUR, now);
        plan.credentials_changed();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            plan.failed(now);
            plan.leaf_seen(true, now);
            pauses.push(plan.due().duration_since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }
}
