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
        let mut begin = |start_ms: i64| lo.beyond(times_ms, start_ms.saturating_sub(before_ms));
        let mut end = |end_ms: i64| hi.beyond(times_ms, end_ms.saturating_add(after_ms));
        let mut bounds = Bounds::with_capacity(self.grid.steps);
        if let Some(ends) = self.ordinary() {
            let back = self.steps_back(before_ms, after_ms).unwrap_or(usize::MAX);
            for (step, end_ms) in ends.enumerate() {
                let hi = end(end_ms);
                let ended = step.checked_sub(back).and_then(|step| bounds.get(step));
                let lo = ended.map_or_else(|| begin(end_ms - self.range_ms), |(_, hi)| *hi);
                bounds.push((lo.min(hi), hi));
            }
        } else {
            for step in 0..self.grid.steps {
                let (start_ms, end_ms) = self.window_ms(step);
                let hi = end(end_ms);
                bounds.push((begin(start_ms).min(hi), hi));
            }
        }
        bounds
    }

    /// The windows over samples at `times_ms`, one after the other; `None` where there are no samples, or times are not [ordinary](Self::ordinary).
    pub fn walk<'a>(&self, times_ms: &'a [i64]) -> Option<Walk<'a>> {
        let end_ms = self.ordinary()?.next().filter(|_| !times_ms.is_empty())?;
        Some(Walk {
            times_ms,
            end_ms,
            stride_ms: if self.reference.at_ms.is_some() { 0 } else { self.grid.step_ms },
            range_ms: self.range_ms,
            back: self.steps_back(0, 0).unwrap_or(usize::MAX),
            lo: Pace::default(),
            hi: Pace::default(),
            ends: Vec::with_capacity(self.grid.steps),
        })
    }

    /// How many steps back the window ended that ended where one begins: nearly always a range is some steps long.
    fn steps_back(&self, before_ms: i64, after_ms: i64) -> Option<usize> {
        let length_ms = self.range_ms.checked_add(before_ms)?.checked_add(after_ms)?;
        let is_whole = self.reference.at_ms.is_none()
            && length_ms > 0
            && length_ms.checked_rem(self.grid.step_ms).is_some_and(|rest| rest == 0);
        usize::try_from(length_ms.checked_div(self.grid.step_ms).filter(|_| is_whole)?).ok()
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

/// The windows of one series, step by step, as [`Windows::bounds`] gives them.
pub(crate) struct Walk<'a> {
    times_ms: &'a [i64],
    /// Of the next window.
    end_ms: i64,
    stride_ms: i64,
    range_ms: i64,
    /// So many steps back a window ended where the next one begins.
    back: usize,
    lo: Pace,
    hi: Pace,
    ends: Vec<usize>,
}

impl Walk<'_> {
    /// When the next window ends, and its samples.
    #[inline]
    pub fn step(&mut self) -> (i64, usize, usize) {
        let end_ms = self.end_ms;
        // There may be no window after this one.
        self.end_ms = end_ms.wrapping_add(self.stride_ms);
        let hi = self.hi.beyond(self.times_ms, end_ms);
        let ended = self.ends.len().checked_sub(self.back).and_then(|step| self.ends.get(step));
        let lo = match ended {
            Some(ended) => *ended,
            None => self.lo.beyond(self.times_ms, end_ms - self.range_ms),
        };
        self.ends.push(hi);
        (end_ms, lo.min(hi), hi)
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
        let guess = self.at + self.stride;
        let around = guess.checked_sub(2).and_then(|from| times_ms.get(from..from + 4));
        if let Some([far_before, before, after, far_after]) = around
            && *far_before <= time_ms
            && time_ms < *far_after
        {
            // A scrape that was late moves the place by one and back: without a branch, which nothing could predict.
            self.at = guess - 1 + usize::from(*before <= time_ms) + usize::from(*after <= time_ms);
            return self.at;
        }
        self.walk(times_ms, time_ms)
    }

    fn walk(&mut self, times_ms: &[i64], time_ms: i64) -> usize {
        let rest = times_ms.get(self.at..).unwrap_or_default();
        self.stride = rest.iter().take_while(|at_ms| **at_ms <= time_ms).count();
        self.at += self.stride;
        self.at
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

    #[test]
    fn windows_hold_what_lies_in_them_whatever_their_length_and_step() {
        // Every 15 s, now and then late, with gaps, and times that repeat.
        let times_ms: Vec<i64> = (0..400i64)
            .filter(|scrape| !(40..55).contains(scrape) && scrape % 97 != 3)
            .map(|scrape| scrape * 15_000 + [0, 0, 0, 2, 0, 1][scrape as usize % 6] * (scrape % 5))
            .flat_map(|at_ms| std::iter::repeat_n(at_ms, if at_ms % 225_000 == 0 { 2 } else { 1 }))
            .collect();
        for (step_ms, range_ms) in
            [(60_000, 300_000), (60_000, 60_000), (15_000, 0), (7_000, 300_000), (900_000, 60_000)]
        {
            for (before_ms, after_ms) in [(0, 0), (300_000, 0), (300_000, 300_000), (1, 0)] {
                for (at_ms, offset_ms) in [(None, 0), (None, 123_456), (Some(3_000_000), 0)] {
                    let windows = Windows {
                        function: RangeFunction::Rate,
                        grid: Grid { start_ms: -700_000, step_ms, steps: 150 },
                        reference: Reference { at_ms, offset_ms },
                        range_ms,
                    };
                    let expected: Bounds = (0..150)
                        .map(|step| {
                            let (start_ms, end_ms) = windows.window_ms(step);
                            let beyond = |edge_ms: i64| times_ms.partition_point(|at_ms| *at_ms <= edge_ms);
                            (beyond(start_ms - before_ms), beyond(end_ms + after_ms))
                        })
                        .collect();
                    assert_eq!(windows.bounds(&times_ms, before_ms, after_ms), expected, "{windows:?}");
                    if (before_ms, after_ms) == (0, 0) {
                        let mut walk = windows.walk(&times_ms).unwrap();
                        let walked: Vec<_> = (0..150).map(|_| walk.step()).collect();
                        let ends = (0..150).map(|step| windows.window_ms(step).1);
                        let expected: Vec<_> =
                            ends.zip(expected).map(|(end_ms, (lo, hi))| (end_ms, lo, hi)).collect();
                        assert_eq!(walked, expected, "{windows:?}");
                    }
                }
            }
        }
    }
}
