//! The fan-out over fakes: what comes, in which order, and what is said about what does not come.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_model::{Labels, MatchOp, Matcher, TimeRange};
use parallax_net::{GrpcServer, GrpcServerConfig, GrpcTarget};
use parallax_querier::{
    Connection, EndpointConfig, EndpointOptions, EndpointSet, Gap, GapKind, Proxy, ProxyConfig,
};
use parallax_storeapi::conformance;
use parallax_storeapi::frames::{self, Collected};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelValuesRequest, PartialResponseStrategy, SeriesRequest, ShardInfo,
};
use parallax_storeapi::{Store, labels, matchers, with_deadline};
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

/// Short enough for tests, long enough for a busy machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

fn samples(offset: i64) -> impl Iterator<Item = (i64, f64)> {
    (0..200).map(move |i| (offset + i * 15_000, i as f64))
}

/// A store of one cluster and replica: `up` of three jobs and `requests_total` of one.
fn store(cluster: &str, replica: &str) -> FakeStore {
    FakeStore::new([("cluster", cluster), ("replica", replica)])
        .with_range(TimeRange::new(0, i64::MAX))
        .with_series([("__name__", "up"), ("job", "a")], samples(0))
        .with_series([("__name__", "up"), ("job", "b")], samples(0))
        .with_series([("__name__", "up"), ("job", "c"), ("zone", "z")], samples(0))
        .with_series([("__name__", "requests_total"), ("job", "a")], samples(0))
}

fn endpoint(name: &str, store: &Arc<FakeStore>) -> EndpointConfig {
    EndpointConfig::new(name, Connection::Local(store.clone()))
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

/// Polls once and then hardly ever, so that a test decides what is known.
fn rare_polls() -> EndpointOptions {
    EndpointOptions { info_interval: Duration::from_secs(3600), ..EndpointOptions::default() }
}

fn frequent_polls() -> EndpointOptions {
    EndpointOptions { info_interval: Duration::from_millis(20), ..EndpointOptions::default() }
}

async fn mesh_with(configs: Vec<EndpointConfig>, options: EndpointOptions, config: ProxyConfig) -> Mesh {
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let endpoints = EndpointSet::start(configs, options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    Mesh { proxy: Proxy::new(endpoints.clone(), config, &metrics), endpoints, shutdown }
}

async fn mesh(configs: Vec<EndpointConfig>) -> Mesh {
    let config = ProxyConfig { response_timeout: Some(RESPONSE_TIMEOUT), ..ProxyConfig::default() };
    mesh_with(configs, rare_polls(), config).await
}

fn asking(matchers: &[Matcher]) -> SeriesRequest {
    SeriesRequest {
        min_time: 0,
        max_time: 10_000_000,
        matchers: matchers::to_wire(matchers),
        ..SeriesRequest::default()
    }
}

fn up() -> SeriesRequest {
    asking(&[Matcher::equal("__name__", "up")])
}

fn up_of(cluster: &str) -> SeriesRequest {
    asking(&[Matcher::equal("__name__", "up"), Matcher::equal("cluster", cluster)])
}

fn aborting(request: SeriesRequest) -> SeriesRequest {
    SeriesRequest { partial_response_strategy: PartialResponseStrategy::Abort.into(), ..request }
}

async fn ask(store: &dyn Store, request: SeriesRequest) -> Result<Collected, Status> {
    frames::collect(store.series(Request::new(request)).await?).await
}

fn names(answer: &Collected) -> Vec<String> {
    answer.series.iter().map(|series| labels::display(&series.labels)).collect()
}

/// The only warning of an answer, which has to be a gap.
fn gap(answer: &Collected) -> Gap {
    assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
    Gap::parse(&answer.warnings[0]).unwrap_or_else(|| panic!("not a gap: {}", answer.warnings[0]))
}

/// Waits until `condition` holds; fails after a long time.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < give_up, "{what} never happened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn series_of_all_stores_come_in_one_sorted_stream() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    let mesh = mesh(vec![endpoint("us", &us), endpoint("eu", &eu)]).await;
    let answer = ask(&mesh.proxy, up()).await.unwrap();
    assert_eq!(answer.warnings, Vec::<String>::new());
    let sets: Vec<Labels> =
        answer.series.iter().map(|series| labels::from_wire(&series.labels).unwrap()).collect();
    assert_eq!(sets.len(), 6);
    assert!(sets.is_sorted());
    assert_eq!(sets[0].value_of("cluster"), "eu-1");
    assert_eq!(sets[5].value_of("cluster"), "us-1");
}

#[tokio::test]
async fn two_views_of_one_series_become_one_with_every_chunk_once() {
    let views = [Arc::new(store("eu-1", "0")), Arc::new(store("eu-1", "0"))];
    let alone = mesh(vec![endpoint("a", &views[0])]).await;
    let both = mesh(vec![endpoint("a", &views[0]), endpoint("b", &views[1])]).await;
    let expected = ask(&alone.proxy, up()).await.unwrap();
    let answer = ask(&both.proxy, up()).await.unwrap();
    assert_eq!((answer.series, answer.warnings), (expected.series.clone(), expected.warnings.clone()));
    assert_eq!(expected.series[0].chunks.len(), 2);
}

#[tokio::test]
async fn a_proxy_is_a_conforming_store() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "1")));
    let old = Arc::new(store("us-2", "0").without_sharding().without_replica_label_removal());
    let mut known = eu.known();
    known.series.extend(us.known().series);
    known.series.extend(old.known().series);
    let mesh = mesh(vec![endpoint("eu", &eu), endpoint("us", &us), endpoint("old", &old)]).await;
    assert_eq!(conformance::check(&mesh.proxy, &known).await, Vec::<String>::new());
}

