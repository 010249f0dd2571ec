//! Range functions over series that hold histograms, or both kinds of samples.

use std::sync::Arc;

use parallax_model::float_histogram::{IncompatibleSchemas, Reconciled};
use parallax_model::{CounterResetHint, FloatHistogram, METRIC_NAME};

use super::floats::{self, Extent};
use super::histogram_rate::{histogram_increase, instant_value};
use super::quantile::quantile;
use super::range_function::{RangeFunction, SlideContext};
use super::regression::double_exponential_smoothing;
use crate::annotations::HistogramOperation;
use crate::engine::QueryError;
use crate::exec::row::Row;
use crate::value::Sample;

/// How much more work a histogram is than a float.
const HISTOGRAM_WORK: usize = 16;

/// One window with both kinds of samples. Not both kinds are empty.
pub(super) struct Window<'a> {
    pub step: usize,
    pub float_times_ms: &'a [i64],
    pub floats: &'a [f64],
    pub histogram_times_ms: &'a [i64],
    pub histograms: &'a [Arc<FloatHistogram>],
}

/// Fills `row` from the windows at `float_bounds` and `histogram_bounds`.
pub(crate) fn evaluate(
    slide: &SlideContext<'_, '_>,
    float_bounds: &[(usize, usize)],
    histogram_bounds: &[(usize, usize)],
    row: &mut Row,
) -> Result<(), QueryError> {
    let columns = slide.columns;
    for step in 0..slide.windows.grid.steps {
        let (lo, hi) = float_bounds.get(step).copied().unwrap_or_default();
        let (low, high) = histogram_bounds.get(step).copied().unwrap_or_default();
        let window = Window {
            step,
            float_times_ms: columns.float_times_ms.get(lo..hi).unwrap_or(&[]),
            floats: columns.floats.get(lo..hi).unwrap_or(&[]),
            histogram_times_ms: columns.histogram_times_ms.get(low..high).unwrap_or(&[]),
            histograms: columns.histograms.get(low..high).unwrap_or(&[]),
        };
        if window.floats.is_empty() && window.histograms.is_empty() {
            continue;
        }
        slide.context.spend(window.floats.len() + window.histograms.len() * HISTOGRAM_WORK)?;
        if let Some(sample) = evaluate_window(slide, &window)? {
            row.push_sample(step, sample);
        }
    }
    Ok(())
}

fn evaluate_window(slide: &SlideContext<'_, '_>, w: &Window<'_>) -> Result<Option<Sample>, QueryError> {
    use RangeFunction as F;
    let float = |value: Option<f64>| value.map(Sample::Float);
    Ok(match slide.windows.function {
        F::Rate | F::Increase | F::Delta => extrapolated(slide, w),
        F::Irate | F::Idelta => instant_value(slide, w),
        F::SumOverTime | F::AvgOverTime => combined(slide, w),
        F::CountOverTime => Some(Sample::Float((w.floats.len() + w.histograms.len()) as f64)),
        F::PresentOverTime | F::AbsentOverTime => Some(Sample::Float(1.0)),
        F::FirstOverTime => end_sample(w, true).map(|(_, sample)| sample),
        F::LastOverTime => end_sample(w, false).map(|(_, sample)| sample),
        F::TsOfFirstOverTime => end_sample(w, true).map(|(time, _)| Sample::Float(time as f64 / 1000.0)),
        F::TsOfLastOverTime => end_sample(w, false).map(|(time, _)| Sample::Float(time as f64 / 1000.0)),
        F::Resets | F::Changes => Some(Sample::Float(count_between(slide.windows.function, w))),
        F::MaxOverTime
        | F::MinOverTime
        | F::TsOfMaxOverTime
        | F::TsOfMinOverTime
        | F::StddevOverTime
        | F::StdvarOverTime
        | F::MadOverTime
        | F::QuantileOverTime => {
            if w.floats.is_empty() {
                return Ok(None);
            }
            note_ignored_histograms(slide, w);
            float(floats_only(slide, w))
        }
        F::Deriv | F::PredictLinear | F::DoubleExponentialSmoothing => {
            let factors = match slide.windows.function {
                F::DoubleExponentialSmoothing => floats::smoothing_factors(slide, w.step)?,
                _ => (0.0, 0.0),
            };
            if w.floats.is_empty() {
                return Ok(None);
            }
            note_ignored_histograms(slide, w);
            float(match slide.windows.function {
                F::Deriv => floats::deriv(w.float_times_ms, w.floats),
                F::PredictLinear => {
                    let at_ms = slide.windows.grid.time_ms(w.step);
                    floats::predict_linear(w.float_times_ms, w.floats, at_ms, slide.scalar(0, w.step))
                }
                _ => double_exponential_smoothing(w.floats, factors.0, factors.1),
            })
        }
    })
}

