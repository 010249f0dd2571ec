//! One endpoint's evaluation: what is asked, what comes, and whether it can be taken.

use std::time::Instant;

use futures::StreamExt;
use parallax_model::{FloatColumn, SeriesData};
use parallax_promql::source::{PushedAnswer, Question};
use parallax_storeapi::proto::prometheus::TimeSeries;
use parallax_storeapi::proto::thanos::query_range_response::Result as Frame;
use parallax_storeapi::proto::thanos::{QueryRangeRequest, QueryRangeResponse};
use parallax_storeapi::{Caller, FrameStream, labels, with_deadline};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::{QueryPushdown, Target};
use crate::coverage::{Coverage, bounded, from_text};
use crate::query_api::{COVERAGE_HEADER, DEDUP_FUNC_HEADER};
use crate::select::Held;

/// Series that a frame may have.
const BATCH_SERIES: i64 = 256;
/// Most warnings of one answer.
const MAX_WARNINGS: usize = 10_000;
/// Raw data: all that is downsampled is coarser. 0 would leave it to the endpoint's own default.
const RAW_RESOLUTION_SECONDS: i64 = 1;
/// Of the time that is left, one part in this many is the endpoint's: the rest is for its series, should it decline.
const TIME_SHARE: u32 = 2;

/// Why an endpoint's series have to be read.
#[derive(Debug)]
pub(super) struct Declined {
    pub reason: String,
    /// Whether it would be the same again.
    pub is_lasting: bool,
}

impl Declined {
    fn for_good(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_lasting: true }
    }
}

impl From<Status> for Declined {
    fn from(status: Status) -> Self {
        let passes = matches!(status.code(), Code::Unavailable | Code::Cancelled);
        Self {
            reason: format!("{}: {}", status.code(), bounded(status.message().to_owned())),
            is_lasting: !passes,
        }
    }
}

/// All that came.
#[derive(Default)]
struct Heard {
    series: Vec<SeriesData>,
    warnings: Vec<String>,
    coverage: Option<Coverage>,
    held: Vec<Held>,
    /// Whether it ended as an answer that is whole does.
    has_stats: bool,
}

