//! The small services over fakes: what is merged, what is said about what does not come, and that queriers stack.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use fake_side::{FakeSide, Fault, fake};
use http::StatusCode;
use hub::{Hub, down, impatient, local, served};
use parallax_querier::{Connection, EndpointConfig, Gap, GapKind, ProxyConfig, QuerierConfig, SideLimits};
use parallax_storeapi::{SideService, StoreClient};
use serde_json::{Value, json};
use tonic::Status;

fn gap(warnings: &[String]) -> Gap {
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    Gap::parse(&warnings[0]).unwrap_or_else(|| panic!("not a gap: {}", warnings[0]))
}

fn meta(kind: &str, help: &str) -> Value {
    json!({"type": kind, "help": help, "unit": ""})
}

/// Two replicas of one cluster that agree on `up` but not on `b`.
fn two_replicas() -> [Arc<FakeSide>; 2] {
    let one = |replica, help| {
        fake([("cluster", "eu-1"), ("replica", replica)])
            .with_metadata("up", "gauge", "Whether it is up")
            .with_metadata("b", "counter", help)
    };
    [Arc::new(one("0", "old")), Arc::new(one("1", "new"))]
}

#[tokio::test]
async fn metadata_of_replicas_is_there_once_and_differences_stand_side_by_side() {
    let [a, b] = two_replicas();
    let hub = Hub::over(vec![local("a", &a), local("b", &b)]).await;
    let data = hub.whole("/api/v1/metadata").await;
    let b_metas = json!([meta("counter", "old"), meta("counter", "new")]);
    assert_eq!(data, json!({"b": b_metas, "up": [meta("gauge", "Whether it is up")]}));
    let limited = hub.whole("/api/v1/metadata?limit=1&limit_per_metric=1").await;
    assert_eq!(limited, json!({"b": [meta("counter", "old")]}));
    assert_eq!(hub.whole("/api/v1/metadata?limit=0").await, json!({}));
    assert_eq!(hub.whole("/api/v1/metadata?limit=-1&limit_per_metric=0").await, data);
    for (name, value) in [("limit", "many"), ("limit_per_metric", "1.5")] {
        let (status, answer) = hub.ask(&format!("/api/v1/metadata?{name}={value}")).await;
        assert_eq!(
            (status, answer["error"].as_str()),
            (StatusCode::BAD_REQUEST, Some(format!("{name} must be a number").as_str()))
        );
    }
}

#[tokio::test]
async fn who_does_not_offer_a_service_is_neither_asked_nor_missed() {
    let [a, _] = two_replicas();
    let hub = Hub::over(vec![local("a", &a)]).await;
    assert_eq!(hub.whole("/api/v1/rules?partial_response=false").await, json!({"groups": []}));
    assert_eq!(a.calls(), 0);
}

#[tokio::test]
async fn a_missing_endpoint_is_a_warning_or_an_error() {
    let [a, _] = two_replicas();
    let hub = Hub::over(vec![local("a", &a), down("us-1")]).await;
    for path in ["metadata", "rules", "alerts", "targets", "query_exemplars?query=up", "status/tsdb"] {
        let (_, warnings) = hub.get(&format!("/api/v1/{path}")).await;
        let gap = gap(&warnings);
        assert_eq!((gap.cluster.as_str(), gap.kind), ("us-1", GapKind::Missing), "{path}");
        let separator = if path.contains('?') { '&' } else { '?' };
        let (status, answer) = hub.ask(&format!("/api/v1/{path}{separator}partial_response=false")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with("parallax: cluster \"us-1\" missing: "));
    }
    let (data, _) = hub.get("/api/v1/metadata").await;
    assert_eq!(data["up"], json!([meta("gauge", "Whether it is up")]));
}

#[tokio::test]
async fn each_service_has_its_own_default_for_partial_answers() {
    let [a, _] = two_replicas();
    let hub = Hub::with(vec![local("a", &a), down("us-1")], |mut config| {
        config.api.whole_side = vec![SideService::Metadata];
        config
    })
    .await;
    let (status, _) = hub.ask("/api/v1/metadata").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, warnings) = hub.get("/api/v1/metadata?partial_response=true").await;
    assert_eq!(gap(&warnings).cluster, "us-1");
    let (_, warnings) = hub.get("/api/v1/rules").await;
    assert_eq!(gap(&warnings).cluster, "us-1");
}

