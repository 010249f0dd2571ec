//! Range functions over series that hold floats only: the common case, and the fast one.
//!
//! What a window needs beyond its ends is prepared once per series where that keeps the result bit for bit:
//! the places where a counter was reset, running counts of changes, a queue of candidates for the extremum.

use std::collections::VecDeque;

use super::kahan::{KahanMean, KahanSum};
use super::quantile::quantile;
use super::range_function::{RangeFunction, SlideContext};
use super::regression::{double_exponential_smoothing, linear_regression};
use crate::engine::QueryError;
use crate::exec::meter::Meter;
use crate::exec::row::{Row, StepsMut};
use crate::exec::windows::Windows;
use crate::parse::go_fixed;

/// One window: its samples, and the step it belongs to.
struct Window<'a> {
    step: usize,
    times_ms: &'a [i64],
    values: &'a [f64],
    /// Where the window begins and ends in the column.
    lo: usize,
    hi: usize,
}

/// The floats of one series, and the windows over them.
pub(crate) struct FloatSlide<'a> {
    pub windows: Windows,
    pub times_ms: &'a [i64],
    pub values: &'a [f64],
    /// Whether the values are known to [rise](rises).
    pub rises: bool,
    pub meter: &'a Meter<'a>,
}

/// Fills `row` from the windows at `bounds`.
pub(crate) fn evaluate(
    slide: &SlideContext<'_, '_>,
    bounds: &[(usize, usize)],
    row: &mut Row,
) -> Result<(), QueryError> {
    use RangeFunction as F;
    let floats = FloatSlide {
        windows: slide.windows,
        times_ms: &slide.columns.float_times_ms,
        values: &slide.columns.floats,
        rises: false,
        meter: &slide.context.meter,
    };
    let steps = &mut row.steps_mut();
    match slide.windows.function {
        F::QuantileOverTime => quantiles(slide, &floats, bounds, steps),
        F::PredictLinear => each(&floats, bounds, steps, |w| {
            let eval_ms = slide.windows.grid.time_ms(w.step);
            predict_linear(w.times_ms, w.values, eval_ms, slide.scalar(0, w.step))
        }),
        F::DoubleExponentialSmoothing => smoothing(slide, &floats, bounds, steps)?,
        _ => without_arguments(&floats, bounds, steps),
    }
    Ok(())
}

/// Whether a function is one of [`without_arguments`].
pub(crate) fn has_arguments(function: RangeFunction) -> bool {
    use RangeFunction as F;
    matches!(function, F::QuantileOverTime | F::PredictLinear | F::DoubleExponentialSmoothing)
}

/// Fills `steps` from the windows at `bounds`, for a function of nothing but a range. It breaks off when the query is interrupted: the meter knows.
pub(crate) fn without_arguments(slide: &FloatSlide<'_>, bounds: &[(usize, usize)], steps: &mut StepsMut<'_>) {
    use RangeFunction as F;
    let seconds = |time_ms: &i64| *time_ms as f64 / 1000.0;
    match slide.windows.function {
        F::Rate | F::Increase | F::Delta => extrapolated(slide, bounds, steps),
        F::Irate => each(slide, bounds, steps, |w| instant_value(&w, true)),
        F::Idelta => each(slide, bounds, steps, |w| instant_value(&w, false)),
        F::CountOverTime => each(slide, bounds, steps, |w| Some(w.values.len() as f64)),
        F::PresentOverTime | F::AbsentOverTime => each(slide, bounds, steps, |_| Some(1.0)),
        F::FirstOverTime => each(slide, bounds, steps, |w| w.values.first().copied()),
        F::LastOverTime => each(slide, bounds, steps, |w| w.values.last().copied()),
        F::TsOfFirstOverTime => each(slide, bounds, steps, |w| w.times_ms.first().map(seconds)),
        F::TsOfLastOverTime => each(slide, bounds, steps, |w| w.times_ms.last().map(seconds)),
        F::SumOverTime => each(slide, bounds, steps, |w| Some(sum(w.values))),
        F::AvgOverTime => each(slide, bounds, steps, |w| Some(mean(w.values))),
        F::MaxOverTime => extremum(slide, bounds, steps, |new, kept| new > kept),
        F::MinOverTime => extremum(slide, bounds, steps, |new, kept| new < kept),
        F::TsOfMaxOverTime => {
            each(slide, bounds, steps, |w| time_of_extremum(w.times_ms, w.values, |new, kept| new >= kept));
        }
        F::TsOfMinOverTime => {
            each(slide, bounds, steps, |w| time_of_extremum(w.times_ms, w.values, |new, kept| new <= kept));
        }
        F::StdvarOverTime => each(slide, bounds, steps, |w| Some(variance(w.values))),
        F::StddevOverTime => each(slide, bounds, steps, |w| Some(variance(w.values).sqrt())),
        F::MadOverTime => each(slide, bounds, steps, |w| Some(median_deviation(w.values))),
        F::Resets => count_between(slide, bounds, steps, |before, now| now < before),
        F::Changes => count_between(slide, bounds, steps, |before, now| {
            now != before && !(now.is_nan() && before.is_nan())
        }),
        F::Deriv => each(slide, bounds, steps, |w| deriv(w.times_ms, w.values)),
        F::QuantileOverTime | F::PredictLinear | F::DoubleExponentialSmoothing => {}
    }
}

