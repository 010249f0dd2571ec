//! The top of a query: plan, open, run, and make a value of the rows that come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, HistogramColumn};

use super::{EngineOptions, Interrupt, PlanNode, QueryError, QueryOutcome, QueryRange, QueryStats, Timings};
use crate::ast::{Expr, ExprKind, ValueType};
use crate::exec::analyze::{CountRule, Counters, SampleCounts, Tally, histogram_size_bytes};
use crate::exec::map::merge_rows;
use crate::exec::range::RangeInput;
use crate::exec::row::{Row, without_metadata};
use crate::exec::sort::sort_by;
use crate::exec::stream::Piece;
use crate::exec::{Context, Grid, drain};
use crate::functions::extended::extend;
use crate::plan::{Around, Outline, PlannedRange, Planner, name_of, narrowed, strip_parens};
use crate::source::{Selection, Source};
use crate::value::{MatrixSeries, Points, QueryValue, VectorSample};

/// Evaluates `expr`, which `text` was parsed to, over `range`.
pub(super) fn evaluate(
    options: &EngineOptions,
    source: &dyn Source,
    text: Option<&str>,
    expr: &Expr,
    range: QueryRange,
    interrupt: &Interrupt,
) -> Result<QueryOutcome, QueryError> {
    let grid = steps(options, range)?;
    let samples =
        if options.stats.per_step { SampleCounts::with_steps(grid.steps) } else { SampleCounts::default() };
    let context = Context::new(options, interrupt, samples).with_source(source);
    let narrowed = narrowed(expr, options);
    let expr = narrowed.as_ref().unwrap_or(expr);
    let mut planner = Planner::new(options, range).over(source);
    if options.stats.operators {
        planner = planner.with_outline();
    }
    let mut clock = Clock::start();
    let value = value_of(&mut planner, source, strip_parens(expr), (range, grid), &context, &mut clock)?;
    let (warnings, infos) = context.annotations.borrow().render(text);
    let stats = QueryStats {
        total_samples: context.samples.total(),
        total_samples_per_step: context.samples.per_step(),
        peak_samples: context.budget.peak(),
        timings: clock.timings,
        operators: planner.outline().map(Outline::analysis),
    };
    Ok(QueryOutcome { value, warnings, infos, stats })
}

/// What [`evaluate`] would select of a source that evaluates nothing itself, if nobody looks at its operators.
pub(super) fn selections(
    options: &EngineOptions,
    expr: &Expr,
    range: QueryRange,
    interrupt: &Interrupt,
) -> Result<Vec<Selection>, QueryError> {
    let grid = steps(options, range)?;
    let narrowed = narrowed(expr, options);
    let expr = strip_parens(narrowed.as_ref().unwrap_or(expr));
    let mut planner = Planner::new(options, range);
    match expr.value_type() {
        ValueType::String => {}
        ValueType::Matrix => drop(planner.range_result(expr, grid)?),
        ValueType::Scalar | ValueType::Vector => drop(planner.plan(expr, grid, Around::default())?),
    }
    Ok(planner.selections.settled(interrupt))
}

/// The operators that [`evaluate`] would run.
pub(super) fn explain(
    options: &EngineOptions,
    source: Option<&dyn Source>,
    expr: &Expr,
    range: QueryRange,
) -> Result<PlanNode, QueryError> {
    let grid = steps(options, range)?;
    let narrowed = narrowed(expr, options);
    let expr = strip_parens(narrowed.as_ref().unwrap_or(expr));
    let mut planner = Planner::new(options, range).with_outline();
    if let Some(source) = source {
        planner = planner.over(source);
    }
    match expr.value_type() {
        ValueType::String => return Ok(PlanNode { name: name_of(expr), children: Vec::new() }),
        ValueType::Matrix => {
            planner.range_result(expr, grid)?;
        }
        ValueType::Scalar | ValueType::Vector => {
            planner.plan(expr, grid, Around::default())?;
        }
    }
    Ok(planner.outline().map(Outline::explain).unwrap_or_default())
}

