//! Endpoints that claim to be another cluster than they are declared as, in all that they send.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::time::Duration;

use fake_side::fake;
use hub::{Hub, local};
use parallax_model::{Labels, Matcher};
use parallax_querier::{
    Connection, EndpointConfig, EndpointOptions, EndpointSet, ForeignLabels, Gap, GapKind, Proxy, ProxyConfig,
};
use parallax_storeapi::frames::{self, Collected};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::{
    ActiveTarget, Alert, AlertInstance, DroppedTarget, ExemplarData, LabelNamesRequest, LabelNamesResponse,
    LabelValuesRequest, LabelValuesResponse, PartialResponseStrategy, RecordingRule, Rule, RuleGroup, Series,
    SeriesRequest, TargetDiscovery, ZLabelSet,
};
use parallax_storeapi::{SeriesStream, Store, labels, matchers};
use parallax_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

/// Advertises one cluster and sends series of others, whatever it is asked.
struct Liar {
    advertises: Vec<Labels>,
    sends: Vec<Labels>,
    asked: std::sync::Mutex<Vec<SeriesRequest>>,
}

fn set(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn up(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs([("__name__", "up")].iter().chain(pairs).copied())
}

fn liar(advertises: &[Labels], sends: &[Labels]) -> Arc<Liar> {
    let asked = std::sync::Mutex::default();
    Arc::new(Liar { advertises: advertises.to_vec(), sends: sends.to_vec(), asked })
}

#[parallax_storeapi::async_trait]
impl Store for Liar {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse {
            label_sets: self.advertises.iter().map(labels::set_to_wire).collect(),
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                max_time: i64::MAX,
                supports_sharding: true,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let request = request.into_inner();
        let series = |set: &Labels| {
            let mut wire = labels::to_wire(set);
            labels::remove(&mut wire, &request.without_replica_labels);
            Ok(frames::series(Series { labels: wire, chunks: Vec::new() }))
        };
        let stream = frames::from_vec(self.sends.iter().map(series).collect());
        self.asked.lock().unwrap().push(request);
        Ok(stream)
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let names = vec!["__name__".to_owned(), "job".to_owned()];
        Ok(LabelNamesResponse { names, ..LabelNamesResponse::default() })
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        let values = self.sends.iter().filter_map(|one| one.get("cluster").map(str::to_owned)).collect();
        Ok(LabelValuesResponse { values, ..LabelValuesResponse::default() })
    }
}

struct Mesh {
    proxy: Proxy,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Mesh {
    fn counted(&self) -> String {
        let text = self.metrics.encode().unwrap();
        let line = text.lines().find(|line| line.starts_with("parallax_querier_foreign_labels_total"));
        line.map_or_else(|| "nothing".to_owned(), |line| line.rsplit_once(' ').unwrap().1.to_owned())
    }
}

/// `store` declared as `eu-1`.
async fn declared(store: Arc<dyn Store>, foreign_labels: ForeignLabels) -> Mesh {
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let options = EndpointOptions {
        info_interval: Duration::from_secs(3600),
        foreign_labels,
        ..EndpointOptions::default()
    };
    let configs = vec![EndpointConfig::new("liar", Connection::Local(store)).with_cluster("eu-1")];
    let endpoints = EndpointSet::start(configs, options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    Mesh { proxy: Proxy::new(endpoints, ProxyConfig::default(), &metrics), metrics, shutdown }
}

fn asking(more: &[Matcher]) -> SeriesRequest {
    let all = [&[Matcher::equal("__name__", "up")], more].concat();
    SeriesRequest { max_time: 1000, matchers: matchers::to_wire(&all), ..SeriesRequest::default() }
}

async fn ask(mesh: &Mesh, request: SeriesRequest) -> Result<Collected, Status> {
    frames::collect(mesh.proxy.series(Request::new(request)).await?).await
}

fn sets(answer: &Collected) -> Vec<Labels> {
    answer.series.iter().map(|series| labels::from_wire(&series.labels).unwrap()).collect()
}

#[tokio::test]
async fn series_that_claim_another_cluster_are_dropped_counted_and_told() {
    let own = up(&[("cluster", "eu-1")]);
    let store =
        liar(&[set(&[("cluster", "eu-1")])], &[own.clone(), up(&[("cluster", "us-1")]), up(&[("job", "a")])]);
    let mesh = declared(store.clone(), ForeignLabels::Drop).await;
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    assert_eq!(sets(&answer), [own]);
    let gaps: Vec<Gap> = answer.warnings.iter().map(|text| Gap::parse(text).unwrap()).collect();
    assert!(gaps.iter().all(|gap| gap.kind == GapKind::Partial && gap.endpoint == "liar"), "{gaps:?}");
    assert!(
        gaps[0].reason.contains(r#"claims cluster="us-1", but its endpoint is declared as "eu-1""#),
        "{gaps:?}"
    );
    assert!(gaps[1].reason.starts_with("2 series"), "{gaps:?}");
    assert_eq!(mesh.counted(), "2");
    // An honest store that holds more would not even send it.
    let asked = matchers::from_wire(&store.asked.lock().unwrap()[0].matchers).unwrap();
    assert_eq!(asked, [Matcher::equal("__name__", "up"), Matcher::equal("cluster", "eu-1")]);

    let strategy = PartialResponseStrategy::Abort.into();
    let strict = SeriesRequest { partial_response_strategy: strategy, ..asking(&[]) };
    assert_eq!(ask(&mesh, strict).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn where_the_clusters_label_is_taken_off_nothing_can_be_told_by_it() {
    let store = liar(&[set(&[("cluster", "eu-1")])], &[up(&[("cluster", "eu-1"), ("job", "a")])]);
    let mesh = declared(store, ForeignLabels::Drop).await;
    let request = SeriesRequest { without_replica_labels: vec!["cluster".to_owned()], ..asking(&[]) };
    let answer = ask(&mesh, request).await.unwrap();
    assert_eq!((sets(&answer), answer.warnings), (vec![up(&[("job", "a")])], vec![]));
}

#[tokio::test]
async fn where_the_clusters_label_is_taken_off_an_endpoint_is_asked_for_its_own_all_the_same() {
    let removed = vec!["cluster".to_owned()];
    let own = Matcher::equal("cluster", "eu-1");
    for more in [vec![], vec![own.clone()]] {
        let request = SeriesRequest { without_replica_labels: removed.clone(), ..asking(&more) };
        for mode in [ForeignLabels::Drop, ForeignLabels::Refuse] {
            // A hub that holds more than is delegated to it: what it sends unasked nobody could tell from its own.
            let advertised = [set(&[("cluster", "eu-1")])];
            let store = liar(&advertised, &[up(&[("cluster", "eu-1"), ("job", "a")])]);
            let mesh = hub_over(store.clone(), &["eu-1"], mode).await;
            let answer = ask(&mesh, request.clone()).await.unwrap();
            assert_eq!((sets(&answer), answer.warnings), (vec![up(&[("job", "a")])], vec![]), "{mode:?}");
            let asked = store.asked.lock().unwrap().pop().unwrap();
            let asked = matchers::from_wire(&asked.matchers).unwrap();
            assert_eq!(asked, [Matcher::equal("__name__", "up"), own.clone()], "{mode:?}");
        }
        let store = liar(&[], &[up(&[("job", "a")]), up(&[("cluster", "us-1"), ("job", "b")])]);
        let mesh = declared(store.clone(), ForeignLabels::Inject).await;
        let answer = ask(&mesh, request).await.unwrap();
        let both = ["a", "b"].map(|job| up(&[("job", job)])).to_vec();
        assert_eq!((sets(&answer), answer.warnings), (both, vec![]));
        let asked = store.asked.lock().unwrap().pop().unwrap();
        assert_eq!(asked.matchers, asking(&[]).matchers, "it does not know the label");
    }
}

#[tokio::test]
async fn an_endpoint_that_advertises_only_another_cluster_is_missing_and_not_asked() {
    let store = liar(&[set(&[("cluster", "us-1")])], &[up(&[("cluster", "us-1")])]);
    let mesh = declared(store.clone(), ForeignLabels::Drop).await;
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!((gap.cluster.as_str(), gap.kind), ("eu-1", GapKind::Missing));
    assert!(gap.reason.contains(r#"it advertises {cluster="us-1"}"#), "{gap}");
    assert!(answer.series.is_empty() && store.asked.lock().unwrap().is_empty());
    assert!(ask(&mesh, asking(&[Matcher::equal("cluster", "us-1")])).await.unwrap().warnings.is_empty());
    // Nor is it passed on as what lies beneath this querier.
    let info = mesh.proxy.info().await.unwrap();
    let advertised: Vec<Labels> =
        info.label_sets.iter().map(|set| labels::set_from_wire(set).unwrap()).collect();
    assert_eq!(advertised, [set(&[("cluster", "eu-1")])]);
    let status = mesh.proxy.endpoints().status().remove(0);
    assert!(status.last_error.unwrap().contains("us-1"));
    assert_eq!(mesh.counted(), "1");
}

#[tokio::test]
async fn an_endpoint_may_be_refused_as_a_whole() {
    let sends = [up(&[("cluster", "eu-1")]), up(&[("cluster", "us-1")]), up(&[("cluster", "us-2")])];
    let mesh = declared(liar(&[set(&[("cluster", "eu-1")])], &sends), ForeignLabels::Refuse).await;
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!((gap.kind, answer.warnings.len()), (GapKind::Refused, 1));
    assert!(gap.reason.contains("us-1") && gap.reason.ends_with("nothing of it is believed"), "{gap}");

    // One that advertises another cluster beside its own is not asked at all.
    let both = [set(&[("cluster", "eu-1")]), set(&[("cluster", "us-1")])];
    let store = liar(&both, &sends);
    let mesh = declared(store.clone(), ForeignLabels::Refuse).await;
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    assert_eq!(Gap::parse(&answer.warnings[0]).unwrap().kind, GapKind::Refused);
    assert!(answer.series.is_empty() && store.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn all_of_an_endpoint_may_be_made_the_declared_clusters() {
    let sends = [
        up(&[("cluster", "us-1"), ("job", "c")]),
        up(&[("cluster", "us-2"), ("job", "a")]),
        up(&[("job", "b")]),
    ];
    let store = liar(&[], &sends);
    let mesh = declared(store.clone(), ForeignLabels::Inject).await;
    let expected = ["a", "b", "c"].map(|job| up(&[("cluster", "eu-1"), ("job", job)]));
    for more in [vec![], vec![Matcher::equal("cluster", "eu-1")]] {
        let answer = ask(&mesh, asking(&more)).await.unwrap();
        assert_eq!((sets(&answer), answer.warnings), (expected.to_vec(), vec![]), "in order, too");
        let asked = store.asked.lock().unwrap().pop().unwrap();
        assert_eq!(asked.matchers, asking(&[]).matchers, "it does not know the label");
    }
    let other = ask(&mesh, asking(&[Matcher::equal("cluster", "us-1")])).await.unwrap();
    assert!(other.series.is_empty() && store.asked.lock().unwrap().is_empty());

    let names = LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    let names = mesh.proxy.label_names(Request::new(names)).await.unwrap().names;
    assert_eq!(names, ["__name__", "cluster", "job"]);
    assert_eq!(values(&mesh).await.0, ["eu-1"]);
}

async fn values(mesh: &Mesh) -> (Vec<String>, Vec<String>) {
    let values = LabelValuesRequest { label: "cluster".to_owned(), end: i64::MAX, ..Default::default() };
    let answer = mesh.proxy.label_values(Request::new(values)).await.unwrap();
    (answer.values, answer.warnings)
}

#[tokio::test]
async fn values_of_the_clusters_label_are_the_declared_one_alone() {
    let sends = [up(&[("cluster", "eu-1")]), up(&[("cluster", "us-1")])];
    let advertised = [set(&[("cluster", "eu-1")])];
    let (found, warnings) = values(&declared(liar(&advertised, &sends), ForeignLabels::Drop).await).await;
    assert_eq!(found, ["eu-1"]);
    assert!(warnings[0].contains(r#"claims cluster="us-1""#), "{warnings:?}");
    let (found, warnings) = values(&declared(liar(&advertised, &sends), ForeignLabels::Refuse).await).await;
    assert!(found.is_empty());
    assert_eq!(Gap::parse(&warnings[0]).unwrap().kind, GapKind::Refused);
}

fn wire(pairs: &[(&str, &str)]) -> Option<ZLabelSet> {
    Some(labels::set_to_wire(&set(pairs)))
}

/// Rules, targets and exemplars of two clusters and of none.
fn side_liar() -> Arc<fake_side::FakeSide> {
    let mut store = fake([("cluster", "eu-1")]);
    let labels = [wire(&[("cluster", "eu-1")]), wire(&[("cluster", "us-1")]), None];
    let instance =
        |labels: &Option<ZLabelSet>| AlertInstance { labels: labels.clone(), ..AlertInstance::default() };
    let mut rules: Vec<Rule> = labels
        .iter()
        .enumerate()
        .map(|(index, labels)| {
            let recording = RecordingRule {
                name: format!("r{index}"),
                labels: labels.clone(),
                ..RecordingRule::default()
            };
            Rule { result: Some(Kind::Recording(recording)) }
        })
        .collect();
    let alert = Alert {
        name: "Down".to_owned(),
        labels: labels[0].clone(),
        alerts: labels.iter().map(instance).collect(),
        ..Alert::default()
    };
    rules.push(Rule { result: Some(Kind::Alert(alert)) });
    store.groups =
        vec![RuleGroup { name: "g".to_owned(), file: "f".to_owned(), rules, ..RuleGroup::default() }];
    let active =
        |labels: &Option<ZLabelSet>| ActiveTarget { labels: labels.clone(), ..ActiveTarget::default() };
    let dropped = |labels: &Option<ZLabelSet>| DroppedTarget { discovered_labels: labels.clone() };
    store.targets = vec![TargetDiscovery {
        active_targets: labels.iter().map(active).collect(),
        dropped_targets: labels.iter().map(dropped).collect(),
    }];
    let data = |labels: &Option<ZLabelSet>| ExemplarData {
        series_labels: labels.clone(),
        exemplars: vec![Default::default()],
    };
    store.exemplars = labels.iter().map(data).collect();
    Arc::new(store)
}

async fn side_hub(foreign_labels: ForeignLabels) -> Hub {
    let endpoints = vec![local("liar", &side_liar()).with_cluster("eu-1")];
    Hub::with(endpoints, |mut config| {
        config.endpoint_options.foreign_labels = foreign_labels;
        config
    })
    .await
}

const SIDE_PATHS: [&str; 3] =
    ["/api/v1/rules", "/api/v1/targets", "/api/v1/query_exemplars?query=up&start=0&end=100"];

#[tokio::test]
async fn rules_targets_and_exemplars_of_another_cluster_are_left_out_too() {
    let hub = side_hub(ForeignLabels::Drop).await;
    let (rules, warnings) = hub.get(SIDE_PATHS[0]).await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 2, "{rules:?}");
    let alert = rules.iter().find(|rule| rule["type"] == "alerting").unwrap();
    assert_eq!(alert["alerts"].as_array().unwrap().len(), 1, "{alert}");
    assert!(warnings[0].contains("rule \"r1\" claims cluster=\"us-1\""), "{warnings:?}");
    let (targets, warnings) = hub.get(SIDE_PATHS[1]).await;
    let count = |kind: &str| targets[kind].as_array().unwrap().len();
    assert_eq!((count("activeTargets"), count("droppedTargets"), warnings.len()), (1, 1, 1));
    let (exemplars, warnings) = hub.get(SIDE_PATHS[2]).await;
    assert_eq!((exemplars.as_array().unwrap().len(), warnings.len()), (1, 1), "{exemplars}");
}

#[tokio::test]
async fn the_small_services_are_refused_or_overlaid_like_series() {
    let hub = side_hub(ForeignLabels::Refuse).await;
    for path in SIDE_PATHS {
        let (_, warnings) = hub.get(path).await;
        assert_eq!(Gap::parse(&warnings[0]).unwrap().kind, GapKind::Refused, "{path}: {warnings:?}");
    }
    let hub = side_hub(ForeignLabels::Inject).await;
    let (rules, warnings) = hub.get(SIDE_PATHS[0]).await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
    assert_eq!((rules.len(), warnings), (4, vec![]));
    assert!(rules.iter().all(|rule| rule["labels"]["cluster"] == "eu-1"), "{rules:?}");
    let (exemplars, warnings) = hub.get(SIDE_PATHS[2]).await;
    assert_eq!((exemplars[0]["seriesLabels"]["cluster"].as_str(), warnings), (Some("eu-1"), vec![]));
}

/// `store` declared as the hub `eu`, to which these clusters are delegated.
async fn hub_over(store: Arc<dyn Store>, delegated: &[&str], foreign_labels: ForeignLabels) -> Mesh {
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let options = EndpointOptions {
        info_interval: Duration::from_secs(3600),
        foreign_labels,
        ..EndpointOptions::default()
    };
    let delegated: Vec<String> = delegated.iter().map(|name| (*name).to_owned()).collect();
    let hub = EndpointConfig::new("hub", Connection::Local(store)).with_cluster("eu");
    let hub = hub.with_delegated(&delegated);
    let endpoints = EndpointSet::start(vec![hub], options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    Mesh { proxy: Proxy::new(endpoints, ProxyConfig::default(), &metrics), metrics, shutdown }
}

#[tokio::test]
async fn of_a_hub_the_series_of_the_clusters_delegated_to_it_are_taken_and_no_others() {
    let own = [up(&[("cluster", "eu-1")]), up(&[("cluster", "eu-2")])];
    let odd = ["us-1", "EU-1", "eu", "eu-11", "eu-1|eu-2"].map(|name| up(&[("cluster", name)]));
    let sends = [&own[..], &odd[..], &[up(&[("job", "a")])]].concat();
    let advertised = ["eu-1", "eu-2", "us-1"].map(|name| set(&[("cluster", name)]));
    let store = liar(&advertised, &sends);
    let mesh = hub_over(store.clone(), &["eu-2", "eu-1"], ForeignLabels::Drop).await;
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    assert_eq!(sets(&answer), own);
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert!(
        gap.reason.contains(r#"claims cluster="us-1", but its endpoint may answer only for "eu-1", "eu-2""#),
        "{gap}"
    );
    assert!(gap.reason.contains("rule of declared clusters") && gap.cluster == "eu", "{gap}");
    // All of these, the one without the label, and the label set that it advertises.
    assert_eq!(mesh.counted(), (odd.len() + 2).to_string());
    let asked = matchers::from_wire(&store.asked.lock().unwrap()[0].matchers).unwrap();
    assert!(asked[1].matches("eu-2") && !asked[1].matches("us-1"), "{asked:?}");
    // A question for another cluster does not even reach it, and it cannot be missed for that.
    let other = ask(&mesh, asking(&[Matcher::equal("cluster", "us-1")])).await.unwrap();
    assert!(other.series.is_empty() && other.warnings.is_empty(), "{other:?}");
    assert_eq!(store.asked.lock().unwrap().len(), 1);
    // Nor does what was not delegated go further up.
    let info = mesh.proxy.info().await.unwrap();
    let passed: Vec<Labels> = info.label_sets.iter().map(|set| labels::set_from_wire(set).unwrap()).collect();
    assert_eq!(passed, advertised[..2]);
    let (found, warnings) = values(&mesh).await;
    assert_eq!(found, ["eu-1", "eu-2"]);
    assert!(warnings[0].contains("may answer only for"), "{warnings:?}");

    let mesh = hub_over(liar(&advertised[..2], &sends), &["eu-1", "eu-2"], ForeignLabels::Refuse).await;
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    assert!(answer.series.len() <= own.len(), "{answer:?}");
    assert_eq!(Gap::parse(&answer.warnings[0]).unwrap().kind, GapKind::Refused);
}

#[tokio::test]
async fn each_cluster_that_a_hub_should_hold_and_does_not_is_missed_by_its_name() {
    let store = liar(&[set(&[("cluster", "eu-1")])], &[up(&[("cluster", "eu-1")])]);
    let mesh = hub_over(store, &["eu-1", "eu-2", "eu-3"], ForeignLabels::Drop).await;
    let missed = |answer: &Collected| -> Vec<(String, GapKind)> {
        let gaps = answer.warnings.iter().map(|text| Gap::parse(text).unwrap());
        gaps.map(|gap| (gap.cluster, gap.kind)).collect()
    };
    let answer = ask(&mesh, asking(&[])).await.unwrap();
    let both = ["eu-2", "eu-3"].map(|name| (name.to_owned(), GapKind::Missing));
    assert_eq!((sets(&answer), missed(&answer)), (vec![up(&[("cluster", "eu-1")])], both.to_vec()));
    let one = ask(&mesh, asking(&[Matcher::equal("cluster", "eu-1")])).await.unwrap();
    assert_eq!((sets(&one).len(), missed(&one)), (1, vec![]), "the others are not wanted");
    let gone = ask(&mesh, asking(&[Matcher::equal("cluster", "eu-3")])).await.unwrap();
    assert_eq!((sets(&gone).len(), missed(&gone)), (0, both[1..].to_vec()));
    assert_eq!(mesh.proxy.endpoints().missing_clusters(), ["eu-2", "eu-3"]);
}

#[tokio::test]
async fn a_hub_that_is_down_is_a_gap_of_each_cluster_that_the_question_concerns() {
    let reason = Connection::Unusable("it was switched off".to_owned());
    let hub = EndpointConfig::new("hub", reason).with_cluster("eu");
    let hub = hub.with_delegated(&["eu-1".to_owned(), "eu-2".to_owned()]);
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    // As one that hangs: it is not asked again.
    let options = EndpointOptions { slow_failure: Duration::ZERO, ..EndpointOptions::default() };
    let endpoints = EndpointSet::start(vec![hub], options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    let mesh = Mesh { proxy: Proxy::new(endpoints, ProxyConfig::default(), &metrics), metrics, shutdown };
    for (more, wanted) in [
        (vec![], vec!["eu-1", "eu-2"]),
        (vec![Matcher::equal("cluster", "eu-2")], vec!["eu-2"]),
        (vec![Matcher::equal("cluster", "eu")], vec![]),
    ] {
        let answer = ask(&mesh, asking(&more)).await.unwrap();
        let named: Vec<String> =
            answer.warnings.iter().map(|text| Gap::parse(text).unwrap().cluster).collect();
        assert_eq!(named, wanted, "{answer:?}");
    }
}

#[tokio::test]
async fn a_hub_of_several_clusters_cannot_have_its_labels_injected() {
    let hub = EndpointConfig::new("hub", Connection::Local(liar(&[], &[]))).with_cluster("eu");
    let hub = hub.with_delegated(&["eu-1".to_owned(), "eu-2".to_owned()]);
    let options = EndpointOptions { foreign_labels: ForeignLabels::Inject, ..EndpointOptions::default() };
    let started = EndpointSet::start(vec![hub], options, &Metrics::new(), CancellationToken::new());
    let error = started.err().unwrap().to_string();
    assert!(error.contains("\"hub\"") && error.contains("use drop or refuse"), "{error}");
}