#[tokio::test]
async fn stores_that_cannot_match_are_not_asked() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    let old = Arc::new(store("eu-1", "1").with_range(TimeRange::new(-2000, -1000)));
    let mesh = mesh(vec![endpoint("eu", &eu), endpoint("us", &us), endpoint("old", &old)]).await;
    let answer = ask(&mesh.proxy, up_of("eu-1")).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (3, 0));
    assert_eq!((eu.calls().series, us.calls().series, old.calls().series), (1, 0, 0));
    // The matcher on the external label is passed on as it came.
    assert_eq!(eu.last_series_request().unwrap().matchers, up_of("eu-1").matchers);
}

#[tokio::test]
async fn a_store_that_hangs_costs_its_budget_once_and_is_named() {
    for fault in [Fault::HangBeforeOpen, Fault::HangAfter(0)] {
        let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0").with_fault(fault)));
        let mesh = mesh(vec![endpoint("eu:10901", &eu), endpoint("us:10901", &us)]).await;
        let answer = ask(&mesh.proxy, up()).await.unwrap();
        assert_eq!(answer.series.len(), 3);
        let first = gap(&answer);
        assert_eq!((first.kind, first.cluster.as_str()), (GapKind::Late, "us-1"));
        assert_eq!(first.endpoint, "us:10901");

        // The breaker is open: not asked again, and still reported.
        let answer = ask(&mesh.proxy, up()).await.unwrap();
        assert_eq!((answer.series.len(), us.calls().series), (3, 1));
        assert_eq!(gap(&answer).kind, GapKind::Late);
        assert!(gap(&answer).reason.starts_with("not asked: "), "{}", gap(&answer).reason);
        let status = ask(&mesh.proxy, aborting(up())).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
    }
}

#[tokio::test]
async fn the_breaker_closes_with_an_info_poll() {
    let us = Arc::new(store("us-1", "0").with_fault(Fault::HangBeforeOpen));
    let config = ProxyConfig { response_timeout: Some(RESPONSE_TIMEOUT), ..ProxyConfig::default() };
    let mesh = mesh_with(vec![endpoint("us", &us)], frequent_polls(), config).await;
    assert_eq!(ask(&mesh.proxy, up()).await.unwrap().series.len(), 0);
    us.set_fault(Fault::None);
    let endpoint = mesh.endpoints.endpoints()[0].clone();
    until("the breaker closing", || endpoint.why_not_now(Instant::now()).is_none()).await;
    let answer = ask(&mesh.proxy, up()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (3, 0));
}

#[tokio::test]
async fn what_came_before_a_store_failed_or_hung_stays() {
    let faults = [
        (Fault::FailAfter(2, Status::internal("disk on fire")), GapKind::Partial),
        (Fault::HangAfter(2), GapKind::Late),
    ];
    for (fault, kind) in faults {
        let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0").with_fault(fault)));
        let mesh = mesh(vec![endpoint("eu", &eu), endpoint("us", &us)]).await;
        let answer = ask(&mesh.proxy, up()).await.unwrap();
        assert_eq!((answer.series.len(), gap(&answer).kind), (5, kind), "{:?}", names(&answer));
    }
}

