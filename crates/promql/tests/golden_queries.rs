//! Answers of the real Prometheus 3.9, recorded over real blocks, against ours over the same blocks.
//!
//! The recordings are read from `PARALLAX_SHARED`, or from `shared` beside the workspace, or else from the small
//! copy in the repository. Each file has a floor of answers that must be equal; a floor may only rise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram, Labels, SeriesData, TimeRange};
use parallax_promql::engine::{Engine, EngineOptions, Interrupt, QueryError, QueryOutcome, QueryRange};
use parallax_promql::memory_source::MemorySource;
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::value::{MatrixSeries, QueryValue, Sample};
use parallax_tsdb::block::BlockReader;
use parallax_tsdb::chunk::decode_chunk;
use serde_json::Value;

/// Numbers may differ by this much, relatively.
const TOLERANCE: f64 = 1e-9;

/// A recording, which of the sources it was made over, and how many of its answers must be equal.
struct Recording {
    file: &'static str,
    /// (cluster, replica); all with their external labels if `None`.
    only: Option<(&'static str, &'static str)>,
    floor: usize,
}

const RECORDINGS: [Recording; 3] = [
    Recording { file: "prometheus-eu-1-replica-0.jsonl", only: Some(("eu-1", "prometheus-0")), floor: 534 },
    Recording { file: "prometheus-annotations.jsonl", only: Some(("eu-1", "prometheus-0")), floor: 150 },
    Recording { file: "prometheus-all-sources.jsonl", only: None, floor: 318 },
];

/// Answers that are known to differ, as (file, query), each with its reason.
const KNOWN_EXCEPTIONS: [(&str, &str); 0] = [];

#[test]
fn answers_are_those_of_prometheus() {
    let golden = golden_folder();
    let mut unexpected = Vec::new();
    for recording in RECORDINGS {
        let source = load(&golden.join("bucket-short"), recording.only);
        let text = std::fs::read_to_string(golden.join("queries").join(recording.file)).expect("a recording");
        let records: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        let (mut passed, mut excepted) = (0, 0);
        for record in &records {
            let query = record["query"].as_str().unwrap_or_default();
            match compare(record, &source) {
                Ok(()) => passed += 1,
                Err(difference) => {
                    let known = KNOWN_EXCEPTIONS.contains(&(recording.file, query));
                    println!(
                        "{} {}: {query} at {} {}: {difference}",
                        if known { "known exception" } else { "DIFFERS" },
                        recording.file,
                        record["time"],
                        record["start"],
                    );
                    excepted += usize::from(known);
                    if !known {
                        unexpected.push(format!("{}: {query}", recording.file));
                    }
                }
            }
        }
        println!("{}: {passed} of {} equal, {excepted} known exceptions", recording.file, records.len());
        let floor = recording.floor.min(records.len());
        assert!(passed >= floor, "{}: {passed} equal, at least {floor} were", recording.file);
    }
    assert!(unexpected.is_empty(), "{} answers differ: {unexpected:#?}", unexpected.len());
}

fn golden_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map(|shared| PathBuf::from(shared).join("golden"));
    [shared, Some(workspace.join("../shared/golden")), Some(workspace.join("tests/golden"))]
        .into_iter()
        .flatten()
        .find(|folder| folder.join("queries").is_dir())
        .expect("recorded queries")
}

/// All series of the blocks, joined over time; with external labels unless only one source is wanted.
fn load(bucket: &Path, only: Option<(&str, &str)>) -> MemorySource {
    let mut blocks: Vec<(i64, PathBuf, Labels)> = Vec::new();
    for entry in std::fs::read_dir(bucket).expect("a bucket") {
        let dir = entry.expect("an entry").path();
        let Ok(meta) = std::fs::read_to_string(dir.join("meta.json")) else { continue };
        let meta: Value = serde_json::from_str(&meta).expect("meta.json");
        let external = meta["thanos"]["labels"].as_object().expect("external labels");
        let label = |name: &str| external.get(name).and_then(Value::as_str).unwrap_or_default();
        if only.is_some_and(|only| only != (label("cluster"), label("prometheus_replica"))) {
            continue;
        }
        let labels = match only {
            Some(_) => Labels::empty(),
            None => Labels::from_pairs(external.iter().map(|(n, v)| (n, v.as_str().unwrap_or_default()))),
        };
        blocks.push((meta["minTime"].as_i64().expect("minTime"), dir, labels));
    }
    blocks.sort_by_key(|block| block.0);
    let mut all: BTreeMap<Labels, SeriesData> = BTreeMap::new();
    for (_, dir, external) in &blocks {
        let block = BlockReader::open(dir).expect("a block");
        for series in block.all_series(TimeRange::ALL).expect("postings") {
            let series = series.expect("a series");
            let labels = series.labels.overlaid_with(external);
            let into =
                all.entry(labels.clone()).or_insert_with(|| SeriesData { labels, ..SeriesData::default() });
            let first_of_block = into.histograms.len();
            for meta in &series.chunks {
                let chunk = block.chunk(meta).expect("a chunk");
                decode_chunk(
                    chunk.encoding,
                    &chunk.data,
                    TimeRange::ALL,
                    &mut into.floats,
                    &mut into.histograms,
                )
                .expect("samples");
            }
            forget_hint_of_first(into, first_of_block);
        }
    }
    let mut source = MemorySource::new();
    all.into_values().for_each(|series| source.insert(series));
    source
}