impl QueryPushdown {
    /// Asks `target`, the `index`th.
    pub(super) async fn ask(
        &self,
        target: &Target,
        index: usize,
    ) -> Result<(PushedAnswer, Vec<Held>), Declined> {
        let request = self.request(&target.question);
        let frames = self.distributor.proxy.ask_query(&target.selected, request).await?;
        let heard = self.hear(frames, target.question.times().steps).await?;
        if !heard.has_stats {
            return Err(Declined::for_good(
                heard
                    .warnings
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| "its answer ended without statistics".to_owned()),
            ));
        }
        // Only queriers of ours say what their answers have.
        if heard.coverage.is_none() && target.reads_counters && self.options.replica_labels.is_empty() {
            return Err(Declined::for_good("without dedup, others count the resets of counters differently"));
        }
        if let Some(odd) = heard.series.iter().find(|series| !target.sets.has(&series.labels)) {
            return Err(Declined::for_good(format!("it answers for {}, which is not its own", odd.labels)));
        }
        let (notes, warnings): (Vec<String>, Vec<String>) =
            heard.warnings.into_iter().partition(|text| Question::is_note(text));
        if let (Some(warning), false) = (warnings.first(), self.options.partial_response) {
            return Err(Declined { reason: warning.clone(), is_lasting: false });
        }
        let partition = target.question.check(heard.series, &notes).map_err(Declined::for_good)?;
        self.attest(target, &warnings, heard.coverage);
        Ok((PushedAnswer { question: index, partition, warnings }, heard.held))
    }

    fn request(&self, question: &Question) -> Request<QueryRangeRequest> {
        let now = Instant::now();
        let left = self.options.deadline.saturating_duration_since(now) / TIME_SHARE;
        let times = question.times();
        let message = QueryRangeRequest {
            query: question.text().to_owned(),
            start_time_seconds: times.start_ms / 1000,
            end_time_seconds: times.end_ms / 1000,
            interval_seconds: times.step_ms / 1000,
            timeout_seconds: i64::try_from(left.as_secs()).unwrap_or(i64::MAX).saturating_add(1),
            max_resolution_seconds: RAW_RESOLUTION_SECONDS,
            replica_labels: self.options.replica_labels.clone(),
            enable_dedup: !self.options.replica_labels.is_empty(),
            enable_partial_response: self.options.partial_response,
            lookback_delta_seconds: times.lookback_ms / 1000,
            response_batch_size: BATCH_SERIES,
            ..QueryRangeRequest::default()
        };
        let mut request = with_deadline(message, now.checked_add(left));
        request.metadata_mut().insert(COVERAGE_HEADER, MetadataValue::from_static("1"));
        // Whatever its own default is, if it is a querier of ours.
        let algorithm = MetadataValue::from_static(self.options.algorithm.name());
        request.metadata_mut().insert(DEDUP_FUNC_HEADER, algorithm);
        Caller { tenant: self.tenant.clone(), ..Caller::default() }.sign(&mut request);
        request.extensions_mut().insert(self.received.clone());
        request
    }

    async fn hear(
        &self,
        mut frames: FrameStream<QueryRangeResponse>,
        steps: usize,
    ) -> Result<Heard, Declined> {
        let mut heard = Heard::default();
        while let Some(frame) = frames.next().await {
            match frame?.result {
                Some(Frame::Timeseries(series)) => self.take(vec![series], steps, &mut heard)?,
                Some(Frame::TimeseriesBatch(batch)) => self.take(batch.series, steps, &mut heard)?,
                Some(Frame::Stats(_)) => heard.has_stats = true,
                Some(Frame::Warnings(text)) => match from_text(&text) {
                    Some(Ok(coverage)) => heard.coverage = Some(coverage),
                    Some(Err(reason)) => heard.warnings.push(reason),
                    None if heard.warnings.len() < MAX_WARNINGS => heard.warnings.push(bounded(text)),
                    None => return Err(Declined::for_good("it has too many warnings")),
                },
                None => {}
            }
        }
        Ok(heard)
    }

    /// A group with one sample becomes a row over all steps: that is what it is counted as.
    fn take(&self, series: Vec<TimeSeries>, steps: usize, heard: &mut Heard) -> Result<(), Declined> {
        let row_bytes = steps * size_of::<f64>() + steps / 8;
        let size = |one: &TimeSeries| {
            let text: usize = one.labels.iter().map(|label| label.name.len() + label.value.len()).sum();
            row_bytes + size_of::<SeriesData>() + text + one.samples.len() * size_of::<(i64, f64)>()
        };
        let held = self.budget.hold(series.iter().map(size).sum());
        heard.held.push(held.map_err(|over| Declined::for_good(over.to_string()))?);
        for one in series {
            if !one.histograms.is_empty() {
                return Err(Declined::for_good("it has histograms"));
            }
            let labels =
                labels::from_wire(&one.labels).map_err(|error| Declined::for_good(error.to_string()))?;
            if labels.len() != one.labels.len() {
                return Err(Declined::for_good("it has a label twice, or an empty one"));
            }
            let mut floats = FloatColumn::with_capacity(one.samples.len());
            one.samples.iter().for_each(|sample| floats.push(sample.timestamp, sample.value));
            heard.series.push(SeriesData { labels, floats, ..SeriesData::default() });
        }
        Ok(())
    }

    /// Leaves what the answer has. One that does not say so vouches for nothing.
    fn attest(&self, target: &Target, warnings: &[String], beneath: Option<Coverage>) {
        let asked = (target.matchers.as_slice(), target.range);
        let coverage = self.distributor.proxy.attested(&target.selected, asked, warnings, beneath);
        self.coverage.entry().leave(coverage);
    }
}
