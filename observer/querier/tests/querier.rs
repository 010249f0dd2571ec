//! The whole component: endpoints that answer and one that is down, seen through HTTP and through StoreAPI.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use fake_store::{FakeStore, frame, series};
use futures::StreamExt;
use http::{Request, StatusCode};
use parallax_net::{Context, GrpcTarget};
use parallax_querier::{Connection, EndpointConfig, Querier, QuerierConfig};
use parallax_storeapi::Store;
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{Label, LabelMatcher, SeriesRequest, ZLabelSet};
use tower::ServiceExt;

/// A store that holds `up` of one cluster.
fn cluster(name: &str) -> FakeStore {
    let label = |name: &str, value: &str| Label {
        name: bytes::Bytes::copy_from_slice(name.as_bytes()),
        value: bytes::Bytes::copy_from_slice(value.as_bytes()),
    };
    FakeStore {
        frames: vec![frame(vec![series(&[("__name__", "up"), ("cluster", name)], &[(10_000, 1.0)])])],
        info: InfoResponse {
            label_sets: vec![ZLabelSet { labels: vec![label("cluster", name)] }],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                min_time: 0,
                max_time: i64::MAX,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        },
        ..FakeStore::default()
    }
}

fn local(name: &str) -> EndpointConfig {
    EndpointConfig::new(format!("sidecar-{name}"), Connection::Local(Arc::new(cluster(name))))
        .with_cluster(name)
}

/// An endpoint at an address where nobody listens.
fn down(name: &str) -> EndpointConfig {
    let address = format!("127.0.0.1:{}", parallax_net::free_port().unwrap());
    EndpointConfig::new(format!("sidecar-{name}"), Connection::Remote(GrpcTarget::plain(address)))
        .with_cluster(name)
}

async fn start(name: &str, endpoints: Vec<EndpointConfig>, context: &Context) -> Arc<Querier> {
    let config = QuerierConfig { name: name.to_owned(), endpoints, ..QuerierConfig::default() };
    let querier = Querier::start(config, context.scoped([("querier", name)])).unwrap();
    querier.endpoints().polled_once().await;
    querier
}

