//! What is declared of clusters: labels decide who is asked and missed, a budget ends the wait for one cluster alone, and what is required is in the answer or there is none.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fake_side::fake;
use futures::StreamExt;
use hub::{Hub, down, local};
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_querier::store_selection::select;
use parallax_querier::{
    Connection, Declared, EndpointConfig, EndpointOptions, EndpointSet, Gap, GapKind, Proxy, ProxyConfig,
};
use parallax_storeapi::frames::{self, Collected};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, Store, matchers, with_deadline};
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

fn store(cluster: &str) -> FakeStore {
    let samples = || (0..10).map(|i| (i * 15_000, i as f64));
    FakeStore::new([("cluster", cluster)])
        .with_range(TimeRange::new(0, i64::MAX))
        .with_series([("__name__", "up"), ("job", "a")], samples())
        .with_series([("__name__", "up"), ("job", "b")], samples())
        .with_series([("__name__", "up"), ("job", "c")], samples())
}

fn endpoint(cluster: &str, store: &Arc<FakeStore>, declared: Declared) -> EndpointConfig {
    EndpointConfig::new(format!("{cluster}:10901"), Connection::Local(store.clone()))
        .with_cluster(cluster)
        .with_declared(declared)
}

fn required() -> Declared {
    Declared { required: true, ..Declared::default() }
}

fn budget(budget: Duration) -> Declared {
    Declared { budget: Some(budget), ..Declared::default() }
}

fn env(value: &str) -> Declared {
    Declared { labels: Labels::from_pairs([("env", value)]), ..Declared::default() }
}

