//! How a call is counted, whatever its answer is made of.

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::Status;
use tonic::body::Body;

use super::*;

const METHODS: RpcMethods = &[
    ("/thanos.Store/Series", "server_stream"),
    ("/thanos.Store/LabelNames", "unary"),
    ("/grpc.health.v1.Health/Check", "unary"),
];
const SERIES: &str = "/thanos.Store/Series";
const SERIES_LABELS: &str =
    "grpc_type=\"server_stream\",grpc_service=\"thanos.Store\",grpc_method=\"Series\"";

fn status_head(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(code),
    )])
}

fn answer(head: HeaderMap, frames: Vec<Result<Frame<Bytes>, Status>>) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    *response.headers_mut() = head;
    response
}

fn data() -> Result<Frame<Bytes>, Status> {
    Ok(Frame::data(Bytes::from_static(b"frame")))
}

/// Reads an answer to its end, or its error.
async fn read(response: http::Response<Body>) {
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

/// Lines of a family that are not zero, without its name.
fn counted(metrics: &Metrics, family: &str) -> Vec<String> {
    let text = metrics.encode().unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(family));
    let mut lines: Vec<String> = lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_call_counts_once_by_the_status_that_ends_it_wherever_that_stands() {
    let no_status = || answer(HeaderMap::new(), vec![data()]);
    let trailers =
        |code| answer(HeaderMap::new(), vec![data(), data(), Ok(Frame::trailers(status_head(code)))]);
    let cases: Vec<(&str, http::Response<Body>)> = vec![
        ("Unimplemented", answer(status_head("12"), Vec::new())),
        ("OK", trailers("0")),
        ("Unavailable", trailers("14")),
        ("Unknown", trailers("what")),
        ("DataLoss", answer(HeaderMap::new(), vec![data(), Err(Status::data_loss("torn"))])),
        ("Unknown", no_status()),
        ("Unknown", http::Response::new(Body::empty())),
    ];
    for (code, response) in cases {
        let metrics = Metrics::new();
        let calls = Calls::of_server(&metrics, METHODS);
        read(calls.begin(SERIES, &HeaderMap::new()).watch(response)).await;
        assert_eq!(
            counted(&metrics, "grpc_server_handled_total"),
            [format!("{{{SERIES_LABELS},grpc_code=\"{code}\"}} 1")]
        );
        assert_eq!(counted(&metrics, "grpc_server_started_total"), [format!("{{{SERIES_LABELS}}} 1")]);
        assert_eq!(
            counted(&metrics, "grpc_server_handling_seconds_count"),
            [format!("{{{SERIES_LABELS}}} 1")]
        );
    }
}

#[tokio::test]
async fn a_call_that_is_left_was_canceled_or_its_deadline_has_passed() {
    let with_timeout = |text: &'static str| {
        let name = http::HeaderName::from_static(TIMEOUT_HEADER);
        HeaderMap::from_iter([(name, http::HeaderValue::from_static(text))])
    };
    for (headers, code) in [
        (HeaderMap::new(), "Canceled"),
        (with_timeout("1H"), "Canceled"),
        (with_timeout("nonsense"), "Canceled"),
        (with_timeout("123456789S"), "Canceled"),
        (with_timeout("S"), "Canceled"),
        (with_timeout("1n"), "DeadlineExceeded"),
        (with_timeout("20m"), "DeadlineExceeded"),
    ] {
        let metrics = Metrics::new();
        let calls = Calls::of_server(&metrics, METHODS);
        let mut left =
            calls.begin(SERIES, &headers).watch(answer(HeaderMap::new(), vec![data()])).into_body();
        left.frame().await.unwrap().unwrap();
        if code == "DeadlineExceeded" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(left);
        let before_the_head = calls.begin(SERIES, &headers);
        if code == "DeadlineExceeded" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(before_the_head);
        assert_eq!(
            counted(&metrics, "grpc_server_handled_total"),
            [format!("{{{SERIES_LABELS},grpc_code=\"{code}\"}} 2")],
            "{headers:?}"
        );
    }
}

