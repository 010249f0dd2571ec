//! The Prometheus HTTP API, with Thanos' additional parameters and endpoints, over a [`QueryRunner`].
//!
//! Shapes, texts and status codes are those of Prometheus 3.9 (`web/api/v1`), so that Grafana and other clients see
//! a Prometheus; contract section 1.3 lists what Thanos adds.

mod active;
mod coverage;
mod endpoints;
mod exemplars;
mod float;
mod histogram;
mod json;
mod metadata;
mod metric_metadata;
mod names;
mod params;
mod queries;
mod respond;
mod rules;
mod side;
mod stats;
mod status;
mod targets;
mod tsdb_status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use parallax_promql::engine::QueryRange;
use parallax_storeapi::{Caller, Guard, SideService, Store};

pub use endpoints::{StoreList, StoreStatus};

use self::coverage::Covered;
use self::respond::{ApiError, ErrorKind};
use crate::coverage::CoverageLog;
use crate::query::QueryRunner;
use crate::stop::Stopping;

/// The largest form a request may carry, as in Go's `net/http`.
const MAX_FORM_BYTES: usize = 10 << 20;

/// How requests that do not say otherwise are answered.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    pub replica_labels: Vec<String>,
    pub partial_response: bool,
    /// The services beside the StoreAPI whose answers have to be whole, unless a request says otherwise.
    pub whole_side: Vec<SideService>,
    pub default_step: Duration,
    /// How far back labels and series are looked for when no start is given; zero for all time.
    pub default_metadata_range: Duration,
    /// Let queries that say nothing of it read downsampled data, as with `max_source_resolution=auto`.
    pub auto_downsampling: bool,
    /// How coarse `auto` may be for instant queries.
    pub instant_max_resolution: Duration,
    /// Whether pages of any origin may read answers.
    pub cors: bool,
    /// Where the API stands below the root, such as `/thanos`; empty for the root itself.
    pub route_prefix: String,
    /// What `/api/v1/status/flags` shows.
    pub flags: BTreeMap<String, String>,
    /// Settles who asks over HTTP, and what they may see; `None`: everybody may see everything.
    pub guard: Option<Arc<dyn Guard>>,
    /// Syntax that is understood beyond the stable one.
    pub parser: parallax_promql::parse::ParserOptions,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            replica_labels: Vec::new(),
            partial_response: true,
            whole_side: Vec::new(),
            default_step: Duration::from_secs(1),
            default_metadata_range: Duration::ZERO,
            auto_downsampling: false,
            instant_max_resolution: Duration::ZERO,
            cors: true,
            route_prefix: String::new(),
            flags: BTreeMap::new(),
            guard: None,
            parser: parallax_promql::parse::ParserOptions::default(),
        }
    }
}

/// Of how many samples per step `auto` makes sure.
const AUTO_RESOLUTION_STEP_SHARE: i64 = 5;

impl ApiOptions {
    /// How coarse data may be where that is left to us: a fifth of the step of a range query, the configured resolution of an instant one.
    pub(crate) fn automatic_resolution_ms(&self, range: QueryRange) -> i64 {
        if range.is_instant() {
            i64::try_from(self.instant_max_resolution.as_millis()).unwrap_or(i64::MAX)
        } else {
            range.step_ms / AUTO_RESOLUTION_STEP_SHARE
        }
    }
}

/// What handlers share.
pub(crate) struct Api {
    runner: Arc<QueryRunner>,
    stores: Box<dyn StoreList>,
    options: ApiOptions,
    started: jiff::Timestamp,
}

impl Api {
    /// What the calls of a question left, counted as an answer.
    fn covered(&self, log: &CoverageLog) -> Option<Covered> {
        let coverage = self.runner.covered(log)?;
        Some(Covered { coverage, regions: self.stores.regions() })
    }

    /// What is asked, as `caller` sees it.
    fn store(&self, caller: &Caller) -> Arc<dyn Store> {
        caller.over(Arc::clone(self.runner.store()))
    }
}

/// The routes of the API.
pub fn router(runner: Arc<QueryRunner>, stores: impl StoreList, options: ApiOptions) -> Router {
    let prefix = options.route_prefix.trim_matches('/').to_owned();
    let (has_cors, guard) = (options.cors, options.guard.clone());
    let api = Arc::new(Api { runner, stores: Box::new(stores), options, started: jiff::Timestamp::now() });
    let routes = Router::new()
        .route("/api/v1/query", get(queries::instant).post(queries::instant))
        .route("/api/v1/query_range", get(queries::range).post(queries::range))
        .route("/api/v1/query_explain", get(queries::explain_instant).post(queries::explain_instant))
        .route("/api/v1/query_range_explain", get(queries::explain_range).post(queries::explain_range))
        .route("/api/v1/series", get(metadata::series).post(metadata::series))
        .route("/api/v1/labels", get(metadata::label_names).post(metadata::label_names))
        .route("/api/v1/label/{name}/values", get(metadata::label_values))
        .route("/api/v1/stores", get(status::stores))
        .route("/api/v1/metadata", get(metric_metadata::metric_metadata))
        .route("/api/v1/rules", get(rules::rules))
        .route("/api/v1/alerts", get(rules::alerts))
        .route("/api/v1/targets", get(targets::targets))
        .route("/api/v1/query_exemplars", get(exemplars::exemplars).post(exemplars::exemplars))
        .route("/api/v1/active_queries", get(active::active_queries))
        .route("/api/v1/status/tsdb", get(tsdb_status::tsdb_status))
        .route("/api/v1/status/buildinfo", get(status::build_info))
        .route("/api/v1/status/runtimeinfo", get(status::runtime_info))
        .route("/api/v1/status/flags", get(status::flags))
        .route("/api/v1/{*rest}", any(respond::not_found))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(from_fn(move |request: Request, next: Next| admitted(guard.clone(), request, next)))
        .with_state(api);
    let routes = if has_cors { routes.layer(from_fn(allow_any_origin)) } else { routes };
    if prefix.is_empty() { routes } else { Router::new().nest(&format!("/{prefix}"), routes) }
}

/// Settles who asks.
async fn admitted(guard: Option<Arc<dyn Guard>>, mut request: Request, next: Next) -> Response {
    let caller = match guard {
        None => Caller::default(),
        Some(guard) => match guard.caller(request.headers(), request.extensions()) {
            Ok(caller) => caller,
            Err(status) => return ApiError::of_guard(&status).into_response(),
        },
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The answer to a request that a stop signal ended.
pub(crate) fn stopping(_: Stopping) -> Response {
    ApiError::new(ErrorKind::Canceled, Stopping::TEXT).into_response()
}

/// Lets pages of any origin read answers, and answers the question that browsers ask before a POST.
async fn allow_any_origin(request: Request, next: Next) -> Response {
    const HEADERS: [(header::HeaderName, HeaderValue); 4] = [
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Accept, Accept-Encoding, Authorization, Content-Type, Origin"),
        ),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date, Parallax-Coverage")),
    ];
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    response.headers_mut().extend(HEADERS);
    response
}