#[tokio::test]
async fn without_partial_answers_a_failing_store_fails_the_call() {
    let us = Arc::new(store("us-1", "0").with_fault(Fault::FailAfter(1, Status::internal("disk on fire"))));
    let eu = Arc::new(store("eu-1", "0"));
    let mesh = mesh(vec![endpoint("eu", &eu), endpoint("us", &us)]).await;
    let disabled = SeriesRequest { partial_response_disabled: true, ..up() };
    for request in [aborting(up()), disabled] {
        let status = ask(&mesh.proxy, request).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        let gap = Gap::parse(status.message()).unwrap();
        assert_eq!((gap.kind, gap.reason.as_str()), (GapKind::Partial, "disk on fire"));
    }
    // A query that does not need it is not failed by it.
    assert_eq!(ask(&mesh.proxy, aborting(up_of("eu-1"))).await.unwrap().series.len(), 3);
}

#[tokio::test]
async fn a_warning_of_a_store_passes_or_aborts() {
    let us = Arc::new(store("us-1", "0").with_fault(Fault::Warn("half a disk".to_owned())));
    let mesh = mesh(vec![endpoint("us", &us)]).await;
    let answer = ask(&mesh.proxy, up()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings), (3, vec!["half a disk".to_owned()]));
    assert_eq!(ask(&mesh.proxy, aborting(up())).await.unwrap_err().message(), "half a disk");
}

#[tokio::test]
async fn a_store_that_went_down_is_missed_where_its_last_words_matter() {
    let us = Arc::new(store("us-1", "0"));
    let mesh = mesh_with(vec![endpoint("us", &us)], frequent_polls(), ProxyConfig::default()).await;
    us.set_fault(Fault::Down(Status::unavailable("connection refused")));
    until("the endpoint going down", || !mesh.endpoints.endpoints()[0].is_healthy()).await;

    let answer = ask(&mesh.proxy, up()).await.unwrap();
    let missing = gap(&answer);
    assert_eq!((missing.kind, missing.cluster.as_str()), (GapKind::Missing, "us-1"));
    assert_eq!(missing.reason, "connection refused");
    assert_eq!(ask(&mesh.proxy, aborting(up())).await.unwrap_err().code(), Code::Aborted);

    let answer = ask(&mesh.proxy, aborting(up_of("eu-1"))).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (0, 0));
    let status = &mesh.endpoints.status()[0];
    assert_eq!(status.last_error.as_deref(), Some("connection refused"));
    assert_eq!(status.label_sets, [Labels::from_pairs([("cluster", "us-1"), ("replica", "0")])]);
}

#[tokio::test]
async fn an_expected_cluster_that_was_never_seen_is_missed() {
    let down = Arc::new(store("us-1", "0").with_fault(Fault::Down(Status::unavailable("no route"))));
    let mesh = mesh(vec![endpoint("us:10901", &down).with_cluster("us-1")]).await;
    for request in [up(), up_of("us-1")] {
        let missing = gap(&ask(&mesh.proxy, request).await.unwrap());
        assert_eq!(missing.to_string(), "parallax: cluster \"us-1\" missing: us:10901: no route");
    }
    assert_eq!(ask(&mesh.proxy, up_of("eu-1")).await.unwrap().warnings.len(), 0);
    assert_eq!(mesh.endpoints.missing_clusters(), ["us-1"]);
}

#[tokio::test]
async fn an_endpoint_that_is_up_with_another_cluster_than_it_is_declared_as_is_missed_and_not_believed() {
    let us = Arc::new(store("us-2", "0"));
    let mesh = mesh(vec![endpoint("us", &us).with_cluster("us-1")]).await;
    let answer = ask(&mesh.proxy, up()).await.unwrap();
    assert_eq!((answer.series.len(), gap(&answer).cluster.as_str()), (0, "us-1"));
    assert_eq!(mesh.endpoints.missing_clusters(), ["us-1"]);
    assert_eq!(ask(&mesh.proxy, up_of("us-2")).await.unwrap().warnings.len(), 0);
}

