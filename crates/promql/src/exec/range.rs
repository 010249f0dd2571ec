//! Range functions: windows that slide over decoded columns.
//!
//! A window of step `t` holds the samples in `(t − range, t]`, staleness markers left out. Windows only move
//! forward, so a series is walked once; functions with state of their own (`functions::over_time`) profit.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use parallax_model::float::is_stale;
use parallax_model::{CounterResetHint, FloatColumn, FloatHistogram, Labels, METRIC_NAME, SeriesData};

use super::analyze::Tally;
use super::histogram_stats::without_buckets;
use super::prepare::Prepared;
use super::row::{Grid, Row, without_metadata};
use super::stream::{Piece, Reader};
use super::windows::{Bounds, Windows};
use super::{Batch, BoxedOperator, Context, Operator, duplicate_series, scalar_values};
use crate::ast::{PosRange, RangeExtension};
use crate::engine::QueryError;
use crate::functions::range_function::{RangeFunction, SlideContext};
use crate::functions::{extended, floats, mixed};

/// Where the samples of a range come from.
pub(crate) enum RangeInput {
    Series(Reader),
    /// The inner expression, evaluated at the steps of its own grid.
    Subquery(BoxedOperator, Grid),
}

/// `function(selector[range], scalars…)`.
pub(crate) struct RangeCall {
    pub windows: Windows,
    pub input: RangeInput,
    pub extension: RangeExtension,
    /// Whether all series have the same metric name.
    pub has_one_name: bool,
    pub scalars: Vec<BoxedOperator>,
    /// Only count and sum of histograms are needed.
    pub stats_only: bool,
    /// The places of all arguments, and of the first one with parentheses taken off.
    pub position: PosRange,
    pub tally: Tally,
    pub state: RangeState,
}

/// What a range call learns while it runs.
#[derive(Default)]
pub(crate) struct RangeState {
    scalars: Option<Vec<Vec<f64>>>,
    seen: HashSet<u64>,
    /// Whether a series lost more labels than its name.
    has_dropped_more: Cell<bool>,
}

/// The live samples of one series.
pub(crate) struct Columns<'a> {
    pub labels: &'a Labels,
    pub float_times_ms: Cow<'a, [i64]>,
    pub floats: Cow<'a, [f64]>,
    pub histogram_times_ms: Cow<'a, [i64]>,
    pub histograms: Cow<'a, [Arc<FloatHistogram>]>,
}

impl Operator for RangeCall {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        if self.state.scalars.is_none() {
            let scalars: Result<Vec<_>, _> =
                self.scalars.iter_mut().map(|scalar| scalar_values(scalar.as_mut(), context)).collect();
            self.state.scalars = Some(scalars?);
        }
        let mut batch = Vec::new();
        match &mut self.input {
            RangeInput::Series(reader) => {
                let Some(decoded) = reader.next(context)? else { return Ok(None) };
                decoded.each(|piece| match piece {
                    Piece::Samples(series) => {
                        let mut columns = Columns::of_series(series);
                        if self.stats_only && !columns.histograms.is_empty() {
                            self.drop_buckets(&mut columns);
                        }
                        let row = self.row(&columns, context)?;
                        self.emit(row, &mut batch, context)
                    }
                    Piece::Steps(prepared) => {
                        let row = self.prepared_row(prepared, context)?;
                        self.emit(row, &mut batch, context)
                    }
                })?;
            }
            RangeInput::Subquery(operator, inner) => {
                let inner = *inner;
                let Some(rows) = operator.next_batch(context)? else { return Ok(None) };
                for inner_row in &rows {
                    let row = self.row(&Columns::of_row(inner_row, &inner), context)?;
                    self.emit(row, &mut batch, context)?;
                }
            }
        }
        Ok(Some(batch))
    }

    /// Series come in the order of their labels, in which those with the same first labels stand together: with a name that all of them have as well as without. The other labels that may go
    /// sort right behind the name. A series with one comes before all that go on like it and have none, so that up to the first of them nothing is torn apart.
    fn keeps_prefixes_together(&self) -> bool {
        let drops_only_the_name = self.has_one_name && !self.state.has_dropped_more.get();
        matches!(self.input, RangeInput::Series(_)) && drops_only_the_name
    }
}