/// Evaluates every window that holds a sample.
#[inline]
fn each(
    slide: &FloatSlide<'_>,
    bounds: &[(usize, usize)],
    steps: &mut StepsMut<'_>,
    mut function: impl FnMut(Window<'_>) -> Option<f64>,
) {
    for (step, (lo, hi)) in bounds.iter().copied().enumerate() {
        let (Some(times_ms), Some(values)) = (slide.times_ms.get(lo..hi), slide.values.get(lo..hi)) else {
            continue;
        };
        if values.is_empty() {
            continue;
        }
        // The caller asks whether this went to the end.
        if slide.meter.spend(values.len()).is_err() {
            return;
        }
        if let Some(value) = function(Window { step, times_ms, values, lo, hi }) {
            steps.set_float(step, value);
        }
    }
}

/// `rate`, `increase` and `delta`.
fn extrapolated(slide: &FloatSlide<'_>, bounds: &[(usize, usize)], steps: &mut StepsMut<'_>) {
    let windows = slide.windows;
    let is_counter = windows.function != RangeFunction::Delta;
    let seconds = (windows.function == RangeFunction::Rate).then(|| windows.range_seconds());
    let mut line = Line::new(seconds, is_counter);
    let resets = if is_counter && !slide.rises { resets_of(slide.values) } else { Vec::new() };
    if let (true, Some(ends)) = (resets.is_empty(), windows.ordinary()) {
        // Nearly always. Each window is a few instructions: looking for an interrupt once per series will do.
        let mut windows_ms = ends.zip(bounds);
        steps.fill(|_| {
            let (end_ms, (lo, hi)) = windows_ms.next()?;
            line.without_resets(slide, end_ms, *lo, *hi)
        });
        return;
    }
    let mut next_reset = 0;
    each(slide, bounds, steps, |window| {
        let (first, last) = (*window.values.first()?, *window.values.last()?);
        let others = window.values.len().checked_sub(1).filter(|others| *others > 0)?;
        let mut result = last - first;
        while resets.get(next_reset).is_some_and(|(at, _)| *at <= window.lo) {
            next_reset += 1;
        }
        let lost = resets.get(next_reset..).unwrap_or(&[]).iter().take_while(|(at, _)| *at < window.hi);
        lost.for_each(|(_, before)| result += before);
        let (start_ms, end_ms) = windows.window_ms(window.step);
        let (first_ms, last_ms) = (*window.times_ms.first()?, *window.times_ms.last()?);
        Some(line.extrapolate(first, result, Extent { first_ms, last_ms, start_ms, end_ms, others }))
    });
}

/// `rate` and `increase` of what rises: the windows are found as they are evaluated. Gives how many samples they hold together; `None`, and nothing is done, for any
/// other function, and where times are not ordinary.
pub(crate) fn extrapolate_risen(slide: &FloatSlide<'_>, steps: &mut StepsMut<'_>) -> Option<usize> {
    let windows = slide.windows;
    let seconds = match windows.function {
        RangeFunction::Rate if slide.rises => Some(windows.range_seconds()),
        RangeFunction::Increase if slide.rises => None,
        _ => return None,
    };
    let (mut walk, mut line, mut looked_at) = (windows.walk(slide.times_ms)?, Line::new(seconds, true), 0);
    steps.fill(|_| {
        let (end_ms, lo, hi) = walk.step();
        looked_at += hi - lo;
        line.without_resets(slide, end_ms, lo, hi)
    });
    Some(looked_at)
}

/// Draws the line through a window's samples to the window's ends.
struct Line {
    /// Of the range, for `rate`.
    seconds: Option<f64>,
    is_counter: bool,
    /// Windows of regular scrapes lie alike but for a late one at either end: the last extents that had their place here, and their factors.
    known: [(Extent, f64); KNOWN_EXTENTS],
}

/// A power of two.
const KNOWN_EXTENTS: usize = 16;

impl Line {
    fn new(seconds: Option<f64>, is_counter: bool) -> Self {
        // No window has no other sample: this is like none.
        let nothing = Extent { first_ms: 0, last_ms: 0, start_ms: 0, end_ms: 0, others: 0 };
        Self { seconds, is_counter, known: [(nothing, f64::NAN); KNOWN_EXTENTS] }
    }

    /// The same of the window that ends then and holds the samples `lo..hi`, between which nothing was reset.
    #[inline(always)]
    fn without_resets(&mut self, slide: &FloatSlide<'_>, end_ms: i64, lo: usize, hi: usize) -> Option<f64> {
        let others = hi.checked_sub(lo + 1).filter(|others| *others > 0)?;
        let (first, last) = (slide.values.get(lo)?, slide.values.get(hi - 1)?);
        let (first_ms, last_ms) = (*slide.times_ms.get(lo)?, *slide.times_ms.get(hi - 1)?);
        let start_ms = end_ms - slide.windows.range_ms;
        Some(self.extrapolate(*first, last - first, Extent { first_ms, last_ms, start_ms, end_ms, others }))
    }

    /// The whole window's part of `result`, the increase from the sample with the value `first` to the last one.
    #[inline(always)]
    fn extrapolate(&mut self, first: f64, result: f64, extent: Extent) -> f64 {
        let place = extent.place() % KNOWN_EXTENTS;
        let usual = match &self.known[place] {
            (like, factor) if like.has_shape_of(&extent) => *factor,
            _ => self.learn(place, extent),
        };
        // A counter that had counted more than it grew by did not begin within half a gap.
        if self.is_counter && result > 0.0 && first >= 0.0 && (first < result || extent.others < 2) {
            return result * self.per_second(extent.extrapolation_factor(Some(first / result)));
        }
        result * usual
    }

    #[cold]
    #[inline(never)]
    fn learn(&mut self, place: usize, extent: Extent) -> f64 {
        let factor = self.per_second(extent.extrapolation_factor(None));
        self.known[place] = (extent, factor);
        factor
    }

    fn per_second(&self, factor: f64) -> f64 {
        self.seconds.map_or(factor, |seconds| factor / seconds)
    }
}

/// Whether no value is less than the one before, and none is NaN: what nearly every counter does between two restarts.
pub(crate) fn rises(values: &[f64]) -> bool {
    /// Within so many there is no branch, so that several are looked at together.
    const BLOCK: usize = 64;
    let later = values.get(1..).unwrap_or_default();
    let mut blocks = values.chunks(BLOCK).zip(later.chunks(BLOCK));
    values.first().is_none_or(|first| !first.is_nan())
        && blocks.all(|(earlier, later)| {
            earlier.iter().zip(later).fold(true, |all, (earlier, later)| all & (earlier <= later))
        })
}

/// Where a counter fell, and from which value.
fn resets_of(values: &[f64]) -> Vec<(usize, f64)> {
    if rises(values) {
        return Vec::new();
    }
    let pairs = values.windows(2).enumerate();
    pairs.filter_map(|(at, pair)| (pair[1] < pair[0]).then_some((at + 1, pair[0]))).collect()
}

/// Where the samples of a window lie within it.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub first_ms: i64,
    pub last_ms: i64,
    pub start_ms: i64,
    pub end_ms: i64,
    /// How many samples there are besides one.
    pub others: usize,
}

