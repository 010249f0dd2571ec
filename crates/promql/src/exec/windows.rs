//! The windows of a range function: which samples each step of a query looks at.
//!
//! The window of a step holds the samples in `(t − range, t]`. Windows only move forward, so a series is walked once.

use super::row::Grid;
use super::selector::Reference;
use crate::functions::range_function::RangeFunction;

/// A function over a range, and the steps at which it is evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Windows {
    pub function: RangeFunction,
    pub grid: Grid,
    pub reference: Reference,
    pub range_ms: i64,
}

/// Where the windows of all steps begin and end in a column: `lo..hi`.
pub(crate) type Bounds = Vec<(usize, usize)>;

impl Windows {
    /// The window of `step`: samples after the first time up to and with the second.
    #[inline]
    pub fn window_ms(&self, step: usize) -> (i64, i64) {
        let end_ms = self.reference.time_ms(&self.grid, step);
        (end_ms.saturating_sub(self.range_ms), end_ms)
    }

    pub fn range_seconds(&self) -> f64 {
        self.range_ms as f64 / 1000.0
    }

    /// The windows over samples at `times_ms`, so much wider on either side.
    pub fn bounds(&self, times_ms: &[i64], before_ms: i64, after_ms: i64) -> Bounds {
        if times_ms.is_empty() {
            return Vec::new();
        }
        let (mut lo, mut hi) = (Pace::default(), Pace::default());
        let mut window = |start_ms: i64, end_ms: i64| {
            let end = hi.beyond(times_ms, end_ms.saturating_add(after_ms));
            (lo.beyond(times_ms, start_ms.saturating_sub(before_ms)).min(end), end)
        };
        match self.ordinary() {
            Some(ends) => ends.map(|end_ms| window(end_ms - self.range_ms, end_ms)).collect(),
            None => {
                let all = (0..self.grid.steps).map(|step| self.window_ms(step));
                all.map(|(start_ms, end_ms)| window(start_ms, end_ms)).collect()
            }
        }
    }

    /// Where the windows end, if all times are so ordinary that no sum or difference of two of them overflows.
    pub fn ordinary(&self) -> Option<impl Iterator<Item = i64>> {
        const ORDINARY_MS: i64 = 1 << 60;
        let last_step = self.grid.steps.checked_sub(1)?;
        let first_ms = self.reference.time_ms(&self.grid, 0);
        let last_ms = self.reference.time_ms(&self.grid, last_step);
        let is_ordinary = |time_ms: i64| (-ORDINARY_MS..ORDINARY_MS).contains(&time_ms);
        let stride_ms = if self.reference.at_ms.is_some() { 0 } else { self.grid.step_ms };
        (is_ordinary(first_ms) && is_ordinary(last_ms) && is_ordinary(self.range_ms))
            .then(|| (0..self.grid.steps as i64).map(move |step| first_ms + step * stride_ms))
    }
}

/// Walks a column step by step. Where samples and steps come regularly, it goes as far each time as it went the last time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    at: usize,
    stride: usize,
}

impl Pace {
    /// The first position whose time is after `time_ms`, which must not go back from call to call.
    #[inline]
    pub fn beyond(&mut self, times_ms: &[i64], time_ms: i64) -> usize {
        let is_passed = |at: usize| times_ms.get(at).is_some_and(|at_ms| *at_ms <= time_ms);
        let guess = self.at + self.stride;
        let mut at = self.at;
        if guess > at && is_passed(guess - 1) {
            at = guess;
        }
        while is_passed(at) {
            at += 1;
        }
        self.stride = at - self.at;
        self.at = at;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_finds_what_a_search_finds_however_irregular_the_samples_are() {
        let times_ms = [0, 15, 30, 45, 45, 61, 62, 63, 64, 300, 301, 1000];
        for stride in [1, 7, 15, 60, 400] {
            let mut pace = Pace::default();
            for time_ms in (-20..1100).step_by(stride) {
                let expected = times_ms.partition_point(|at_ms| *at_ms <= time_ms);
                assert_eq!(pace.beyond(&times_ms, time_ms), expected, "at {time_ms}, stride {stride}");
            }
        }
    }
}
