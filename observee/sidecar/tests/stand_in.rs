//! The StoreAPI over the stand-in Prometheus: what it answers is what the fleet is.

use std::collections::BTreeMap;
use std::time::Duration;

use parallax_model::{FloatColumn, Labels, MatchOp, Matcher, TimeRange};
use parallax_net::{Context, HttpServer};
use parallax_sidecar::{Sidecar, SidecarConfig};
use parallax_simulate::Fleet;
use parallax_simulate::stand_in::{self, StandIn};
use parallax_storeapi::conformance::{Known, KnownSeries, check};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, Store, async_trait, encoded, frames, labels, matchers};
use std::sync::Arc;
use tonic::{Request, Status};

const HOUR_MS: i64 = 3_600_000;

struct Setup {
    fleet: Fleet,
    start_ms: i64,
    sidecar: Arc<Sidecar>,
    context: Context,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

async fn setup(streaming: bool) -> Setup {
    let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 1, instances: 3, seed: 11 };
    let start_ms = stand_in::now_ms() - 3 * HOUR_MS;
    let context = Context::for_test();
    let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let stand_in = StandIn { fleet: fleet.clone(), start_ms };
    let router =
        if streaming { stand_in::router(stand_in) } else { stand_in::router_without_streaming(stand_in) };
    tokio::spawn(server.serve(router, context.shutdown.clone()));
    let config = SidecarConfig { heartbeat_interval: Duration::from_millis(20), ..SidecarConfig::new(url) };
    let (sidecar, _) = Sidecar::start(config, &context).unwrap();
    context.readiness.subscribe().wait_for(|ready| *ready).await.unwrap();
    Setup { fleet, start_ms, sidecar, context }
}

async fn series(setup: &Setup, range: TimeRange, matchers: &[Matcher]) -> BTreeMap<Labels, Vec<(i64, f64)>> {
    let request = SeriesRequest {
        min_time: range.min_ms,
        max_time: range.max_ms,
        matchers: matchers::to_wire(matchers),
        ..SeriesRequest::default()
    };
    let stream = setup.sidecar.series(Request::new(request)).await.unwrap();
    let mut found: BTreeMap<Labels, FloatColumn> = BTreeMap::new();
    for series in frames::collect(stream).await.unwrap().series {
        let column = found.entry(labels::from_wire(&series.labels).unwrap()).or_default();
        for chunk in &series.chunks {
            parallax_tsdb::chunk::decode_xor(&chunk.raw.as_ref().unwrap().data, column).unwrap();
        }
    }
    found.into_iter().map(|(labels, column)| (labels, column.iter().collect())).collect()
}

#[tokio::test]
async fn answers_are_the_samples_of_the_fleet_with_external_labels() {
    for streaming in [true, false] {
        let setup = setup(streaming).await;
        let range = TimeRange::new(setup.start_ms + 10, setup.start_ms + 2 * HOUR_MS);
        let matcher = Matcher::new(MatchOp::Regex, "__name__", "demo_requests_total|up").unwrap();
        let got = series(&setup, range, &[matcher.clone(), Matcher::equal("cluster", "eu-1")]).await;
        let external = setup.fleet.external_labels();
        let expected: BTreeMap<Labels, Vec<(i64, f64)>> = setup
            .fleet
            .series()
            .into_iter()
            .filter(|series| matcher.matches_labels(&series.labels))
            .map(|series| {
                let samples = setup.fleet.scrapes(range).map(|time| (time, series.value_at(time))).collect();
                (series.labels.overlaid_with(&external), samples)
            })
            .collect();
        assert_eq!(got.len(), 15);
        assert!(got == expected, "streaming {streaming}: the samples differ");
    }
}

/// The sidecar as others see it: its series in the form of the wire, read again.
struct OverTheWire(Arc<Sidecar>);

#[async_trait]
impl Store for OverTheWire {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.0.info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.0.series_encoded(request).await.map(encoded::decoded)
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.0.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.0.label_values(request).await
    }
}

#[tokio::test]
async fn the_sidecar_keeps_the_contract_of_a_store() {
    for streaming in [true, false] {
        let setup = setup(streaming).await;
        let external = setup.fleet.external_labels();
        let scrapes: Vec<i64> =
            setup.fleet.scrapes(TimeRange::new(setup.start_ms, setup.start_ms + 3 * HOUR_MS)).collect();
        let range = TimeRange::new(scrapes[0], scrapes[scrapes.len() - 1]);
        let of = |labels: Labels| KnownSeries { labels: labels.overlaid_with(&external), range };
        let known = setup.fleet.series().into_iter().map(|series| of(series.labels)).collect();
        let known = Known { series: known, external: external.clone() };
        let found = check(setup.sidecar.as_ref(), &known).await;
        assert!(found.is_empty(), "streaming {streaming}:\n{}", found.join("\n"));
        let found = check(&OverTheWire(Arc::clone(&setup.sidecar)), &known).await;
        assert!(found.is_empty(), "over the wire, streaming {streaming}:\n{}", found.join("\n"));
    }
}
