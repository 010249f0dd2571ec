//! What every component gets from the process: where to count, when to stop, and a place to say whether it is ready.
//!
//! Invariant: the process is ready if and only if every [`Condition`] is; a condition begins as not ready, so a component that has not spoken keeps
//! the process from being called ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use parallax_telemetry::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Handed to each component when it starts. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Context {
    pub metrics: Metrics,
    /// Cancelled when the process shall end; background tasks stop then.
    pub shutdown: CancellationToken,
    pub readiness: Readiness,
}

impl Context {
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, shutdown: CancellationToken::new(), readiness: Readiness::new() }
    }

    /// A context of its own, for tests.
    pub fn for_test() -> Self {
        Self::new(Metrics::new())
    }

    /// The same process, with more constant labels on the metrics. For several components in one process.
    pub fn scoped<K: Into<String>, V: Into<String>>(&self, labels: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { metrics: self.metrics.scoped(labels), ..self.clone() }
    }
}

/// Whether the process is ready, and if not, why.
#[derive(Clone)]
pub struct Readiness {
    shared: Arc<Shared>,
}

struct Shared {
    /// By name of the condition; `None`: ready.
    conditions: Mutex<BTreeMap<String, Option<String>>>,
    ready: watch::Sender<bool>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").field("reasons", &self.reasons()).finish()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Without conditions, and so ready.
    pub fn new() -> Self {
        let (ready, _) = watch::channel(true);
        Self { shared: Arc::new(Shared { conditions: Mutex::default(), ready }) }
    }

    /// Adds a condition, which is not ready yet. A name that is there already gives the same condition, made not ready.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let condition = Condition { name: name.into(), readiness: self.clone() };
        condition.not_ready("starting");
        condition
    }

    pub fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// `name: reason` for each condition that is not ready.
    pub fn reasons(&self) -> Vec<String> {
        let conditions = self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.iter().filter_map(|(name, reason)| Some(format!("{name}: {}", reason.as_ref()?))).collect()
    }

    /// A receiver that is told when readiness changes.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    fn set(&self, name: &str, reason: Option<String>) {
        let mut conditions = self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.insert(name.to_owned(), reason);
        let ready = conditions.values().all(Option::is_none);
        // Under the lock, so that the last change is the one that stays.
        self.shared.ready.send_if_modified(|current| std::mem::replace(current, ready) != ready);
    }
}

/// One thing that must hold before the process is ready.
#[derive(Clone, Debug)]
pub struct Condition {
    name: String,
    readiness: Readiness,
}

impl Condition {
    pub fn ready(&self) {
        self.readiness.set(&self.name, None);
    }

    /// `reason` is shown by `/-/ready`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness.set(&self.name, Some(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_condition_is() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let store = readiness.condition("store");
        let query = readiness.condition("query");
        store.ready();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons(), ["query: starting"]);
        query.ready();
        assert!(readiness.is_ready());
        store.not_ready("bucket is out of reach");
        assert_eq!(readiness.reasons(), ["store: bucket is out of reach"]);
    }
}
