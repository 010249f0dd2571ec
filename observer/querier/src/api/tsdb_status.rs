//! `/api/v1/status/tsdb`: what fills the heads of all TSDBs together.
//!
//! As in Thanos, what replicas have in common is counted for each.

use std::sync::Arc;

use axum::extract::State;
use parallax_storeapi::SideService;
use parallax_storeapi::proto::thanos::{Statistic, TsdbStatisticsEntry, TsdbStatisticsRequest};
use serde::Serialize;

use super::Api;
use super::params::Params;
use super::respond::{ApiError, ErrorKind, Finished};
use super::side::{SideQuestion, answer};
use crate::side::statistics::{merge, total};

/// Entries of each list, if a request does not say, and at most. Source: Prometheus.
const DEFAULT_LIMIT: i32 = 10;
const MAX_LIMIT: i32 = 10_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownStatus<'a> {
    head_stats: ShownHead,
    series_count_by_metric_name: Vec<ShownStatistic<'a>>,
    label_value_count_by_label_name: Vec<ShownStatistic<'a>>,
    memory_in_bytes_by_label_name: Vec<ShownStatistic<'a>>,
    series_count_by_label_value_pair: Vec<ShownStatistic<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownHead {
    num_series: u64,
    num_label_pairs: i64,
    chunk_count: i64,
    min_time: i64,
    max_time: i64,
}

#[derive(Serialize)]
struct ShownStatistic<'a> {
    name: &'a str,
    value: u64,
}

pub(super) async fn tsdb_status(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let bad = |text: String| ApiError::new(ErrorKind::BadData, text);
    let limit = match params.get("limit").map(str::parse::<i32>) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit)) if limit > MAX_LIMIT => {
            return Err(bad(format!("limit must not exceed {MAX_LIMIT}")));
        }
        Some(Ok(limit)) if limit > 0 => limit,
        Some(_) => return Err(bad("limit must be a positive number".to_owned())),
    };
    let question = SideQuestion::new(&api, &params, SideService::Status)?;
    let request = TsdbStatisticsRequest {
        limit,
        partial_response_strategy: question.strategy(),
        ..TsdbStatisticsRequest::default()
    };
    let (parts, warnings) = question.ask(request).await?;
    let total = total(merge(parts));
    let shown = ShownStatus::new(&total, usize::try_from(limit).unwrap_or_default());
    answer(&shown, &warnings, question.covered(&api))
}

impl<'a> ShownStatus<'a> {
    fn new(entry: &'a TsdbStatisticsEntry, limit: usize) -> Self {
        let head = entry.head_statistics.unwrap_or_default();
        let list = |all: &'a [Statistic]| {
            let shown = |one: &'a Statistic| ShownStatistic { name: &one.name, value: one.value };
            all.iter().take(limit).map(shown).collect()
        };
        Self {
            head_stats: ShownHead {
                num_series: head.num_series,
                num_label_pairs: head.num_label_pairs,
                chunk_count: head.chunk_count,
                min_time: head.min_time,
                max_time: head.max_time,
            },
            series_count_by_metric_name: list(&entry.series_count_by_metric_name),
            label_value_count_by_label_name: list(&entry.label_value_count_by_label_name),
            memory_in_bytes_by_label_name: list(&entry.memory_in_bytes_by_label_name),
            series_count_by_label_value_pair: list(&entry.series_count_by_label_value_pair),
        }
    }
}
