//! PromQL over gRPC (`thanos.Query`): for a querier above that wants results instead of series, as Thanos does with `--query.mode=distributed`.
//!
//! The same queries as over HTTP, with the same limits, slots and warnings. Times are whole seconds: the protocol has no others. The text of a query
//! counts, a plan beside it does not; that is what Thanos' own server does. An error is a status, never a warning beside an empty answer.

use std::time::{Duration, Instant};

use parallax_dedup::Algorithm;
use parallax_model::{CounterResetHint, FloatHistogram, Resolution, Span};
use parallax_promql::ast::ValueType;
use parallax_promql::engine::{QueryError, QueryOutcome, QueryRange, StatsOptions};
use parallax_promql::parse::parse;
use parallax_promql::value::{MatrixSeries, QueryValue, Sample, VectorSample};
use parallax_storeapi::proto::prometheus::histogram::{Count, ResetHint, ZeroCount};
use parallax_storeapi::proto::prometheus::{BucketSpan, Histogram, Sample as WireSample, TimeSeries};
use parallax_storeapi::proto::thanos::{
    QueryRangeRequest, QueryRangeResponse, QueryRequest, QueryResponse, QueryStats, ShardInfo, StoreMatchers,
    TimeSeriesBatch, query_range_response, query_response,
};
use parallax_storeapi::{Caller, FrameStream, deadline_of, labels, matchers};
use tonic::{Request, Status};

use crate::api::ApiOptions;
use crate::coverage::{Coverage, to_text};
use crate::query::{MAX_STEPS, Query, QueryRunner, RunError, evaluates_over_range};

/// The gRPC metadata by which a querier of ours asks for the coverage of the answer, as a first warning. Others never see it.
pub(crate) const COVERAGE_HEADER: &str = "parallax-coverage";

/// The gRPC metadata that says how replicas become one series, as `dedup_func` does over HTTP: the messages have no place for it. Others never see it.
pub(crate) const DEDUP_FUNC_HEADER: &str = "parallax-dedup-func";

/// Most series in one frame, whatever a request asks for.
const MAX_BATCH_SERIES: usize = 4096;

/// What both kinds of requests have in common.
#[derive(Debug)]
pub(crate) struct Asked {
    text: String,
    range: QueryRange,
    deadline: Option<Instant>,
    timeout_seconds: i64,
    /// 0 leaves it to us.
    max_resolution_seconds: i64,
    lookback_delta_seconds: i64,
    replica_labels: Vec<String>,
    store_matchers: Vec<StoreMatchers>,
    dedup: bool,
    partial_response: bool,
    shard: Option<ShardInfo>,
    batch_size: i64,
    wants_coverage: bool,
    /// `None` leaves it to us.
    dedup_func: Option<String>,
    caller: Caller,
}

/// From either message: they differ in the names of their times only.
macro_rules! asked {
    ($request:ident, $range:expr, $deadline:ident, $headers:ident) => {
        Asked {
            text: $request.query,
            range: $range,
            deadline: $deadline,
            timeout_seconds: $request.timeout_seconds,
            max_resolution_seconds: $request.max_resolution_seconds,
            lookback_delta_seconds: $request.lookback_delta_seconds,
            replica_labels: $request.replica_labels,
            store_matchers: $request.store_matchers,
            dedup: $request.enable_dedup,
            partial_response: $request.enable_partial_response,
            shard: $request.shard_info,
            batch_size: $request.response_batch_size,
            wants_coverage: $headers.0,
            dedup_func: $headers.1,
            caller: $headers.2,
        }
    };
}

/// A query at one time; without one, at `now_ms`.
pub(crate) fn instant(request: Request<QueryRequest>, now_ms: i64) -> Asked {
    let (deadline, headers) = (deadline_of(&request), headers(&request));
    let request = request.into_inner();
    let at_ms = match request.time_seconds {
        0 => now_ms,
        seconds => seconds.saturating_mul(1000),
    };
    asked!(request, QueryRange::instant(at_ms), deadline, headers)
}

/// Whether coverage is wanted, the algorithm, and whom the server let in. A query of somebody of this process is held where it came in.
fn headers<T>(request: &Request<T>) -> (bool, Option<String>, Caller) {
    let metadata = request.metadata();
    let dedup_func = metadata.get(DEDUP_FUNC_HEADER);
    // What is no text is no name either, and refused as such.
    let text = dedup_func.map(|value| value.to_str().unwrap_or("?").to_owned());
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    (metadata.contains_key(COVERAGE_HEADER), text, caller)
}

