//! What waits for a slot of the querier and what has one, under the names of Thanos' gate of queries.
//!
//! Invariant: who waits is counted once, also one that gives up; who is in flight is taken off when it is done, whatever becomes of it.
//! Source of names and bounds: Thanos `pkg/gate`.

use std::time::Instant;

use parallax_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

const WAIT_BOUNDS_SECONDS: [f64; 16] =
    [0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0, 240.0, 360.0, 720.0];

/// A clone counts into the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct GateMetrics {
    total: Counter,
    in_flight: Gauge,
    wait: Histogram,
}

impl GateMetrics {
    /// Of a gate that lets `max` through at a time.
    pub(crate) fn register(metrics: &Metrics, max: usize) -> Self {
        let shown: Gauge = metrics.register(
            "thanos_query_concurrent_gate_queries_max",
            "Queries that may run at a time",
            Gauge::default(),
        );
        shown.set(i64::try_from(max).unwrap_or(i64::MAX));
        Self {
            total: metrics.register(
                "thanos_query_concurrent_gate_queries",
                "Queries and requests for series or labels that asked to run",
                Counter::default(),
            ),
            in_flight: metrics.register(
                "thanos_query_concurrent_gate_queries_in_flight",
                "Queries and requests for series or labels that run now",
                Gauge::default(),
            ),
            wait: metrics.register(
                "thanos_query_concurrent_gate_queries_duration_seconds",
                "How long queries and requests for series or labels waited for their turn",
                Histogram::new(WAIT_BOUNDS_SECONDS),
            ),
        }
    }

    /// Somebody comes to the gate.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        self.total.inc();
        Waiting { metrics: self, since: Instant::now() }
    }
}

/// Counts the wait when it is dropped.
pub(crate) struct Waiting<'a> {
    metrics: &'a GateMetrics,
    since: Instant,
}

impl Waiting<'_> {
    pub(crate) fn passed(self) -> InFlight {
        self.metrics.in_flight.inc();
        InFlight(self.metrics.in_flight.clone())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.wait.observe(self.since.elapsed().as_secs_f64());
    }
}

/// One that has passed the gate.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
