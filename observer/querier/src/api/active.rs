//! `/api/v1/active_queries`: what runs or waits now. It is ours: Prometheus and Thanos only log their queries to a file.
//!
//! A caller that may not see everything is shown the queries that came from the same caller alone.

use std::sync::Arc;

use axum::extract::State;

use super::Api;
use super::float::write_seconds;
use super::json::{write_list, write_string};
use super::params::Params;
use super::respond::{ApiError, Finished, Success};
use super::stats::write_endpoints;
use crate::active::Shown;

pub(super) async fn active_queries(
    State(api): State<Arc<Api>>,
    params: Params,
) -> Result<Finished, ApiError> {
    let shown = api.runner.active().seen_by(&params.caller);
    let limits = api.runner.limits();
    let mut success = Success::begin();
    let data = success.data();
    let bounds = format!(
        "{{\"maxConcurrent\":{},\"maxWaiting\":{},\"queries\":",
        limits.max_concurrent, limits.max_waiting
    );
    data.extend_from_slice(bounds.as_bytes());
    write_list(data, &shown, write_query);
    data.push(b'}');
    Ok(success.finish(&[], &[], b""))
}

fn write_query(data: &mut Vec<u8>, query: &Shown) {
    data.extend_from_slice(format!("{{\"id\":{},\"query\":", query.id).as_bytes());
    write_string(data, &query.text);
    for (name, time_ms) in [("start", query.range.start_ms), ("end", query.range.end_ms)] {
        data.extend_from_slice(format!(",\"{name}\":").as_bytes());
        write_seconds(data, time_ms);
    }
    data.extend_from_slice(b",\"step\":");
    write_seconds(data, query.range.step_ms);
    data.extend_from_slice(b",\"started\":");
    write_string(data, &query.started.to_string());
    let state = if query.received.is_some() { "running" } else { "queued" };
    let elapsed = format!(",\"elapsedSeconds\":{:.3},\"state\":", query.elapsed.as_secs_f64());
    data.extend_from_slice(elapsed.as_bytes());
    write_string(data, state);
    for (name, text) in [("tenant", &query.caller.tenant), ("identity", &query.caller.identity)] {
        data.extend_from_slice(format!(",\"{name}\":").as_bytes());
        match text {
            Some(text) => write_string(data, text),
            None => data.extend_from_slice(b"null"),
        }
    }
    data.extend_from_slice(b",\"endpoints\":");
    write_endpoints(data, &query.received.clone().unwrap_or_default());
    data.push(b'}');
}
