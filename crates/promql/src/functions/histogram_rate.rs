//! Increases of native histograms: `rate`, `increase`, `delta`, `irate`, `idelta`.

use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram};

use super::mixed::{Window, metric};
use super::range_function::{RangeFunction, SlideContext};
use crate::annotations::HistogramOperation;
use crate::value::Sample;

/// The last histogram minus the first, with what counter resets took away put back. `None`, with a warning, if
/// they do not combine.
pub(super) fn histogram_increase(
    slide: &SlideContext<'_, '_>,
    histograms: &[Arc<FloatHistogram>],
    counter: bool,
) -> Option<FloatHistogram> {
    let incompatible = || {
        slide.context.annotate(|notes| notes.mixed_exponential_custom(metric(slide), slide.position));
    };
    let [first, middle @ .., last] = histograms else { return None };
    let second = middle.first().unwrap_or(last);
    let is_gauge = |h: &Arc<FloatHistogram>| h.counter_reset_hint == CounterResetHint::Gauge;
    // After a reset right behind it, the first histogram does not matter, nor does its bucket layout.
    let nothing = Arc::new(FloatHistogram {
        schema: second.schema,
        custom_values: second.custom_values.clone(),
        ..FloatHistogram::default()
    });
    let first_gone = counter && second.detect_reset(first);
    let base = if first_gone { &nothing } else { first };
    if counter && (is_gauge(first) || is_gauge(last)) {
        slide.context.annotate(|notes| notes.native_histogram_not_counter(metric(slide), slide.position));
    }
    let custom = base.uses_custom_buckets();
    let mismatched = |h: &Arc<FloatHistogram>| h.uses_custom_buckets() != custom;
    if mismatched(last) || (counter && middle.iter().any(mismatched)) {
        incompatible();
        return None;
    }
    if counter && middle.iter().any(is_gauge) {
        slide.context.annotate(|notes| notes.native_histogram_not_counter(metric(slide), slide.position));
    }
    let mut schema = last.schema.min(base.schema);
    if counter {
        schema = middle.iter().map(|h| h.schema).fold(schema, i32::min);
    }
    let mut increase = (**last).clone();
    increase.reduce_resolution(schema);
    let bounds_reconciled = |operation| {
        slide.context.annotate(|notes| notes.custom_bounds_reconciled(operation, slide.position));
    };
    match increase.sub(base) {
        Ok(reconciled) if reconciled.custom_bounds => bounds_reconciled(HistogramOperation::Subtraction),
        Ok(_) => {}
        Err(_) => {
            incompatible();
            return None;
        }
    }
    if counter {
        let mut before = base;
        for now in middle.iter().chain(std::iter::once(last)) {
            if now.detect_reset(before) {
                match increase.add(before) {
                    Ok(reconciled) if reconciled.custom_bounds => {
                        bounds_reconciled(HistogramOperation::Addition);
                    }
                    Ok(_) => {}
                    Err(_) => {
                        incompatible();
                        return None;
                    }
                }
            }
            before = now;
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        slide.context.annotate(|notes| notes.native_histogram_not_gauge(metric(slide), slide.position));
    }
    increase.counter_reset_hint = CounterResetHint::Gauge;
    increase.compact();
    Some(increase)
}

/// `irate` and `idelta`: what happened between the last two samples of either kind.
pub(super) fn instant_value(slide: &SlideContext<'_, '_>, w: &Window<'_>) -> Option<Sample> {
    let ((before_ms, before), (last_ms, last)) = last_two(w)?;
    let interval_ms = last_ms - before_ms;
    if interval_ms == 0 {
        return None;
    }
    let is_rate = slide.windows.function == RangeFunction::Irate;
    let seconds = interval_ms as f64 / 1000.0;
    let (context, at) = (slide.context, slide.position);
    match (before, last) {
        (Sample::Float(before), Sample::Float(last)) => {
            let change = if is_rate && last < before { last } else { last - before };
            Some(Sample::Float(if is_rate { change / seconds } else { change }))
        }
        (Sample::Histogram(before), Sample::Histogram(last)) => {
            let gauges = [&before, &last].map(|h| h.counter_reset_hint == CounterResetHint::Gauge);
            if is_rate && gauges.contains(&true) {
                context.annotate(|notes| notes.native_histogram_not_counter(metric(slide), at));
            }
            if !is_rate && gauges.contains(&false) {
                context.annotate(|notes| notes.native_histogram_not_gauge(metric(slide), at));
            }
            let mut change = (*last).clone();
            if !is_rate || !last.detect_reset(&before) {
                match change.sub(&before) {
                    Ok(reconciled) if reconciled.custom_bounds => context.annotate(|notes| {
                        notes.custom_bounds_reconciled(HistogramOperation::Subtraction, at);
                    }),
                    Ok(_) => {}
                    Err(_) => {
                        context.annotate(|notes| notes.mixed_exponential_custom(metric(slide), at));
                        return None;
                    }
                }
            }
            change.counter_reset_hint = CounterResetHint::Gauge;
            change.compact();
            if is_rate {
                change.divide(seconds);
            }
            Some(Sample::Histogram(Arc::new(change)))
        }
        _ => {
            context.annotate(|notes| notes.mixed_floats_histograms(metric(slide), at));
            None
        }
    }
}

/// The last two samples in order of time, whatever their kind.
fn last_two(w: &Window<'_>) -> Option<((i64, Sample), (i64, Sample))> {
    let floats = w.float_times_ms.iter().zip(w.floats).rev().take(2);
    let histograms = w.histogram_times_ms.iter().zip(w.histograms).rev().take(2);
    let mut candidates: Vec<(i64, Sample)> = floats
        .map(|(time, value)| (*time, Sample::Float(*value)))
        .chain(histograms.map(|(time, histogram)| (*time, Sample::Histogram(histogram.clone()))))
        .collect();
    candidates.sort_by_key(|(time, _)| *time);
    let last = candidates.pop()?;
    Some((candidates.pop()?, last))
}
