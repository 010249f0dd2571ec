//! What endpoints cost: series, chunks, samples and time, by cluster for all queries, and by endpoint for one.
//!
//! Counted is what an endpoint sends, before it is looked at, merged or deduplicated; samples are those that the chunks say they have. A fan-out of this process counts what it
//! asks itself, also where that is a component of the same process: metrics of queriers in one process carry the name of theirs.
//!
//! Invariant: the metrics have as many clusters as are declared, and [`MAX_OTHER_CLUSTERS`] more; what claims to be yet another counts as [`OTHER`].

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_storeapi::chunks;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{Series, SeriesResponse};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prost::Message as _;

use crate::coverage::GapKind;
use crate::endpoint::Endpoint;
use crate::received::{ReceivedInCall, ReceivedLog};

/// Clusters that are declared nowhere and counted by the name that they give themselves.
const MAX_OTHER_CLUSTERS: usize = 200;
/// All further ones.
const OTHER: &str = "other";
/// An outcome without fault.
pub(crate) const COMPLETE: &str = "complete";
/// Of a call whose caller went away, or had enough.
const CANCELED: &str = "canceled";

/// The names that metrics may have clusters under.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterNames(Arc<Mutex<BTreeSet<String>>>);

impl ClusterNames {
    /// The name to count `endpoint` under.
    pub fn of(&self, endpoint: &Endpoint) -> String {
        let name = endpoint.cluster_name();
        if !endpoint.expected().is_empty() {
            return name;
        }
        let mut others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if others.contains(&name) {
            return name;
        }
        if others.len() >= MAX_OTHER_CLUSTERS {
            return OTHER.to_owned();
        }
        others.insert(name.clone());
        name
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabel {
    cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    cluster: String,
    outcome: &'static str,
}

type Counted = Family<ClusterLabel, Counter<u64, AtomicU64>>;

/// Of all queries.
#[derive(Clone, Debug)]
pub(crate) struct CostMetrics {
    series: Counted,
    chunks: Counted,
    samples: Counted,
    seconds: Family<ClusterLabel, Counter<f64, AtomicU64>>,
    calls: Family<OutcomeLabels, Counter<u64, AtomicU64>>,
    names: ClusterNames,
}

impl CostMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        let counted = |name: &str, help: &str| metrics.register(name, help, Counted::default());
        Self {
            series: counted("parallax_querier_cluster_series", "Series that endpoints of a cluster sent"),
            chunks: counted(
                "parallax_querier_cluster_chunks",
                "Chunks of series that endpoints of a cluster sent",
            ),
            samples: counted(
                "parallax_querier_cluster_samples",
                "Samples in the chunks that endpoints of a cluster sent",
            ),
            seconds: metrics.register(
                "parallax_querier_cluster_call_seconds",
                "Time that calls for series of endpoints of a cluster took",
                Family::default(),
            ),
            calls: metrics.register(
                "parallax_querier_cluster_calls",
                "Calls for series of endpoints of a cluster, by how they ended",
                Family::default(),
            ),
            names: ClusterNames::default(),
        }
    }

    pub fn names(&self) -> &ClusterNames {
        &self.names
    }

    /// One call for series of `endpoint`, which begins now.
    pub fn of_call(
        &self,
        endpoint: &Endpoint,
        received: Option<ReceivedInCall>,
        log: Option<&ReceivedLog>,
    ) -> CallCost {
        let label = ClusterLabel { cluster: self.names.of(endpoint) };
        let key = EndpointKey { cluster: endpoint.cluster_name(), endpoint: endpoint.name().to_owned() };
        let log = log.cloned();
        if let Some(log) = &log {
            log.opens(&key);
        }
        CallCost {
            metrics: self.clone(),
            label,
            key,
            log,
            received,
            began: Instant::now(),
            cost: EndpointCost { calls: 1, outcome: CANCELED, ..EndpointCost::default() },
            is_told: false,
        }
    }
}

/// Whose a line of [`ReceivedLog::endpoints`] is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    pub cluster: String,
    pub endpoint: String,
}

/// What one endpoint did for one query, in all calls for series together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointCost {
    /// Calls that are still open.
    pub open: u64,
    /// Calls that have ended.
    pub calls: u64,
    /// The longest wait for a first frame; `None` if none came.
    pub first_frame: Option<Duration>,
    /// The longest call.
    pub longest: Duration,
    pub frames: u64,
    pub series: u64,
    pub chunks: u64,
    pub samples: u64,
    /// 0 for a component of this process.
    pub received_bytes: u64,
    /// How the calls ended: `complete`, `canceled`, or the worst of the gaps that were left. Empty while none has.
    pub outcome: &'static str,
}

