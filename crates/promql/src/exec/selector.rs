//! Instant selectors: at each step the newest sample that is not too old.

use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, HistogramColumn, SeriesData};

use super::analyze::Tally;
use super::binary::go_labels;
use super::histogram_stats::without_buckets;
use super::row::{Grid, Row, StepsMut};
use super::stream::{Piece, Reader};
use super::windows::Pace;
use super::{Batch, Context, Operator};
use crate::engine::QueryError;
use crate::value::Sample;

/// Which time a selector means by "now": the step's, or a fixed one (`@`), moved back by `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reference {
    pub at_ms: Option<i64>,
    pub offset_ms: i64,
}

impl Reference {
    pub fn time_ms(&self, grid: &Grid, step: usize) -> i64 {
        self.at_ms.unwrap_or_else(|| grid.time_ms(step)).saturating_sub(self.offset_ms)
    }
}

/// What an instant selector gives for a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SelectorOutput {
    Value,
    /// The sample's own time in seconds: what `timestamp()` asks for.
    TimestampSeconds,
    /// The sample's own time in milliseconds: what `info()` asks for.
    TimestampMs,
    /// The value at exactly the step's time, interpolated between its neighbours (`smoothed`).
    Smoothed,
}

/// Which sample each step sees, and what of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lookback {
    pub grid: Grid,
    pub reference: Reference,
    pub lookback_ms: i64,
    pub output: SelectorOutput,
}

/// `name{…} offset …`.
pub(crate) struct Selector {
    pub reader: Reader,
    pub lookback: Lookback,
    /// Only count and sum of histograms are needed.
    pub stats_only: bool,
    pub tally: Tally,
}

impl Operator for Selector {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        let Some(decoded) = self.reader.next(context)? else { return Ok(None) };
        let mut batch = Vec::with_capacity(decoded.len());
        let grid = self.lookback.grid;
        decoded.each(|piece| {
            let row = match piece {
                Piece::Samples(series) => {
                    context.spend(grid.steps + series.sample_count())?;
                    self.evaluate(series)?
                }
                Piece::Steps(prepared) => {
                    context.spend(grid.steps)?;
                    Row::of_steps(prepared.labels, prepared.steps)
                }
            };
            if !row.is_empty() {
                self.tally.count_row(&row, context);
                batch.push(row.charged(&context.budget)?);
            }
            Ok(())
        })?;
        Ok(Some(batch))
    }

    /// Series come in the order of their labels.
    fn keeps_prefixes_together(&self) -> bool {
        true
    }
}

impl Lookback {
    /// Whether [`Lookback::look_up`] can do it.
    pub fn is_plain(&self) -> bool {
        self.output != SelectorOutput::Smoothed
    }

    /// Fills `steps` with what they see of floats alone.
    pub fn look_up(&self, floats: &FloatColumn, steps: &mut StepsMut<'_>) {
        let mut pace = Pace::default();
        steps.fill(|step| {
            let now_ms = self.reference.time_ms(&self.grid, step);
            let next = pace.beyond(&floats.timestamps_ms, now_ms);
            let oldest_ms = now_ms.saturating_sub(self.lookback_ms);
            let (at_ms, value) = before(&floats.timestamps_ms, &floats.values, next, oldest_ms)?;
            (!is_stale(*value)).then_some(match self.output {
                SelectorOutput::Value | SelectorOutput::Smoothed => *value,
                SelectorOutput::TimestampSeconds => at_ms as f64 / 1000.0,
                SelectorOutput::TimestampMs => at_ms as f64,
            })
        });
    }
}

impl Selector {
    fn evaluate(&self, series: &SeriesData) -> Result<Row, QueryError> {
        match self.lookback.output {
            SelectorOutput::Smoothed => self.smoothed_row(series),
            _ if series.histograms.is_empty() => {
                let mut row = Row::empty(series.labels.clone(), self.lookback.grid.steps);
                self.lookback.look_up(&series.floats, &mut row.steps_mut());
                Ok(row)
            }
            _ if self.stats_only => self.row(&self.without_buckets(series)),
            _ => self.row(series),
        }
    }