async fn get(querier: &Querier, uri: &str) -> (StatusCode, String) {
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = querier.router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_missing_cluster_is_a_warning_or_an_error_but_never_silence() {
    let context = Context::for_test();
    let querier = start("query", vec![local("eu-1"), down("us-1")], &context).await;
    for path in ["query?query=up&time=10", "series?match[]=up", "labels", "label/cluster/values"] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let (status, body) = get(&querier, &format!("/api/v1/{path}")).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        assert!(
            body.contains(r#""warnings":["parallax: cluster \"us-1\" missing: sidecar-us-1: "#),
            "{path}: {body}"
        );
        let (status, body) = get(&querier, &format!("/api/v1/{path}{separator}partial_response=false")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {body}");
        assert!(body.contains(r#"parallax: cluster \"us-1\" missing"#), "{path}: {body}");
    }
    let (_, body) = get(&querier, "/api/v1/query?query=up&time=10").await;
    assert!(body.contains(r#"{"metric":{"__name__":"up","cluster":"eu-1"},"value":[10,"1"]}"#), "{body}");
    let (_, body) = get(&querier, "/api/v1/stores").await;
    assert!(body.ends_with(r#""missingClusters":["us-1"]}"#), "{body}");
    context.shutdown.cancel();
}

#[tokio::test]
async fn a_query_that_cannot_need_the_missing_cluster_is_whole() {
    let context = Context::for_test();
    let querier = start("query", vec![local("eu-1"), down("us-1")], &context).await;
    let (status, body) =
        get(&querier, "/api/v1/query?query=up%7Bcluster=%22eu-1%22%7D&time=10&partial_response=false").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(!body.contains("warnings"), "{body}");
    context.shutdown.cancel();
}

#[tokio::test]
async fn the_warning_goes_up_through_stacked_queriers() {
    let context = Context::for_test();
    let leaf = start("leaf", vec![local("eu-1"), down("us-1")], &context).await;
    let global = start("global", vec![EndpointConfig::new("leaf", Connection::Local(leaf))], &context).await;
    let (status, body) = get(&global, "/api/v1/query?query=up&time=10").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#"parallax: cluster \"us-1\" missing: sidecar-us-1: "#), "{body}");
    let (status, body) = get(&global, "/api/v1/query?query=up&time=10&partial_response=false").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    context.shutdown.cancel();
}

#[tokio::test]
async fn store_matchers_choose_endpoints() {
    let context = Context::for_test();
    let querier = start("query", vec![local("eu-1"), local("us-1")], &context).await;
    let uri = "/api/v1/query?query=up&time=10&storeMatch[]=%7B__address__=%22sidecar-us-1%22%7D";
    let (status, body) = get(&querier, uri).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#""cluster":"us-1""#) && !body.contains("eu-1"), "{body}");
    context.shutdown.cancel();
}

#[tokio::test]
async fn a_querier_is_ready_once_its_endpoints_were_polled() {
    let context = Context::for_test();
    let mut ready = context.readiness.subscribe();
    let querier = start("query", vec![local("eu-1"), down("us-1")], &context).await;
    ready.wait_for(|ready| *ready).await.unwrap();
    let (status, body) = get(&querier, "/api/v1/stores").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#""sidecar":[{"name":"sidecar-eu-1""#), "{body}");
    context.shutdown.cancel();
}

#[tokio::test]
async fn the_api_can_stand_below_a_prefix() {
    let context = Context::for_test();
    let mut config = QuerierConfig { endpoints: vec![local("eu-1")], ..QuerierConfig::default() };
    config.api.route_prefix = "/thanos/".to_owned();
    let querier = Querier::start(config, context.clone()).unwrap();
    querier.endpoints().polled_once().await;
    assert_eq!(get(&querier, "/thanos/api/v1/labels").await.0, StatusCode::OK);
    assert_eq!(get(&querier, "/api/v1/labels").await.0, StatusCode::NOT_FOUND);
    context.shutdown.cancel();
}

#[tokio::test]
async fn a_stop_signal_ends_requests_that_wait_for_a_store_that_hangs() {
    let context = Context::for_test();
    let hung = Arc::new(FakeStore { hangs: true, ..cluster("eu-1") });
    let dropped = hung.dropped.clone();
    let endpoint = EndpointConfig::new("sidecar", Connection::Local(hung));
    let config = QuerierConfig {
        endpoints: vec![endpoint],
        stop_grace: Duration::from_millis(20),
        ..QuerierConfig::default()
    };
    let querier = Querier::start(config, context.clone()).unwrap();
    querier.endpoints().polled_once().await;
    let matcher =
        LabelMatcher { name: "__name__".to_owned(), value: "up".to_owned(), ..LabelMatcher::default() };
    let request = SeriesRequest { max_time: 20_000, matchers: vec![matcher], ..SeriesRequest::default() };
    let mut stream = querier.series(tonic::Request::new(request)).await.unwrap();
    let give_up = Duration::from_secs(60);
    let asking = async {
        let answer = get(&querier, "/api/v1/query?query=up&time=10").await;
        let mut last = None;
        while let Some(frame) = stream.next().await {
            last = Some(frame);
        }
        (answer, last.unwrap().unwrap_err())
    };
    let signal = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        context.shutdown.cancel();
    };
    let (answered, ()) = tokio::join!(tokio::time::timeout(give_up, asking), signal);
    let ((status, body), error) = answered.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("the querier is stopping"), "{body}");
    assert_eq!(error.code(), tonic::Code::Unavailable);
    drop(stream);
    let waiting = async {
        while !dropped.load(std::sync::atomic::Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(give_up, waiting).await.unwrap();
}
