//! Range functions over `anchored` and `smoothed` selectors, which look beyond the ends of their range.
//!
//! `anchored` takes the last sample at or before the start as the value at the start; `smoothed` interpolates
//! the values at both ends. Experimental in Prometheus 3.9, and only for floats.

use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, SeriesData};

use super::range_function::{RangeFunction, SlideContext};
use crate::ast::RangeExtension;
use crate::engine::QueryError;
use crate::exec::row::Row;

/// Fills `row` from the widened windows at `float_bounds`.
///
/// # Errors
/// If there are histograms.
pub(crate) fn evaluate(
    slide: &SlideContext<'_, '_>,
    extension: RangeExtension,
    float_bounds: &[(usize, usize)],
    histogram_bounds: &[(usize, usize)],
    row: &mut Row,
) -> Result<(), QueryError> {
    if histogram_bounds.iter().any(|(lo, hi)| lo < hi) {
        return Err(QueryError::Execution(
            "smoothed and anchored modifiers do not work with native histograms".to_owned(),
        ));
    }
    for (step, (lo, hi)) in float_bounds.iter().copied().enumerate() {
        let times = slide.columns.float_times_ms.get(lo..hi).unwrap_or(&[]);
        let values = slide.columns.floats.get(lo..hi).unwrap_or(&[]);
        let points: Vec<Point> = times
            .iter()
            .zip(values)
            .map(|(time_ms, value)| Point { time_ms: *time_ms, value: *value })
            .collect();
        if points.is_empty() {
            continue;
        }
        slide.context.spend(points.len())?;
        let (start_ms, end_ms) = slide.windows.window_ms(step);
        let value = match slide.windows.function {
            RangeFunction::Resets => count_between(&points, start_ms, |pair| pair[1].value < pair[0].value),
            RangeFunction::Changes => count_between(&points, start_ms, |pair| {
                pair[0].value != pair[1].value && !(pair[0].value.is_nan() && pair[1].value.is_nan())
            }),
            _ => extended_increase(slide, extension, &points, start_ms, end_ms),
        };
        if let Some(value) = value {
            row.set_float(step, value);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Point {
    time_ms: i64,
    value: f64,
}

/// The position of the last point at or before the start, or the first point of all.
fn first_point(points: &[Point], start_ms: i64) -> usize {
    let but_last = points.len().saturating_sub(1);
    let inner = points.get(..but_last).unwrap_or(&[]);
    inner.partition_point(|point| point.time_ms <= start_ms).saturating_sub(1)
}

fn count_between(points: &[Point], start_ms: i64, differ: impl Fn(&[Point]) -> bool) -> Option<f64> {
    points.last().filter(|last| last.time_ms > start_ms)?;
    let within = points.get(first_point(points, start_ms)..).unwrap_or(&[]);
    Some(within.windows(2).filter(|pair| differ(pair)).count() as f64)
}

/// The value between two points at `time_ms`. Across a reset, a counter rises from zero at the left end of a
/// range, and from the old value at the right end.
fn interpolate(from: Point, to: Point, time_ms: i64, counter: bool, left: bool) -> f64 {
    let (mut low, mut high) = (from.value, to.value);
    if counter && high < low {
        if left {
            low = 0.0;
        } else {
            high += low;
        }
    }
    low + (high - low) * (time_ms - from.time_ms) as f64 / (to.time_ms - from.time_ms) as f64
}

fn extended_increase(
    slide: &SlideContext<'_, '_>,
    extension: RangeExtension,
    points: &[Point],
    start_ms: i64,
    end_ms: i64,
) -> Option<f64> {
    let smoothed = extension == RangeExtension::Smoothed;
    let counter = slide.windows.function != RangeFunction::Delta;
    let mut first = first_point(points, start_ms);
    let mut last = points.len().checked_sub(1)?;
    if smoothed {
        last = points.get(..last)?.partition_point(|point| point.time_ms < end_ms);
    }
    let (first_point, last_point) = (*points.get(first)?, *points.get(last)?);
    if last_point.time_ms <= start_ms {
        return None;
    }
    let left = match points.get(first + 1) {
        Some(next) if smoothed && first_point.time_ms < start_ms => {
            interpolate(first_point, *next, start_ms, counter, true)
        }
        _ => first_point.value,
    };
    let before_last = last.checked_sub(1).and_then(|at| points.get(at));
    let right = match before_last {
        Some(before) if smoothed && last_point.time_ms > end_ms => {
            interpolate(*before, last_point, end_ms, counter, false)
        }
        _ => last_point.value,
    };
    let mut result = right - left;
    if counter {
        if first_point.time_ms <= start_ms {
            first += 1;
        }
        let end = if last_point.time_ms >= end_ms { last } else { last + 1 };
        let mut before = left;
        for point in points.get(first..end).unwrap_or(&[]) {
            if point.value < before {
                result += before;
            }
            before = point.value;
        }
        if right < before {
            result += before;
        }
    }
    Some(if slide.windows.function == RangeFunction::Rate {
        result / slide.windows.range_seconds()
    } else {
        result
    })
}

/// The floats of an extended range vector itself: one at either end, and those in between.
///
/// # Errors
/// If there are histograms.
pub(crate) fn extend(
    series: &SeriesData,
    extension: RangeExtension,
    (start_ms, end_ms): (i64, i64),
    lookback_ms: i64,
) -> Result<FloatColumn, QueryError> {
    let smoothed = extension == RangeExtension::Smoothed;
    let oldest_ms = start_ms.saturating_sub(lookback_ms);
    let newest_ms = if smoothed { end_ms.saturating_add(lookback_ms) } else { end_ms };
    let near = |time: i64| time > oldest_ms && time <= newest_ms;
    if series.histograms.iter().any(|(time, histogram)| near(time) && !histogram.is_stale()) {
        return Err(QueryError::Execution("anchored modifier is not supported with histograms".to_owned()));
    }
    let points: Vec<Point> = series
        .floats
        .iter()
        .filter(|(time, value)| near(*time) && !is_stale(*value))
        .map(|(time_ms, value)| Point { time_ms, value })
        .collect();
    let mut column = FloatColumn::default();
    let Some(mut last) = points.len().checked_sub(1) else { return Ok(column) };
    let first = first_point(&points, start_ms);
    if smoothed {
        last = points.get(..last).map_or(0, |inner| inner.partition_point(|p| p.time_ms < end_ms));
    }
    let (Some(first_point), Some(last_point)) = (points.get(first), points.get(last)) else {
        return Ok(column);
    };
    if last_point.time_ms <= start_ms {
        return Ok(column);
    }
    let left = match points.get(first + 1) {
        Some(next) if smoothed && first_point.time_ms < start_ms => {
            interpolate(*first_point, *next, start_ms, false, true)
        }
        _ => first_point.value,
    };
    let right = match last.checked_sub(1).and_then(|at| points.get(at)) {
        Some(before) if smoothed && last_point.time_ms > end_ms => {
            interpolate(*before, *last_point, end_ms, false, false)
        }
        _ => last_point.value,
    };
    column.push(start_ms, left);
    for point in points.iter().filter(|point| point.time_ms > start_ms && point.time_ms < end_ms) {
        column.push(point.time_ms, point.value);
    }
    column.push(end_ms, right);
    Ok(column)
}