/// A query over steps.
///
/// # Errors
/// If the steps make no sense, or are too many.
pub(crate) fn range(request: Request<QueryRangeRequest>) -> Result<Asked, Status> {
    let (deadline, headers) = (deadline_of(&request), headers(&request));
    let request = request.into_inner();
    let [start_ms, end_ms, step_ms] =
        [request.start_time_seconds, request.end_time_seconds, request.interval_seconds]
            .map(|seconds| seconds.saturating_mul(1000));
    if end_ms < start_ms {
        return Err(Status::invalid_argument("end_time_seconds must not be before start_time_seconds"));
    }
    if step_ms <= 0 {
        return Err(Status::invalid_argument("interval_seconds must be positive"));
    }
    if end_ms.saturating_sub(start_ms) / step_ms > MAX_STEPS {
        return Err(Status::invalid_argument(format!(
            "more than {MAX_STEPS} points per series; a longer interval_seconds gives fewer"
        )));
    }
    Ok(asked!(request, QueryRange { start_ms, end_ms, step_ms }, deadline, headers))
}

/// Evaluates what was asked; frames are made of the result while they are sent.
///
/// # Errors
/// `InvalidArgument` if the query is wrong, `DeadlineExceeded` and `Cancelled`, and `Aborted` if it fails otherwise, or is incomplete where that is not allowed.
pub(crate) async fn answer<F: Frame>(
    asked: Asked,
    runner: &QueryRunner,
    options: &ApiOptions,
) -> Result<FrameStream<F>, Status> {
    let batch_size = usize::try_from(asked.batch_size).unwrap_or(0).min(MAX_BATCH_SERIES);
    let wants_coverage = asked.wants_coverage;
    let query = asked.query(options)?;
    let finish = |outcome, _, coverage: Option<Coverage>| (outcome, coverage);
    let (outcome, coverage) = runner.run(query, finish).await.map_err(status_of)?;
    // An answer for which nobody had to be asked is whole.
    let coverage = wants_coverage.then(|| to_text(&coverage.unwrap_or_default()));
    let parts = coverage.map(Part::Warning).into_iter().chain(parts(outcome, batch_size));
    Ok(Box::pin(futures::stream::iter(parts.map(|part| Ok(F::of(part))))))
}

impl Asked {
    fn query(self, options: &ApiOptions) -> Result<Query, Status> {
        let expr = parse(&self.text, &options.parser)
            .map_err(|error| Status::invalid_argument(format!("query: {error}")))?;
        let reason = if self.range.is_instant() {
            (expr.value_type() == ValueType::String)
                .then(|| "the Query API has no answer that is a string".to_owned())
        } else {
            evaluates_over_range(&expr).err()
        };
        if let Some(reason) = reason {
            return Err(Status::invalid_argument(format!("query: {reason}")));
        }
        let store_matchers = self
            .store_matchers
            .iter()
            .map(|all| matchers::from_wire(&all.label_matchers))
            .collect::<Result<_, _>>()?;
        let replica_labels = match (self.dedup, self.replica_labels.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => options.replica_labels.clone(),
            (true, false) => self.replica_labels,
        };
        let algorithm = self.dedup_func.as_deref().map(str::parse::<Algorithm>).transpose();
        let algorithm =
            algorithm.map_err(|error| Status::invalid_argument(format!("{DEDUP_FUNC_HEADER}: {error}")))?;
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let max_resolution_ms = match self.max_resolution_seconds {
            0 if options.auto_downsampling => options.automatic_resolution_ms(self.range),
            // Nothing downsampled is finer than this.
            seconds if seconds < Resolution::FiveMinutes.millis() / 1000 => 0,
            seconds => seconds.saturating_mul(1000),
        };
        Ok(Query {
            text: self.text,
            expr,
            range: self.range,
            timeout: positive(self.timeout_seconds).into_iter().chain(left).min(),
            lookback: positive(self.lookback_delta_seconds),
            replica_labels,
            algorithm,
            partial_response: self.partial_response,
            store_matchers,
            max_resolution_ms,
            shard: self.shard,
            caller: self.caller,
            stats: StatsOptions::default(),
        })
    }
}

fn positive(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn status_of(error: RunError) -> Status {
    match error {
        RunError::Query(error) => match error {
            QueryError::BadQuery(_) => Status::invalid_argument(format!("query: {error}")),
            QueryError::Timeout { .. } => Status::deadline_exceeded(error.to_string()),
            QueryError::Canceled => Status::cancelled(error.to_string()),
            QueryError::Execution(_) | QueryError::TooManySamples | QueryError::Storage(_) => {
                Status::aborted(error.to_string())
            }
        },
        RunError::Lost(_) => Status::internal(error.to_string()),
    }
}

/// A part of an answer.
pub(crate) enum Part {
    Warning(String),
    Series(TimeSeries),
    Batch(Vec<TimeSeries>),
    /// The last.
    Stats(QueryStats),
}

/// A message that carries a part.
pub(crate) trait Frame: Send + 'static {
    fn of(part: Part) -> Self;
}

