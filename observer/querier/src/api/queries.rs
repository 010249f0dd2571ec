//! `/api/v1/query` and `/api/v1/query_range`, and their plans.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use parallax_dedup::{Algorithm, UnknownAlgorithm};
use parallax_promql::engine::{QueryOutcome, QueryRange, StatsOptions};
use parallax_promql::parse::parse;
use parallax_promql::value::QueryValue;
use parallax_storeapi::proto::thanos::ShardInfo;

use super::Api;
use super::coverage::Covered;
use super::json::{MatrixPieces, write_value};
use super::params::Params;
use super::respond::{ApiError, ErrorKind, Finished, Success};
use super::stats::{write_analysis, write_endpoints, write_plan, write_stats};
use crate::coverage::Coverage;
use crate::query::{MAX_STEPS, Query, QueryTimes, evaluates_over_range};

/// Without a step, a range is cut into this many, as in Thanos.
const DEFAULT_STEPS: i64 = 250;

pub(super) async fn instant(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let limit = params.limit()?;
    let at_ms = params.time("time")?.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
    answer(&api, &params, QueryRange::instant(at_ms), limit).await
}

pub(super) async fn range(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let limit = params.limit()?;
    let range = query_range(&api, &params)?;
    answer(&api, &params, range, limit).await
}

/// The operators that would answer an instant query.
pub(super) async fn explain_instant(
    State(api): State<Arc<Api>>,
    params: Params,
) -> Result<Finished, ApiError> {
    let at_ms = params.time("time")?.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
    explain(&api, &params, QueryRange::instant(at_ms))
}

/// The operators that would answer a range query.
pub(super) async fn explain_range(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let range = query_range(&api, &params)?;
    explain(&api, &params, range)
}

fn explain(api: &Api, params: &Params, range: QueryRange) -> Result<Finished, ApiError> {
    let query = parse_query(api, params, range)?;
    let plan = api.runner.explain(&query)?;
    let mut success = Success::begin();
    write_plan(success.data(), &plan);
    Ok(success.finish(&[], &[], b""))
}

