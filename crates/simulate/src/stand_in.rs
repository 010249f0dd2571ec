//! A stand-in for Prometheus where none is installed: the part of its HTTP API that a sidecar asks, over a fleet.
//!
//! It serves samples from `start_ms` up to the present moment, computed when they are asked for, by remote read in
//! both forms (streamed chunks and whole samples). It says that it is a stand-in in its build information.

mod read;
mod side;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use parallax_model::{Labels, Matcher};
use serde_json::{Value, json};

use crate::Fleet;

/// What `/api/v1/status/buildinfo` says.
pub const VERSION: &str = "0.0.0-parallax-stand-in";

/// A fleet with the time its data begins.
pub struct StandIn {
    pub fleet: Fleet,
    pub start_ms: i64,
}

/// The present moment in milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The HTTP API over `stand_in`.
pub fn router(stand_in: StandIn) -> Router {
    router_with(stand_in, post(read::read))
}

/// As [`router`], of a server that answers every remote read with whole samples, as servers before 2.13 and many that only look like
/// Prometheus do.
pub fn router_without_streaming(stand_in: StandIn) -> Router {
    router_with(stand_in, post(read::read_samples))
}

fn router_with(stand_in: StandIn, read: MethodRouter<Arc<StandIn>>) -> Router {
    Router::new()
        .route("/-/ready", get(|| async { "stand-in is ready\n" }))
        .route("/-/healthy", get(|| async { "stand-in is healthy\n" }))
        .route("/metrics", get(metrics))
        .route("/api/v1/status/buildinfo", get(|| async { success(json!({"version": VERSION})) }))
        .route("/api/v1/status/flags", get(flags))
        .route("/api/v1/status/config", get(config))
        .route("/api/v1/labels", get(labels).post(labels_of_form))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/series", get(series).post(series_of_form))
        .route("/api/v1/read", read)
        .merge(side::router())
        .with_state(Arc::new(stand_in))
}

type Shared = State<Arc<StandIn>>;

fn success(data: Value) -> Response {
    axum::Json(json!({"status": "success", "data": data})).into_response()
}

fn bad_data(error: impl ToString) -> Response {
    let body = json!({"status": "error", "errorType": "bad_data", "error": error.to_string()});
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

async fn metrics(State(stand_in): Shared) -> String {
    let seconds = stand_in.start_ms as f64 / 1000.0;
    format!(
        "# TYPE prometheus_tsdb_lowest_timestamp_seconds gauge\nprometheus_tsdb_lowest_timestamp_seconds {seconds}\n"
    )
}

async fn flags() -> Response {
    success(json!({"storage.tsdb.min-block-duration": "2h", "storage.tsdb.max-block-duration": "2h"}))
}

async fn config(State(stand_in): Shared) -> Response {
    let labels: BTreeMap<_, _> =
        stand_in.fleet.external_labels().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    // JSON is YAML.
    success(json!({"yaml": json!({"global": {"external_labels": labels}}).to_string()}))
}

async fn labels(State(stand_in): Shared, RawQuery(query): RawQuery) -> Response {
    match matching(&stand_in, query) {
        Ok(found) => {
            let names: BTreeSet<&str> =
                found.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
            success(json!(names))
        }
        Err(error) => bad_data(error),
    }
}

async fn labels_of_form(stand_in: Shared, form: String) -> Response {
    labels(stand_in, RawQuery(Some(form))).await
}

async fn label_values(
    State(stand_in): Shared,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match matching(&stand_in, query) {
        Ok(found) => {
            let values: BTreeSet<&str> = found.iter().filter_map(|labels| labels.get(&name)).collect();
            success(json!(values))
        }
        Err(error) => bad_data(error),
    }
}

async fn series(State(stand_in): Shared, RawQuery(query): RawQuery) -> Response {
    match matching(&stand_in, query) {
        Ok(found) => success(json!(found)),
        Err(error) => bad_data(error),
    }
}

async fn series_of_form(stand_in: Shared, form: String) -> Response {
    series(stand_in, RawQuery(Some(form))).await
}

/// The label sets that any `match[]` of the query selects; all, if there is none. Every series lives as long as the fleet, so
/// the asked time does not matter.
fn matching(stand_in: &StandIn, query: Option<String>) -> Result<Vec<Labels>, String> {
    let mut selectors: Vec<Vec<Matcher>> = Vec::new();
    for pair in query.unwrap_or_default().split('&') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        if percent_decode(name) == "match[]" {
            let text = percent_decode(value);
            selectors.push(parallax_promql::parse::parse_selector(&text).map_err(|error| error.to_string())?);
        }
    }
    let selected = |labels: &Labels| {
        selectors.is_empty()
            || selectors.iter().any(|all| all.iter().all(|matcher| matcher.matches_labels(labels)))
    };
    Ok(stand_in.fleet.series().into_iter().map(|series| series.labels).filter(selected).collect())
}

/// `%41+b` as `A b`; what is no escape stays as it is.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        let decoded = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_nonsense_stays() {
        assert_eq!(percent_decode("match%5B%5D"), "match[]");
        assert_eq!(percent_decode("a+b%2"), "a b%2");
        assert_eq!(percent_decode("%zz%"), "%zz%");
    }
}
