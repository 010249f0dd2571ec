//! An endpoint that announces a frame of a gigabyte: refused at the announcement, for nobody waits until it has come.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use hub::Hub;
use parallax_model::TimeRange;
use parallax_net::{Compression, Context, GrpcServer, GrpcServerConfig, GrpcTarget};
use parallax_querier::{Connection, EndpointConfig, QuerierConfig};
use parallax_testkit::fake_store::FakeStore;
use prost::Message;
use tonic::service::Routes;

const GIGABYTE: u32 = 1 << 30;
/// Far longer than a refusal takes, and shorter than the time of a query.
const PATIENCE: Duration = Duration::from_secs(60);

fn grpc(body: Body, encoding: Option<Compression>) -> Response<Body> {
    let response = Response::builder().header("content-type", "application/grpc");
    let response = match encoding {
        None => response,
        Some(encoding) => response.header("grpc-encoding", encoding.name()),
    };
    response.body(body).unwrap()
}

/// A store of us-1 whose every answer begins with the head of a gigabyte and never goes on.
fn routes(encoding: Option<Compression>, asked: Arc<AtomicUsize>) -> Routes {
    let own = parallax_model::Labels::from_pairs([("cluster", "us-1")]);
    let info = parallax_storeapi::proto::thanos::info::InfoResponse {
        label_sets: vec![parallax_storeapi::labels::set_to_wire(&own)],
        component_type: "sidecar".to_owned(),
        store: Some(parallax_storeapi::proto::thanos::info::StoreInfo {
            max_time: i64::MAX,
            ..Default::default()
        }),
        ..Default::default()
    };
    let info = info.encode_to_vec();
    let answer_info = move || {
        let info = info.clone();
        async move {
            let mut body = vec![0];
            body.extend(u32::try_from(info.len()).unwrap().to_be_bytes());
            body.extend(info);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            grpc(Body::new(WithTrailers { data: Some(body.into()), trailers: Some(trailers) }), None)
        }
    };
    let announce = move || {
        asked.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut head = vec![u8::from(encoding.is_some())];
            head.extend(GIGABYTE.to_be_bytes());
            head.extend([7; 1000]);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(head))]);
            grpc(Body::from_stream(first.chain(futures::stream::pending())), encoding)
        }
    };
    let router = axum::Router::new()
        .route("/thanos.info.Info/Info", axum::routing::post(answer_info))
        .route("/thanos.Store/{call}", axum::routing::post(announce));
    Routes::from(router)
}

struct WithTrailers {
    data: Option<Bytes>,
    trailers: Option<http::HeaderMap>,
}

impl http_body::Body for WithTrailers {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let data = self.data.take().map(http_body::Frame::data);
        let next = data.or_else(|| self.trailers.take().map(http_body::Frame::trailers));
        std::task::Poll::Ready(next.map(Ok))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_a_gigabyte_is_refused_when_it_is_announced_and_others_stand() {
    let context = Context::for_test();
    for encoding in [None, Some(Compression::Snappy), Some(Compression::Zstd)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let config =
            GrpcServerConfig { grace_period: Duration::ZERO, ..GrpcServerConfig::new("127.0.0.1:0") };
        let metrics = parallax_telemetry::Metrics::new();
        let server = GrpcServer::bind(config, &metrics).await.unwrap();
        let address = server.local_addr().to_string();
        tokio::spawn(server.serve(routes(encoding, asked.clone()), context.shutdown.clone()));
        let samples = (0..100).map(|i| (i * 15_000, 1.0));
        let good = FakeStore::new([("cluster", "eu-1")])
            .with_range(TimeRange::new(0, i64::MAX))
            .with_series([("__name__", "up"), ("job", "a")], samples);
        let target = GrpcTarget { compression: encoding, ..GrpcTarget::plain(address) };
        let endpoints = vec![
            EndpointConfig::new("eu:10901", Connection::Local(Arc::new(good))).with_cluster("eu-1"),
            EndpointConfig::new("us:10901", Connection::Remote(target)).with_cluster("us-1"),
        ];
        let patient = |mut config: QuerierConfig| {
            config.proxy.response_timeout = None;
            config
        };
        let hub = Hub::with(endpoints, patient).await;
        for (path, found) in [("query?query=up&time=1000", "\"job\":\"a\""), ("labels", "job")] {
            let uri = format!("/api/v1/{path}");
            let answered = tokio::time::timeout(PATIENCE, hub.ask(&uri)).await;
            let (status, body) = answered.expect("it is waited for");
            assert_eq!(status, StatusCode::OK, "{encoding:?}: {body}");
            let text = body["data"].to_string();
            assert!(text.contains(found), "{encoding:?}: {body}");
            let warning = body["warnings"][0].as_str().unwrap_or_default();
            assert!(
                warning.starts_with("parallax: cluster \"us-1\" refused: us:10901: ")
                    && warning.contains(&GIGABYTE.to_string()),
                "{encoding:?}: {body}"
            );
        }
        assert!(asked.load(Ordering::SeqCst) >= 2);
    }
    context.shutdown.cancel();
}