impl RangeCall {
    fn emit(&mut self, row: Row, batch: &mut Batch, context: &Context<'_>) -> Result<(), QueryError> {
        if row.is_empty() {
            return Ok(());
        }
        if self.windows.function.drops_name() && !context.options.delayed_name_removal {
            let new = self.state.seen.insert(label_hash(&row.labels));
            // absent_over_time only asks whether there is anything.
            if !new && self.windows.function != RangeFunction::AbsentOverTime {
                return Err(duplicate_series());
            }
        }
        batch.push(row.charged(&context.budget)?);
        Ok(())
    }

    fn drop_buckets(&self, columns: &mut Columns<'_>) {
        let windows = (0..self.windows.grid.steps).map(|step| self.windows.window_ms(step));
        columns.histograms =
            without_buckets(&columns.histogram_times_ms, &columns.histograms, windows).into();
    }

    /// A row that was evaluated where its series was decoded.
    fn prepared_row(&self, prepared: Prepared, context: &Context<'_>) -> Result<Row, QueryError> {
        let Prepared { labels, steps, looked_at } = prepared;
        context.spend(self.windows.grid.steps)?;
        self.tally.count(looked_at, std::iter::empty, context);
        let metric = labels.clone();
        let mut row = Row::of_steps(self.labels(labels, context), steps);
        row.drop_name = self.windows.function.drops_name();
        self.note_non_counter(&metric, &row, context);
        Ok(row)
    }

    /// The labels of a result.
    fn labels(&self, labels: Labels, context: &Context<'_>) -> Labels {
        let is_metric = !self.windows.function.drops_name() || context.options.delayed_name_removal;
        if is_metric {
            return labels;
        }
        let kept = without_metadata(&labels);
        if kept.len() + 1 < labels.len() {
            self.state.has_dropped_more.set(true);
        }
        kept
    }

    fn row(&self, columns: &Columns<'_>, context: &Context<'_>) -> Result<Row, QueryError> {
        let grid = self.windows.grid;
        let mut row = Row::empty(self.labels(columns.labels.clone(), context), grid.steps);
        row.drop_name = self.windows.function.drops_name();
        let (before_ms, after_ms) = self.margins(context);
        let floats = self.windows.bounds(&columns.float_times_ms, before_ms, after_ms);
        let histograms = self.windows.bounds(&columns.histogram_times_ms, before_ms, after_ms);
        self.count(columns, &floats, &histograms, context);
        context.spend(grid.steps + columns.floats.len() + columns.histograms.len())?;
        let slide = SlideContext {
            windows: self.windows,
            columns,
            scalars: self.state.scalars.as_deref().unwrap_or(&[]),
            position: self.position,
            context,
        };
        if self.extension != RangeExtension::None {
            extended::evaluate(&slide, self.extension, &floats, &histograms, &mut row)?;
        } else if columns.histograms.is_empty() {
            floats::evaluate(&slide, &floats, &mut row)?;
        } else {
            mixed::evaluate(&slide, &floats, &histograms, &mut row)?;
        }
        // Functions of floats stop where they are when the query is interrupted.
        context.stopped()?;
        self.note_non_counter(columns.labels, &row, context);
        Ok(row)
    }

    /// How much further than the range `anchored` and `smoothed` look, to the left and to the right.
    fn margins(&self, context: &Context<'_>) -> (i64, i64) {
        let lookback_ms = context.options.lookback_ms;
        match self.extension {
            RangeExtension::None => (0, 0),
            RangeExtension::Anchored => (lookback_ms, 0),
            RangeExtension::Smoothed => (lookback_ms, lookback_ms),
        }
    }

    fn count(&self, columns: &Columns<'_>, floats: &Bounds, histograms: &Bounds, context: &Context<'_>) {
        let weights: Vec<usize> = columns.histograms.iter().map(|h| h.sample_weight()).collect();
        let of_floats = |(lo, hi): &(usize, usize)| hi - lo;
        let of_histograms =
            |(lo, hi): &(usize, usize)| weights.get(*lo..*hi).unwrap_or(&[]).iter().sum::<usize>();
        let samples =
            floats.iter().map(of_floats).sum::<usize>() + histograms.iter().map(of_histograms).sum::<usize>();
        let each = || {
            let floats = floats.iter().map(of_floats).enumerate();
            floats.chain(histograms.iter().map(of_histograms).enumerate())
        };
        self.tally.count(samples, each, context);
    }