#[tokio::test]
async fn a_hung_endpoint_costs_its_silence_once_and_keeps_what_it_sent() {
    let [a, b] = two_replicas();
    *b.fault.lock().unwrap() = Fault::HangAfter(1);
    let hub = Hub::with(vec![local("a", &a), local("b", &b)], impatient).await;
    let (data, warnings) = hub.get("/api/v1/metadata").await;
    assert_eq!(gap(&warnings).kind, GapKind::Late);
    assert_eq!(data["b"], json!([meta("counter", "old")]), "its second frame never came");
    assert_eq!(b.calls(), 1);

    let (_, warnings) = hub.get("/api/v1/metadata").await;
    assert!(gap(&warnings).reason.starts_with("not asked: "), "{warnings:?}");
    assert_eq!(b.calls(), 1, "it is left alone for a while");
}

#[tokio::test]
async fn the_callers_timeout_bounds_a_wait_for_an_endpoint() {
    let [a, b] = two_replicas();
    *b.fault.lock().unwrap() = Fault::HangAfter(0);
    let endpoints = vec![local("a", &a), local("b", &b)];
    let no_response_timeout = |config| QuerierConfig { proxy: ProxyConfig::default(), ..config };
    let hub = Hub::with(endpoints, no_response_timeout).await;
    let began = Instant::now();
    let (data, warnings) = hub.get("/api/v1/metadata?timeout=1s").await;
    assert!(began.elapsed() < Duration::from_secs(60), "the default timeout is 2 minutes");
    assert_eq!(gap(&warnings).kind, GapKind::Late);
    assert_eq!(data["b"], json!([meta("counter", "old")]));
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_leaves_what_it_sent_and_says_so() {
    let [a, b] = two_replicas();
    *b.fault.lock().unwrap() = Fault::FailAfter(1, Status::internal("prometheus sent garbage"));
    let hub = Hub::over(vec![local("b", &b)]).await;
    let (data, warnings) = hub.get("/api/v1/metadata").await;
    let gap = gap(&warnings);
    assert_eq!((gap.kind, gap.reason.as_str()), (GapKind::Partial, "prometheus sent garbage"));
    assert_eq!(data, json!({"up": [meta("gauge", "Whether it is up")]}));

    *a.fault.lock().unwrap() = Fault::Warn("careful".to_owned());
    let hub = Hub::over(vec![local("a", &a)]).await;
    let (_, warnings) = hub.get("/api/v1/metadata").await;
    assert_eq!(warnings, ["careful"]);
    let (status, _) = hub.ask("/api/v1/metadata?partial_response=false").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn what_an_endpoint_warns_of_is_bounded_in_number_and_length() {
    let [a, _] = two_replicas();
    *a.fault.lock().unwrap() = Fault::WarnALot(3_000);
    let hub = Hub::over(vec![local("a", &a)]).await;
    let (data, warnings) = hub.get("/api/v1/metadata").await;
    assert!(data["up"].is_array());
    assert_eq!(warnings.len(), 1_001);
    assert!(warnings.iter().all(|warning| warning.len() < 3_000));
    assert_eq!(warnings[1_000], "an endpoint sent more than 1000 warnings");
}

#[tokio::test]
async fn an_endpoint_that_sends_too_much_is_cut_off_and_the_others_stand() {
    let [a, _] = two_replicas();
    let mut huge = fake([("cluster", "us-1")]).with_metadata("first", "gauge", "small");
    for number in 0..100 {
        huge = huge.with_metadata(&format!("m{number}"), "gauge", &"x".repeat(1000));
    }
    let huge = Arc::new(huge);
    let limited = |endpoint_bytes, call_bytes| {
        move |config: QuerierConfig| QuerierConfig {
            proxy: ProxyConfig {
                side_limits: SideLimits { endpoint_bytes, call_bytes },
                ..config.proxy.clone()
            },
            ..config
        }
    };
    for (limits, reason) in [
        ((20_000, 1 << 20), "its answer has more than 20000 bytes"),
        ((1 << 20, 20_000), "all answers together have more than 20000 bytes"),
    ] {
        let endpoints = vec![local("a", &a), local("huge", &huge)];
        let hub = Hub::with(endpoints, limited(limits.0, limits.1)).await;
        let (data, warnings) = hub.get("/api/v1/metadata").await;
        let gap = gap(&warnings);
        assert_eq!((gap.cluster.as_str(), gap.kind), ("us-1", GapKind::Partial));
        assert_eq!(gap.reason, reason);
        assert!(data["up"].is_array() && data["first"].is_array() && data["m99"].is_null(), "{data}");
    }
}

/// A gRPC endpoint that says it has metadata, and answers every other call with `message`.
fn garbage(message: Vec<u8>) -> EndpointConfig {
    use prost::Message;
    let info = parallax_storeapi::proto::thanos::info::InfoResponse {
        component_type: "sidecar".to_owned(),
        metric_metadata: Some(Default::default()),
        ..Default::default()
    };
    let answer = move |message: Vec<u8>| async move {
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        http::Response::builder().header("content-type", "application/grpc").body(Body::from(body)).unwrap()
    };
    let info = info.encode_to_vec();
    let router = axum::Router::new()
        .route("/thanos.info.Info/Info", axum::routing::post(move || answer(info.clone())))
        .fallback(move || answer(message.clone()));
    EndpointConfig::new("garbage", Connection::Local(Arc::new(StoreClient::new(router))))
}

#[tokio::test]
async fn garbage_on_the_wire_is_a_gap_of_who_sent_it() {
    let [a, _] = two_replicas();
    for message in [vec![0xff; 40], b"\x0a\x05\x0a\x03\x0a\x01\xff".to_vec(), vec![0x0a, 0x7f]] {
        let hub = Hub::over(vec![local("a", &a), garbage(message.clone())]).await;
        let (data, warnings) = hub.get("/api/v1/metadata").await;
        let gap = gap(&warnings);
        assert_eq!(gap.endpoint, "garbage", "{message:?}: {warnings:?}");
        assert_eq!(data["up"], json!([meta("gauge", "Whether it is up")]));
    }
}

/// The field 1 of a message, of this content.
fn field(content: &[u8]) -> Vec<u8> {
    let mut message = vec![0x0a];
    prost::encoding::encode_varint(content.len() as u64, &mut message);
    message.extend_from_slice(content);
    message
}

#[tokio::test]
async fn a_message_of_tiny_parts_is_refused_before_it_takes_their_memory() {
    let [a, _] = two_replicas();
    // Two bytes each, and some hundred in memory.
    let tiny = field(&field(&[]).repeat(3 << 20));
    let hub = Hub::over(vec![local("a", &a), garbage(tiny)]).await;
    let (data, warnings) = hub.get("/api/v1/metadata").await;
    let refused = gap(&warnings);
    assert_eq!((refused.endpoint.as_str(), refused.kind), ("garbage", GapKind::Refused));
    assert!(refused.reason.contains("has too many parts"), "{refused}");
    assert!(refused.reason.contains("33554432 bytes of memory"), "{refused}");
    assert_eq!(data["up"], json!([meta("gauge", "Whether it is up")]));

    let large = field(&vec![b'x'; 9 << 20]);
    let hub = Hub::over(vec![local("a", &a), garbage(large)]).await;
    let (_, warnings) = hub.get("/api/v1/metadata").await;
    let refused = gap(&warnings);
    assert!(refused.reason.contains("at most 8388608 bytes are taken"), "{refused}");
}

#[tokio::test]
async fn without_partial_answers_the_first_failure_ends_the_wait_for_all_others() {
    let [hung, failing] = two_replicas();
    *hung.fault.lock().unwrap() = Fault::HangAfter(1);
    for fault in
        [Fault::FailAfter(0, Status::internal("disk on fire")), Fault::Warn("disk on fire".to_owned())]
    {
        *failing.fault.lock().unwrap() = fault;
        // No response timeout: what waits for the hung one waits for two minutes.
        let endpoints = vec![local("hung", &hung), local("failing", &failing)];
        let hub = Hub::with(endpoints, |config| QuerierConfig {
            proxy: ProxyConfig { response_timeout: None, ..config.proxy.clone() },
            ..config
        })
        .await;
        let asking = hub.ask("/api/v1/metadata?partial_response=false");
        let (status, answer) = tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer["error"].as_str().unwrap().contains("disk on fire"), "{answer}");
    }
}

#[tokio::test]
async fn queriers_stack_over_grpc_and_a_gap_passes_up() {
    let [a, b] = two_replicas();
    let leaf = Hub::over(vec![local("a", &a), down("us-1")]).await;
    let middle = Hub::over(vec![served(leaf.querier.clone(), &leaf.context).await, local("b", &b)]).await;
    let top = Hub::over(vec![served(middle.querier.clone(), &middle.context).await]).await;
    let (data, warnings) = top.get("/api/v1/metadata").await;
    assert_eq!(data["b"], json!([meta("counter", "old"), meta("counter", "new")]));
    assert_eq!(data["up"], json!([meta("gauge", "Whether it is up")]));
    let gap = gap(&warnings);
    assert_eq!(
        (gap.cluster.as_str(), gap.kind, gap.endpoint.as_str()),
        ("us-1", GapKind::Missing, "sidecar-us-1")
    );
    let (status, answer) = top.ask("/api/v1/metadata?partial_response=false").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
}
