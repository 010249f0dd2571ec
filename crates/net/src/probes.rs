//! The routes that every component serves: `/metrics`, `/-/healthy`, `/-/ready`.
//!
//! Invariant: healthy means that the process answers; ready means that every condition holds, and if not, the answer (503) names those that do not.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use parallax_telemetry::METRICS_CONTENT_TYPE;

use crate::context::Context;

/// `/metrics`, `/-/healthy` and `/-/ready` of `context`; merge it with a component's own routes.
pub fn base_router(context: &Context) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(async || "OK"))
        .route("/-/ready", get(ready))
        .with_state(context.clone())
}

async fn metrics(State(context): State<Context>) -> Response {
    match context.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(context): State<Context>) -> Response {
    if context.readiness.is_ready() {
        return "OK".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", context.readiness.reasons().join("; ")))
        .into_response()
}