/// Functions that know only floats, over the floats there are.
fn floats_only(slide: &SlideContext<'_, '_>, w: &Window<'_>) -> Option<f64> {
    use RangeFunction as F;
    let mut best = w.floats.iter().copied().filter(|value| !value.is_nan());
    match slide.windows.function {
        F::MaxOverTime => Some(best.next().map_or(f64::NAN, |first| best.fold(first, f64::max))),
        F::MinOverTime => Some(best.next().map_or(f64::NAN, |first| best.fold(first, f64::min))),
        F::TsOfMaxOverTime => floats::time_of_extremum(w.float_times_ms, w.floats, |new, kept| new >= kept),
        F::TsOfMinOverTime => floats::time_of_extremum(w.float_times_ms, w.floats, |new, kept| new <= kept),
        F::StddevOverTime => Some(floats::variance(w.floats).sqrt()),
        F::StdvarOverTime => Some(floats::variance(w.floats)),
        F::MadOverTime => Some(floats::median_deviation(w.floats)),
        F::QuantileOverTime => {
            let q = slide.scalar(0, w.step);
            floats::note_invalid_quantile(slide, q);
            Some(quantile(q, &mut w.floats.to_vec()))
        }
        _ => None,
    }
}

fn note_ignored_histograms(slide: &SlideContext<'_, '_>, w: &Window<'_>) {
    if !w.histograms.is_empty() {
        slide.context.annotate(|notes| {
            notes.histogram_ignored_in_mixed_range(metric(slide), slide.position);
        });
    }
}

pub(super) fn metric<'a>(slide: &'a SlideContext<'_, '_>) -> &'a str {
    slide.columns.labels.value_of(METRIC_NAME)
}

fn note_mixed(slide: &SlideContext<'_, '_>) {
    slide.context.annotate(|notes| notes.mixed_floats_histograms(metric(slide), slide.position));
}

fn extrapolated(slide: &SlideContext<'_, '_>, w: &Window<'_>) -> Option<Sample> {
    if !w.floats.is_empty() && !w.histograms.is_empty() {
        note_mixed(slide);
        return None;
    }
    let counter = slide.windows.function != RangeFunction::Delta;
    let (start_ms, end_ms) = slide.windows.window_ms(w.step);
    let extent = |times: &[i64]| {
        let others = times.len().checked_sub(1).filter(|others| *others > 0)?;
        Some(Extent { first_ms: *times.first()?, last_ms: *times.last()?, start_ms, end_ms, others })
    };
    let per_second = |factor: f64| {
        if slide.windows.function == RangeFunction::Rate {
            factor / slide.windows.range_seconds()
        } else {
            factor
        }
    };
    if w.histograms.is_empty() {
        let extent = extent(w.float_times_ms)?;
        let (first, last) = (*w.floats.first()?, *w.floats.last()?);
        let mut result = last - first;
        if counter {
            w.floats.windows(2).filter(|pair| pair[1] < pair[0]).for_each(|pair| result += pair[0]);
        }
        let zero = (counter && result > 0.0 && first >= 0.0).then(|| first / result);
        return Some(Sample::Float(result * per_second(extent.extrapolation_factor(zero))));
    }
    let extent = extent(w.histogram_times_ms)?;
    let mut increase = histogram_increase(slide, w.histograms, counter)?;
    let first_count = w.histograms.first().map_or(0.0, |histogram| histogram.count);
    let zero = (counter && increase.count > 0.0 && first_count >= 0.0).then(|| first_count / increase.count);
    increase.scale(per_second(extent.extrapolation_factor(zero)));
    Some(Sample::Histogram(Arc::new(increase)))
}

/// `sum_over_time` and `avg_over_time`.
fn combined(slide: &SlideContext<'_, '_>, w: &Window<'_>) -> Option<Sample> {
    let is_mean = slide.windows.function == RangeFunction::AvgOverTime;
    if w.histograms.is_empty() {
        let value = if is_mean { floats::mean(w.floats) } else { floats::sum(w.floats) };
        return Some(Sample::Float(value));
    }
    if !w.floats.is_empty() {
        note_mixed(slide);
        return None;
    }
    let mut folded = HistogramFold::default();
    let result = w.histograms.iter().try_for_each(|histogram| {
        if is_mean { folded.add_to_mean(histogram) } else { folded.add_to_sum(histogram) }
    });
    let (context, at) = (slide.context, slide.position);
    if result.is_err() {
        context.annotate(|notes| notes.mixed_exponential_custom(metric(slide), at));
        return None;
    }
    context.annotate(|notes| {
        if folded.hints_collide() {
            notes.counter_resets_collided(HistogramOperation::Aggregation, at);
        }
        if folded.bounds_reconciled {
            notes.custom_bounds_reconciled(HistogramOperation::Aggregation, at);
        }
    });
    folded.value.map(|histogram| Sample::Histogram(Arc::new(histogram)))
}