/// Across blocks Prometheus does not know whether a counter was reset.
fn forget_hint_of_first(series: &mut SeriesData, first: usize) {
    if let Some(histogram) = series.histograms.values.get_mut(first).filter(|_| first > 0) {
        let histogram = Arc::make_mut(histogram);
        if histogram.counter_reset_hint != CounterResetHint::Gauge {
            histogram.counter_reset_hint = CounterResetHint::Unknown;
        }
    }
}

fn millis(seconds: &Value) -> i64 {
    (seconds.as_f64().expect("seconds") * 1000.0).round() as i64
}

/// Answers one recorded request and says how the answer differs, if it does.
fn compare(record: &Value, source: &MemorySource) -> Result<(), String> {
    let query = record["query"].as_str().expect("a query");
    let instant = record["api"] == "query";
    let range = if instant {
        QueryRange::instant(millis(&record["time"]))
    } else {
        QueryRange {
            start_ms: millis(&record["start"]),
            end_ms: millis(&record["end"]),
            step_ms: millis(&record["step"]),
        }
    };
    let response = &record["response"];
    let status = record["status"].as_i64().expect("a status");
    let expr = match parse(query, &ParserOptions { experimental_functions: true, ..ParserOptions::default() })
    {
        Ok(expr) => expr,
        Err(error) => {
            let text = format!("invalid parameter \"query\": {error}");
            return equal("error", text.as_str(), response["error"].as_str().unwrap_or("none"));
        }
    };
    let is_range_vector = expr.value_type() == parallax_promql::ast::ValueType::Matrix;
    if !instant && is_range_vector {
        // Refused before the engine is asked.
        return equal("status", &400, &status);
    }
    let engine = Engine::new(EngineOptions::default());
    match engine.query_text(source, query, &expr, range, &Interrupt::none()) {
        Ok(outcome) if status == 200 => compare_outcome(&outcome, response),
        Ok(_) => Err(format!("answered, but should say {}", response["error"])),
        Err(QueryError::Execution(text)) => {
            equal("status", &422, &status)?;
            equal("error", text.as_str(), response["error"].as_str().unwrap_or_default())
        }
        Err(QueryError::BadQuery(text)) => {
            equal("status", &400, &status)?;
            let text = format!("invalid parameter \"query\": {text}");
            equal("error", text.as_str(), response["error"].as_str().unwrap_or_default())
        }
        Err(error) => Err(format!("failed: {error}")),
    }
}

fn equal<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, ours: &T, theirs: &T) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("{what}: {ours:?}, not {theirs:?}")) }
}