struct Mesh {
    proxy: Proxy,
    endpoints: Arc<EndpointSet>,
    shutdown: CancellationToken,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Polls once and then hardly ever.
async fn mesh(configs: Vec<EndpointConfig>, config: ProxyConfig) -> Mesh {
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let options = EndpointOptions { info_interval: Duration::from_secs(3600), ..EndpointOptions::default() };
    let endpoints = EndpointSet::start(configs, options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    Mesh { proxy: Proxy::new(endpoints.clone(), config, &metrics), endpoints, shutdown }
}

fn up(more: &[(&str, &str)]) -> SeriesRequest {
    let mut all = vec![Matcher::equal("__name__", "up")];
    all.extend(more.iter().map(|(name, value)| Matcher::equal(*name, *value)));
    SeriesRequest { max_time: 10_000_000, matchers: matchers::to_wire(&all), ..SeriesRequest::default() }
}

async fn ask(mesh: &Mesh, request: SeriesRequest) -> Result<Collected, Status> {
    frames::collect(mesh.proxy.series(Request::new(request)).await?).await
}

fn gaps(answer: &Collected) -> Vec<Gap> {
    answer.warnings.iter().map(|text| Gap::parse(text).unwrap_or_else(|| panic!("no gap: {text}"))).collect()
}

fn refused() -> Fault {
    Fault::Down(Status::unavailable("connection refused"))
}

#[tokio::test]
async fn a_query_that_contradicts_declared_labels_neither_asks_a_cluster_nor_misses_it() {
    let (prod, dev) = (Arc::new(store("eu-1")), Arc::new(store("us-1")));
    let never_seen = Arc::new(store("ap-1").with_fault(refused()));
    let configs = vec![
        endpoint("eu-1", &prod, env("prod")),
        endpoint("us-1", &dev, env("dev")),
        endpoint("ap-1", &never_seen, env("prod")),
    ];
    let mesh = mesh(configs, ProxyConfig::default()).await;
    let answer = ask(&mesh, up(&[("env", "dev")])).await.unwrap();
    assert_eq!((prod.calls().series, dev.calls().series, answer.warnings.len()), (0, 1, 0));
    let answer = ask(&mesh, up(&[("env", "prod")])).await.unwrap();
    assert_eq!((prod.calls().series, dev.calls().series), (1, 1));
    assert_eq!(gaps(&answer)[0].cluster, "ap-1");
    assert_eq!(gaps(&ask(&mesh, up(&[])).await.unwrap()).len(), 1, "whoever does not say needs it");
}

#[tokio::test]
async fn an_endpoint_that_advertises_another_value_is_believed_and_the_contradiction_shows() {
    let other = Arc::new(
        FakeStore::new([("cluster", "eu-1"), ("env", "dev")])
            .with_range(TimeRange::new(0, i64::MAX))
            .with_series([("__name__", "up")], [(0, 1.0)]),
    );
    let mesh = mesh(vec![endpoint("eu-1", &other, env("prod"))], ProxyConfig::default()).await;
    assert_eq!(ask(&mesh, up(&[("env", "dev")])).await.unwrap().series.len(), 1);
    let status = mesh.endpoints.status().remove(0);
    let said = status.last_error.unwrap();
    assert!(status.healthy && said.contains("env=\"dev\"") && said.contains("env=\"prod\""), "{said}");
}

#[tokio::test]
async fn without_a_required_cluster_there_is_no_answer_though_partial_ones_are_allowed() {
    let cases = [
        (refused(), GapKind::Missing),
        (Fault::FailAfter(1, Status::internal("disk on fire")), GapKind::Partial),
        (Fault::HangAfter(1), GapKind::Late),
        (Fault::Warn("half a disk".to_owned()), GapKind::Partial),
    ];
    for (fault, kind) in cases {
        let (eu, us) = (Arc::new(store("eu-1")), Arc::new(store("us-1").with_fault(fault)));
        let configs = vec![endpoint("eu-1", &eu, Declared::default()), endpoint("us-1", &us, required())];
        let config =
            ProxyConfig { response_timeout: Some(Duration::from_millis(300)), ..ProxyConfig::default() };
        let mesh = mesh(configs, config).await;
        let status = ask(&mesh, up(&[])).await.unwrap_err();
        let gap = Gap::parse(status.message()).unwrap();
        assert_eq!((status.code(), gap.cluster.as_str(), gap.kind), (Code::Aborted, "us-1", kind), "{gap}");
        assert!(gap.reason.contains("this cluster is required"), "{gap}");
        // Whoever does not need it does not hear of it.
        let other = ask(&mesh, up(&[("cluster", "eu-1")])).await.unwrap();
        assert_eq!((other.series.len(), other.warnings.len()), (3, 0));
    }
}

/// A component of this process with a defect.
struct Panicking(FakeStore);

#[parallax_storeapi::async_trait]
impl Store for Panicking {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.0.info().await
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        panic!("as a defect would");
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
async fn a_required_cluster_whose_call_panics_is_no_answer_either() {
    for (declared, is_required) in [(Declared::default(), false), (required(), true)] {
        let (eu, us) = (Arc::new(store("eu-1")), Arc::new(Panicking(store("us-1"))));
        let us = EndpointConfig::new("us-1:10901", Connection::Local(us)).with_cluster("us-1");
        let configs = vec![endpoint("eu-1", &eu, Declared::default()), us.with_declared(declared)];
        let mesh = mesh(configs, ProxyConfig::default()).await;
        let answer = ask(&mesh, up(&[])).await;
        let gap = match &answer {
            Ok(answer) => gaps(answer).remove(0),
            Err(status) => Gap::parse(status.message()).unwrap(),
        };
        assert_eq!((gap.cluster.as_str(), gap.kind), ("us-1", GapKind::Partial), "{gap}");
        assert_eq!(gap.reason.contains("this cluster is required"), is_required, "{gap}");
        assert_eq!(
            answer.map(|answer| answer.series.len()).map_err(|status| status.code()),
            match is_required {
                true => Err(Code::Aborted),
                false => Ok(3),
            }
        );
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_required_is_missed_with_a_warning_beside_one_that_is() {
    let (eu, us) = (Arc::new(store("eu-1")), Arc::new(store("us-1").with_fault(refused())));
    let configs = vec![endpoint("eu-1", &eu, required()), endpoint("us-1", &us, Declared::default())];
    let mesh = mesh(configs, ProxyConfig::default()).await;
    let answer = ask(&mesh, up(&[])).await.unwrap();
    assert_eq!((answer.series.len(), gaps(&answer)[0].cluster.as_str()), (3, "us-1"));
}

#[tokio::test]
async fn labels_of_a_required_cluster_are_whole_or_an_error() {
    let (eu, us) = (Arc::new(store("eu-1")), Arc::new(store("us-1")));
    let configs = vec![endpoint("eu-1", &eu, Declared::default()), endpoint("us-1", &us, required())];
    let mesh = mesh(configs, ProxyConfig::default()).await;
    let names = || LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    let values =
        || LabelValuesRequest { label: "job".to_owned(), end: i64::MAX, ..LabelValuesRequest::default() };
    assert!(mesh.proxy.label_names(Request::new(names())).await.unwrap().warnings.is_empty());
    for fault in [Fault::FailOpen(Status::internal("broken")), Fault::Warn("careful".to_owned())] {
        us.set_fault(fault);
        let status = mesh.proxy.label_names(Request::new(names())).await.unwrap_err();
        assert!(status.message().contains("us-1") && status.message().contains("required"), "{status}");
        let status = mesh.proxy.label_values(Request::new(values())).await.unwrap_err();
        assert_eq!(Gap::parse(status.message()).unwrap().cluster, "us-1");
    }
}

#[tokio::test]
async fn what_is_required_is_required_through_a_querier_beneath() {
    let us = Arc::new(store("us-1").with_fault(Fault::FailOpen(Status::unavailable("no route"))));
    let leaf = mesh(vec![endpoint("us-1", &us, required())], ProxyConfig::default()).await;
    let local = Connection::Local(Arc::new(leaf.proxy.clone()));
    let config = EndpointConfig::new("querier us-1", local).with_cluster("us-1");
    let top = mesh(vec![config.with_declared(required())], ProxyConfig::default()).await;
    let status = ask(&top, up(&[])).await.unwrap_err();
    let gap = Gap::parse(status.message()).unwrap();
    assert_eq!((gap.endpoint.as_str(), gap.kind), ("us-1:10901", GapKind::Missing));
    assert_eq!(status.message().matches("this cluster is required").count(), 1, "{status}");
}

#[tokio::test]
async fn side_services_and_queries_over_http_name_a_required_cluster_that_is_down() {
    let eu = Arc::new(fake([("cluster", "eu-1")]).with_metadata("up", "gauge", "Whether it is up"));
    let hub = Hub::over(vec![local("eu", &eu), down("us-1").with_declared(required())]).await;
    for uri in [
        "/api/v1/metadata?partial_response=1",
        "/api/v1/labels?partial_response=1",
        "/api/v1/query?query=up&partial_response=1",
    ] {
        let (status, answer) = hub.ask(uri).await;
        assert!(!status.is_success(), "{uri}: {answer}");
        let said = answer["error"].as_str().unwrap();
        assert!(said.contains("cluster \"us-1\" missing") && said.contains("required"), "{uri}: {said}");
    }
    let eu_only = "/api/v1/query?query=up%7Bcluster%3D%22eu-1%22%7D&partial_response=1";
    hub.whole(eu_only).await;
}

#[tokio::test]
async fn what_is_declared_shows_in_the_list_of_stores() {
    let declared = Declared {
        region: Some("europe".to_owned()),
        budget: Some(Duration::from_millis(1500)),
        ..env("prod")
    };
    let hub = Hub::over(vec![down("us-1").with_declared(declared), down("ap-1")]).await;
    let (_, stores) = hub.ask("/api/v1/stores").await;
    let all = stores["data"]["unknown"].as_array().unwrap();
    assert_eq!(all[0]["region"], "europe");
    assert_eq!(all[0]["declaredLabels"], serde_json::json!({"env": "prod"}));
    assert_eq!(all[0]["budgetSeconds"], 1.5);
    assert_eq!(all[0]["required"], false);
    assert!(all[1].get("region").is_none() && all[1].get("required").is_none(), "{stores}");
}

#[tokio::test]
async fn a_budget_ends_the_wait_for_one_cluster_and_for_no_other() {
    let allowed = Duration::from_millis(500);
    // Never silent for long, and slow in all: three frames, at least 200 ms each.
    let slow = || Arc::new(store("us-1").with_fault(Fault::Slow(Duration::from_millis(200))));
    let (us, ap, eu) =
        (slow(), Arc::new(store("ap-1").with_fault(Fault::HangAfter(0))), Arc::new(store("eu-1")));
    let configs = vec![
        endpoint("eu-1", &eu, Declared::default()),
        endpoint("us-1", &us, budget(allowed)),
        endpoint("ap-1", &ap, budget(allowed)),
    ];
    let mesh = mesh(configs, ProxyConfig::default()).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let stream = mesh.proxy.series(with_deadline(up(&[]), Some(deadline))).await.unwrap();
    let answer = frames::collect(stream).await.unwrap();
    let mut gaps = gaps(&answer);
    gaps.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    let found: Vec<_> = gaps.iter().map(|gap| (gap.cluster.as_str(), gap.kind)).collect();
    assert_eq!(found, [("ap-1", GapKind::Late), ("us-1", GapKind::Late)]);
    assert!(gaps.iter().all(|gap| gap.reason.contains("its budget of 500ms was spent")), "{gaps:?}");
    let of_eu = answer.series.iter().filter(|one| one.labels.iter().any(|label| &label.value[..] == b"eu-1"));
    assert_eq!(of_eu.count(), 3);

    // To be silent for all of it is a hang; the same slowness without a budget is no fault at all.
    assert!(mesh.endpoints.endpoints()[2].why_not_now(Instant::now()).is_some());
    let patient =
        self::mesh(vec![endpoint("us-1", &slow(), Declared::default())], ProxyConfig::default()).await;
    assert_eq!(ask(&patient, up(&[])).await.unwrap().warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_budget_covers_calls_for_labels() {
    let us = Arc::new(store("us-1").with_fault(Fault::HangBeforeOpen));
    let mesh = mesh(
        vec![endpoint("us-1", &us, budget(Duration::from_millis(200)))],
        ProxyConfig { response_timeout: Some(Duration::from_secs(600)), ..ProxyConfig::default() },
    )
    .await;
    let request = LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    let answer = mesh.proxy.label_names(Request::new(request)).await.unwrap();
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!(gap.kind, GapKind::Late);
    assert!(gap.reason.contains("its budget of 200ms was spent"), "{gap}");
}

#[tokio::test]
async fn time_in_which_nobody_reads_is_not_a_clusters() {
    let allowed = Duration::from_secs(1);
    let us = Arc::new(store("us-1"));
    let config = ProxyConfig { look_ahead: 1, look_ahead_bytes: 1, ..ProxyConfig::default() };
    let mesh = mesh(vec![endpoint("us-1", &us, budget(allowed))], config).await;
    let mut stream = mesh.proxy.series(Request::new(up(&[]))).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    // The answer's reader takes longer than the cluster may.
    tokio::time::sleep(allowed + allowed / 2).await;
    let rest = frames::collect(stream).await.unwrap();
    assert!(matches!(
        first.result,
        Some(parallax_storeapi::proto::thanos::series_response::Result::Series(_))
    ));
    assert_eq!((rest.series.len(), rest.warnings), (2, Vec::new()));
}

#[tokio::test]
async fn endpoints_are_exchanged_once_the_new_ones_were_heard_of_and_a_stream_keeps_its_own() {
    let (before, after) = (Arc::new(store("eu-1")), Arc::new(store("us-1")));
    let config = ProxyConfig { look_ahead: 1, look_ahead_bytes: 1, ..ProxyConfig::default() };
    let mesh = mesh(vec![endpoint("eu-1", &before, Declared::default())], config).await;
    let mut running = mesh.proxy.series(Request::new(up(&[]))).await.unwrap();
    running.next().await.unwrap().unwrap();
    let configs = vec![endpoint("us-1", &after, Declared::default())];
    mesh.endpoints.replace_when_polled(configs, Vec::new(), Duration::from_secs(60)).await;
    let known = mesh.endpoints.endpoints()[0].metadata().expect("it was polled before it was asked");
    assert_eq!(known.label_sets, [Labels::from_pairs([("cluster", "us-1")])]);
    let rest = frames::collect(running).await.unwrap();
    assert_eq!((rest.series.len(), rest.warnings.len()), (2, 0));
    let answer = ask(&mesh, up(&[])).await.unwrap();
    assert_eq!((answer.series.len(), after.calls().series, before.calls().series), (3, 1, 1));
    let selection = select(&mesh.endpoints, TimeRange::ALL, &[Matcher::equal("cluster", "eu-1")], &[]);
    assert!(selection.ask.is_empty() && selection.gaps.is_empty(), "nobody expects it any more");
}

#[tokio::test]
async fn endpoints_that_never_answer_are_exchanged_all_the_same() {
    let (before, hung) = (Arc::new(store("eu-1")), Arc::new(store("us-1").with_fault(Fault::Hang)));
    let mesh = mesh(vec![endpoint("eu-1", &before, Declared::default())], ProxyConfig::default()).await;
    let configs = vec![endpoint("us-1", &hung, Declared::default())];
    mesh.endpoints.replace_when_polled(configs, Vec::new(), Duration::from_millis(50)).await;
    let names: Vec<String> = mesh.endpoints.status().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["us-1:10901"]);
}
