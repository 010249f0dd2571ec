//! Compressed calls between our client and our server, over real connections.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use parallax_net::{Compression, GrpcServer, GrpcServerConfig, GrpcTarget, connect};
use parallax_telemetry::Metrics;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Which encodings requests had when they came to the services.
type Seen = Arc<Mutex<Vec<String>>>;

async fn routes(seen: &Seen) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("x".repeat(1000), ServingStatus::Serving).await;
    let seen = Arc::clone(seen);
    let watch = from_fn(move |request: Request, next: Next| {
        let encoding = request.headers().get("grpc-encoding").map(|name| name.to_str().unwrap().to_owned());
        seen.lock().unwrap().push(encoding.unwrap_or_default());
        next.run(request)
    });
    Routes::from(Routes::new(health).into_axum_router().layer(watch))
}

fn client(address: String, compression: Option<Compression>) -> HealthClient<parallax_net::GrpcChannel> {
    HealthClient::new(connect(&GrpcTarget { compression, ..GrpcTarget::plain(address) }).unwrap())
}

#[tokio::test]
async fn requests_and_answers_may_be_compressed_and_nobody_above_notices() {
    for compression in [None, Some(Compression::Snappy), Some(Compression::Zstd)] {
        let seen = Seen::default();
        let server = GrpcServer::bind(GrpcServerConfig::new("127.0.0.1:0"), &Metrics::new()).await.unwrap();
        let mut client = client(server.local_addr().to_string(), compression);
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(routes(&seen).await, stop.clone()));
        let request = HealthCheckRequest { service: "x".repeat(1000) };
        let known = client.check(request).await.unwrap().into_inner();
        assert_eq!(known.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
        let unknown = client.check(HealthCheckRequest { service: "other".to_owned() }).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound, "an error has no messages and comes through");
        assert_eq!(*seen.lock().unwrap(), ["", ""], "the encoding is taken off before the services");
        stop.cancel();
    }
}

#[tokio::test]
async fn who_does_not_know_an_encoding_is_told_that_it_comes() {
    for compression in [Compression::Snappy, Compression::Zstd] {
        unknown(compression).await;
    }
}

async fn unknown(compression: Compression) {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = client(listener.local_addr().unwrap().to_string(), Some(compression));
    let plain = tonic::transport::Server::builder().add_routes(routes(&seen).await);
    tokio::spawn(plain.serve_with_incoming(TcpListenerStream::new(listener)));
    let status = client.check(HealthCheckRequest { service: "x".repeat(1000) }).await.unwrap_err();
    assert_eq!(
        (status.code(), seen.lock().unwrap().as_slice()),
        (tonic::Code::Unimplemented, &[compression.name().to_owned()][..])
    );
}