impl EndpointCost {
    pub(crate) fn add(&mut self, call: &Self) {
        self.open = self.open.saturating_sub(call.calls);
        self.calls += call.calls;
        self.first_frame = self.first_frame.max(call.first_frame);
        self.longest = self.longest.max(call.longest);
        self.frames += call.frames;
        self.series += call.series;
        self.chunks += call.chunks;
        self.samples += call.samples;
        self.received_bytes += call.received_bytes;
        if rank(call.outcome) > rank(self.outcome) {
            self.outcome = call.outcome;
        }
    }
}

/// How bad an outcome is.
fn rank(outcome: &str) -> u8 {
    match outcome {
        "" => 0,
        COMPLETE => 1,
        CANCELED => 2,
        _ if outcome == GapKind::Partial.as_str() => 3,
        _ => 4,
    }
}

/// One call for series. What was counted is told once: when it has ended, before anybody hears of that, or when it is dropped.
#[derive(Debug)]
pub(crate) struct CallCost {
    metrics: CostMetrics,
    label: ClusterLabel,
    key: EndpointKey,
    log: Option<ReceivedLog>,
    /// `None` for a component of this process.
    received: Option<ReceivedInCall>,
    began: Instant,
    cost: EndpointCost,
    is_told: bool,
}

impl CallCost {
    /// A frame came.
    pub fn frame(&mut self, frame: &SeriesResponse) {
        self.cost.first_frame.get_or_insert_with(|| self.began.elapsed());
        self.cost.frames += 1;
        if let Some(received) = &self.received {
            let size_bytes = frame.encoded_len();
            received.add(size_bytes);
            self.cost.received_bytes += u64::try_from(size_bytes).unwrap_or(u64::MAX);
        }
        match &frame.result {
            Some(Frame::Series(series)) => self.series(std::slice::from_ref(series)),
            Some(Frame::Batch(batch)) => self.series(&batch.series),
            _ => {}
        }
    }

    fn series(&mut self, all: &[Series]) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.cost.series += count(all.len());
        for series in all {
            self.cost.chunks += count(series.chunks.len());
            let parts = series.chunks.iter().filter_map(|chunk| chunks::parts(chunk).next());
            self.cost.samples += count(parts.map(|(_, part)| chunks::samples(part)).sum());
        }
    }

    /// It has ended with this gap, or well.
    pub fn ended(&mut self, gap: Option<GapKind>) {
        self.cost.outcome = gap.map_or(COMPLETE, GapKind::as_str);
        self.tell();
    }

    fn tell(&mut self) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let (metrics, cost) = (&self.metrics, &mut self.cost);
        cost.longest = self.began.elapsed();
        metrics.series.get_or_create(&self.label).inc_by(cost.series);
        metrics.chunks.get_or_create(&self.label).inc_by(cost.chunks);
        metrics.samples.get_or_create(&self.label).inc_by(cost.samples);
        metrics.seconds.get_or_create(&self.label).inc_by(cost.longest.as_secs_f64());
        let labels = OutcomeLabels { cluster: self.label.cluster.clone(), outcome: cost.outcome };
        metrics.calls.get_or_create(&labels).inc();
        if let Some(log) = &self.log {
            log.ended(&self.key, cost);
        }
    }
}

impl Drop for CallCost {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_of_an_endpoints_calls_is_told_and_the_longest_waits() {
        let call = |outcome, first_ms: Option<u64>| EndpointCost {
            calls: 1,
            series: 2,
            first_frame: first_ms.map(Duration::from_millis),
            longest: Duration::from_millis(10),
            outcome,
            ..EndpointCost::default()
        };
        let mut all = EndpointCost { open: 4, ..EndpointCost::default() };
        for (outcome, first_ms) in [(COMPLETE, Some(3)), ("late", None), (CANCELED, Some(5))] {
            all.add(&call(outcome, first_ms));
        }
        assert_eq!((all.open, all.calls, all.series, all.outcome), (1, 3, 6, "late"));
        assert_eq!(
            (all.first_frame, all.longest),
            (Some(Duration::from_millis(5)), Duration::from_millis(10))
        );
    }
}