macro_rules! frame {
    ($response:ident, $module:ident) => {
        impl Frame for $response {
            fn of(part: Part) -> Self {
                use $module::Result as F;
                let result = match part {
                    Part::Warning(text) => F::Warnings(text),
                    Part::Series(series) => F::Timeseries(series),
                    Part::Batch(series) => F::TimeseriesBatch(TimeSeriesBatch { series }),
                    Part::Stats(stats) => F::Stats(stats),
                };
                Self { result: Some(result) }
            }
        }
    };
}

frame!(QueryResponse, query_response);
frame!(QueryRangeResponse, query_range_response);

fn parts(outcome: QueryOutcome, batch_size: usize) -> impl Iterator<Item = Part> + Send {
    let QueryOutcome { value, warnings, infos, stats } = outcome;
    let stats = QueryStats {
        samples_total: i64::try_from(stats.total_samples).unwrap_or(i64::MAX),
        peak_samples: i64::try_from(stats.peak_samples).unwrap_or(i64::MAX),
    };
    let mut series = series_of(value);
    let frames = std::iter::from_fn(move || {
        if batch_size <= 1 {
            return series.next().map(Part::Series);
        }
        let batch: Vec<TimeSeries> = series.by_ref().take(batch_size).collect();
        (!batch.is_empty()).then_some(Part::Batch(batch))
    });
    let warnings = warnings.into_iter().chain(infos).map(Part::Warning);
    warnings.chain(frames).chain(std::iter::once(Part::Stats(stats)))
}

fn series_of(value: QueryValue) -> Box<dyn Iterator<Item = TimeSeries> + Send> {
    match value {
        // Refused before it is evaluated.
        QueryValue::String { .. } => Box::new(std::iter::empty()),
        QueryValue::Scalar { timestamp_ms, value } => {
            let samples = vec![WireSample { value, timestamp: timestamp_ms }];
            Box::new(std::iter::once(TimeSeries { samples, ..TimeSeries::default() }))
        }
        QueryValue::Vector(samples) => Box::new(samples.into_iter().map(|sample| element(&sample))),
        QueryValue::Matrix(series) => Box::new(series.into_iter().map(|one| time_series(&one))),
    }
}

fn element(element: &VectorSample) -> TimeSeries {
    let mut series = TimeSeries { labels: labels::to_wire(&element.labels), ..TimeSeries::default() };
    let timestamp = element.timestamp_ms;
    match &element.sample {
        Sample::Float(value) => series.samples.push(WireSample { value: *value, timestamp }),
        Sample::Histogram(histogram) => series.histograms.push(histogram_to_wire(histogram, timestamp)),
    }
    series
}

fn time_series(series: &MatrixSeries) -> TimeSeries {
    let MatrixSeries { labels, floats, histograms } = series;
    let histograms = histograms.timestamps_ms.iter().zip(&histograms.values);
    TimeSeries {
        labels: labels::to_wire(labels),
        samples: floats.iter().map(|(timestamp, value)| WireSample { value, timestamp }).collect(),
        histograms: histograms.map(|(time_ms, value)| histogram_to_wire(value, *time_ms)).collect(),
        ..TimeSeries::default()
    }
}

fn histogram_to_wire(histogram: &FloatHistogram, timestamp: i64) -> Histogram {
    let spans = |spans: &[Span]| {
        spans.iter().map(|span| BucketSpan { offset: span.offset, length: span.length }).collect()
    };
    let reset_hint = match histogram.counter_reset_hint {
        CounterResetHint::Unknown => ResetHint::Unknown,
        CounterResetHint::Reset => ResetHint::Yes,
        CounterResetHint::NotReset => ResetHint::No,
        CounterResetHint::Gauge => ResetHint::Gauge,
    };
    Histogram {
        sum: histogram.sum,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        negative_spans: spans(&histogram.negative_spans),
        negative_counts: histogram.negative_buckets.clone(),
        positive_spans: spans(&histogram.positive_spans),
        positive_counts: histogram.positive_buckets.clone(),
        reset_hint: reset_hint.into(),
        timestamp,
        custom_values: histogram.custom_values.to_vec(),
        count: Some(Count::CountFloat(histogram.count)),
        zero_count: Some(ZeroCount::ZeroCountFloat(histogram.zero_count)),
        ..Histogram::default()
    }
}