    /// `rate` and `increase` of floats that, by their name, are no counter.
    fn note_non_counter(&self, labels: &Labels, row: &Row, context: &Context<'_>) {
        let counts = matches!(self.windows.function, RangeFunction::Rate | RangeFunction::Increase);
        let Some(metric) = labels.get(METRIC_NAME).filter(|_| counts) else { return };
        if !row.present.any() {
            return;
        }
        if context.options.type_and_unit_labels {
            let kind = labels.value_of("__type__");
            if kind != "counter" && kind != "histogram" {
                context.annotate(|notes| notes.possible_non_counter_type(metric, kind, self.position));
            }
        } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| metric.ends_with(suffix)) {
            context.annotate(|notes| notes.possible_non_counter(metric, self.position));
        }
    }
}

impl<'a> Columns<'a> {
    fn of_series(series: &'a SeriesData) -> Self {
        let (float_times_ms, floats) = live_floats(&series.floats);
        let (histogram_times_ms, histograms) =
            live(&series.histograms.timestamps_ms, &series.histograms.values, |h| !h.is_stale());
        Self { labels: &series.labels, float_times_ms, floats, histogram_times_ms, histograms }
    }

    /// What a subquery gave. Hints about counter resets are forgotten: samples in between were left out, or
    /// one sample is seen twice.
    fn of_row(row: &'a Row, grid: &Grid) -> Self {
        let float_times_ms: Vec<i64> = row.present.ones().map(|step| grid.time_ms(step)).collect();
        let floats = if row.present.is_full() {
            Cow::Borrowed(row.floats.as_slice())
        } else {
            row.present.ones().map(|step| row.floats.get(step).copied().unwrap_or_default()).collect()
        };
        let forget = |histogram: &Arc<FloatHistogram>| match histogram.counter_reset_hint {
            CounterResetHint::Reset | CounterResetHint::NotReset => Arc::new(FloatHistogram {
                counter_reset_hint: CounterResetHint::Unknown,
                ..(**histogram).clone()
            }),
            CounterResetHint::Unknown | CounterResetHint::Gauge => histogram.clone(),
        };
        Self {
            labels: &row.labels,
            float_times_ms: float_times_ms.into(),
            floats,
            histogram_times_ms: row.histograms.iter().map(|(step, _)| grid.time_ms(*step)).collect(),
            histograms: row.histograms.iter().map(|(_, histogram)| forget(histogram)).collect(),
        }
    }
}

/// Floats without staleness markers.
pub(crate) fn live_floats(floats: &FloatColumn) -> (Cow<'_, [i64]>, Cow<'_, [f64]>) {
    // Staleness markers are NaN: most columns have none, which is soon seen.
    if !floats.values.iter().fold(false, |found, value| found | value.is_nan()) {
        return (floats.timestamps_ms.as_slice().into(), floats.values.as_slice().into());
    }
    live(&floats.timestamps_ms, &floats.values, |value| !is_stale(*value))
}

/// A column without its staleness markers; borrowed if it has none.
fn live<'a, T: Clone>(
    times_ms: &'a [i64],
    values: &'a [T],
    is_live: impl Fn(&T) -> bool,
) -> (Cow<'a, [i64]>, Cow<'a, [T]>) {
    if values.iter().all(&is_live) {
        return (times_ms.into(), values.into());
    }
    let (times, values): (Vec<i64>, Vec<T>) = times_ms
        .iter()
        .zip(values)
        .filter(|(_, value)| is_live(value))
        .map(|(time, value)| (*time, value.clone()))
        .unzip();
    (times.into(), values.into())
}

/// A hash to find equal label sets by; Prometheus trusts 64 bits for this too.
pub(crate) fn label_hash(labels: &Labels) -> u64 {
    let mut hasher = xxhash_rust::xxh64::Xxh64::new(0);
    for (name, value) in labels {
        hasher.update(name.as_bytes());
        hasher.update(&[0xff]);
        hasher.update(value.as_bytes());
        hasher.update(&[0xff]);
    }
    hasher.digest()
}