#[tokio::test]
async fn an_endpoint_that_hangs_at_info_is_skipped_and_reported() {
    let us = Arc::new(store("us-1", "0").with_fault(Fault::Hang));
    let options = EndpointOptions {
        info_timeout: Duration::from_millis(50),
        slow_failure: Duration::from_millis(50),
        ..rare_polls()
    };
    let mesh =
        mesh_with(vec![endpoint("us", &us).with_cluster("us-1")], options, ProxyConfig::default()).await;
    let missing = gap(&ask(&mesh.proxy, up()).await.unwrap());
    assert_eq!((missing.kind, us.calls().series), (GapKind::Missing, 0));
    assert!(missing.reason.contains("no answer to Info"), "{}", missing.reason);
}

#[tokio::test]
async fn no_endpoint_at_all_fails_only_a_call_without_partial_answers() {
    let mesh = mesh(vec![]).await;
    let answer = ask(&mesh.proxy, up()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (0, 0));
    assert_eq!(ask(&mesh.proxy, aborting(up())).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn transport_errors_before_the_first_frame_are_tried_again_twice() {
    let refused = || Status::unavailable("connection refused");
    for (failures, series) in [(2, 3), (3, 0)] {
        let us = Arc::new(store("us-1", "0").with_fault(Fault::FailOpens(failures, refused())));
        let mesh = mesh(vec![endpoint("us", &us)]).await;
        let answer = ask(&mesh.proxy, up()).await.unwrap();
        assert_eq!((answer.series.len(), us.calls().series), (series, 3));
        assert_eq!(answer.warnings.len(), usize::from(series == 0));
    }
    let us = Arc::new(store("us-1", "0").with_fault(Fault::FailOpen(Status::permission_denied("not you"))));
    let mesh = mesh(vec![endpoint("us", &us)]).await;
    assert_eq!(gap(&ask(&mesh.proxy, up()).await.unwrap()).kind, GapKind::Refused);
    assert_eq!(us.calls().series, 1);
}

#[tokio::test]
async fn the_deadline_of_a_request_ends_with_what_is_there() {
    let eu = Arc::new(store("eu-1", "0"));
    let us = Arc::new(store("us-1", "0").with_fault(Fault::HangAfter(1)));
    let mesh =
        mesh_with(vec![endpoint("eu", &eu), endpoint("us", &us)], rare_polls(), ProxyConfig::default()).await;
    let deadline = Instant::now() + Duration::from_secs(2);
    let stream = mesh.proxy.series(with_deadline(up(), Some(deadline))).await.unwrap();
    let answer = frames::collect(stream).await.unwrap();
    assert_eq!((answer.series.len(), gap(&answer).kind), (4, GapKind::Late));
    // A caller in a hurry does not take the endpoint away from others.
    assert_eq!(mesh.endpoints.endpoints()[1].why_not_now(Instant::now()), None);
}

#[tokio::test]
async fn a_slow_store_is_not_a_hung_one() {
    let us = Arc::new(store("us-1", "0").with_fault(Fault::Slow(RESPONSE_TIMEOUT / 4)));
    let mesh = mesh(vec![endpoint("us", &us)]).await;
    let answer = ask(&mesh.proxy, asking(&[Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap()])).await;
    let answer = answer.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (4, 0));
}

#[tokio::test]
async fn a_missing_cluster_is_heard_of_through_a_stack_of_queriers() {
    let eu = Arc::new(store("eu-1", "0"));
    let us = Arc::new(store("us-1", "0"));
    let leaf = |store: &Arc<FakeStore>| {
        let config = endpoint("sidecar", store);
        async { mesh_with(vec![config], frequent_polls(), ProxyConfig::default()).await }
    };
    let (leaf_eu, leaf_us) = (leaf(&eu).await, leaf(&us).await);
    let local = |mesh: &Mesh| Connection::Local(Arc::new(mesh.proxy.clone()));
    let configs = vec![
        EndpointConfig::new("querier-eu", local(&leaf_eu)).with_cluster("eu-1"),
        EndpointConfig::new("querier-us", local(&leaf_us)).with_cluster("us-1"),
    ];
    let top = mesh_with(configs, frequent_polls(), ProxyConfig::default()).await;
    assert_eq!(ask(&top.proxy, up()).await.unwrap().series.len(), 6);

    us.set_fault(Fault::Down(Status::unavailable("connection refused")));
    until("the leaf noticing", || !leaf_us.endpoints.endpoints()[0].is_healthy()).await;
    let answer = ask(&top.proxy, up()).await.unwrap();
    let missing = gap(&answer);
    assert_eq!((answer.series.len(), missing.cluster.as_str(), missing.kind), (3, "us-1", GapKind::Missing));
    assert_eq!(missing.endpoint, "sidecar");
    let status = ask(&top.proxy, aborting(up())).await.unwrap_err();
    assert_eq!(
        (status.code(), Gap::parse(status.message()).unwrap().endpoint.as_str()),
        (Code::Aborted, "sidecar")
    );
    assert_eq!(ask(&top.proxy, aborting(up_of("eu-1"))).await.unwrap().series.len(), 3);
}

#[tokio::test]
async fn a_querier_gives_up_on_a_hung_store_before_the_one_above_gives_up_on_it() {
    let well = Arc::new(store("us-1", "0"));
    let hung = Arc::new(store("us-1", "1").with_fault(Fault::HangAfter(1)));
    let leaf = mesh(vec![endpoint("sidecar-0", &well), endpoint("sidecar-1", &hung)]).await;
    let connection = Connection::Local(Arc::new(leaf.proxy.clone()));
    let top = mesh(vec![EndpointConfig::new("querier", connection)]).await;
    let answer = ask(&top.proxy, up()).await.unwrap();
    assert_eq!(answer.series.len(), 4, "{:?}", answer.warnings);
    assert_eq!((gap(&answer).endpoint.as_str(), gap(&answer).kind), ("sidecar-1", GapKind::Late));
    assert_eq!(top.endpoints.endpoints()[0].why_not_now(Instant::now()), None);
    assert!(leaf.endpoints.endpoints()[1].why_not_now(Instant::now()).is_some());
}

#[tokio::test]
async fn a_remote_endpoint_is_asked_over_grpc_and_missed_when_its_server_is_gone() {
    let us = Arc::new(store("us-1", "0"));
    let (_ready, readiness) = tokio::sync::watch::channel(true);
    let server = GrpcServer::bind(GrpcServerConfig::new("127.0.0.1:0"), &Metrics::new()).await.unwrap();
    let address = server.local_addr().to_string();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(parallax_storeapi::routes(us, readiness).unwrap(), stop.clone()));

    let target = Connection::Remote(GrpcTarget::plain(&address));
    let config = EndpointConfig::new(address.clone(), target).with_cluster("us-1");
    // Nobody is silent in here, and what comes over a connection may take long where the machine is busy.
    let mesh = mesh_with(vec![config], rare_polls(), ProxyConfig::default()).await;
    let answer = ask(&mesh.proxy, up()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings), (3, vec![]));

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(120), serving).await.unwrap().unwrap().unwrap();
    let missing = gap(&ask(&mesh.proxy, up()).await.unwrap());
    assert_eq!((missing.kind, missing.cluster, missing.endpoint), (GapKind::Missing, "us-1".into(), address));
}

