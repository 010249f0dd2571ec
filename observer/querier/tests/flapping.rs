//! An endpoint whose Info is something else at each poll: its own cluster's part is there or is named, and nobody else's is touched.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use hub::{Hub, served};
use parallax_model::{Labels, TimeRange};
use parallax_net::Context;
use parallax_querier::{Connection, EndpointConfig, EndpointOptions, QuerierConfig};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    Label, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
    ZLabelSet,
};
use parallax_storeapi::{SeriesStream, Store, async_trait, labels};
use parallax_testkit::fake_store::FakeStore;
use serde_json::Value;
use tonic::{Request, Status};

const GOOD: [&str; 3] = ["a", "b", "c"];
const FLAPPING: [&str; 2] = ["x", "y"];
const UP: &str = "/api/v1/query?query=up&time=1000";
const PATIENCE: Duration = Duration::from_secs(120);

/// `up` of some jobs of one cluster: the value is 1.
fn store(cluster: &str, jobs: &[&str]) -> FakeStore {
    let samples = || (0..100).map(|i| (i * 15_000, 1.0));
    let empty = FakeStore::new([("cluster", cluster)]).with_range(TimeRange::new(0, i64::MAX));
    jobs.iter().fold(empty, |store, job| store.with_series([("__name__", "up"), ("job", job)], samples()))
}

/// Serves series of us-1, and says something else of itself each time.
struct Flapping {
    store: FakeStore,
    polls: AtomicUsize,
}

/// Different things to say.
const MOODS: usize = 12;

impl Flapping {
    fn new() -> Arc<Self> {
        Arc::new(Self { store: store("us-1", &FLAPPING), polls: AtomicUsize::new(0) })
    }

    fn said_everything(&self, times: usize) -> bool {
        self.polls.load(Ordering::SeqCst) >= MOODS * times
    }
}

fn of(cluster: &str) -> ZLabelSet {
    labels::set_to_wire(&Labels::from_pairs([("cluster", cluster)]))
}

fn within(min_time: i64, max_time: i64) -> impl FnOnce(&mut InfoResponse) {
    move |info| {
        info.store.iter_mut().for_each(|store| (store.min_time, store.max_time) = (min_time, max_time))
    }
}

#[async_trait]
impl Store for Flapping {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let poll = self.polls.fetch_add(1, Ordering::SeqCst);
        let mut info = self.store.info().await?;
        match poll % MOODS {
            0 | 1 => {}
            2 => info.label_sets = vec![of("eu-1")],
            3 => info.label_sets.clear(),
            4 => info.label_sets = ["us-1", "eu-1", "ap-1"].map(of).to_vec(),
            5 => within(i64::MAX, i64::MIN)(&mut info),
            6 => within(-2000, -1000)(&mut info),
            7 => {
                let bytes = |bytes: &'static [u8]| Bytes::from_static(bytes);
                let label = Label { name: bytes(b"cluster"), value: bytes(&[0xff, 0xfe]) };
                info.label_sets = vec![ZLabelSet { labels: vec![label] }];
            }
            8 => info.label_sets = (0..2000).map(|number| of(&format!("{poll}-{number}"))).collect(),
            9 => info.store = None,
            10 => {
                info.store = Some(StoreInfo { min_time: 0, max_time: i64::MAX, ..StoreInfo::default() });
                info.component_type = "something else".to_owned();
            }
            _ => return Err(Status::unavailable("not now")),
        }
        Ok(info)
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.store.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.store.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.store.label_values(request).await
    }
}

/// The jobs of a cluster in an answer, each of which has to be up.
fn jobs<'a>(body: &'a Value, cluster: &str) -> BTreeSet<&'a str> {
    let rows = body["data"]["result"].as_array().unwrap();
    let own = rows.iter().filter(|row| row["metric"]["cluster"] == cluster);
    own.map(|row| {
        assert_eq!(row["value"][1], "1", "{body}");
        row["metric"]["job"].as_str().unwrap()
    })
    .collect()
}

fn state<'a>(body: &'a Value, cluster: &str) -> Option<&'a str> {
    let clusters = body["coverage"]["clusters"].as_array().unwrap();
    clusters.iter().find(|one| one["cluster"] == cluster)?["state"].as_str()
}

/// A hub that polls as often as it can.
async fn hub(flapping: EndpointConfig) -> Hub {
    let good = Connection::Local(Arc::new(store("eu-1", &GOOD)));
    let good = EndpointConfig::new("eu:10901", good).with_cluster("eu-1");
    Hub::with(vec![good, flapping], |config| QuerierConfig {
        endpoint_options: EndpointOptions {
            info_interval: Duration::from_millis(1),
            ..config.endpoint_options.clone()
        },
        ..config
    })
    .await
}

/// The flapping store in the process and over gRPC.
async fn both_ways(context: &Context) -> Vec<(Arc<Flapping>, EndpointConfig)> {
    let (local, remote) = (Flapping::new(), Flapping::new());
    let over_grpc = served(remote.clone(), context).await;
    vec![(local.clone(), EndpointConfig::new("us:10901", Connection::Local(local))), (remote, over_grpc)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_endpoint_that_flaps_is_there_or_is_named_and_others_stand() {
    let context = Context::for_test();
    for (flapping, endpoint) in both_ways(&context).await {
        let hub = hub(endpoint.with_cluster("us-1")).await;
        let (all_of_it, began) = (BTreeSet::from(FLAPPING), Instant::now());
        let (mut whole, mut named) = (0, 0);
        // Of either kind there is one sooner or later, however rarely a busy machine lets it be asked between polls.
        while !flapping.said_everything(15) || whole == 0 || named == 0 {
            let (status, body) = hub.ask(UP).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            assert_eq!(jobs(&body, "eu-1"), BTreeSet::from(GOOD), "{body}");
            assert_eq!(state(&body, "eu-1"), Some("complete"), "{body}");
            let found = jobs(&body, "us-1");
            match state(&body, "us-1").unwrap_or_else(|| panic!("nothing is said of us-1: {body}")) {
                "complete" => {
                    assert_eq!(found, all_of_it, "{body}");
                    whole += 1;
                }
                _ => {
                    let warnings = body["warnings"].to_string();
                    assert!(found.is_subset(&all_of_it) && warnings.contains("us-1"), "{body}");
                    named += 1;
                }
            }
            let (status, body) = hub.ask(&format!("{UP}&partial_response=false")).await;
            match status {
                StatusCode::OK => assert_eq!(jobs(&body, "us-1"), all_of_it, "{body}"),
                _ => assert!(body["error"].as_str().unwrap().contains("cluster \"us-1\""), "{body}"),
            }
            assert!(began.elapsed() < PATIENCE, "{whole} answers were whole, {named} were not");
        }
    }
    context.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_nobody_declared_and_that_flaps_changes_no_other_answer() {
    let context = Context::for_test();
    for (flapping, endpoint) in both_ways(&context).await {
        let hub = hub(endpoint).await;
        let began = Instant::now();
        while !flapping.said_everything(15) {
            let (status, body) = hub.ask(UP).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            assert_eq!(jobs(&body, "eu-1"), BTreeSet::from(GOOD), "{body}");
            assert!(jobs(&body, "us-1").is_subset(&BTreeSet::from(FLAPPING)), "{body}");
            assert_eq!(
                body["data"]["result"].as_array().unwrap().len(),
                3 + jobs(&body, "us-1").len(),
                "{body}"
            );
            assert!(began.elapsed() < PATIENCE, "it is hardly ever polled");
        }
    }
    context.shutdown.cancel();
}
