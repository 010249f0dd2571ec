//! Several servers that hold the same: one that is frozen or fails is not waited for, and an answer is one server's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_model::{Matcher, TimeRange};
use parallax_net::{GrpcServer, GrpcServerConfig, GrpcTarget};
use parallax_querier::{
    Alternatives, Connection, EndpointConfig, EndpointOptions, EndpointSet, Gap, GapKind, Hedge, Proxy,
    ProxyConfig,
};
use parallax_storeapi::frames::{self, Collected};
use parallax_storeapi::proto::thanos::{LabelNamesRequest, SeriesRequest};
use parallax_storeapi::{Store, matchers};
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Later than any test takes: what another server answers then was not asked for by a hedge.
const NEVER: Hedge = Hedge { delay: None, max_delay: Duration::from_secs(3600) };
const SOON: Hedge = Hedge { delay: Some(Duration::from_millis(100)), max_delay: Duration::from_millis(100) };

/// A store of `eu-1`, with a series that only it has.
fn store(own: &str) -> Arc<FakeStore> {
    let samples = || (0..10).map(|i| (i * 15_000, i as f64));
    Arc::new(
        FakeStore::new([("cluster", "eu-1")])
            .with_range(TimeRange::new(0, i64::MAX))
            .with_series([("__name__", "up"), ("job", "a")], samples())
            .with_series([("__name__", "up"), ("job", own)], samples()),
    )
}