impl Extent {
    /// Whether the samples lie in the other window as they do in this one.
    fn has_shape_of(&self, other: &Self) -> bool {
        self.others == other.others
            && self.first_ms.wrapping_sub(self.start_ms) == other.first_ms.wrapping_sub(other.start_ms)
            && self.end_ms.wrapping_sub(self.last_ms) == other.end_ms.wrapping_sub(other.last_ms)
            && self.last_ms.wrapping_sub(self.first_ms) == other.last_ms.wrapping_sub(other.first_ms)
    }

    /// A number that tells extents apart of which one end or the other is a few milliseconds late.
    fn place(&self) -> usize {
        let (to_start_ms, to_end_ms) =
            (self.first_ms.wrapping_sub(self.start_ms), self.end_ms.wrapping_sub(self.last_ms));
        to_start_ms.wrapping_add(to_end_ms.wrapping_mul(4)) as usize
    }

    /// By how much an increase between the first and the last sample is stretched to the whole window.
    ///
    /// The gap at either end counts in full if it is hardly longer than the usual gap between samples, and
    /// else as half a usual gap. A counter cannot have been below zero: `first_per_increase` (its first value
    /// per increase) limits how far back the line may be drawn. Source: Prometheus `extrapolatedRate`.
    pub fn extrapolation_factor(&self, first_per_increase: Option<f64>) -> f64 {
        let sampled = (self.last_ms - self.first_ms) as f64 / 1000.0;
        let usual_gap = sampled / self.others as f64;
        let threshold = usual_gap * 1.1;
        let mut to_start = (self.first_ms - self.start_ms) as f64 / 1000.0;
        let mut to_end = (self.end_ms - self.last_ms) as f64 / 1000.0;
        if to_start >= threshold {
            to_start = usual_gap / 2.0;
        }
        if let Some(ratio) = first_per_increase {
            let to_zero = sampled * ratio;
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
        if to_end >= threshold {
            to_end = usual_gap / 2.0;
        }
        (sampled + to_start + to_end) / sampled
    }
}

fn instant_value(window: &Window<'_>, is_rate: bool) -> Option<f64> {
    let [.., before, last] = window.values else { return None };
    let [.., before_ms, last_ms] = window.times_ms else { return None };
    if last_ms == before_ms {
        return None;
    }
    // A counter that fell began anew at zero.
    let change = if is_rate && last < before { *last } else { last - before };
    Some(if is_rate { change / ((last_ms - before_ms) as f64 / 1000.0) } else { change })
}

pub(super) fn sum(values: &[f64]) -> f64 {
    let (sum, compensation) = compensated_sum(values);
    if sum.is_infinite() { sum } else { sum + compensation }
}

pub(super) fn mean(values: &[f64]) -> f64 {
    let (sum, compensation) = compensated_sum(values);
    if sum.is_finite() {
        let count = values.len() as f64;
        return sum / count + compensation / count;
    }
    // The sum overflowed, or something in it is not finite: go the careful way.
    let mut mean = KahanMean::default();
    values.iter().for_each(|value| mean.add(*value));
    mean.value()
}

/// Neumaier's summation without a look at infinities: once there is one, the compensation means nothing.
fn compensated_sum(values: &[f64]) -> (f64, f64) {
    let (mut sum, mut compensation) = (0.0f64, 0.0);
    for value in values {
        let total = sum + value;
        let (large, small) = if sum.abs() >= value.abs() { (sum, *value) } else { (*value, sum) };
        compensation += (large - total) + small;
        sum = total;
    }
    (sum, compensation)
}

/// The population variance.
pub(super) fn variance(values: &[f64]) -> f64 {
    let zero = KahanSum::default();
    let (mut mean, mut squares, mut count) = (zero, zero, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - (mean.sum + mean.compensation);
        mean.add(delta / count);
        squares.add(delta * (value - (mean.sum + mean.compensation)));
    }
    (squares.sum + squares.compensation) / count
}

/// The median distance from the median.
pub(super) fn median_deviation(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    let median = quantile(0.5, &mut sorted);
    let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
    quantile(0.5, &mut deviations)
}

/// Seconds of the last sample that no other one beats; NaN loses to anything.
pub(super) fn time_of_extremum(
    times_ms: &[i64],
    values: &[f64],
    beats: impl Fn(f64, f64) -> bool,
) -> Option<f64> {
    let (mut kept, mut kept_ms) = (*values.first()?, *times_ms.first()?);
    for (time, value) in times_ms.iter().zip(values) {
        if beats(*value, kept) || kept.is_nan() {
            (kept, kept_ms) = (*value, *time);
        }
    }
    Some(kept_ms as f64 / 1000.0)
}

/// The least or greatest value of each window; NaN only if there is nothing else. A queue holds the positions
/// that can still become the extremum, best first, so that each sample is handled once.
fn extremum(
    slide: &FloatSlide<'_>,
    bounds: &[(usize, usize)],
    steps: &mut StepsMut<'_>,
    beats: impl Fn(f64, f64) -> bool,
) {
    let values = slide.values;
    let value_at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    let mut candidates: VecDeque<usize> = VecDeque::new();
    let mut taken = 0;
    each(slide, bounds, steps, |window| {
        for at in taken.max(window.lo)..window.hi {
            let value = value_at(at);
            if value.is_nan() {
                continue;
            }
            while candidates.back().is_some_and(|kept| beats(value, value_at(*kept))) {
                candidates.pop_back();
            }
            candidates.push_back(at);
        }
        taken = taken.max(window.hi);
        while candidates.front().is_some_and(|at| *at < window.lo) {
            candidates.pop_front();
        }
        Some(candidates.front().map_or(f64::NAN, |at| value_at(*at)))
    });
}

/// How many neighbours within the window `differ`.
fn count_between(
    slide: &FloatSlide<'_>,
    bounds: &[(usize, usize)],
    steps: &mut StepsMut<'_>,
    differ: impl Fn(f64, f64) -> bool,
) {
    // counts[i]: how often it happened among the first i + 1 samples.
    let mut count = 0u64;
    let mut counts = vec![0u64; slide.values.len()];
    for (pair, slot) in slide.values.windows(2).zip(counts.iter_mut().skip(1)) {
        count += u64::from(differ(pair[0], pair[1]));
        *slot = count;
    }
    let at = |index: usize| counts.get(index).copied().unwrap_or_default();
    each(slide, bounds, steps, |w| Some((at(w.hi.saturating_sub(1)) - at(w.lo)) as f64));
}

fn quantiles(
    slide: &SlideContext<'_, '_>,
    floats: &FloatSlide<'_>,
    bounds: &[(usize, usize)],
    steps: &mut StepsMut<'_>,
) {
    let mut sorted = Vec::new();
    each(floats, bounds, steps, |window| {
        let q = slide.scalar(0, window.step);
        note_invalid_quantile(slide, q);
        sorted.clear();
        sorted.extend_from_slice(window.values);
        Some(quantile(q, &mut sorted))
    });
}

pub(super) fn note_invalid_quantile(slide: &SlideContext<'_, '_>, q: f64) {
    if !(0.0..=1.0).contains(&q) {
        slide.context.annotate(|notes| notes.invalid_quantile(q, slide.position));
    }
}

pub(super) fn deriv(times_ms: &[i64], values: &[f64]) -> Option<f64> {
    let first_ms = *times_ms.first()?;
    (values.len() > 1).then(|| linear_regression(times_ms, values, first_ms).0)
}

pub(super) fn predict_linear(times_ms: &[i64], values: &[f64], at_ms: i64, ahead: f64) -> Option<f64> {
    (values.len() > 1).then(|| {
        let (slope, intercept) = linear_regression(times_ms, values, at_ms);
        slope * ahead + intercept
    })
}

/// The factors of `double_exponential_smoothing` at a step.
///
/// # Errors
/// If one of them is not between 0 and 1.
pub(super) fn smoothing_factors(slide: &SlideContext<'_, '_>, step: usize) -> Result<(f64, f64), QueryError> {
    let (smoothing, trend) = (slide.scalar(0, step), slide.scalar(1, step));
    for (factor, what, letters) in [(smoothing, "smoothing", "sf"), (trend, "trend", "tf")] {
        if factor <= 0.0 || factor >= 1.0 {
            return Err(QueryError::Execution(format!(
                "invalid {what} factor. Expected: 0 < {letters} < 1, got: {}",
                go_fixed(factor)
            )));
        }
    }
    Ok((smoothing, trend))
}

fn smoothing(
    slide: &SlideContext<'_, '_>,
    floats: &FloatSlide<'_>,
    bounds: &[(usize, usize)],
    steps: &mut StepsMut<'_>,
) -> Result<(), QueryError> {
    for (step, (lo, hi)) in bounds.iter().copied().enumerate() {
        let Some(window) = floats.values.get(lo..hi).filter(|window| !window.is_empty()) else { continue };
        floats.meter.spend(window.len())?;
        let (smoothing, trend) = smoothing_factors(slide, step)?;
        if let Some(value) = double_exponential_smoothing(window, smoothing, trend) {
            steps.set_float(step, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_rise_if_none_falls_and_none_is_nan() {
        let of = |len: usize| (0..len).map(|at| (at / 3) as f64).collect::<Vec<f64>>();
        for len in [0, 1, 2, 63, 64, 65, 128, 129, 300] {
            assert!(rises(&of(len)), "{len}");
            for at in 0..len {
                let mut falls = of(len);
                falls[at] = f64::NAN;
                assert!(!rises(&falls), "NaN at {at} of {len}");
                falls[at] = -1.0;
                assert_eq!(rises(&falls), at == 0, "it falls at {at} of {len}");
            }
        }
        assert!(rises(&[0.0, -0.0, 0.0, f64::INFINITY, f64::INFINITY]));
    }
}