fn steps(options: &EngineOptions, range: QueryRange) -> Result<Grid, QueryError> {
    let grid = Grid::new(range.start_ms, range.end_ms, range.step_ms);
    // A row is as wide as there are steps: no budget could hold a single one.
    if grid.steps > options.max_samples { Err(QueryError::TooManySamples) } else { Ok(grid) }
}

/// Notes when the parts of an evaluation begin.
struct Clock {
    timings: Timings,
    lap: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { timings: Timings::default(), lap: Instant::now() }
    }

    /// The time since the last lap.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.lap, now))
    }
}

fn value_of<'e>(
    planner: &mut Planner<'e>,
    source: &dyn Source,
    expr: &'e Expr,
    (range, grid): (QueryRange, Grid),
    context: &Context<'_>,
    clock: &mut Clock,
) -> Result<QueryValue, QueryError> {
    if let ExprKind::String(text) = &expr.kind {
        return Ok(QueryValue::String { timestamp_ms: range.start_ms, value: text.clone() });
    }
    if expr.value_type() == ValueType::Matrix {
        let (planned, counters) = planner.range_result(expr, grid)?;
        planner.selections.open(source, context.interrupt)?;
        clock.timings.preparation = clock.lap();
        let tally = Tally { rule: CountRule::EachStep, operator: counters.clone() };
        let matrix = range_vector(planned, grid, &tally, context);
        planner.selections.finish(context);
        clock.timings.inner_eval = clock.lap();
        let matrix = matrix?;
        if let Some(counters) = counters {
            count_result(&matrix, &counters, clock.timings.inner_eval);
        }
        let value = sorted_matrix(matrix, context);
        clock.timings.result = clock.lap();
        return value;
    }
    let mut operator = planner.plan(expr, grid, Around::default())?;
    planner.selections.open(source, context.interrupt)?;
    clock.timings.preparation = clock.lap();
    let rows = drain(operator.as_mut(), context);
    planner.selections.finish(context);
    clock.timings.inner_eval = clock.lap();
    let value = finished(rows?, expr.value_type(), range, grid, context);
    clock.timings.result = clock.lap();
    value
}

/// What the rows of the last operator are as a value.
fn finished(
    rows: Vec<Row>,
    value_type: ValueType,
    range: QueryRange,
    grid: Grid,
    context: &Context<'_>,
) -> Result<QueryValue, QueryError> {
    let rows = final_names(rows, context)?;
    if !range.is_instant() {
        return sorted_matrix(all_series(rows, &grid, context)?, context);
    }
    Ok(match value_type {
        ValueType::Scalar => QueryValue::Scalar {
            timestamp_ms: range.start_ms,
            value: rows.first().and_then(|row| row.float(0)).unwrap_or(f64::NAN),
        },
        _ => QueryValue::Vector(rows.iter().filter_map(|row| vector_sample(row, range.start_ms)).collect()),
    })
}

/// Takes off the names that were only marked to go.
fn final_names(mut rows: Vec<Row>, context: &Context<'_>) -> Result<Vec<Row>, QueryError> {
    if !context.options.delayed_name_removal {
        return Ok(rows);
    }
    for row in rows.iter_mut().filter(|row| row.drop_name) {
        row.labels = without_metadata(&row.labels);
    }
    merge_rows(rows, context)
}

fn vector_sample(row: &Row, timestamp_ms: i64) -> Option<VectorSample> {
    row.sample(0).map(|sample| VectorSample { labels: row.labels.clone(), timestamp_ms, sample })
}

/// Makes series of rows, each row going before the next series comes.
fn all_series(rows: Vec<Row>, grid: &Grid, context: &Context<'_>) -> Result<Vec<MatrixSeries>, QueryError> {
    let times: Arc<[i64]> = (0..grid.steps).map(|step| grid.time_ms(step)).collect();
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        context.spend(row.steps())?;
        all.push(series(row, grid, &times));
    }
    Ok(all)
}

/// The series of a row; `times` are those of all steps.
fn series(row: Row, grid: &Grid, times: &Arc<[i64]>) -> MatrixSeries {
    let mut series = MatrixSeries { labels: row.labels, ..MatrixSeries::default() };
    if row.present.is_full() && row.floats.len() == times.len() {
        series.floats = Points { timestamps_ms: times.clone(), values: row.floats };
    } else if row.present.any() {
        let mut floats = FloatColumn::with_capacity(row.present.count());
        for step in row.present.ones() {
            floats.push(grid.time_ms(step), row.floats.get(step).copied().unwrap_or_default());
        }
        series.floats = floats.into();
    }
    for (step, histogram) in row.histograms {
        series.histograms.push(grid.time_ms(step), histogram);
    }
    series
}