struct Mesh {
    proxy: Proxy,
    endpoints: Arc<EndpointSet>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Mesh {
    /// Over one endpoint, which is polled once and then every `interval`.
    async fn start(connection: Connection, interval: Duration) -> Self {
        let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
        let options = EndpointOptions { info_interval: interval, ..EndpointOptions::default() };
        let config = EndpointConfig::new("eu", connection).with_cluster("eu-1");
        let endpoints = EndpointSet::start(vec![config], options, &metrics, shutdown.clone()).unwrap();
        endpoints.polled_once().await;
        let config = ProxyConfig { response_timeout: Some(Duration::from_secs(2)), ..ProxyConfig::default() };
        Self { proxy: Proxy::new(endpoints.clone(), config, &metrics), endpoints, metrics, shutdown }
    }

    async fn of(stores: &[&Arc<FakeStore>], hedge: Hedge) -> Self {
        Self::start(alternatives(stores, hedge), Duration::from_secs(3600)).await
    }

    async fn ask(&self) -> Collected {
        let request = SeriesRequest {
            max_time: 10_000_000,
            matchers: matchers::to_wire(&[Matcher::equal("__name__", "up")]),
            ..SeriesRequest::default()
        };
        let stream = self.proxy.series(Request::new(request)).await.unwrap();
        frames::collect(stream).await.unwrap()
    }

    fn count(&self, event: &str) -> u64 {
        let line = format!("parallax_querier_alternatives_total{{endpoint=\"eu\",event=\"{event}\"}} ");
        let text = self.metrics.encode().unwrap();
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

fn alternatives(stores: &[&Arc<FakeStore>], hedge: Hedge) -> Connection {
    let local = |store: &Arc<FakeStore>| Connection::Local(store.clone());
    let members = stores.iter().enumerate().map(|(index, store)| (format!("{index}:1"), local(store)));
    Connection::Alternatives(Alternatives { members: members.collect(), hedge })
}

fn jobs(answer: &Collected) -> Vec<String> {
    let job = |one: &parallax_storeapi::proto::thanos::Series| {
        let label = one.labels.iter().find(|label| &label.name[..] == b"job").unwrap();
        String::from_utf8(label.value.to_vec()).unwrap()
    };
    answer.series.iter().map(job).collect()
}

#[tokio::test]
async fn the_server_listed_first_answers_while_it_is_well() {
    let (first, second) = (store("first"), store("second"));
    let mesh = Mesh::of(&[&first, &second], NEVER).await;
    for _ in 0..3 {
        let answer = mesh.ask().await;
        assert_eq!((jobs(&answer), answer.warnings), (vec!["a".to_owned(), "first".to_owned()], vec![]));
    }
    assert_eq!((first.calls().series, second.calls().series), (3, 0));
}

#[tokio::test]
async fn while_the_first_server_is_frozen_the_second_one_answers() {
    for fault in [Fault::HangBeforeOpen, Fault::HangAfter(0)] {
        let (first, second) = (store("first"), store("second"));
        first.set_fault(fault);
        let mesh = Mesh::of(&[&first, &second], SOON).await;
        let answer = mesh.ask().await;
        assert_eq!((jobs(&answer), answer.warnings), (vec!["a".to_owned(), "second".to_owned()], vec![]));
        assert_eq!((mesh.count("hedge"), mesh.count("hedge_won"), mesh.count("failover")), (1, 1, 0));
        // From then on it is the one that is asked.
        assert!(mesh.ask().await.warnings.is_empty());
        assert_eq!((first.calls().series, second.calls().series), (1, 2));
        assert_eq!(mesh.count("hedge"), 1);
    }
}

#[tokio::test]
async fn a_server_that_fails_gives_way_at_once() {
    let (first, second) = (store("first"), store("second"));
    let mesh = Mesh::of(&[&first, &second], NEVER).await;
    for status in
        [Status::internal("broken"), Status::unavailable("refused"), Status::permission_denied("no")]
    {
        first.set_fault(Fault::FailOpen(status));
        let answer = mesh.ask().await;
        assert_eq!((jobs(&answer).pop().unwrap().as_str(), answer.warnings.len()), ("second", 0));
    }
    assert_eq!((mesh.count("hedge"), mesh.count("failover")), (0, 1), "it is asked last after that");
    let request = LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    assert!(mesh.proxy.label_names(Request::new(request)).await.unwrap().warnings.is_empty());
}

#[tokio::test]
async fn a_server_that_is_well_again_is_asked_again() {
    let (first, second) = (store("first"), store("second"));
    first.set_fault(Fault::Down(Status::unavailable("refused")));
    let connection = alternatives(&[&first, &second], NEVER);
    let mesh = Mesh::start(connection, Duration::from_millis(20)).await;
    assert_eq!(jobs(&mesh.ask().await).pop().unwrap(), "second");
    assert!(mesh.endpoints.endpoints()[0].is_healthy(), "one of them is well");
    first.set_fault(Fault::None);
    let give_up = Instant::now() + Duration::from_secs(60);
    while jobs(&mesh.ask().await).pop().unwrap() != "first" {
        assert!(Instant::now() < give_up, "it is never asked again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_one_servers_to_its_end() {
    let (first, second) = (store("first"), store("second"));
    first.set_fault(Fault::FailAfter(1, Status::internal("disk on fire")));
    let mesh = Mesh::of(&[&first, &second], SOON).await;
    let answer = mesh.ask().await;
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!((jobs(&answer), gap.kind), (vec!["a".to_owned()], GapKind::Partial));
    assert_eq!(second.calls().series, 0);
}

#[tokio::test]
async fn at_most_two_servers_are_asked_at_a_time() {
    let stores = [store("first"), store("second"), store("third")];
    stores[..2].iter().for_each(|store| store.set_fault(Fault::HangBeforeOpen));
    let mesh = Mesh::of(&stores.each_ref(), SOON).await;
    let answer = mesh.ask().await;
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!((answer.series.len(), gap.kind), (0, GapKind::Late));
    assert_eq!(stores.each_ref().map(|store| store.calls().series), [1, 1, 0]);
    assert_eq!((mesh.count("hedge"), mesh.count("hedge_won")), (1, 0));
}

#[tokio::test]
async fn a_hedge_that_fails_gives_way_to_the_next_server() {
    let stores = [store("first"), store("second"), store("third")];
    stores[0].set_fault(Fault::HangBeforeOpen);
    stores[1].set_fault(Fault::FailOpen(Status::internal("broken")));
    let mesh = Mesh::of(&stores.each_ref(), SOON).await;
    assert_eq!(jobs(&mesh.ask().await).pop().unwrap(), "third");
    assert_eq!((mesh.count("hedge"), mesh.count("failover")), (1, 1));
}

#[tokio::test]
async fn where_all_servers_fail_each_is_named() {
    let (first, second) = (store("first"), store("second"));
    first.set_fault(Fault::FailOpen(Status::internal("broken")));
    second.set_fault(Fault::FailOpen(Status::permission_denied("not you")));
    let mesh = Mesh::of(&[&first, &second], NEVER).await;
    let answer = mesh.ask().await;
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!((gap.cluster.as_str(), gap.endpoint.as_str(), gap.kind), ("eu-1", "eu", GapKind::Missing));
    assert!(gap.reason.contains("0:1: broken") && gap.reason.contains("1:1: not you"), "{gap}");
}

#[tokio::test]
async fn a_frozen_server_does_not_hold_up_what_is_known_of_the_others() {
    let (first, second) = (store("first"), store("second"));
    first.set_fault(Fault::Hang);
    let mesh = Mesh::of(&[&first, &second], NEVER).await;
    assert!(mesh.endpoints.endpoints()[0].is_healthy());
    // And is not the first to be asked.
    assert_eq!(jobs(&mesh.ask().await).pop().unwrap(), "second");
    assert_eq!(first.calls().series, 0);
}

async fn served(store: &Arc<FakeStore>, stop: &CancellationToken) -> GrpcTarget {
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let server = GrpcServer::bind(GrpcServerConfig::new("127.0.0.1:0"), &Metrics::new()).await.unwrap();
    let target = GrpcTarget::plain(server.local_addr().to_string());
    let serving = server.serve(parallax_storeapi::routes(store.clone(), readiness).unwrap(), stop.clone());
    tokio::spawn(async move {
        let _kept_while_serving = ready;
        serving.await
    });
    target
}

#[tokio::test]
async fn servers_are_reached_over_grpc_and_a_group_still_rotates() {
    let (first, second, stop) = (store("first"), store("second"), CancellationToken::new());
    let targets = [served(&first, &stop).await, served(&second, &stop).await];
    let members = targets.clone().map(|target| (target.address.clone(), Connection::Remote(target)));
    let hedge = Hedge { delay: Some(Duration::from_millis(20)), ..NEVER };
    let preferring = Connection::Alternatives(Alternatives { members: members.into(), hedge });
    first.set_fault(Fault::HangAfter(0));
    let mesh = Mesh::start(preferring, Duration::from_secs(3600)).await;
    assert_eq!(jobs(&mesh.ask().await).pop().unwrap(), "second");

    first.set_fault(Fault::None);
    let group = Mesh::start(Connection::Group(targets.into()), Duration::from_secs(3600)).await;
    let mut answered = [jobs(&group.ask().await).pop(), jobs(&group.ask().await).pop()];
    answered.sort();
    assert_eq!(answered, [Some("first".to_owned()), Some("second".to_owned())]);
    stop.cancel();
}
