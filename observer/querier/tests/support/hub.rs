//! A querier over given endpoints, asked through HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use parallax_net::{Context, GrpcServer, GrpcServerConfig, GrpcTarget};
use parallax_querier::{Connection, EndpointConfig, EndpointOptions, ProxyConfig, Querier, QuerierConfig};
use parallax_storeapi::{Guard, Store};
use serde_json::Value;
use tower::ServiceExt;

use crate::fake_side::FakeSide;

/// Whoever is well is never silent for so long, however busy the machine is.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// For tests in which somebody hangs.
const SHORT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A hub in whose test somebody hangs does not wait long for it.
pub fn impatient(mut config: QuerierConfig) -> QuerierConfig {
    config.proxy.response_timeout = Some(SHORT_RESPONSE_TIMEOUT);
    config
}

/// A querier that is ready, until it is dropped.
pub struct Hub {
    pub querier: Arc<Querier>,
    pub context: Context,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

impl Hub {
    pub async fn over(endpoints: Vec<EndpointConfig>) -> Self {
        Self::with(endpoints, |config| config).await
    }

    pub async fn with(
        endpoints: Vec<EndpointConfig>,
        change: impl FnOnce(QuerierConfig) -> QuerierConfig,
    ) -> Self {
        let mut config = QuerierConfig {
            endpoints,
            // Polls once and then hardly ever, so that a test decides what is known.
            endpoint_options: EndpointOptions {
                info_interval: Duration::from_secs(3600),
                ..EndpointOptions::default()
            },
            proxy: ProxyConfig { response_timeout: Some(RESPONSE_TIMEOUT), ..ProxyConfig::default() },
            ..QuerierConfig::default()
        };
        config.api.replica_labels = vec!["replica".to_owned()];
        let context = Context::for_test();
        let querier = Querier::start(change(config), context.clone()).unwrap();
        querier.endpoints().polled_once().await;
        Self { querier, context }
    }

    pub async fn ask(&self, uri: &str) -> (StatusCode, Value) {
        self.ask_with(uri, &[]).await
    }

    /// With these headers.
    pub async fn ask_with(&self, uri: &str, headers: &[(&str, &str)]) -> (StatusCode, Value) {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.querier.router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// `data` and warnings of an answer that is none of an error.
    pub async fn get(&self, uri: &str) -> (Value, Vec<String>) {
        let (status, mut answer) = self.ask(uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {answer}");
        let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
        let warnings = warnings.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
        (answer["data"].take(), warnings)
    }

    /// The same, of a whole answer.
    pub async fn whole(&self, uri: &str) -> Value {
        let (data, warnings) = self.get(uri).await;
        assert!(warnings.is_empty(), "{uri}: {warnings:?}");
        data
    }
}

pub fn local(name: &str, store: &Arc<FakeSide>) -> EndpointConfig {
    EndpointConfig::new(name, Connection::Local(store.clone()))
}

/// An endpoint at an address where nobody listens.
pub fn down(cluster: &str) -> EndpointConfig {
    let address = format!("127.0.0.1:{}", parallax_net::free_port().unwrap());
    EndpointConfig::new(format!("sidecar-{cluster}"), Connection::Remote(GrpcTarget::plain(address)))
        .with_cluster(cluster)
}

/// Serves `store` over gRPC until the context ends.
pub async fn served(store: Arc<dyn Store>, context: &Context) -> EndpointConfig {
    guarded(store, None, context).await
}

/// The same, to callers as `guard` sees them.
pub async fn guarded(
    store: Arc<dyn Store>,
    guard: Option<Arc<dyn Guard>>,
    context: &Context,
) -> EndpointConfig {
    let server = GrpcServer::bind(GrpcServerConfig::new("127.0.0.1:0"), &context.metrics).await.unwrap();
    let address = server.local_addr().to_string();
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let routes = parallax_storeapi::guarded_routes(store, guard, readiness).unwrap();
    let serving = server.serve(routes, context.shutdown.clone());
    tokio::spawn(async move {
        let _kept_while_serving = ready;
        serving.await
    });
    EndpointConfig::new(address.clone(), Connection::Remote(GrpcTarget::plain(address)))
}
