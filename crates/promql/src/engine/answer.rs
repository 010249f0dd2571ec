//! The top of a query: plan, open, run, and make a value of the rows that come out.

use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, HistogramColumn, SeriesData};

use super::{EngineOptions, QueryError, QueryRange};
use crate::ast::{Expr, ExprKind, ValueType};
use crate::exec::map::merge_rows;
use crate::exec::range::RangeInput;
use crate::exec::row::{Row, without_metadata};
use crate::exec::{Context, Grid, drain};
use crate::functions::extended::extend;
use crate::plan::{Around, PlannedRange, Planner, strip_parens};
use crate::source::Source;
use crate::value::{QueryValue, VectorSample};

/// Evaluates `expr` over `range`.
pub(super) fn evaluate(
    options: &EngineOptions,
    source: &dyn Source,
    expr: &Expr,
    range: QueryRange,
    context: &Context<'_>,
) -> Result<QueryValue, QueryError> {
    let expr = strip_parens(expr);
    if let ExprKind::String(text) = &expr.kind {
        return Ok(QueryValue::String { timestamp_ms: range.start_ms, value: text.clone() });
    }
    let grid = Grid::new(range.start_ms, range.end_ms, range.step_ms);
    // A row is as wide as there are steps: no budget could hold a single one.
    if grid.steps > options.max_samples {
        return Err(QueryError::TooManySamples);
    }
    let mut planner = Planner::new(options, range);
    if expr.value_type() == ValueType::Matrix {
        let planned = planner.range_input(expr, grid, Around::default())?;
        planner.selections.open(source)?;
        let matrix = range_vector(planned, grid, context);
        planner.selections.finish(context);
        return matrix.map(sorted_matrix);
    }
    let mut operator = planner.plan(expr, grid, Around::default())?;
    planner.selections.open(source)?;
    let rows = drain(operator.as_mut(), context);
    planner.selections.finish(context);
    let rows = final_names(rows?, context)?;
    if !range.is_instant() {
        return Ok(sorted_matrix(rows.iter().map(|row| series(row, &grid)).collect()));
    }
    Ok(match expr.value_type() {
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
    merge_rows(rows)
}

fn vector_sample(row: &Row, timestamp_ms: i64) -> Option<VectorSample> {
    row.sample(0).map(|sample| VectorSample { labels: row.labels.clone(), timestamp_ms, sample })
}

fn series(row: &Row, grid: &Grid) -> SeriesData {
    let mut series = SeriesData { labels: row.labels.clone(), ..SeriesData::default() };
    series.floats = FloatColumn::with_capacity(row.present.count());
    for step in row.present.ones() {
        series.floats.push(grid.time_ms(step), row.floats.get(step).copied().unwrap_or_default());
    }
    for (step, histogram) in &row.histograms {
        series.histograms.push(grid.time_ms(*step), histogram.clone());
    }
    series
}

fn sorted_matrix(mut series: Vec<SeriesData>) -> QueryValue {
    series.retain(|series| series.sample_count() > 0);
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    QueryValue::Matrix(series)
}

/// The samples of a range vector itself, at its only step.
fn range_vector(
    planned: PlannedRange,
    grid: Grid,
    context: &Context<'_>,
) -> Result<Vec<SeriesData>, QueryError> {
    let end_ms = planned.reference.time_ms(&grid, 0);
    let start_ms = end_ms.saturating_sub(planned.range_ms);
    let mut matrix = Vec::new();
    match planned.input {
        RangeInput::Subquery(mut operator, inner) => {
            let rows = final_names(drain(operator.as_mut(), context)?, context)?;
            matrix.extend(rows.iter().map(|row| series(row, &inner)));
        }
        RangeInput::Series(mut reader) => {
            let mut charges = Vec::new();
            while let Some(decoded) = reader.next(context)? {
                for stored in &decoded.series {
                    let mut kept = SeriesData { labels: stored.labels.clone(), ..SeriesData::default() };
                    if planned.extension == crate::ast::RangeExtension::None {
                        kept.floats = floats_within(&stored.floats, start_ms, end_ms);
                        kept.histograms = histograms_within(&stored.histograms, start_ms, end_ms);
                    } else {
                        let window = (start_ms, end_ms);
                        let lookback_ms = context.options.lookback_ms;
                        kept.floats = extend(stored, planned.extension, window, lookback_ms)?;
                    }
                    context.count_samples(kept.sample_count());
                    charges.push(context.budget.charge(kept.sample_count())?);
                    matrix.push(kept);
                }
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
