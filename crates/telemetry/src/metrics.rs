//! The metrics registry of a process, and its text form for `/metrics`.
//!
//! Invariants:
//! - A name under the same constant labels is one metric: registering it again gives back the one that is there, so that two servers or two
//!   components of one process may share a name without agreeing on who comes first.
//! - A family appears once in the text, however many scopes ([`Metrics::scoped`]) hold a part of it. `prometheus-client` writes one family per
//!   sub-registry; [`merge`](self) puts them together.
//!
//! Counters get `_total` appended by `prometheus-client`: register `parallax_x`, read `parallax_x_total`.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::{Metric, Registry};

use crate::Error;
use crate::process::ProcessCollector;

mod merge;

/// The content type of [`Metrics::encode`]: OpenMetrics 1.0, which Prometheus scrapes since 2.5.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type LabelPairs = Vec<(String, String)>;

/// A handle to the registry of this process, under a set of constant labels. Cloning is cheap; all clones share the registry.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Mutex<Shared>>,
    labels: Arc<LabelPairs>,
}

struct Shared {
    registry: Registry,
    registered: HashMap<(LabelPairs, String), Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        let shared = Shared { registry: Registry::default(), registered: HashMap::new() };
        Self { shared: Arc::new(Mutex::new(shared)), labels: Arc::new(Vec::new()) }
    }

    /// A registry that also shows `process_*` (resident memory, CPU seconds, start time, open files), read from `/proc` at each scrape.
    pub fn with_process() -> Self {
        let metrics = Self::new();
        metrics.register_collector(Box::new(ProcessCollector));
        metrics
    }

    /// The same registry, with more constant labels on all that is registered through the new handle. For several components in one process:
    /// `metrics.scoped([("cluster", "eu-1")])`.
    pub fn scoped<K: Into<String>, V: Into<String>>(&self, labels: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut all = self.labels.as_ref().clone();
        for (name, value) in labels {
            let name = name.into();
            all.retain(|(existing, _)| *existing != name);
            all.push((name, value.into()));
        }
        all.sort();
        Self { shared: Arc::clone(&self.shared), labels: Arc::new(all) }
    }

    /// Registers `metric` and gives back the one to use: `metric`, or the one already registered under this name and these labels. Should that
    /// have another type, the error is logged and `metric` comes back unregistered (counting goes on, nothing is shown).
    ///
    /// `help` is a sentence without its final dot; a counter's `name` comes without `_total`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut guard = self.lock();
        let shared = &mut *guard;
        let key = (self.labels.as_ref().clone(), name.to_owned());
        if let Some(existing) = shared.registered.get(&key) {
            if let Some(existing) = existing.downcast_ref::<M>() {
                return existing.clone();
            }
            tracing::error!(metric = name, "metric is already registered with another type");
            return metric;
        }
        self.scope(&mut shared.registry).register(name, help, metric.clone());
        shared.registered.insert(key, Box::new(metric.clone()));
        metric
    }

    /// Registers a collector, which is asked at each scrape. Not idempotent: the caller registers it once.
    pub fn register_collector(&self, collector: Box<dyn Collector>) {
        self.scope(&mut self.lock().registry).register_collector(collector);
    }

    /// All metrics as OpenMetrics text ([`METRICS_CONTENT_TYPE`]), each family once, ending in `# EOF`.
    pub fn encode(&self) -> Result<String, Error> {
        let mut raw = String::new();
        text::encode_registry(&mut raw, &self.lock().registry)?;
        let mut merged = merge::families(&raw);
        text::encode_eof(&mut merged)?;
        Ok(merged)
    }

    fn scope<'a>(&self, registry: &'a mut Registry) -> &'a mut Registry {
        if self.labels.is_empty() {
            return registry;
        }
        let labels: Vec<_> = self
            .labels
            .iter()
            .map(|(name, value)| (Cow::Owned(name.clone()), Cow::Owned(value.clone())))
            .collect();
        registry.sub_registry_with_labels(labels.into_iter())
    }

    /// A panic while the lock is held leaves a usable registry: every change to it is one insertion.
    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn a_second_registration_shares_the_first_metric() {
        let metrics = Metrics::new();
        let first: Counter = metrics.register("parallax_calls", "Calls", Counter::default());
        let second: Counter = metrics.register("parallax_calls", "Calls", Counter::default());
        first.inc();
        second.inc();
        let text = metrics.encode().unwrap();
        assert!(text.contains("parallax_calls_total 2\n"), "{text}");
        assert_eq!(text.matches("# TYPE parallax_calls counter").count(), 1);
    }

    #[test]
    fn scopes_add_labels_to_one_family() {
        let metrics = Metrics::new();
        for cluster in ["eu-1", "us-1"] {
            let scope = metrics.scoped([("cluster", cluster)]);
            let gauge: Gauge = scope.register("parallax_up", "Up", Gauge::default());
            gauge.set(1);
        }
        let other: Gauge = metrics.register("parallax_other", "Other", Gauge::default());
        other.set(2);
        let text = metrics.encode().unwrap();
        assert_eq!(text.matches("# TYPE parallax_up gauge").count(), 1, "{text}");
        assert!(
            text.contains("parallax_up{cluster=\"eu-1\"} 1\nparallax_up{cluster=\"us-1\"} 1\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn another_type_under_a_taken_name_is_not_shown_twice() {
        let metrics = Metrics::new();
        let _gauge: Gauge = metrics.register("parallax_x", "X", Gauge::default());
        let _counter: Counter = metrics.register("parallax_x", "X", Counter::default());
        assert_eq!(metrics.encode().unwrap().matches("# TYPE").count(), 1);
    }
}