/// A running sum or mean of histograms, and what there is to note about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistogramFold {
    pub value: Option<FloatHistogram>,
    count: f64,
    reset_seen: bool,
    no_reset_seen: bool,
    pub bounds_reconciled: bool,
}

impl HistogramFold {
    pub fn hints_collide(&self) -> bool {
        self.reset_seen && self.no_reset_seen
    }

    pub fn add_to_sum(&mut self, histogram: &FloatHistogram) -> Result<(), IncompatibleSchemas> {
        self.note_hint(histogram);
        let Some(sum) = &mut self.value else {
            self.value = Some(histogram.clone());
            return Ok(());
        };
        let Reconciled { custom_bounds, .. } = sum.add(histogram)?;
        self.bounds_reconciled |= custom_bounds;
        Ok(())
    }

    /// Incremental, so that it cannot overflow.
    pub fn add_to_mean(&mut self, histogram: &FloatHistogram) -> Result<(), IncompatibleSchemas> {
        self.note_hint(histogram);
        self.count += 1.0;
        let Some(mean) = &mut self.value else {
            self.value = Some(histogram.clone());
            return Ok(());
        };
        let mut change = histogram.clone();
        change.divide(self.count);
        let mut share = mean.clone();
        share.divide(self.count);
        let subtracted = change.sub(&share)?;
        let added = mean.add(&change)?;
        self.bounds_reconciled |= subtracted.custom_bounds || added.custom_bounds;
        Ok(())
    }

    fn note_hint(&mut self, histogram: &FloatHistogram) {
        match histogram.counter_reset_hint {
            CounterResetHint::Reset => self.reset_seen = true,
            CounterResetHint::NotReset => self.no_reset_seen = true,
            CounterResetHint::Unknown | CounterResetHint::Gauge => {}
        }
    }
}

/// The first or the last sample of the window with its time.
fn end_sample(w: &Window<'_>, first: bool) -> Option<(i64, Sample)> {
    fn end<T>(items: &[T], first: bool) -> Option<&T> {
        if first { items.first() } else { items.last() }
    }
    let float = end(w.float_times_ms, first).copied().zip(end(w.floats, first).copied());
    let histogram = end(w.histogram_times_ms, first).copied().zip(end(w.histograms, first));
    match (float, histogram) {
        (Some((time, value)), None) => Some((time, Sample::Float(value))),
        (Some((time, value)), Some((other, _))) if (time < other) == first => {
            Some((time, Sample::Float(value)))
        }
        (_, Some((time, histogram))) => Some((time, Sample::Histogram(histogram.clone()))),
        (None, None) => None,
    }
}

/// `resets` and `changes`, over both kinds in order of time. A change of kind is one of either.
fn count_between(function: RangeFunction, w: &Window<'_>) -> f64 {
    let mut floats = w.float_times_ms.iter().zip(w.floats).peekable();
    let mut histograms = w.histogram_times_ms.iter().zip(w.histograms).peekable();
    let mut before: Option<Sample> = None;
    let mut count = 0.0;
    loop {
        let float_first = match (floats.peek(), histograms.peek()) {
            (None, None) => return count,
            (Some((a, _)), Some((b, _))) => a < b,
            (float, _) => float.is_some(),
        };
        let sample = if float_first {
            floats.next().map(|(_, value)| Sample::Float(*value))
        } else {
            histograms.next().map(|(_, histogram)| Sample::Histogram(histogram.clone()))
        };
        let differs = match (&before, &sample) {
            (Some(Sample::Float(old)), Some(Sample::Float(new))) => match function {
                RangeFunction::Resets => new < old,
                _ => new != old && !(new.is_nan() && old.is_nan()),
            },
            (Some(Sample::Histogram(old)), Some(Sample::Histogram(new))) => match function {
                RangeFunction::Resets => new.detect_reset(old),
                _ => !new.same_data(old),
            },
            (Some(_), Some(_)) => true,
            _ => false,
        };
        count += f64::from(u8::from(differs));
        before = sample;
    }
}
