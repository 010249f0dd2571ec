//! What crossed the border: bytes of messages that remote endpoints sent, by cluster and by query.
//!
//! Counted are encoded messages of series and of results of queries, before compression, once, where they come in. A log travels with a query's requests, through the
//! queriers of this process, as a request extension.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// What kind of answer the bytes were of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Series,
    Query,
}

/// Of one cluster, for one query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedBytes {
    /// Of chunks and their labels.
    pub series: u64,
    /// Of results that were evaluated there.
    pub query: u64,
}

/// Of one query. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct ReceivedLog(Arc<Mutex<BTreeMap<String, ReceivedBytes>>>);

impl ReceivedLog {
    /// By cluster.
    pub fn clusters(&self) -> BTreeMap<String, ReceivedBytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, cluster: &str, kind: Kind, bytes: u64) {
        let mut clusters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match clusters.get_mut(cluster) {
            Some(known) => known,
            None => clusters.entry(cluster.to_owned()).or_default(),
        };
        let count = match kind {
            Kind::Series => &mut known.series,
            Kind::Query => &mut known.query,
        };
        *count = count.saturating_add(bytes);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReceivedLabels {
    cluster: String,
    call: &'static str,
}

/// Of all queries.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedCounter(Family<ReceivedLabels, Counter<u64, AtomicU64>>);

impl ReceivedCounter {
    pub fn new(metrics: &Metrics) -> Self {
        Self(metrics.register(
            "parallax_querier_received_bytes",
            "Bytes of series, and of results of queries, that remote endpoints sent, before compression",
            Family::default(),
        ))
    }

    /// What one endpoint sends in one call.
    pub fn of_call(&self, cluster: String, kind: Kind, log: Option<ReceivedLog>) -> ReceivedInCall {
        let call = match kind {
            Kind::Series => "series",
            Kind::Query => "query",
        };
        let total = self.0.get_or_create(&ReceivedLabels { cluster: cluster.clone(), call }).clone();
        ReceivedInCall { total, cluster, kind, log }
    }
}

/// See [`ReceivedCounter::of_call`].
#[derive(Debug)]
pub(crate) struct ReceivedInCall {
    total: Counter<u64, AtomicU64>,
    cluster: String,
    kind: Kind,
    log: Option<ReceivedLog>,
}

impl ReceivedInCall {
    pub fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.total.inc_by(bytes);
        if let Some(log) = &self.log {
            log.add(&self.cluster, self.kind, bytes);
        }
    }
}