#[test]
fn a_call_whose_handler_panics_is_an_internal_error() {
    let metrics = Metrics::new();
    let calls = Calls::of_server(&metrics, METHODS);
    let call = calls.begin(SERIES, &HeaderMap::new());
    let panicked = std::thread::spawn(move || {
        let _call = call;
        panic!("a defect");
    });
    assert!(panicked.join().is_err());
    assert_eq!(
        counted(&metrics, "grpc_server_handled_total"),
        [format!("{{{SERIES_LABELS},grpc_code=\"Internal\"}} 1")]
    );
}

#[test]
fn every_code_of_every_method_is_there_from_the_start_but_for_those_of_grpc_itself() {
    let metrics = Metrics::new();
    let _calls = Calls::of_server(&metrics, METHODS);
    let text = metrics.encode().unwrap();
    let lines = |family: &str| text.lines().filter(|line| line.starts_with(family)).count();
    assert_eq!(lines("grpc_server_handled_total{"), 2 * CODES.len());
    assert_eq!(lines("grpc_server_started_total{"), 2);
    assert_eq!(lines("grpc_server_handling_seconds_count{"), 2);
    for number in 0..=16 {
        let code = Code::from_i32(number);
        let name = CODES[usize::try_from(number).unwrap()];
        // Ours is written as Go writes it; Rust has two l in Cancelled.
        let debug = if code == Code::Cancelled { "Canceled".to_owned() } else { format!("{code:?}") };
        assert_eq!(name.to_lowercase(), debug.to_lowercase());
    }
}

#[test]
fn whatever_is_called_the_labels_are_few() {
    let metrics = Metrics::new();
    let calls = Calls::of_server(&metrics, METHODS);
    for number in 0..100 {
        for path in [format!("/thanos.Store/Series{number}"), format!("/x{number}/y"), format!("*{number}")] {
            calls.begin(&path, &HeaderMap::new()).ended(Code::Unimplemented);
        }
    }
    let unknown = "grpc_type=\"unknown\",grpc_service=\"unknown\",grpc_method=\"unknown\"";
    assert_eq!(counted(&metrics, "grpc_server_started_total"), [format!("{{{unknown}}} 300")]);
    assert_eq!(
        counted(&metrics, "grpc_server_handled_total"),
        [format!("{{{unknown},grpc_code=\"Unimplemented\"}} 300")]
    );
}

#[test]
fn calls_are_told_apart_by_cluster_up_to_a_bound() {
    let metrics = Metrics::new();
    let clients = ClientCalls::register(&metrics, METHODS);
    let call = |endpoint: &EndpointCalls| endpoint.begin(SERIES, &HeaderMap::new()).ended(Code::Ok);
    let endpoint = clients.endpoint(None);
    call(&endpoint);
    endpoint.belong_to(Some("eu-1"));
    call(&endpoint);
    call(&clients.endpoint(Some("eu-1")));
    call(&clients.endpoint(Some("")));
    let started = counted(&metrics, "grpc_client_started_total");
    assert_eq!(
        started,
        [format!("{{{SERIES_LABELS},cluster=\"eu-1\"}} 2"), format!("{{{SERIES_LABELS}}} 2")]
    );
    call(&clients.endpoint(Some(&"long".repeat(100))));
    for number in 0..1500 {
        call(&clients.endpoint(Some(&format!("cluster-{number}"))));
    }
    // Known ones stay what they are.
    call(&clients.endpoint(Some("eu-1")));
    let started = counted(&metrics, "grpc_client_started_total");
    assert!(started.len() <= 1001, "{}", started.len());
    assert!(started.contains(&format!("{{{SERIES_LABELS},cluster=\"eu-1\"}} 3")));
    let of_others = started.iter().find(|line| line.contains("cluster=\"other\"")).unwrap();
    let all: u64 = started.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(all, 4 + 1 + 1500 + 1);
    assert!(of_others.ends_with(&format!(" {}", all - (started.len() as u64 - 3) - 3 - 2)), "{of_others}");
}
