//! What crossed the border: bytes of messages that remote endpoints sent, by cluster and by query. Of one query there is also what each endpoint did (`cost.rs`).
//!
//! Counted are encoded messages of series and of results of queries, before compression, once, where they come in. A log travels with a query's requests, through the
//! queriers of this process, as a request extension.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cost::{EndpointCost, EndpointKey};
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

/// Most endpoints of one query that have a line of their own.
const MAX_ENDPOINTS: usize = 2000;

/// Of one query. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct ReceivedLog(Arc<Mutex<Received>>);

#[derive(Debug, Default)]
struct Received {
    clusters: BTreeMap<String, ReceivedBytes>,
    endpoints: BTreeMap<EndpointKey, EndpointCost>,
}

impl Received {
    /// The line of an endpoint; those for which there is no more room share one without names.
    fn line(&mut self, key: &EndpointKey) -> &mut EndpointCost {
        let has_room = self.endpoints.len() < MAX_ENDPOINTS || self.endpoints.contains_key(key);
        let nobody = || EndpointKey { cluster: String::new(), endpoint: String::new() };
        self.endpoints.entry(if has_room { key.clone() } else { nobody() }).or_default()
    }
}

impl ReceivedLog {
    /// By cluster.
    pub fn clusters(&self) -> BTreeMap<String, ReceivedBytes> {
        self.inner().clusters.clone()
    }

    /// What each endpoint that was asked for series has done so far.
    pub fn endpoints(&self) -> BTreeMap<EndpointKey, EndpointCost> {
        self.inner().endpoints.clone()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of an endpoint begins.
    pub(crate) fn opens(&self, key: &EndpointKey) {
        self.inner().line(key).open += 1;
    }

    /// It ends, and cost this.
    pub(crate) fn ended(&self, key: &EndpointKey, cost: &EndpointCost) {
        self.inner().line(key).add(cost);
    }

    fn add(&self, cluster: &str, kind: Kind, bytes: u64) {
        let mut inner = self.inner();
        let clusters = &mut inner.clusters;
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

    /// What one endpoint of `cluster` sends in one call. `label` is what metrics call the cluster.
    pub fn of_call(
        &self,
        cluster: String,
        label: String,
        kind: Kind,
        log: Option<ReceivedLog>,
    ) -> ReceivedInCall {
        let call = match kind {
            Kind::Series => "series",
            Kind::Query => "query",
        };
        let total = self.0.get_or_create(&ReceivedLabels { cluster: label, call }).clone();
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
