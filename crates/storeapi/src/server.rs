//! Any `Store` as gRPC services: Store, Info, those beside it, health and reflection.
//!
//! Each call is for the store as its caller sees it, see [`crate::caller`]. Deadlines that come in as `grpc-timeout` are kept inside the stream; dropping a call drops the store's stream. Who listens, with
//! which certificates and keepalive, is up to whoever serves the routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as HttpService, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::caller::{Entrance, Guard};
use crate::codec::SeriesCodec;
use crate::deadline::{by, deadline_of, set_deadline, until};
use crate::encoded::{WireFrame, WireStream};
use crate::message_limits::MAX_REQUEST_BYTES;
use crate::proto::DESCRIPTOR_SET;
use crate::proto::thanos::info::info_server::{Info, InfoServer};
use crate::proto::thanos::info::{InfoRequest, InfoResponse};
use crate::proto::thanos::store_server;
use crate::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use crate::{SeriesStream, Store, side};

/// Largest message that is sent: what gRPC itself allows. What is taken is far less, see [`crate::MessageLimits`].
pub const MAX_MESSAGE_SIZE_BYTES: usize = i32::MAX as usize;

/// Names that `grpc.health.v1.Health` answers for; the empty one is the whole server.
const HEALTH_SERVICES: [&str; 3] = ["", "thanos.Store", "thanos.info.Info"];

/// Why a set of routes could not be made.
#[derive(Debug, thiserror::Error)]
#[error("server reflection: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The services of one store. While `ready` is false, Info answers `Unavailable` and health says not serving.
///
/// Call it inside a tokio runtime: a task follows `ready` until its sender is dropped.
///
/// # Errors
/// If the committed descriptors are broken, which `tests/generated.rs` rules out.
pub fn routes(store: Arc<dyn Store>, ready: watch::Receiver<bool>) -> Result<Routes, ReflectionError> {
    guarded_routes(store, None, ready)
}

/// The same, where `guard` settles who calls, and what of the store they may see.
///
/// # Errors
/// As [`routes`].
pub fn guarded_routes(
    store: Arc<dyn Store>,
    guard: Option<Arc<dyn Guard>>,
    ready: watch::Receiver<bool>,
) -> Result<Routes, ReflectionError> {
    let entrance = Entrance { store, guard };
    let service = Service { entrance: entrance.clone(), ready: ready.clone() };
    let reporter = HealthReporter::new();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    tokio::spawn(follow_readiness(reporter, ready));

    let labels = store_server::StoreServer::new(service.clone())
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_SIZE_BYTES);
    let store_service = StoreService { series: service.clone(), others: labels };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(side::add(Routes::new(store_service), &entrance)
        .add_service(InfoServer::new(service))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

async fn follow_readiness(reporter: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status =
            if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in HEALTH_SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

#[derive(Clone)]
struct Service {
    entrance: Entrance,
    ready: watch::Receiver<bool>,
}

/// Fixes the deadline at the moment the call came in.
pub(crate) fn received<T>(mut request: Request<T>) -> (Request<T>, Option<std::time::Instant>) {
    let deadline = deadline_of(&request);
    if let Some(deadline) = deadline {
        set_deadline(&mut request, deadline);
    }
    (request, deadline)
}

#[tonic::async_trait]
impl store_server::Store for Service {
    type SeriesStream = SeriesStream;

    async fn series(&self, request: Request<SeriesRequest>) -> Result<Response<SeriesStream>, Status> {
        let (mut request, deadline) = received(request);
        let store = self.entrance.admit(&mut request)?;
        let stream = by(deadline, store.series(request)).await?;
        Ok(Response::new(until(stream, deadline)))
    }

    async fn label_names(
        &self,
        request: Request<LabelNamesRequest>,
    ) -> Result<Response<LabelNamesResponse>, Status> {
        let (mut request, deadline) = received(request);
        let store = self.entrance.admit(&mut request)?;
        Ok(Response::new(by(deadline, store.label_names(request)).await?))
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<Response<LabelValuesResponse>, Status> {
        let (mut request, deadline) = received(request);
        let store = self.entrance.admit(&mut request)?;
        Ok(Response::new(by(deadline, store.label_values(request)).await?))
    }
}

/// `thanos.Store`, with a codec of its own for Series: whose frames may be encoded already.
#[derive(Clone)]
struct StoreService {
    series: Service,
    others: store_server::StoreServer<Service>,
}

const SERIES_PATH: &str = "/thanos.Store/Series";

impl NamedService for StoreService {
    const NAME: &'static str = store_server::SERVICE_NAME;
}

impl HttpService<http::Request<Body>> for StoreService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != SERIES_PATH {
            return self.others.call(request);
        }
        let method = SeriesMethod(self.series.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(SeriesCodec::default())
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_SIZE_BYTES);
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

struct SeriesMethod(Service);

impl ServerStreamingService<SeriesRequest> for SeriesMethod {
    type Response = WireFrame;
    type ResponseStream = WireStream;
    type Future = BoxFuture<Response<WireStream>, Status>;

    fn call(&mut self, request: Request<SeriesRequest>) -> Self::Future {
        let entrance = self.0.entrance.clone();
        Box::pin(async move {
            let (mut request, deadline) = received(request);
            let store = entrance.admit(&mut request)?;
            let stream = by(deadline, store.series_encoded(request)).await?;
            Ok(Response::new(until(stream, deadline)))
        })
    }
}

#[tonic::async_trait]
impl Info for Service {
    async fn info(&self, mut request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        if !*self.ready.borrow() {
            return Err(Status::unavailable("this component is not ready yet"));
        }
        Ok(Response::new(self.entrance.admit(&mut request)?.info().await?))
    }
}