fn sorted_matrix(mut series: Vec<MatrixSeries>, context: &Context<'_>) -> Result<QueryValue, QueryError> {
    series.retain(|series| series.sample_count() > 0);
    // What selectors give is sorted already.
    if !series.is_sorted_by(|a, b| a.labels <= b.labels) {
        series = sort_by(series, context, |a, b| a.labels.cmp(&b.labels))?;
    }
    Ok(QueryValue::Matrix(series))
}

/// Counts a range vector that is the query's result as what its operator handed on.
fn count_result(matrix: &[MatrixSeries], counters: &Counters, busy: Duration) {
    let weight = |series: &MatrixSeries| {
        series.floats.len() + series.histograms.values.iter().map(|h| h.sample_weight()).sum::<usize>()
    };
    let size_bytes = |series: &MatrixSeries| {
        let histograms = series.histograms.values.iter().map(|h| histogram_size_bytes(h)).sum::<usize>();
        series.labels.size_bytes() + series.floats.len() * size_of::<(i64, f64)>() + histograms
    };
    counters.add_busy(busy);
    counters.add_batch(matrix.len(), matrix.iter().map(weight).sum(), matrix.iter().map(size_bytes).sum());
}

/// The samples of a range vector itself, at its only step.
fn range_vector(
    planned: PlannedRange,
    grid: Grid,
    tally: &Tally,
    context: &Context<'_>,
) -> Result<Vec<MatrixSeries>, QueryError> {
    let end_ms = planned.reference.time_ms(&grid, 0);
    let start_ms = end_ms.saturating_sub(planned.range_ms);
    let mut matrix = Vec::new();
    match planned.input {
        RangeInput::Subquery(mut operator, inner) => {
            let rows = final_names(drain(operator.as_mut(), context)?, context)?;
            matrix = all_series(rows, &inner, context)?;
        }
        RangeInput::Series(mut reader) => {
            let mut charges = Vec::new();
            while let Some(decoded) = reader.next(context)? {
                decoded.each(|piece| {
                    // The samples themselves are the result: nothing was to be prepared.
                    let Piece::Samples(stored) = piece else { return Ok(()) };
                    let mut kept = MatrixSeries { labels: stored.labels.clone(), ..MatrixSeries::default() };
                    if planned.extension == crate::ast::RangeExtension::None {
                        kept.floats = floats_within(&stored.floats, start_ms, end_ms).into();
                        kept.histograms = histograms_within(&stored.histograms, start_ms, end_ms);
                    } else {
                        let window = (start_ms, end_ms);
                        let lookback_ms = context.options.lookback_ms;
                        kept.floats = extend(stored, planned.extension, window, lookback_ms)?.into();
                    }
                    let weights = kept.histograms.values.iter().map(|h| h.sample_weight());
                    let looked_at = kept.floats.len() + weights.sum::<usize>();
                    tally.count(looked_at, || std::iter::once((0, looked_at)), context);
                    charges.push(context.budget.charge(kept.sample_count())?);
                    matrix.push(kept);
                    Ok(())
                })?;
            }
        }
    }
    Ok(matrix)
}

fn floats_within(column: &FloatColumn, start_ms: i64, end_ms: i64) -> FloatColumn {
    let mut kept = FloatColumn::default();
    for (time, value) in
        column.iter().filter(|(time, value)| *time > start_ms && *time <= end_ms && !is_stale(*value))
    {
        kept.push(time, value);
    }
    kept
}

fn histograms_within(column: &HistogramColumn, start_ms: i64, end_ms: i64) -> HistogramColumn {
    let mut kept = HistogramColumn::default();
    for (time, histogram) in
        column.iter().filter(|(time, histogram)| *time > start_ms && *time <= end_ms && !histogram.is_stale())
    {
        kept.push(time, histogram.clone());
    }
    kept
}
