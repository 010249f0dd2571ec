//! Asking the observer: instant and range queries over its HTTP API, as numbers by cluster.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use parallax_net::HttpClient;
use serde_json::Value;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The query behind the live table and the wait for readiness.
pub const MACHINES_UP: &str = "count by (cluster) (up{job=\"demo\"} == 1)";

/// How many samples of `up` the last hour has: without dedup, those of every machine and replica.
pub const SAMPLES_HELD: &str = "sum by (cluster) (count_over_time(up{job=\"demo\"}[1h]))";

/// An answer's series by their `cluster` label, each a row of values, and its warnings.
pub struct Answer {
    pub by_cluster: BTreeMap<String, Vec<f64>>,
    pub warnings: Vec<String>,
}

/// A query at one time, or over a range.
pub struct Question<'a> {
    pub query: &'a str,
    pub start_ms: i64,
    /// `None` is an instant query at the start.
    pub range: Option<(i64, i64)>,
    pub dedup: bool,
}

impl<'a> Question<'a> {
    pub fn instant(query: &'a str, time_ms: i64, dedup: bool) -> Self {
        Self { query, start_ms: time_ms, range: None, dedup }
    }

    /// `range` is the end and the step, in milliseconds.
    pub fn range(query: &'a str, start_ms: i64, range: (i64, i64), dedup: bool) -> Self {
        Self { query, start_ms, range: Some(range), dedup }
    }
}

pub async fn ask(http: &HttpClient, question: &Question<'_>) -> anyhow::Result<Answer> {
    let seconds = |ms: i64| format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
    let start = seconds(question.start_ms);
    let dedup = question.dedup.to_string();
    let (path, mut parameters) = match question.range {
        None => ("/api/v1/query", vec![("time", start)]),
        Some((end_ms, step_ms)) => (
            "/api/v1/query_range",
            vec![("start", start), ("end", seconds(end_ms)), ("step", seconds(step_ms))],
        ),
    };
    parameters.extend([("query", question.query.to_owned()), ("dedup", dedup)]);
    let borrowed: Vec<(&str, &str)> =
        parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let response = http.get(path, &borrowed).await?;
    let status = response.status();
    let body = response.bytes(MAX_ANSWER_BYTES).await?;
    let json: Value = serde_json::from_slice(&body).with_context(|| format!("{path} answered {status}"))?;
    if json["status"] != "success" {
        bail!("{}: {}", question.query, json["error"].as_str().unwrap_or("no reason given"));
    }
    read(&json)
}

fn read(json: &Value) -> anyhow::Result<Answer> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut by_cluster = BTreeMap::new();
    for series in json["data"]["result"].as_array().context("the answer has no result")? {
        let cluster = series["metric"]["cluster"].as_str().unwrap_or_default().to_owned();
        let points = match series.get("values") {
            Some(points) => points.as_array().cloned().unwrap_or_default(),
            None => vec![series["value"].clone()],
        };
        let values = points
            .iter()
            .map(|point| point[1].as_str().and_then(|text| text.parse().ok()).context("a value is no number"))
            .collect::<anyhow::Result<Vec<f64>>>()?;
        by_cluster.insert(cluster, values);
    }
    Ok(Answer { by_cluster, warnings: texts(&json["warnings"]) })
}
