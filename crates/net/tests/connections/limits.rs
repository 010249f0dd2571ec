//! Bounds of the gRPC server, and its end.

use std::time::Duration;

use parallax_net::{GrpcTarget, connect, free_port};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fixture::{Mesh, TestServer, ask};

#[tokio::test]
async fn peers_that_never_finish_a_handshake_do_not_keep_others_out() {
    let mesh = Mesh::new();
    let server =
        TestServer::start_with(Some(mesh.server_source()), |config| config.max_pending_handshakes = 4).await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    ask(&server.channel(&mesh.client_source())).await.unwrap();
    // The oldest have been dropped.
    let mut byte = [0_u8; 1];
    assert!(!matches!(idle[0].read(&mut byte).await, Ok(1..)));
    assert!(server.metrics.encode().unwrap().contains("reason=\"handshake_displaced\""));
}

#[tokio::test]
async fn an_unfinished_handshake_has_a_deadline() {
    let mesh = Mesh::new();
    let server = TestServer::start_with(Some(mesh.server_source()), |config| {
        config.handshake_timeout = Duration::from_millis(20);
    })
    .await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let mut byte = [0_u8; 1];
    assert!(!matches!(idle.read(&mut byte).await, Ok(1..)));
    server.expect_failure("timeout").await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let server = TestServer::start_with(None, |config| config.max_connections = 1).await;
    let first = connect(&GrpcTarget::plain(server.address.to_string())).unwrap();
    ask(&first).await.unwrap();
    let second = connect(&GrpcTarget::plain(server.address.to_string())).unwrap();
    assert!(ask(&second).await.is_err());
    ask(&first).await.unwrap();
    assert!(server.metrics.encode().unwrap().contains("reason=\"too_many_connections\""));
}

#[tokio::test]
async fn shutdown_waits_for_calls_and_then_cuts_them() {
    let server =
        TestServer::start_with(None, |config| config.grace_period = Duration::from_millis(100)).await;
    let channel = connect(&GrpcTarget::plain(server.address.to_string())).unwrap();
    let mut client = HealthClient::new(channel.clone());
    let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    server.shutdown.cancel();
    server.task.await.unwrap();
    let end = stream.message().await;
    assert!(end.is_err(), "the stream outlived its server: {end:?}");
    let message = ask(&channel).await.unwrap_err().message().to_owned();
    assert!(message.starts_with(&server.address.to_string()), "{message}");
}

#[tokio::test]
async fn an_idle_server_ends_at_once_and_frees_its_port() {
    // A port that nobody else is given once it is free.
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let server = TestServer::start_with(None, |config| config.address = address).await;
    let channel = connect(&GrpcTarget::plain(server.address.to_string())).unwrap();
    ask(&channel).await.unwrap();
    server.shutdown.cancel();
    server.task.await.unwrap();
    tokio::net::TcpListener::bind(server.address).await.unwrap();
}

#[tokio::test]
async fn addresses_that_cannot_be_dialled_are_refused_at_once() {
    for address in ["eu-1", "eu-1:", "http://eu-1:1", "eu 1:1", ":1"] {
        let error = connect(&GrpcTarget::plain(address)).unwrap_err().to_string();
        assert!(error.contains(address), "{error}");
    }
    let mut target = GrpcTarget::plain("eu-1:1");
    target.authority = Some("a b".to_owned());
    assert!(connect(&target).is_err());
}
