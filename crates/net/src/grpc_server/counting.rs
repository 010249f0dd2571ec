//! Counts the calls of a server, as its outermost layer: also those that a rule refuses, that no service answers, and that their clients leave.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::rpc_metrics::Calls;

#[derive(Clone)]
pub(super) struct CountingLayer(pub(super) Arc<Calls>);

impl<S> Layer<S> for CountingLayer {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, calls: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
pub(super) struct Counting<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Service<http::Request<Body>> for Counting<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut call = self.calls.begin(request.uri().path(), request.headers());
        let answering = self.inner.call(request);
        Box::pin(async move {
            match answering.await {
                Ok(response) => Ok(call.watch(response)),
                Err(error) => {
                    call.ended(Code::Unknown);
                    Err(error)
                }
            }
        })
    }
}
