//! Asks every endpoint for Info, again and again.
//!
//! Each endpoint has a loop of its own, so one that hangs delays no other; together they hold at most so many calls open. The first round begins
//! at once. A poll that fails leaves what is known of the endpoint as it was.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::endpoint::{Endpoint, EndpointOptions, EndpointSet, Metadata};
use crate::proxy::reason_of;

/// Between two polls of an endpoint, whatever is configured.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: String,
}

type UpGauge = Family<EndpointLabel, Gauge<i64, AtomicI64>>;

/// Starts the loops; each ends with `shutdown`, or when the set is gone.
pub(crate) fn start(set: &Arc<EndpointSet>, metrics: &Metrics, shutdown: CancellationToken) {
    let up = metrics.register(
        "parallax_querier_endpoint_up",
        "Whether the last Info poll of an endpoint succeeded",
        UpGauge::default(),
    );
    let slots = Arc::new(Semaphore::new(set.options().max_concurrent_polls.clamp(1, Semaphore::MAX_PERMITS)));
    for endpoint in set.endpoints() {
        let poller = Poller {
            endpoint: Arc::clone(endpoint),
            options: set.options().clone(),
            slots: Arc::clone(&slots),
            up: up.clone(),
        };
        let (shutdown, alive) = (shutdown.clone(), Arc::downgrade(set));
        tokio::spawn(async move {
            let work = async {
                let mut ticks = tokio::time::interval(poller.options.info_interval.max(SHORTEST_INTERVAL));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while alive.strong_count() > 0 {
                    ticks.tick().await;
                    poller.poll().await;
                }
            };
            shutdown.run_until_cancelled(work).await;
        });
    }
}

struct Poller {
    endpoint: Arc<Endpoint>,
    options: EndpointOptions,
    slots: Arc<Semaphore>,
    up: UpGauge,
}

impl Poller {
    async fn poll(&self) {
        // The semaphore is never closed.
        let Ok(_slot) = self.slots.acquire().await else { return };
        let began = Instant::now();
        let answer = tokio::time::timeout(self.options.info_timeout, self.endpoint.store().info()).await;
        let result = match answer {
            Err(_) => Err(format!("no answer to Info within {:?}", self.options.info_timeout)),
            Ok(Err(status)) => Err(reason_of(&status)),
            Ok(Ok(info)) => Metadata::from_info(info).map_err(|error| format!("bad Info: {error}")),
        };
        self.log_change(&result);
        let label = EndpointLabel { endpoint: self.endpoint.name().to_owned() };
        self.up.get_or_create(&label).set(i64::from(result.is_ok()));
        self.endpoint.shared().polled(began, result);
    }

    /// Only changes are news.
    fn log_change(&self, result: &Result<Metadata, String>) {
        let endpoint = self.endpoint.name();
        let (was_healthy, checked) = {
            let state = self.endpoint.shared().read();
            (state.is_healthy(), state.last_check.is_some())
        };
        match result {
            Ok(metadata) if !was_healthy => {
                tracing::info!(endpoint, component = metadata.component, "endpoint is up");
            }
            Err(error) if was_healthy || !checked => {
                tracing::warn!(
                    endpoint,
                    error,
                    "endpoint is down; its part of answers will be reported missing"
                );
            }
            _ => {}
        }
    }
}