fn query_range(api: &Api, params: &Params) -> Result<QueryRange, ApiError> {
    let start_ms = params.required_time("start")?;
    let end_ms = params.required_time("end")?;
    if end_ms < start_ms {
        return Err(ApiError::bad_parameter("end", "end timestamp must not be before start time"));
    }
    let span_ms = end_ms.saturating_sub(start_ms);
    let step_ms = match params.duration_ms("step")? {
        Some(step_ms) => step_ms,
        None => default_step_ms(span_ms, api.options.default_step),
    };
    if step_ms <= 0 {
        return Err(ApiError::bad_parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    if span_ms / step_ms > MAX_STEPS {
        return Err(ApiError::new(
            ErrorKind::BadData,
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution \
             (?step=XX)",
        ));
    }
    Ok(QueryRange { start_ms, end_ms, step_ms })
}

fn default_step_ms(span_ms: i64, default_step: Duration) -> i64 {
    let default_ms = i64::try_from(default_step.as_millis()).unwrap_or(i64::MAX);
    // In whole seconds, as Thanos' UI expects.
    (span_ms / 1000 / DEFAULT_STEPS * 1000).max(default_ms)
}

async fn answer(api: &Api, params: &Params, range: QueryRange, limit: usize) -> Result<Finished, ApiError> {
    let query = parse_query(api, params, range)?;
    let wants_stats = params.get("stats").is_some();
    let regions = api.stores.regions();
    let finish = move |outcome: QueryOutcome, times: QueryTimes, coverage: Option<Coverage>| {
        let coverage = coverage.map(|coverage| Covered { coverage, regions });
        render(outcome, limit, (&times, range, wants_stats), coverage)
    };
    Ok(api.runner.run(query, finish).await?)
}

fn parse_query(api: &Api, params: &Params, range: QueryRange) -> Result<Query, ApiError> {
    let timeout = params.positive_duration("timeout")?;
    let lookback = params.positive_duration("lookback_delta")?;
    let dedup = params.bool("dedup", true)?;
    let algorithm = dedup_func(params)?;
    let partial_response = params.bool("partial_response", api.options.partial_response)?;
    let store_matchers = params.selectors("storeMatch[]")?;
    let max_resolution_ms = max_resolution_ms(api, params, range)?;
    let shard = shard(params)?;
    check_engine(params)?;
    let mut replica_labels: Vec<String> = params.all("replicaLabels[]").map(str::to_owned).collect();
    if replica_labels.is_empty() {
        replica_labels.clone_from(&api.options.replica_labels);
    }
    if !dedup {
        replica_labels.clear();
    }
    let text = params.get("query").unwrap_or_default().to_owned();
    let expr = parse(&text, &api.options.parser).map_err(|error| ApiError::bad_parameter("query", error))?;
    if !range.is_instant() {
        evaluates_over_range(&expr).map_err(|reason| ApiError::bad_parameter("query", reason))?;
    }
    Ok(Query {
        text,
        expr,
        range,
        timeout,
        lookback,
        replica_labels,
        algorithm,
        partial_response,
        store_matchers,
        max_resolution_ms,
        shard,
        caller: params.caller.clone(),
        stats: StatsOptions {
            per_step: params.get("stats") == Some("all"),
            operators: matches!(params.get("analyze"), Some("true" | "1")),
        },
    })
}

/// `dedup_func`, an extension of ours: `--deduplication.func` for this query.
fn dedup_func(params: &Params) -> Result<Option<Algorithm>, ApiError> {
    const NAME: &str = "dedup_func";
    let named = params.get(NAME).map(str::parse);
    named.transpose().map_err(|error: UnknownAlgorithm| ApiError::bad_parameter(NAME, error))
}

/// Thanos' `shard_info`: a query frontend asks for the shards of a query one by one, and adds up.
fn shard(params: &Params) -> Result<Option<ShardInfo>, ApiError> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Json {
        shard_index: i64,
        total_shards: i64,
        by: bool,
        labels: Vec<String>,
    }
    let Some(text) = params.get("shard_info") else { return Ok(None) };
    let Json { shard_index, total_shards, by, labels } =
        serde_json::from_str(text).map_err(|error| ApiError::bad_parameter("shard_info", error))?;
    Ok(Some(ShardInfo { shard_index, total_shards, by, labels }))
}

/// There is one engine, which answers for both names that Thanos has.
fn check_engine(params: &Params) -> Result<(), ApiError> {
    match params.get("engine") {
        None | Some("prometheus" | "thanos") => Ok(()),
        Some(other) => Err(ApiError::new(ErrorKind::BadData, format!("'{other}' bad engine"))),
    }
}

/// How coarse data may be, by `max_source_resolution`: a duration, or `auto` for a fifth of the step of a range query and the
/// configured resolution of an instant one.
fn max_resolution_ms(api: &Api, params: &Params, range: QueryRange) -> Result<i64, ApiError> {
    const NAME: &str = "max_source_resolution";
    let automatic_ms = api.options.automatic_resolution_ms(range);
    match params.get(NAME) {
        Some("auto") => Ok(automatic_ms),
        None | Some("") => Ok(if api.options.auto_downsampling { automatic_ms } else { 0 }),
        Some(_) => match params.duration_ms(NAME)? {
            Some(millis) if millis < 0 => Err(ApiError::new(
                ErrorKind::BadData,
                format!("negative '{NAME}' is not accepted. Try a positive integer"),
            )),
            millis => Ok(millis.unwrap_or_default()),
        },
    }
}

fn render(
    mut outcome: QueryOutcome,
    limit: usize,
    (times, range, wants_stats): (&QueryTimes, QueryRange, bool),
    coverage: Option<Covered>,
) -> Finished {
    let mut warnings = std::mem::take(&mut outcome.warnings);
    if truncate(&mut outcome.value, limit) {
        warnings.push("results truncated due to limit".to_owned());
    }
    let infos = std::mem::take(&mut outcome.infos);
    let mut success = Success::begin().covering(coverage);
    let data = success.data();
    data.push(b'{');
    let value = std::mem::replace(&mut outcome.value, QueryValue::Matrix(Vec::new()));
    let mut end = Vec::new();
    if wants_stats {
        end.push(b',');
        write_stats(&mut end, &outcome, times, range);
    }
    if let Some(operators) = &outcome.stats.operators {
        end.extend_from_slice(b",\"analysis\":");
        write_analysis(&mut end, operators);
        end.extend_from_slice(b",\"endpoints\":");
        write_endpoints(&mut end, &times.received);
    }
    end.push(b'}');
    match value {
        QueryValue::Matrix(series) if MatrixPieces::are_worth(&series) => {
            data.extend_from_slice(b"\"resultType\":\"matrix\",\"result\":[");
            end.insert(0, b']');
            success.finish_in_pieces(MatrixPieces::new(series), end, &warnings, &infos)
        }
        value => {
            write_value(data, &value);
            data.extend_from_slice(&end);
            success.finish(&warnings, &infos, b"")
        }
    }
}

/// Keeps `limit` elements; whether there were more.
fn truncate(value: &mut QueryValue, limit: usize) -> bool {
    fn cut<T>(elements: &mut Vec<T>, limit: usize) -> bool {
        let is_longer = elements.len() > limit;
        elements.truncate(limit);
        is_longer
    }
    match value {
        _ if limit == 0 => false,
        QueryValue::Vector(samples) => cut(samples, limit),
        QueryValue::Matrix(series) => cut(series, limit),
        QueryValue::Scalar { .. } | QueryValue::String { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_step_is_whole_seconds_of_the_range() {
        let second = Duration::from_secs(1);
        assert_eq!(default_step_ms(3_600_000, second), 14_000);
        assert_eq!(default_step_ms(60_000, second), 1_000);
        assert_eq!(default_step_ms(60_000, Duration::from_secs(15)), 15_000);
    }
}
