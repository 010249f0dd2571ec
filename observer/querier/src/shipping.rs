//! How far the shipping of blocks is behind in the clusters that are observed: what sidecars say of it, kept, shown and passed up.
//!
//! It comes by `parallax.v1.Peer`, which Thanos does not have: an endpoint that does not know it says nothing, and nothing is held against it. What one last
//! said stays while it is down, and a lag grows meanwhile, for that is when blocks are not shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_model::Labels;
use parallax_storeapi::labels;
use parallax_storeapi::proto::parallax::v1::{Shipper, ShippingResponse};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::claim::{Claim, ForeignLabels};
use crate::endpoint::EndpointSet;

/// Most shippers of one endpoint; what it says beyond is left out.
pub const MAX_SHIPPERS: usize = 1000;

/// One Prometheus whose blocks are shipped, as last heard. Times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Shipping {
    /// The external labels of its blocks.
    pub labels: Labels,
    pub blocks_waiting: u64,
    /// The end of the oldest of them.
    pub oldest_waiting_ms: Option<i64>,
    pub last_upload_ms: Option<i64>,
    /// How long Prometheus keeps blocks, if it is by time.
    pub retention: Option<Duration>,
    /// How long the oldest one has been waiting.
    pub lag: Duration,
    /// Whether Prometheus is about to delete what is not in the bucket.
    pub nears_retention: bool,
}

impl Shipping {
    fn from_wire(wire: &Shipper) -> Result<Self, parallax_storeapi::Error> {
        let millis = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        Ok(Self {
            labels: wire.labels.as_ref().map(labels::set_from_wire).transpose()?.unwrap_or_default(),
            blocks_waiting: wire.blocks_waiting,
            oldest_waiting_ms: wire.oldest_waiting,
            last_upload_ms: wire.last_upload,
            retention: wire.retention.map(millis),
            lag: millis(wire.lag),
            nears_retention: wire.nears_retention,
        })
    }

    fn to_wire(&self) -> Shipper {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Shipper {
            labels: Some(labels::set_to_wire(&self.labels)),
            blocks_waiting: self.blocks_waiting,
            oldest_waiting: self.oldest_waiting_ms,
            last_upload: self.last_upload_ms,
            retention: self.retention.map(millis),
            lag: millis(self.lag),
            nears_retention: self.nears_retention,
        }
    }
}

/// What an endpoint last said, and when.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    shippers: Vec<Shipping>,
    at: Instant,
}

impl Heard {
    /// As much of an answer as can be read, and is the endpoint's to say: one that is declared as a cluster speaks for that one alone.
    pub(crate) fn read(answer: &ShippingResponse, claim: Option<&Claim>, at: Instant) -> Self {
        let read = answer.shippers.iter().filter_map(|wire| Shipping::from_wire(wire).ok());
        let own = read.filter_map(|shipping| claimed(shipping, claim));
        Self { shippers: own.take(MAX_SHIPPERS).collect(), at }
    }

    /// As of `now`: what waits has waited longer.
    pub(crate) fn now(&self, now: Instant) -> Vec<Shipping> {
        let since = now.saturating_duration_since(self.at);
        let aged = |shipping: &Shipping| {
            let waits = shipping.blocks_waiting > 0;
            Shipping {
                lag: if waits { shipping.lag.saturating_add(since) } else { shipping.lag },
                ..shipping.clone()
            }
        };
        self.shippers.iter().map(aged).collect()
    }
}

/// `None` if the endpoint may not say it.
fn claimed(mut shipping: Shipping, claim: Option<&Claim>) -> Option<Shipping> {
    let Some(claim) = claim else { return Some(shipping) };
    let own = claim.own();
    if claim.mode() == ForeignLabels::Inject {
        shipping.labels = shipping.labels.overlaid_with(&own);
    }
    own.iter().all(|(name, value)| shipping.labels.get(name) == Some(value)).then_some(shipping)
}

