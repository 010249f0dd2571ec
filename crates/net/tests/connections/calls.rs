//! How calls are counted by both sides, however they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parallax_net::{ClientCalls, GrpcChannel, GrpcTarget, ServerAccess, connect, free_port};
use parallax_telemetry::Metrics;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Service as _;

use crate::fixture::{METHODS, Mesh, TestServer, ask};

const CHECK: &str = "grpc_type=\"unary\",grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Check\"";
const WATCH: &str =
    "grpc_type=\"server_stream\",grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Watch\"";
const UNKNOWN: &str = "grpc_type=\"unknown\",grpc_service=\"unknown\",grpc_method=\"unknown\"";

/// A channel to `address` that counts as one to the cluster eu-1, and where it counts.
fn counting(address: String) -> (GrpcChannel, Metrics) {
    let metrics = Metrics::new();
    let calls = ClientCalls::register(&metrics, METHODS).endpoint(Some("eu-1"));
    (connect(&GrpcTarget { calls: Some(calls), ..GrpcTarget::plain(address) }).unwrap(), metrics)
}

fn value(metrics: &Metrics, series: &str) -> u64 {
    let text = metrics.encode().unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map_or(0, |value| value.parse().unwrap())
}

/// The server hears of an end after the client.
async fn expect(metrics: &Metrics, series: String, wanted: u64) {
    let counted = async {
        while value(metrics, &series) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), counted).await.is_err() {
        panic!("{series} never is {wanted}:\n{}", metrics.encode().unwrap());
    }
}

async fn expect_both(server: &Metrics, client: &Metrics, method: &str, code: &str, wanted: u64) {
    let labels = format!("{method},grpc_code=\"{code}\"");
    expect(server, format!("grpc_server_handled_total{{{labels}}}"), wanted).await;
    expect(client, format!("grpc_client_handled_total{{{labels},cluster=\"eu-1\"}}"), wanted).await;
}

#[tokio::test]
async fn both_sides_count_a_call_by_how_it_ended() {
    let server = TestServer::start(None).await;
    let (channel, client) = counting(server.address.to_string());
    ask(&channel).await.unwrap();
    let other = HealthCheckRequest { service: "other".to_owned() };
    HealthClient::new(channel.clone()).check(other).await.unwrap_err();
    expect_both(&server.metrics, &client, CHECK, "OK", 1).await;
    expect_both(&server.metrics, &client, CHECK, "NotFound", 1).await;

    // A stream that its reader leaves, and one that is left at its deadline.
    let mut health = HealthClient::new(channel.clone());
    let mut stream = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    expect_both(&server.metrics, &client, WATCH, "Canceled", 1).await;
    let mut request = Request::new(HealthCheckRequest::default());
    // Long enough for the first message on a machine that is busy.
    request.set_timeout(Duration::from_secs(3));
    let mut stream = health.watch(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let more = tokio::time::timeout(Duration::from_secs(3), stream.message()).await;
    assert!(more.is_err(), "{more:?}");
    drop(stream);
    expect_both(&server.metrics, &client, WATCH, "DeadlineExceeded", 1).await;

    for number in 0..20 {
        let request = http::Request::post(format!("/nobody{number}/Nothing"))
            .header("content-type", "application/grpc")
            .body(Body::empty())
            .unwrap();
        let answer = channel.clone().call(request).await.unwrap();
        assert_eq!(answer.headers().get("grpc-status").unwrap(), "12");
    }
    expect_both(&server.metrics, &client, UNKNOWN, "Unimplemented", 20).await;
    for (method, calls) in [(CHECK, 2), (WATCH, 2), (UNKNOWN, 20)] {
        expect(&server.metrics, format!("grpc_server_started_total{{{method}}}"), calls).await;
        expect(&server.metrics, format!("grpc_server_handling_seconds_count{{{method}}}"), calls).await;
        expect(&client, format!("grpc_client_started_total{{{method},cluster=\"eu-1\"}}"), calls).await;
        let seconds = format!("grpc_client_handling_seconds_count{{{method},cluster=\"eu-1\"}}");
        expect(&client, seconds, calls).await;
    }
}

#[tokio::test]
async fn a_call_whose_connection_is_lost_and_that_is_sent_again_is_one_call() {
    let server = TestServer::start(None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (channel, client) = counting(listener.local_addr().unwrap().to_string());
    let connections = Arc::new(AtomicUsize::new(0));
    let (accepted, address) = (Arc::clone(&connections), server.address);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if accepted.fetch_add(1, Ordering::SeqCst) == 0 {
                // The first connection goes away as soon as something was sent on it.
                let _ = stream.read(&mut [0; 16]).await;
                continue;
            }
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
            });
        }
    });
    ask(&channel).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 2, "the call was sent twice");
    expect(&client, format!("grpc_client_started_total{{{CHECK},cluster=\"eu-1\"}}"), 1).await;
    expect_both(&server.metrics, &client, CHECK, "OK", 1).await;
    assert_eq!(value(&server.metrics, &format!("grpc_server_started_total{{{CHECK}}}")), 1);
}

#[tokio::test]
async fn a_call_to_nobody_counts_as_unavailable() {
    let (channel, client) = counting(format!("127.0.0.1:{}", free_port().unwrap()));
    assert_eq!(ask(&channel).await.unwrap_err().code(), Code::Unavailable);
    let handled = format!("grpc_client_handled_total{{{CHECK},grpc_code=\"Unavailable\",cluster=\"eu-1\"}}");
    assert_eq!(value(&client, &handled), 1);
    assert_eq!(value(&client, &format!("grpc_client_started_total{{{CHECK},cluster=\"eu-1\"}}")), 1);
}

#[tokio::test]
async fn a_call_that_a_rule_refuses_is_counted_and_a_stream_that_shutdown_cuts() {
    let mesh = Mesh::new();
    let server = TestServer::start_with(Some(mesh.server_source()), |config| {
        let allowed =
            parallax_pki::AllowedClients::Listed(["other"].map(|name| name.parse().unwrap()).into());
        config.access = ServerAccess { allowed, forwarded: None };
    })
    .await;
    let status = ask(&server.channel(&mesh.client_source())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let handled =
        |method: &str, code: &str| format!("grpc_server_handled_total{{{method},grpc_code=\"{code}\"}}");
    expect(&server.metrics, handled(CHECK, "PermissionDenied"), 1).await;

    let server = TestServer::start_with(None, |config| config.grace_period = Duration::from_millis(50)).await;
    let (channel, client) = counting(server.address.to_string());
    let mut stream =
        HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    server.shutdown.cancel();
    let status = stream.message().await.unwrap_err();
    let code =
        if status.code() == Code::Cancelled { "Canceled".to_owned() } else { format!("{:?}", status.code()) };
    expect(&server.metrics, handled(WATCH, "Canceled"), 1).await;
    let of_client = format!("grpc_client_handled_total{{{WATCH},grpc_code=\"{code}\",cluster=\"eu-1\"}}");
    expect(&client, of_client, 1).await;
}