fn compare_outcome(outcome: &QueryOutcome, response: &Value) -> Result<(), String> {
    let data = &response["data"];
    equal("type", outcome.value.type_name(), data["resultType"].as_str().unwrap_or_default())?;
    compare_value(&outcome.value, &data["result"])?;
    for (what, ours) in [("warnings", &outcome.warnings), ("infos", &outcome.infos)] {
        let mut ours = ours.clone();
        let mut theirs: Vec<String> = response[what]
            .as_array()
            .map(|texts| texts.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        ours.sort();
        theirs.sort();
        equal(what, &ours, &theirs)?;
    }
    Ok(())
}

fn compare_value(ours: &QueryValue, theirs: &Value) -> Result<(), String> {
    match ours {
        QueryValue::Scalar { timestamp_ms, value } => {
            equal("time", timestamp_ms, &millis(&theirs[0]))?;
            close("scalar", *value, number(&theirs[1]))
        }
        QueryValue::String { value, .. } => {
            equal("string", value.as_str(), theirs[1].as_str().unwrap_or_default())
        }
        QueryValue::Vector(samples) => {
            let theirs = by_labels(theirs);
            equal("number of series", &samples.len(), &theirs.len())?;
            for sample in samples {
                let labels = sample.labels.to_string();
                let theirs =
                    theirs.get(&sample.labels).ok_or_else(|| format!("{labels} should not be there"))?;
                match &sample.sample {
                    Sample::Float(value) => close(&labels, *value, number(&theirs["value"][1]))?,
                    Sample::Histogram(histogram) => {
                        close_histogram(&labels, histogram, &theirs["histogram"][1])?;
                    }
                }
            }
            Ok(())
        }
        QueryValue::Matrix(series) => {
            let theirs = by_labels(theirs);
            equal("number of series", &series.len(), &theirs.len())?;
            for series in series {
                let labels = series.labels.to_string();
                let theirs =
                    theirs.get(&series.labels).ok_or_else(|| format!("{labels} should not be there"))?;
                compare_series(&labels, series, theirs)?;
            }
            Ok(())
        }
    }
}

fn by_labels(result: &Value) -> BTreeMap<Labels, &Value> {
    let labels = |series: &Value| {
        let metric = series["metric"].as_object().expect("a metric");
        Labels::from_pairs(metric.iter().map(|(n, v)| (n.as_str(), v.as_str().unwrap_or_default())))
    };
    result.as_array().expect("a list of series").iter().map(|series| (labels(series), series)).collect()
}

fn compare_series(labels: &str, ours: &MatrixSeries, theirs: &Value) -> Result<(), String> {
    let none = Vec::new();
    let values = theirs["values"].as_array().unwrap_or(&none);
    let histograms = theirs["histograms"].as_array().unwrap_or(&none);
    equal(&format!("floats of {labels}"), &ours.floats.len(), &values.len())?;
    equal(&format!("histograms of {labels}"), &ours.histograms.len(), &histograms.len())?;
    for ((time, value), theirs) in ours.floats.iter().zip(values) {
        equal("time", &time, &millis(&theirs[0]))?;
        close(&format!("{labels} at {time}"), value, number(&theirs[1]))?;
    }
    for ((time, histogram), theirs) in ours.histograms.iter().zip(histograms) {
        equal("time", &time, &millis(&theirs[0]))?;
        close_histogram(&format!("{labels} at {time}"), histogram, &theirs[1])?;
    }
    Ok(())
}

fn number(text: &Value) -> f64 {
    match text.as_str() {
        Some("+Inf") => f64::INFINITY,
        Some("-Inf") => f64::NEG_INFINITY,
        Some(text) => text.parse().unwrap_or(f64::NAN),
        None => f64::NAN,
    }
}

fn close(what: &str, ours: f64, theirs: f64) -> Result<(), String> {
    let near = ours == theirs
        || (ours.is_nan() && theirs.is_nan())
        || (ours - theirs).abs() <= TOLERANCE * ours.abs().max(theirs.abs());
    if near { Ok(()) } else { Err(format!("{what}: {ours}, not {theirs}")) }
}

/// The HTTP API lists populated buckets as `[boundary rule, lower, upper, count]`.
fn close_histogram(what: &str, ours: &FloatHistogram, theirs: &Value) -> Result<(), String> {
    close(&format!("count of {what}"), ours.count, number(&theirs["count"]))?;
    close(&format!("sum of {what}"), ours.sum, number(&theirs["sum"]))?;
    let buckets: Vec<_> = ours.buckets().into_iter().filter(|bucket| bucket.count != 0.0).collect();
    let none = Vec::new();
    let listed = theirs["buckets"].as_array().unwrap_or(&none);
    equal(&format!("buckets of {what}"), &buckets.len(), &listed.len())?;
    for (ours, theirs) in buckets.iter().zip(listed) {
        let rule = match (ours.lower_inclusive, ours.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        };
        equal(&format!("boundaries of {what}"), &Some(rule), &theirs[0].as_i64())?;
        close(&format!("lower bound in {what}"), ours.lower, number(&theirs[1]))?;
        close(&format!("upper bound in {what}"), ours.upper, number(&theirs[2]))?;
        close(&format!("bucket count in {what}"), ours.count, number(&theirs[3]))?;
    }
    Ok(())
}
