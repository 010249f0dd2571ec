//! What is known of Prometheus, kept current by a heartbeat.
//!
//! Waits for Prometheus after the start, up to a configured time; afterwards the sidecar outlives any outage and keeps
//! serving the last known labels and time range, not ready while Prometheus does not answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parallax_model::{Labels, TimeRange};
use parallax_net::Context;
use parallax_net::context::Condition;
use tokio::sync::watch;

use crate::metrics::SidecarMetrics;
use crate::prometheus::{MetadataCall, Prometheus};
use crate::{SidecarConfig, SidecarError};

/// How often Prometheus is asked while it is not ready.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What the last successful heartbeat saw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub external_labels: Labels,
    /// What may be asked for; its end is open, for there is always a newer sample.
    pub range: TimeRange,
    /// Names of the labels that series have of their own, external ones aside.
    pub own_label_names: Arc<BTreeSet<String>>,
}

impl State {
    /// Whether some series may have a label of its own called like an external one. Prometheus' answers then do not tell
    /// which of the two they hold, so their order is known only metric by metric.
    pub fn labels_collide(&self) -> bool {
        self.external_labels.iter().any(|(name, _)| self.own_label_names.contains(name))
    }
}

pub(crate) struct Heartbeat {
    prometheus: Prometheus,
    metrics: SidecarMetrics,
    publish: watch::Sender<Option<State>>,
    /// Why the last beat failed.
    failure: watch::Sender<Option<String>>,
    condition: Condition,
    min_time_ms: i64,
    interval: Duration,
    timeout: Duration,
    ready_timeout: Duration,
}

impl Heartbeat {
    pub fn new(
        config: &SidecarConfig,
        prometheus: Prometheus,
        metrics: SidecarMetrics,
        publish: watch::Sender<Option<State>>,
        failure: watch::Sender<Option<String>>,
        context: &Context,
    ) -> Self {
        let condition = context.readiness.condition(format!("prometheus {}", config.prometheus_url));
        Self {
            prometheus,
            metrics,
            publish,
            failure,
            condition,
            min_time_ms: config.min_time_ms,
            interval: config.heartbeat_interval,
            timeout: config.heartbeat_timeout,
            ready_timeout: config.ready_timeout,
        }
    }

    /// Beats until it is dropped.
    ///
    /// # Errors
    /// [`SidecarError::NotReady`] if the first success does not come in time.
    pub async fn run(self) -> Result<(), SidecarError> {
        let started = Instant::now();
        let mut last_failure = String::new();
        loop {
            match self.beat().await {
                Ok(state) => {
                    if last_failure != "ok" {
                        let labels = state.external_labels.to_string();
                        tracing::info!(
                            prometheus = self.prometheus.url(),
                            external_labels = labels,
                            "prometheus is ready"
                        );
                        last_failure = "ok".to_owned();
                    }
                    self.succeeded(state);
                    tokio::time::sleep(self.interval).await;
                }
                Err(error) => {
                    let text = error.to_string();
                    self.metrics.prometheus_up.set(0);
                    self.metrics.failed(&error);
                    self.failure.send_replace(Some(text.clone()));
                    self.condition.not_ready(text.clone());
                    if self.publish.borrow().is_none() && started.elapsed() >= self.ready_timeout {
                        return Err(SidecarError::NotReady {
                            url: self.prometheus.url().to_owned(),
                            waited_seconds: self.ready_timeout.as_secs(),
                            last: text,
                        });
                    }
                    // The same trouble is said once, not every second.
                    if text != last_failure {
                        tracing::warn!(error = text, "prometheus does not answer as it should; trying again");
                        last_failure = text;
                    }
                    tokio::time::sleep(RETRY_INTERVAL.min(self.interval)).await;
                }
            }
        }
    }

    async fn beat(&self) -> Result<State, SidecarError> {
        let read = async {
            self.prometheus.version().await?;
            let external_labels = self.prometheus.external_labels().await?;
            let lowest_ms = self.prometheus.lowest_timestamp_ms().await?;
            let min_ms = self.min_time_ms.max(lowest_ms.unwrap_or(i64::MIN));
            let everything =
                MetadataCall { matchers: &[], min_time_ms: i64::MIN, max_time_ms: i64::MAX, limit: 0 };
            let own_label_names =
                Arc::new(self.prometheus.label_names(&everything).await?.into_iter().collect());
            Ok(State { external_labels, range: TimeRange::new(min_ms, i64::MAX), own_label_names })
        };
        tokio::time::timeout(self.timeout, read).await.unwrap_or_else(|_| {
            Err(SidecarError::Unreachable {
                url: self.prometheus.url().to_owned(),
                reason: format!("no answer within {} s", self.timeout.as_secs_f64()),
            })
        })
    }

    fn succeeded(&self, state: State) {
        self.metrics.prometheus_up.set(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.last_heartbeat_seconds.set(now.as_secs_f64());
        let changed = |known: &Option<State>| {
            known.as_ref().is_some_and(|known| known.external_labels != state.external_labels)
        };
        if changed(&self.publish.borrow()) {
            tracing::info!(
                external_labels = state.external_labels.to_string(),
                "external labels of prometheus changed"
            );
        }
        self.publish.send_replace(Some(state));
        self.failure.send_replace(None);
        // Last: who sees that this is ready may ask at once.
        self.condition.ready();
    }
}
