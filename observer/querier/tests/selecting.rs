//! Who is asked at all: by exactly what time and labels a peer of ours says it has, and by the rules that choose label sets.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub::{Hub, down, served};
use parallax_model::{Labels, TimeRange};
use parallax_net::GrpcTarget;
use parallax_querier::{Connection, Distribution, EndpointConfig, LabelSetRules, QuerierConfig};
use parallax_storeapi::labels::set_to_wire;
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::{InfoResponse, TsdbInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, SideServices, Store, async_trait};
use parallax_testkit::fake_store::{FakeStore, Fault};
use serde_json::Value;
use tonic::{Request, Status};

const PATIENCE: Duration = Duration::from_secs(60);

/// Labels, and from which second to which they are held.
type Said<'a> = (&'a [(&'a str, &'a str)], i64, i64);

/// A store of blocks with several label sets: what it says of itself is told to it, what it has is in `stores`.
struct Blocks {
    stores: Vec<FakeStore>,
    infos: Mutex<Vec<(Labels, TimeRange)>>,
    /// Whether it says as a peer of ours that its infos are exact; `None`: it knows no such question, as Thanos.
    covers: Option<bool>,
    asked: Mutex<Vec<SeriesRequest>>,
}

impl Blocks {
    fn new(stores: Vec<FakeStore>, infos: &[Said<'_>], covers: Option<bool>) -> Arc<Self> {
        let read = |(pairs, min_s, max_s): &Said<'_>| {
            (Labels::from_pairs(pairs.iter().copied()), TimeRange::new(min_s * 1000, max_s * 1000))
        };
        let infos = Mutex::new(infos.iter().map(read).collect());
        Arc::new(Self { stores, infos, covers, asked: Mutex::default() })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl Store for Blocks {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let mut info = InfoResponse::default();
        for store in &self.stores {
            let one = store.info().await?;
            info.label_sets.extend(one.label_sets.clone());
            info = InfoResponse { label_sets: info.label_sets, component_type: "store".to_owned(), ..one };
        }
        let infos = self.infos.lock().unwrap().clone();
        if let Some(store) = &mut info.store {
            store.tsdb_infos = infos
                .iter()
                .map(|(labels, range)| TsdbInfo {
                    labels: Some(set_to_wire(labels)),
                    min_time: range.min_ms,
                    max_time: range.max_ms,
                })
                .collect();
        }
        Ok(info)
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.asked.lock().unwrap().push(request.get_ref().clone());
        let mut frames = Vec::new();
        for store in &self.stores {
            let stream = store.series(Request::new(request.get_ref().clone())).await?;
            frames.extend(parallax_storeapi::frames::collect(stream).await?.series);
        }
        frames.sort_by(|a, b| parallax_storeapi::labels::compare(&a.labels, &b.labels));
        let frames = frames.into_iter().map(|one| Ok(parallax_storeapi::frames::series(one))).collect();
        Ok(parallax_storeapi::frames::from_vec(frames))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Ok(LabelNamesResponse::default())
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let mut values = BTreeSet::new();
        for store in &self.stores {
            values.extend(store.label_values(Request::new(request.get_ref().clone())).await?.values);
        }
        Ok(LabelValuesResponse { values: values.into_iter().collect(), ..LabelValuesResponse::default() })
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for Blocks {
    async fn shipping(&self, _: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        let covers = self.covers.ok_or_else(|| Status::unimplemented("unknown service parallax.v1.Peer"))?;
        Ok(ShippingResponse { tsdb_infos_cover: covers, ..ShippingResponse::default() })
    }
}

/// `up` of one cluster and replica from the first second to the ten thousandth, in a store that says it has all time.
fn store(pairs: &[(&str, &str)]) -> FakeStore {
    FakeStore::new(pairs.iter().copied())
        .with_range(TimeRange::new(0, i64::MAX))
        .with_series([("__name__", "up"), ("job", "a")], (0..1000).map(|step| (step * 10_000, 1.0)))
}

fn endpoint(name: &str, blocks: &Arc<Blocks>) -> EndpointConfig {
    EndpointConfig::new(name, Connection::Local(blocks.clone()))
}

fn quick(config: QuerierConfig) -> QuerierConfig {
    let mut config = config;
    config.endpoint_options.info_interval = Duration::from_millis(20);
    config
}

/// Whether the querier goes by what `endpoint` says it has.
fn believes(hub: &Hub, endpoint: &str) -> bool {
    let all = hub.querier.endpoints().endpoints();
    let one = all.iter().find(|one| one.name() == endpoint).unwrap();
    one.metadata().is_some_and(|known| known.tsdb_infos_cover)
}

/// Waits until it does.
async fn believed(hub: &Hub, endpoint: &str) {
    let began = Instant::now();
    while !believes(hub, endpoint) {
        assert!(began.elapsed() < PATIENCE, "{endpoint} is never believed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn up(cluster: &str, at_s: i64) -> String {
    format!("/api/v1/query?query=up%7Bcluster%3D%22{cluster}%22%7D&time={at_s}")
}

fn found(data: &Value) -> usize {
    data["result"].as_array().unwrap().len()
}

const EU: &[(&str, &str)] = &[("cluster", "eu-1")];
const US: &[(&str, &str)] = &[("cluster", "us-1")];
const AP: &[(&str, &str)] = &[("cluster", "ap-1")];

/// A bucket with an early block of eu-1 and a later one of us-1.
fn two_clusters(covers: Option<bool>) -> Arc<Blocks> {
    Blocks::new(vec![store(EU), store(US)], &[(EU, 0, 5_000), (US, 5_000, 10_000)], covers)
}

#[tokio::test]
async fn a_peer_of_ours_is_not_asked_for_what_its_tsdb_infos_do_not_have_and_one_of_thanos_is() {
    let (ours, thanos, old) = (two_clusters(Some(true)), two_clusters(None), two_clusters(Some(false)));
    let endpoints = vec![endpoint("ours", &ours), endpoint("thanos", &thanos), endpoint("old", &old)];
    let hub = Hub::over(endpoints).await;
    believed(&hub, "ours").await;
    // Replicas of one another, as far as the answer goes.
    assert_eq!(found(&hub.whole(&up("eu-1", 9_000)).await), 1);
    assert_eq!((ours.asked(), thanos.asked(), old.asked()), (0, 1, 1), "eu-1 ended before");
    assert_eq!(found(&hub.whole(&up("us-1", 9_000)).await), 1);
    assert_eq!((ours.asked(), thanos.asked(), old.asked()), (1, 2, 2));
    assert_eq!(found(&hub.whole(&up("eu-1", 3_000)).await), 1);
    assert_eq!(ours.asked(), 2);
    assert_eq!(found(&hub.whole(&up("us-1", 3_000)).await), 1);
    assert_eq!((ours.asked(), thanos.asked()), (2, 4), "us-1 began later");
    assert!(!believes(&hub, "thanos") && !believes(&hub, "old"));
    // What is asked for nothing is not missing either.
    let (_, answer) = hub.ask(&up("eu-1", 9_000)).await;
    let stores = answer["coverage"].to_string();
    assert_eq!(answer["coverage"]["state"], "complete", "{stores}");
}

#[tokio::test]
async fn what_ended_a_short_while_ago_has_no_end() {
    let now_s = jiff::Timestamp::now().as_second();
    let eu = FakeStore::new([("cluster", "eu-1")])
        .with_range(TimeRange::new(0, i64::MAX))
        .with_series([("__name__", "up")], [((now_s - 60) * 1000, 1.0)]);
    let blocks = Blocks::new(vec![eu], &[(EU, now_s - 90_000, now_s - 7_200)], Some(true));
    let hub = Hub::over(vec![endpoint("ours", &blocks)]).await;
    believed(&hub, "ours").await;
    assert_eq!(
        found(&hub.whole(&up("eu-1", now_s)).await),
        1,
        "it may have been uploaded since it was last heard of"
    );
    assert_eq!(found(&hub.whole(&up("eu-1", now_s - 100_000)).await), 0);
    assert_eq!(blocks.asked(), 1, "it began later");
}

#[tokio::test]
async fn one_that_says_less_than_before_is_asked_all_the_same_for_a_while() {
    let blocks = Blocks::new(vec![store(EU)], &[(EU, 0, 10_000)], Some(true));
    let hub = Hub::with(vec![endpoint("ours", &blocks)], quick).await;
    believed(&hub, "ours").await;
    *blocks.infos.lock().unwrap() =
        vec![(Labels::from_pairs(EU.iter().copied()), TimeRange::new(0, 1_000_000))];
    let began = Instant::now();
    let said = |hub: &Hub| {
        let all = hub.querier.endpoints().endpoints();
        let known = all[0].metadata().unwrap();
        known.tsdb_infos_cover && known.tsdb_infos[0].range.max_ms == 1_000_000
    };
    while !said(&hub) {
        assert!(began.elapsed() < PATIENCE, "it is never heard");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(found(&hub.whole(&up("eu-1", 9_000)).await), 1);
    assert_eq!(blocks.asked(), 1);
}

#[tokio::test]
async fn tsdb_infos_are_exact_through_tiers_and_cover_what_does_not_say() {
    let ours = two_clusters(Some(true));
    let thanos = Blocks::new(vec![store(AP)], &[(AP, 0, 10)], None);
    let below = Hub::over(vec![endpoint("ours", &ours), endpoint("thanos", &thanos)]).await;
    believed(&below, "ours").await;
    let leaf = served(below.querier.clone(), &below.context).await;
    let name = leaf.name.clone();
    let top = Hub::over(vec![leaf]).await;
    believed(&top, &name).await;
    let has_called =
        || top.context.metrics.encode().unwrap().contains("parallax_querier_received_bytes_total{");
    assert_eq!(found(&top.whole(&up("eu-1", 9_000)).await), 0);
    assert!(ours.asked() == 0 && !has_called(), "nobody is asked, neither far nor near");
    assert_eq!(found(&top.whole(&up("eu-1", 3_000)).await), 1);
    assert!(has_called());
    assert_eq!(found(&top.whole(&up("ap-1", 9_000)).await), 1, "Thanos may have more than it says");
    assert_eq!((ours.asked(), thanos.asked()), (1, 1));
}

#[tokio::test]
async fn what_one_server_of_several_says_is_not_believed_of_the_others() {
    let (ours, thanos) = (two_clusters(Some(true)), two_clusters(None));
    let context = parallax_net::Context::for_test();
    let address = |config: EndpointConfig| match config.connection {
        Connection::Remote(target) => target,
        other => panic!("{other:?}"),
    };
    let targets: Vec<GrpcTarget> =
        vec![address(served(ours, &context).await), address(served(thanos, &context).await)];
    let alone = EndpointConfig::new("alone", Connection::Group(vec![targets[0].clone()]));
    let both = EndpointConfig::new("both", Connection::Group(targets));
    let hub = Hub::with(vec![alone, both], quick).await;
    believed(&hub, "alone").await;
    // Both were polled as often by now; the second one's turn has come, too.
    for _ in 0..20 {
        assert!(!believes(&hub, "both"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    context.shutdown.cancel();
}

fn choosing(
    chooses: impl Fn(&Labels) -> bool + Send + Sync + 'static,
) -> impl FnOnce(QuerierConfig) -> QuerierConfig {
    move |mut config| {
        config.endpoint_options.label_sets = Some(LabelSetRules::new(chooses));
        config
    }
}

fn clusters(data: &Value) -> BTreeSet<String> {
    let all = data["result"].as_array().unwrap();
    all.iter().map(|one| one["metric"]["cluster"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn who_has_no_label_set_that_is_chosen_is_asked_nothing_and_missed_by_nobody() {
    let (eu, us) = (Arc::new(store(EU)), Arc::new(store(US)));
    let anything = Arc::new(store(&[]));
    let local =
        |name: &str, store: &Arc<FakeStore>| EndpointConfig::new(name, Connection::Local(store.clone()));
    let endpoints = vec![
        local("eu", &eu).with_cluster("eu-1"),
        local("us", &us).with_cluster("us-1"),
        local("anything", &anything),
    ];
    let hub = Hub::with(endpoints, choosing(|set| set.value_of("cluster") != "us-1")).await;
    us.set_fault(Fault::FailOpen(Status::unavailable("gone")));
    let (status, answer) = hub.ask("/api/v1/query?query=up&time=5000&partial_response=false").await;
    assert_eq!((status.as_u16(), answer["data"]["result"].as_array().unwrap().len()), (200, 2), "{answer}");
    assert_eq!(us.calls().series, 0);
    assert!(!answer["coverage"].to_string().contains("us-1"), "{answer}");
    let (status, stores) = hub.ask("/api/v1/stores").await;
    let stores = stores.to_string();
    assert!(
        status.is_success()
            && stores.contains("eu-1")
            && !stores.contains("\"us\"")
            && !stores.contains("us-1"),
        "{stores}"
    );
    let info = hub.querier.info().await.unwrap();
    assert!(!format!("{info:?}").contains("us-1"), "{info:?}");
    // What the rules cannot judge, for it was never heard of, is missed.
    let hub = Hub::with(vec![down("us-1")], choosing(|set| set.value_of("cluster") != "us-1")).await;
    let (_, warnings) = hub.get("/api/v1/query?query=up&time=5000").await;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[tokio::test]
async fn of_several_label_sets_only_the_chosen_ones_answer() {
    let all: [&[(&str, &str)]; 4] = [
        &[("cluster", "a"), ("replica", "0")],
        &[("cluster", "a"), ("replica", "1")],
        &[("cluster", "b"), ("replica", "0")],
        &[("cluster", "b"), ("replica", "1")],
    ];
    let blocks = || Blocks::new(Vec::from(all.map(store)), &[], None);
    // One label tells them apart: the store is asked for no more.
    let one = blocks();
    let hub = Hub::with(vec![endpoint("one", &one)], choosing(|set| set.value_of("cluster") == "b")).await;
    assert_eq!(
        clusters(&hub.whole("/api/v1/query?query=up&time=5000").await),
        BTreeSet::from(["b".to_owned()])
    );
    let asked = one.asked.lock().unwrap()[0].clone();
    let asked: Vec<_> = asked.matchers.iter().map(|one| (one.name.as_str(), one.value.as_str())).collect();
    assert_eq!(asked, [("__name__", "up"), ("cluster", "b"), ("replica", "0|1")]);
    let values = hub.whole("/api/v1/label/cluster/values").await;
    assert_eq!(values, serde_json::json!(["b"]));
    // Two labels together do: its series are looked at, before replica labels go.
    let both = blocks();
    let chooses = |set: &Labels| {
        ["a0", "b1"].contains(&(set.value_of("cluster").to_owned() + set.value_of("replica")).as_str())
    };
    let hub = Hub::with(vec![endpoint("both", &both)], choosing(chooses)).await;
    let data = hub.whole("/api/v1/query?query=up&time=5000&dedup=false").await;
    let mut found: Vec<String> = data["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!(
                "{}{}",
                one["metric"]["cluster"].as_str().unwrap(),
                one["metric"]["replica"].as_str().unwrap()
            )
        })
        .collect();
    found.sort();
    assert_eq!(found, ["a0", "b1"]);
    assert_eq!(clusters(&hub.whole("/api/v1/query?query=up&time=5000").await).len(), 2, "deduplicated, too");
    assert!(both.asked.lock().unwrap()[1].without_replica_labels.is_empty());
}

#[tokio::test]
async fn a_querier_of_which_some_sets_are_chosen_is_read_and_not_asked_to_evaluate() {
    let below = Hub::over(vec![
        EndpointConfig::new("eu", Connection::Local(Arc::new(store(EU)))),
        EndpointConfig::new("us", Connection::Local(Arc::new(store(US)))),
    ])
    .await;
    let sum = "/api/v1/query_range?query=sum(up)&start=4000&end=5000&step=100";
    for (chosen, is_pushed, value) in [("us-1", false, "1"), ("", true, "2")] {
        let leaf = served(below.querier.clone(), &below.context).await;
        let rules = choosing(move |set| chosen.is_empty() || set.value_of("cluster") == chosen);
        let hub = Hub::with(vec![leaf], |config| {
            let mut config = rules(config);
            config.distribution = Some(Distribution::default());
            config
        })
        .await;
        let data = hub.whole(sum).await;
        assert_eq!(data["result"][0]["values"][0][1], value, "{data}");
        let metrics = hub.context.metrics.encode().unwrap();
        let pushed = metrics.contains("parallax_querier_pushdown_total{outcome=\"answered\"}");
        assert_eq!(pushed, is_pushed, "{metrics}");
    }
}
