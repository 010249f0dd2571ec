//! Asks every endpoint for Info, again and again.
//!
//! Each endpoint has a loop of its own, so one that hangs delays no other; together they hold at most so many calls open. The first round begins
//! at once. A poll that fails leaves what is known of the endpoint as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parallax_storeapi::proto::parallax::v1::ShippingRequest;
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use crate::endpoint::{Endpoint, EndpointOptions, Metadata};
use crate::proxy::reason_of;
use crate::shipping::{Heard, ShippingMetrics};

/// Between two polls of an endpoint, whatever is configured.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// An endpoint that says nothing of shipping is asked again after so many polls: it may be another program by then.
const POLLS_WITHOUT_SHIPPING: u32 = 11;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: String,
}

type UpGauge = Family<EndpointLabel, Gauge<i64, AtomicI64>>;

/// What all polls of a set of endpoints share.
#[derive(Debug)]
pub(crate) struct Poll {
    info_interval: Duration,
    info_timeout: Duration,
    slots: Arc<Semaphore>,
    up: UpGauge,
    shipping: Arc<ShippingMetrics>,
}

impl Poll {
    pub(crate) fn new(options: &EndpointOptions, metrics: &Metrics) -> Self {
        let up = metrics.register(
            "parallax_querier_endpoint_up",
            "Whether the last Info poll of an endpoint succeeded",
            UpGauge::default(),
        );
        Self {
            info_interval: options.info_interval.max(SHORTEST_INTERVAL),
            info_timeout: options.info_timeout,
            slots: Arc::new(Semaphore::new(options.max_concurrent_polls.clamp(1, Semaphore::MAX_PERMITS))),
            up,
            shipping: Arc::new(ShippingMetrics::new(&options.cluster_label, metrics)),
        }
    }

    /// Starts the loop of one endpoint, which ends with `stop`.
    pub(crate) fn start(&self, endpoint: &Arc<Endpoint>, stop: CancellationToken) {
        let poller = Poller {
            endpoint: Arc::clone(endpoint),
            info_timeout: self.info_timeout,
            slots: Arc::clone(&self.slots),
            up: self.up.clone(),
            shipping: Arc::clone(&self.shipping),
            polls_without_shipping: AtomicU32::new(0),
            stop: stop.clone(),
        };
        let interval = self.info_interval;
        tokio::spawn(async move {
            let work = async {
                let mut ticks = tokio::time::interval(interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    poller.poll().await;
                }
            };
            stop.run_until_cancelled(work).await;
        });
    }

    /// For an endpoint that is there no longer.
    pub(crate) fn forget(&self, endpoint: &str) {
        self.up.remove(&EndpointLabel { endpoint: endpoint.to_owned() });
        self.shipping.show(endpoint, &[]);
    }
}

struct Poller {
    endpoint: Arc<Endpoint>,
    info_timeout: Duration,
    slots: Arc<Semaphore>,
    up: UpGauge,
    shipping: Arc<ShippingMetrics>,
    /// How many polls to leave it alone, for it does not know the question.
    polls_without_shipping: AtomicU32,
    stop: CancellationToken,
}

impl Poller {
    async fn poll(&self) {
        // The semaphore is never closed.
        let Ok(_slot) = self.slots.acquire().await else { return };
        let began = Instant::now();
        let answer = tokio::time::timeout(self.info_timeout, self.endpoint.store().info()).await;
        let result = match answer {
            Err(_) => Err(format!("no answer to Info within {:?}", self.info_timeout)),
            Ok(Err(status)) => Err(reason_of(&status)),
            Ok(Ok(info)) => self.endpoint.read_info(info).map_err(|error| format!("bad Info: {error}")),
        };
        if result.as_ref().is_ok_and(|metadata| metadata.foreign.is_some()) {
            self.endpoint.foreign_counter().inc();
        }
        self.log_change(&result);
        let label = EndpointLabel { endpoint: self.endpoint.name().to_owned() };
        self.up.get_or_create(&label).set(i64::from(result.is_ok()));
        if self.stop.is_cancelled() {
            // It may have been forgotten a moment before.
            self.up.remove(&label);
        }
        let is_up = result.is_ok();
        self.endpoint.shared().polled(began, result);
        self.endpoint.count_by_cluster();
        if is_up {
            self.poll_shipping().await;
        }
        // Also of one that is down: what waits there waits longer.
        self.shipping.show(self.endpoint.name(), &self.endpoint.shipping());
    }

    /// Asks what Thanos does not know. No answer is no fault.
    async fn poll_shipping(&self) {
        let left = self.polls_without_shipping.load(Ordering::Relaxed);
        if left > 0 {
            self.polls_without_shipping.store(left - 1, Ordering::Relaxed);
            return;
        }
        let side = self.endpoint.store().side();
        let asked = side.shipping(Request::new(ShippingRequest {}));
        match tokio::time::timeout(self.info_timeout, asked).await {
            Ok(Ok(answer)) => {
                let heard = Heard::read(&answer, self.endpoint.claim().as_ref(), Instant::now());
                let mut state = self.endpoint.shared().write();
                state.shipping = Some(heard);
                state.is_peer = true;
                state.covers(answer.tsdb_infos_cover);
            }
            Ok(Err(status)) => {
                let mut state = self.endpoint.shared().write();
                state.covers(false);
                // Another program than before, perhaps; any other failure says nothing of who it is.
                state.is_peer &= status.code() != Code::Unimplemented;
                drop(state);
                let endpoint = self.endpoint.name();
                tracing::debug!(endpoint, error = reason_of(&status), "endpoint says nothing of shipping");
                self.polls_without_shipping.store(POLLS_WITHOUT_SHIPPING, Ordering::Relaxed);
            }
            Err(_) => {
                self.endpoint.shared().write().covers(false);
                self.polls_without_shipping.store(POLLS_WITHOUT_SHIPPING, Ordering::Relaxed);
            }
        }
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