    fn row(&self, series: &SeriesData) -> Result<Row, QueryError> {
        let mut row = Row::empty(series.labels.clone(), self.lookback.grid.steps);
        let (floats, histograms) = (&series.floats, &series.histograms);
        let (mut float_pace, mut histogram_pace) = (Pace::default(), Pace::default());
        for step in 0..self.lookback.grid.steps {
            let now_ms = self.lookback.reference.time_ms(&self.lookback.grid, step);
            let oldest_ms = now_ms.saturating_sub(self.lookback.lookback_ms);
            let next_float = float_pace.beyond(&floats.timestamps_ms, now_ms);
            let next_histogram = histogram_pace.beyond(&histograms.timestamps_ms, now_ms);
            let float = before(&floats.timestamps_ms, &floats.values, next_float, oldest_ms);
            let histogram = before(&histograms.timestamps_ms, &histograms.values, next_histogram, oldest_ms);
            let (timestamp_ms, sample) = match (float, histogram) {
                (None, None) => continue,
                (Some((at, value)), other) if other.is_none_or(|(other_at, _)| at >= other_at) => {
                    if is_stale(*value) {
                        continue;
                    }
                    (at, Sample::Float(*value))
                }
                (_, Some((at, histogram))) => {
                    if histogram.is_stale() {
                        continue;
                    }
                    (at, Sample::Histogram(histogram.clone()))
                }
                (Some(_), None) => continue,
            };
            match self.lookback.output {
                SelectorOutput::Value | SelectorOutput::Smoothed => row.push_sample(step, sample),
                SelectorOutput::TimestampSeconds => row.set_float(step, timestamp_ms as f64 / 1000.0),
                SelectorOutput::TimestampMs if matches!(sample, Sample::Histogram(_)) => {
                    return Err(QueryError::Execution(format!(
                        "this should be an info metric, with float samples: {}",
                        go_labels(&series.labels)
                    )));
                }
                SelectorOutput::TimestampMs => row.set_float(step, timestamp_ms as f64),
            }
        }
        Ok(row)
    }

    fn without_buckets(&self, series: &SeriesData) -> SeriesData {
        let column = &series.histograms;
        let windows = (0..self.lookback.grid.steps).map(|step| {
            let now_ms = self.lookback.reference.time_ms(&self.lookback.grid, step);
            (now_ms.saturating_sub(self.lookback.lookback_ms), now_ms)
        });
        let values = without_buckets(&column.timestamps_ms, &column.values, windows);
        let histograms = HistogramColumn { timestamps_ms: column.timestamps_ms.clone(), values };
        SeriesData { labels: series.labels.clone(), floats: series.floats.clone(), histograms }
    }

    /// Interpolates between the neighbours within the lookback on both sides; the last one is carried on.
    fn smoothed_row(&self, series: &SeriesData) -> Result<Row, QueryError> {
        let mut row = Row::empty(series.labels.clone(), self.lookback.grid.steps);
        let live: Vec<(i64, f64)> = series.floats.iter().filter(|(_, value)| !is_stale(*value)).collect();
        for step in 0..self.lookback.grid.steps {
            let now_ms = self.lookback.reference.time_ms(&self.lookback.grid, step);
            let (oldest_ms, newest_ms) = (
                now_ms.saturating_sub(self.lookback.lookback_ms),
                now_ms.saturating_add(self.lookback.lookback_ms),
            );
            let near = |at: i64| at > oldest_ms && at <= newest_ms;
            if series.histograms.iter().any(|(at, h)| near(at) && !h.is_stale()) {
                return Err(QueryError::Execution(
                    "smoothed and anchored modifiers do not work with native histograms".to_owned(),
                ));
            }
            let next = live.partition_point(|(at, _)| *at < now_ms);
            let after = live.get(next).filter(|(at, _)| near(*at));
            let before = next.checked_sub(1).and_then(|at| live.get(at)).filter(|(at, _)| near(*at));
            match (before, after) {
                (_, Some((at, value))) if *at == now_ms => row.set_float(step, *value),
                (Some((from, low)), Some((to, high))) => {
                    let share = (now_ms - from) as f64 / (to - from) as f64;
                    row.set_float(step, low + (high - low) * share);
                }
                (Some((_, value)), None) => row.set_float(step, *value),
                (None, _) => {}
            }
        }
        Ok(row)
    }
}

/// The sample before position `next`, if it is younger than `oldest_ms`.
fn before<'a, T>(times_ms: &[i64], values: &'a [T], next: usize, oldest_ms: i64) -> Option<(i64, &'a T)> {
    let at = next.checked_sub(1)?;
    let time_ms = *times_ms.get(at)?;
    if time_ms <= oldest_ms {
        return None;
    }
    values.get(at).map(|value| (time_ms, value))
}