#[tokio::test]
async fn a_querier_advertises_clusters_that_it_only_expects() {
    let down = Arc::new(store("us-1", "0").with_fault(Fault::Down(Status::unavailable("no route"))));
    let eu = Arc::new(store("eu-1", "0").with_range(TimeRange::new(5, 6)));
    let mesh = mesh(vec![endpoint("us", &down).with_cluster("us-1"), endpoint("eu", &eu)]).await;
    let info = mesh.proxy.info().await.unwrap();
    let sets: Vec<Labels> = info.label_sets.iter().map(|set| labels::set_from_wire(set).unwrap()).collect();
    assert_eq!(
        sets,
        [
            Labels::from_pairs([("cluster", "eu-1"), ("replica", "0")]),
            Labels::from_pairs([("cluster", "us-1")])
        ]
    );
    let store = info.store.unwrap();
    assert!(store.supports_sharding && store.supports_without_replica_labels);
    assert_eq!((store.min_time, store.max_time, info.component_type.as_str()), (i64::MIN, i64::MAX, "query"));
}

#[tokio::test]
async fn selector_labels_are_advertised_checked_and_stripped() {
    let eu = Arc::new(store("eu-1", "0"));
    let config =
        ProxyConfig { selector_labels: Labels::from_pairs([("region", "europe")]), ..ProxyConfig::default() };
    let mesh = mesh_with(vec![endpoint("eu", &eu)], rare_polls(), config).await;
    let info = mesh.proxy.info().await.unwrap();
    let set = labels::set_from_wire(&info.label_sets[0]).unwrap();
    assert_eq!(set.value_of("region"), "europe");

    let with = |value: &str| [Matcher::equal("__name__", "up"), Matcher::equal("region", value)];
    assert_eq!(ask(&mesh.proxy, asking(&with("europe"))).await.unwrap().series.len(), 3);
    assert_eq!(eu.last_series_request().unwrap().matchers.len(), 1);
    assert_eq!(ask(&mesh.proxy, asking(&with("asia"))).await.unwrap().series.len(), 0);
    let only = asking(&[Matcher::equal("region", "europe")]);
    assert_eq!(ask(&mesh.proxy, only).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn old_stores_are_sharded_and_deduplicated_for() {
    let old = |replica| Arc::new(store("eu-1", replica).without_sharding().without_replica_label_removal());
    let (a, b) = (old("0"), old("1"));
    let mesh = mesh(vec![endpoint("a", &a), endpoint("b", &b)]).await;
    let mut shards = Vec::new();
    for shard_index in 0..3 {
        let labels = vec!["job".to_owned()];
        let shard = ShardInfo { shard_index, total_shards: 3, by: true, labels };
        let request = SeriesRequest {
            shard_info: Some(shard),
            without_replica_labels: vec!["replica".to_owned()],
            limit: 2,
            ..up()
        };
        shards.extend(names(&ask(&mesh.proxy, request).await.unwrap()));
        // A limit would count series that are filtered out here.
        assert_eq!(a.last_series_request().unwrap().limit, 0);
    }
    shards.sort();
    assert_eq!(
        shards,
        [
            r#"up{cluster="eu-1", job="a"}"#,
            r#"up{cluster="eu-1", job="b"}"#,
            r#"up{cluster="eu-1", job="c", zone="z"}"#
        ]
    );
}

#[tokio::test]
async fn a_limit_counts_merged_series_and_not_what_is_said_about_missing_ones() {
    let eu = Arc::new(store("eu-1", "0"));
    let mut configs = vec![endpoint("eu", &eu)];
    for cluster in ["us-1", "us-2", "us-3"] {
        let down = Arc::new(store(cluster, "0").with_fault(Fault::Down(Status::unavailable("no route"))));
        configs.push(endpoint(cluster, &down).with_cluster(cluster));
    }
    let mesh = mesh(configs).await;
    let answer = ask(&mesh.proxy, SeriesRequest { limit: 2, ..up() }).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (2, 3));
}

#[tokio::test]
async fn limit_counts_merged_series_and_batches_hold_series_only() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    let mesh = mesh(vec![endpoint("eu", &eu), endpoint("us", &us)]).await;
    let limited = SeriesRequest { limit: 2, ..up() };
    assert_eq!(ask(&mesh.proxy, limited).await.unwrap().series.len(), 2);

    us.set_fault(Fault::Warn("careful".to_owned()));
    let request = SeriesRequest { response_batch_size: 64, ..up() };
    let mut stream = mesh.proxy.series(Request::new(request)).await.unwrap();
    let (mut batched, mut warnings) = (0, 0);
    while let Some(frame) = stream.next().await {
        match frame.unwrap().result {
            Some(Frame::Batch(batch)) => batched += batch.series.len(),
            Some(Frame::Warning(_)) => warnings += 1,
            // The report of what the answer is made of.
            Some(Frame::Hints(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((batched, warnings), (6, 1));
}

#[tokio::test]
async fn label_calls_unite_limit_and_report() {
    let eu = Arc::new(store("eu-1", "0"));
    let us = Arc::new(store("us-1", "1").with_fault(Fault::FailOpen(Status::internal("broken"))));
    let mesh = mesh(vec![endpoint("eu", &eu), endpoint("us", &us)]).await;
    let names = LabelNamesRequest {
        end: i64::MAX,
        without_replica_labels: vec!["replica".to_owned()],
        ..LabelNamesRequest::default()
    };
    let answer = mesh.proxy.label_names(Request::new(names.clone())).await.unwrap();
    assert_eq!(answer.names, ["__name__", "cluster", "job", "zone"]);
    assert_eq!(Gap::parse(&answer.warnings[0]).unwrap().cluster, "us-1");
    let strategy = PartialResponseStrategy::Abort.into();
    let strict = LabelNamesRequest { partial_response_strategy: strategy, ..names };
    assert_eq!(mesh.proxy.label_names(Request::new(strict)).await.unwrap_err().code(), Code::Aborted);

    us.set_fault(Fault::Warn("careful".to_owned()));
    let values = LabelValuesRequest { label: "cluster".to_owned(), end: i64::MAX, ..Default::default() };
    let answer = mesh.proxy.label_values(Request::new(values.clone())).await.unwrap();
    assert_eq!((answer.values.join(","), answer.warnings.join(",")), ("eu-1,us-1".into(), "careful".into()));
    let one = LabelValuesRequest { limit: 1, ..values.clone() };
    assert_eq!(mesh.proxy.label_values(Request::new(one)).await.unwrap().values, ["eu-1"]);

    us.set_fault(Fault::HangBeforeOpen);
    let answer = mesh.proxy.label_values(Request::new(values)).await.unwrap();
    assert_eq!(Gap::parse(&answer.warnings[0]).unwrap().kind, GapKind::Late);
    let empty = LabelValuesRequest::default();
    assert_eq!(mesh.proxy.label_values(Request::new(empty)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn store_matchers_choose_endpoints_and_others_are_not_missed() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    us.set_fault(Fault::FailOpen(Status::internal("broken")));
    let mesh = mesh(vec![endpoint("eu:10901", &eu), endpoint("us:10901", &us)]).await;
    let wanted = Matcher::new(MatchOp::Regex, "__address__", "eu.*").unwrap();
    let mut request = Request::new(up());
    request.extensions_mut().insert(parallax_querier::select::StoreMatchers(vec![vec![wanted]]));
    let answer = frames::collect(mesh.proxy.series(request).await.unwrap()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len(), us.calls().series), (3, 0, 0));
}

#[tokio::test]
async fn a_cluster_asked_for_by_store_matchers_is_missed_though_nothing_advertises_it() {
    let up_elsewhere = Arc::new(store("us-2", "0"));
    let never_seen = Arc::new(store("eu-1", "0").with_fault(Fault::Down(Status::unavailable("no route"))));
    let mesh = mesh(vec![
        endpoint("us", &up_elsewhere).with_cluster("us-1"),
        endpoint("eu", &never_seen).with_cluster("eu-1"),
    ])
    .await;
    for cluster in ["us-1", "eu-1"] {
        let mut request = Request::new(up());
        let wanted = vec![vec![Matcher::equal("cluster", cluster)]];
        request.extensions_mut().insert(parallax_querier::select::StoreMatchers(wanted));
        let answer = frames::collect(mesh.proxy.series(request).await.unwrap()).await.unwrap();
        assert_eq!(gap(&answer).cluster, cluster);
    }
}

/// A component that turns into another one, as a store gateway does with each sync.
struct Changing(Mutex<Arc<FakeStore>>);

impl Changing {
    fn now(&self) -> Arc<FakeStore> {
        self.0.lock().unwrap().clone()
    }
}

#[parallax_storeapi::async_trait]
impl Store for Changing {
    async fn info(&self) -> Result<parallax_storeapi::proto::thanos::info::InfoResponse, Status> {
        self.now().info().await
    }

    async fn series(&self, r: Request<SeriesRequest>) -> Result<parallax_storeapi::SeriesStream, Status> {
        self.now().series(r).await
    }

    async fn label_names(
        &self,
        request: Request<LabelNamesRequest>,
    ) -> Result<parallax_storeapi::proto::thanos::LabelNamesResponse, Status> {
        self.now().label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<parallax_storeapi::proto::thanos::LabelValuesResponse, Status> {
        self.now().label_values(request).await
    }
}

#[tokio::test]
async fn what_a_local_store_found_since_the_last_poll_is_asked_for() {
    let before = FakeStore::new([("cluster", "us-1")]).with_range(TimeRange::new(-2000, -1000));
    let changing = Arc::new(Changing(Mutex::new(Arc::new(before))));
    let mesh = mesh(vec![EndpointConfig::new("gateway", Connection::Local(changing.clone()))]).await;
    assert_eq!(ask(&mesh.proxy, up_of("eu-1")).await.unwrap().series.len(), 0);
    *changing.0.lock().unwrap() = Arc::new(store("eu-1", "0"));
    assert_eq!(ask(&mesh.proxy, up_of("eu-1")).await.unwrap().series.len(), 3);
    let info = mesh.proxy.info().await.unwrap();
    assert_eq!(info.store.unwrap().max_time, i64::MAX);
}

#[tokio::test]
async fn a_store_that_is_down_is_missed_for_the_time_that_it_would_hold_by_now() {
    // It held everything until just before the request's time begins.
    let us = Arc::new(store("us-1", "0").with_range(TimeRange::new(-2000, -1)));
    let mesh = mesh_with(vec![endpoint("us", &us)], frequent_polls(), ProxyConfig::default()).await;
    assert_eq!(ask(&mesh.proxy, up()).await.unwrap().warnings.len(), 0);
    us.set_fault(Fault::Down(Status::unavailable("connection refused")));
    let give_up = Instant::now() + Duration::from_secs(120);
    let answer = loop {
        let answer = ask(&mesh.proxy, up()).await.unwrap();
        if !answer.warnings.is_empty() || Instant::now() > give_up {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(gap(&answer).cluster, "us-1");
}

/// A store whose streams never end and hold a token as long as they live.
struct Endless(Arc<()>);

#[parallax_storeapi::async_trait]
impl Store for Endless {
    async fn info(&self) -> Result<parallax_storeapi::proto::thanos::info::InfoResponse, Status> {
        store("eu-1", "0").info().await
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<parallax_storeapi::SeriesStream, Status> {
        let alive = Arc::clone(&self.0);
        let frames = futures::stream::iter((0_u64..).map(move |number| {
            let _alive = &alive;
            let number = format!("{number:020}");
            let labels = labels::to_wire(&Labels::from_pairs([("__name__", "up"), ("n", &number)]));
            Ok(frames::series(parallax_storeapi::proto::thanos::Series { labels, chunks: Vec::new() }))
        }));
        Ok(Box::pin(frames))
    }

    async fn label_names(
        &self,
        _: Request<LabelNamesRequest>,
    ) -> Result<parallax_storeapi::proto::thanos::LabelNamesResponse, Status> {
        std::future::pending().await
    }

    async fn label_values(
        &self,
        _: Request<LabelValuesRequest>,
    ) -> Result<parallax_storeapi::proto::thanos::LabelValuesResponse, Status> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn dropping_an_answer_ends_the_streams_behind_it() {
    let token = Arc::new(());
    let endless = Connection::Local(Arc::new(Endless(token.clone())));
    let mesh = mesh(vec![EndpointConfig::new("endless", endless)]).await;
    let mut stream = mesh.proxy.series(Request::new(up())).await.unwrap();
    for _ in 0..100 {
        assert!(stream.next().await.unwrap().is_ok());
    }
    assert_eq!(Arc::strong_count(&token), 3);
    drop(stream);
    until("the stream ending", || Arc::strong_count(&token) == 2).await;
}

#[tokio::test]
async fn bad_requests_name_what_is_wrong() {
    let eu = Arc::new(store("eu-1", "0"));
    let mesh = mesh(vec![endpoint("eu", &eu)]).await;
    let mut bad = up();
    bad.matchers[0].r#type = 77;
    let status = ask(&mesh.proxy, bad).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("__name__")), (Code::InvalidArgument, true));
    let shard_info = Some(ShardInfo { shard_index: 4, total_shards: 2, ..ShardInfo::default() });
    let status = ask(&mesh.proxy, SeriesRequest { shard_info, ..up() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(eu.calls().series, 0);
}

#[tokio::test]
async fn an_endpoint_configured_twice_is_refused_by_name() {
    let eu = Arc::new(store("eu-1", "0"));
    let configs = vec![endpoint("eu", &eu), endpoint("eu", &eu)];
    let error =
        EndpointSet::start(configs, rare_polls(), &Metrics::new(), CancellationToken::new()).unwrap_err();
    assert_eq!(error.to_string(), "endpoint \"eu\" is configured twice");
}
