//! What the stand-in says beside samples: metadata of metrics, its targets, and that it has neither rules nor exemplars.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::{Shared, StandIn, success};
use crate::Fleet;
use crate::exporter::metrics_path;
use crate::fleet::{FAMILIES, JOB, SCRAPE_INTERVAL_MS};

pub(super) fn router() -> Router<std::sync::Arc<StandIn>> {
    Router::new()
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/rules", get(|| async { success(json!({"groups": []})) }))
        .route("/api/v1/targets", get(targets))
        .route("/api/v1/query_exemplars", get(|| async { success(json!([])) }))
        .route("/api/v1/status/tsdb", get(tsdb))
}

/// `metric` and `limit` are understood.
async fn metadata(RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let parameter =
        |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name);
    let metric = parameter("metric").map(|(_, value)| value).filter(|value| !value.is_empty());
    let limit = parameter("limit").and_then(|(_, value)| value.parse().ok()).unwrap_or(usize::MAX);
    let families: BTreeMap<&str, _> = FAMILIES
        .iter()
        .filter(|(name, ..)| metric.is_none_or(|metric| metric == *name))
        .take(limit)
        .map(|(name, kind, help)| (*name, json!([{"type": kind, "help": help, "unit": ""}])))
        .collect();
    success(json!(families))
}

async fn targets(State(stand_in): Shared) -> Response {
    let step_ms = SCRAPE_INTERVAL_MS;
    let last_ms = super::now_ms().div_euclid(step_ms) * step_ms;
    let last = jiff::Timestamp::from_millisecond(last_ms).unwrap_or_default().to_string();
    let active: Vec<_> = (0..stand_in.fleet.instances)
        .map(|number| {
            let (instance, path) = (Fleet::instance(number), metrics_path(number));
            let url = format!("http://{instance}{path}");
            json!({
                "discoveredLabels": {"__address__": instance, "__metrics_path__": path, "job": JOB},
                "labels": {"instance": instance, "job": JOB},
                "scrapePool": JOB,
                "scrapeUrl": url,
                "globalUrl": url,
                "lastError": "",
                "lastScrape": last,
                "lastScrapeDuration": 0.001,
                "health": "up",
            })
        })
        .collect();
    success(json!({"activeTargets": active, "droppedTargets": []}))
}

async fn tsdb(State(stand_in): Shared) -> Response {
    let series = stand_in.fleet.series();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_pair: BTreeMap<String, usize> = BTreeMap::new();
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in &series {
        *by_name.entry(one.labels.metric_name()).or_default() += 1;
        for (name, value) in one.labels.iter() {
            *by_pair.entry(format!("{name}={value}")).or_default() += 1;
            values.entry(name).or_default().insert(value);
        }
    }
    let shown = |(name, value): (String, usize)| json!({"name": name, "value": value});
    let list = |counts: Vec<(String, usize)>| counts.into_iter().map(shown).collect::<Vec<_>>();
    let owned = |counts: BTreeMap<&str, usize>| counts.into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
    let counts = values.iter().map(|(name, values)| (*name, values.len())).collect();
    let sizes =
        values.iter().map(|(name, values)| (*name, values.iter().map(|value| value.len()).sum())).collect();
    success(json!({
        "headStats": {
            "numSeries": series.len(),
            "numLabelPairs": by_pair.len(),
            "chunkCount": series.len(),
            "minTime": stand_in.start_ms,
            "maxTime": super::now_ms(),
        },
        "seriesCountByMetricName": list(owned(by_name)),
        "labelValueCountByLabelName": list(owned(counts)),
        "memoryInBytesByLabelName": list(owned(sizes)),
        "seriesCountByLabelValuePair": list(by_pair.into_iter().collect()),
    }))
}