/// What a querier says to one above it: all that its endpoints said.
pub(crate) fn aggregate(endpoints: &EndpointSet) -> ShippingResponse {
    let all = endpoints.endpoints();
    let shippers = all.iter().flat_map(|endpoint| endpoint.shipping()).take(MAX_SHIPPERS);
    let shippers = shippers.map(|shipping| shipping.to_wire()).collect();
    ShippingResponse { shippers, tsdb_infos_cover: true }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct ShipperLabels {
    endpoint: String,
    cluster: String,
    external_labels: String,
}

type FloatGauges = Family<ShipperLabels, Gauge<f64, AtomicU64>>;
type Gauges = Family<ShipperLabels, Gauge<i64, AtomicI64>>;

/// The metrics of an observer about the shipping in its clusters.
#[derive(Debug)]
pub(crate) struct ShippingMetrics {
    cluster_label: String,
    blocks_waiting: Gauges,
    lag_seconds: FloatGauges,
    last_upload_seconds: FloatGauges,
    nears_retention: Gauges,
    /// Which there are, by endpoint.
    shown: Mutex<BTreeMap<String, BTreeSet<ShipperLabels>>>,
}

impl ShippingMetrics {
    pub(crate) fn new(cluster_label: &str, metrics: &Metrics) -> Self {
        Self {
            cluster_label: cluster_label.to_owned(),
            blocks_waiting: metrics.register(
                "parallax_querier_upload_blocks_waiting",
                "Finished blocks of a cluster that are not in its bucket, as its sidecar says",
                Gauges::default(),
            ),
            lag_seconds: metrics.register(
                "parallax_querier_upload_lag_seconds",
                "How long the oldest block of a cluster that is not in its bucket has been waiting; 0 if none waits",
                FloatGauges::default(),
            ),
            last_upload_seconds: metrics.register(
                "parallax_querier_last_upload_time_seconds",
                "When a cluster last uploaded a block, in seconds since the epoch; 0 if not since its sidecar started",
                FloatGauges::default(),
            ),
            nears_retention: metrics.register(
                "parallax_querier_upload_lag_nears_retention",
                "Whether a cluster's Prometheus is about to delete blocks that are not in the bucket",
                Gauges::default(),
            ),
            shown: Mutex::default(),
        }
    }

    /// Shows these and no others of `endpoint`.
    pub(crate) fn show(&self, endpoint: &str, shippers: &[Shipping]) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeSet::new();
        for shipping in shippers {
            let labels = ShipperLabels {
                endpoint: endpoint.to_owned(),
                cluster: shipping.labels.get(&self.cluster_label).unwrap_or_default().to_owned(),
                external_labels: shipping.labels.to_string(),
            };
            let waiting = i64::try_from(shipping.blocks_waiting).unwrap_or(i64::MAX);
            self.blocks_waiting.get_or_create(&labels).set(waiting);
            self.lag_seconds.get_or_create(&labels).set(shipping.lag.as_secs_f64());
            let last_upload_ms = shipping.last_upload_ms.unwrap_or(0);
            self.last_upload_seconds.get_or_create(&labels).set(last_upload_ms as f64 / 1000.0);
            self.nears_retention.get_or_create(&labels).set(i64::from(shipping.nears_retention));
            now.insert(labels);
        }
        let before = shown.insert(endpoint.to_owned(), now.clone()).unwrap_or_default();
        for gone in before.difference(&now) {
            self.blocks_waiting.remove(gone);
            self.lag_seconds.remove(gone);
            self.last_upload_seconds.remove(gone);
            self.nears_retention.remove(gone);
        }
        if now.is_empty() {
            shown.remove(endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipper(cluster: &str, blocks_waiting: u64, lag: i64) -> Shipper {
        let labels = Labels::from_pairs([("cluster", cluster), ("replica", "0")]);
        Shipper { labels: Some(labels::set_to_wire(&labels)), blocks_waiting, lag, ..Shipper::default() }
    }

    #[test]
    fn a_lag_grows_while_nothing_is_heard_and_only_where_blocks_wait() {
        let at = Instant::now();
        let answer = ShippingResponse {
            shippers: vec![shipper("a", 1, 2_000), shipper("b", 0, 0)],
            ..Default::default()
        };
        let heard = Heard::read(&answer, None, at);
        let later = heard.now(at + Duration::from_secs(3));
        assert_eq!(later.iter().map(|one| one.lag.as_secs()).collect::<Vec<_>>(), [5, 0]);
        assert_eq!(heard.now(at)[0].to_wire(), answer.shippers[0]);
    }

    #[test]
    fn an_endpoint_that_is_declared_as_a_cluster_speaks_for_it_alone_and_within_bounds() {
        let mut answer =
            ShippingResponse { shippers: vec![shipper("a", 1, 0), shipper("b", 1, 0)], ..Default::default() };
        let claim = Claim::new("cluster", "b", ForeignLabels::Drop);
        let heard = Heard::read(&answer, Some(&claim), Instant::now()).now(Instant::now());
        assert_eq!(heard.iter().filter_map(|one| one.labels.get("cluster")).collect::<Vec<_>>(), ["b"]);
        let claim = Claim::new("cluster", "c", ForeignLabels::Inject);
        let heard = Heard::read(&answer, Some(&claim), Instant::now()).now(Instant::now());
        assert_eq!(heard.iter().filter_map(|one| one.labels.get("cluster")).collect::<Vec<_>>(), ["c", "c"]);
        answer.shippers = vec![shipper("a", 1, -5); 2 * MAX_SHIPPERS];
        let heard = Heard::read(&answer, None, Instant::now());
        assert_eq!(heard.shippers.len(), MAX_SHIPPERS);
        assert_eq!(heard.shippers[0].lag, Duration::ZERO);
        // Text that is none.
        answer.shippers = vec![Shipper {
            labels: Some(parallax_storeapi::proto::thanos::ZLabelSet {
                labels: vec![parallax_storeapi::proto::thanos::Label {
                    name: vec![0xff].into(),
                    value: "x".into(),
                }],
            }),
            ..Shipper::default()
        }];
        assert!(Heard::read(&answer, None, Instant::now()).shippers.is_empty());
    }

    #[test]
    fn metrics_show_what_is_said_now_and_forget_what_is_said_no_more() {
        let metrics = Metrics::new();
        let shown = ShippingMetrics::new("cluster", &metrics);
        let read = |answer: ShippingResponse| Heard::read(&answer, None, Instant::now()).shippers;
        shown.show(
            "x:1",
            &read(ShippingResponse {
                shippers: vec![shipper("a", 3, 5_000), shipper("b", 0, 0)],
                ..Default::default()
            }),
        );
        let text = metrics.encode().unwrap();
        assert!(
            text.contains("parallax_querier_upload_blocks_waiting{endpoint=\"x:1\",cluster=\"a\","),
            "{text}"
        );
        let lag = text
            .lines()
            .find(|line| line.starts_with("parallax_querier_upload_lag_seconds{") && line.contains("\"a\""));
        assert!(lag.is_some_and(|line| line.ends_with(" 5.0")), "{text}");
        shown.show("x:1", &[]);
        assert!(!metrics.encode().unwrap().contains("x:1"));
    }
}
