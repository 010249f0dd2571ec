//! The penalty algorithm (`penalty`) over two replicas of floats: nearly every series that is deduplicated.
//!
//! The replica in use is followed for as long as the distance between its samples at most doubles. Then the other one cannot have a sample that comes
//! first *and* that it may give, wherever it stands: it is not looked at, and so not decoded either. How far it has to be sought is remembered
//! and made good when it is looked at next. The outcome is that of `penalty` sample by sample; `tests/model.rs` holds both to one model.

use std::convert::Infallible;
use std::ops::Range;

use parallax_model::{FloatColumn, TimeRange};
use parallax_tsdb::chunk::Steps;

use crate::Samples;
use crate::cursor::{CounterLift, Lift, NoLift, raise};
use crate::penalty::INITIAL_PENALTY_MS;
use crate::scratch::Scratch;

/// Floats in order of time, each time once, of which more may still be to be decoded.
pub(crate) trait FloatFeed {
    type Error;

    fn decoded(&self) -> &FloatColumn;

    /// The steps between the times of all that is decoded, if they are known.
    fn steps(&self) -> Option<Steps> {
        None
    }

    /// Decodes further; false if there is nothing further at or after `from_ms`. May add no sample; may leave out what is before `from_ms`.
    fn decode_more(&mut self, from_ms: i64) -> Result<bool, Self::Error>;

    /// About how many samples there will be.
    fn expected(&self) -> usize;

    /// What has been decoded.
    fn into_decoded(self) -> FloatColumn;

    /// Leaves the memory of what has been decoded to whoever needs some next.
    fn leave(self, _: &mut Scratch)
    where
        Self: Sized,
    {
    }
}

/// Floats that are all there.
impl FloatFeed for &FloatColumn {
    type Error = Infallible;

    fn decoded(&self) -> &FloatColumn {
        self
    }

    fn decode_more(&mut self, _from_ms: i64) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn expected(&self) -> usize {
        self.len()
    }

    fn into_decoded(self) -> FloatColumn {
        self.clone()
    }
}

/// Merges two replicas; the left one is preferred at equal timestamps.
///
/// # Errors
/// The feeds' own.
pub(crate) fn merge<F: FloatFeed>(
    left: F,
    right: F,
    raises_counters: bool,
    range: TimeRange,
    scratch: &mut Scratch,
) -> Result<Samples, F::Error> {
    if raises_counters {
        Follow::<F, CounterLift>::new(left, right).run(range, scratch)
    } else {
        Follow::<F, NoLift>::new(left, right).run(range, scratch)
    }
}

/// One replica, and the sample it stands on.
struct Side<F, L> {
    feed: F,
    at: usize,
    /// Where it has to go before it is looked at; `None` if it is there.
    sought_ms: Option<i64>,
    /// How long after the last sample given out it may give one.
    penalty_ms: i64,
    lift: L,
}

impl<F: FloatFeed, L: Lift> Side<F, L> {
    fn new(feed: F) -> Self {
        Self { feed, at: 0, sought_ms: None, penalty_ms: 0, lift: L::default() }
    }

    /// Remembers to go to the first sample at or after `time_ms`.
    fn seek(&mut self, time_ms: i64) {
        self.sought_ms = self.sought_ms.max(Some(time_ms));
    }

    /// The time of the current sample, `None` past the last one.
    fn time_ms(&mut self) -> Result<Option<i64>, F::Error> {
        loop {
            let times_ms = &self.feed.decoded().timestamps_ms;
            if let Some(sought_ms) = self.sought_ms {
                let rest = times_ms.get(self.at..).unwrap_or_default();
                self.at += rest.iter().take_while(|time_ms| **time_ms < sought_ms).count();
            }
            if let Some(time_ms) = times_ms.get(self.at) {
                self.sought_ms = None;
                return Ok(Some(*time_ms));
            }
            if !self.feed.decode_more(self.sought_ms.unwrap_or(i64::MIN))? {
                return Ok(None);
            }
        }
    }

    /// The current sample's value.
    fn value(&self) -> Option<f64> {
        self.feed.decoded().values.get(self.at).map(|value| self.lift.apply(*value))
    }

    fn raise_to(&mut self, last: f64) {
        if let Some(current) = self.value() {
            raise(&mut self.lift, current, last);
        }
    }
}

struct Follow<F, L> {
    left: Side<F, L>,
    right: Side<F, L>,
    uses_left: bool,
    /// Of the last sample given out.
    last_ms: Option<i64>,
}

impl<F: FloatFeed, L: Lift> Follow<F, L> {
    fn new(left: F, right: F) -> Self {
        Self { left: Side::new(left), right: Side::new(right), uses_left: true, last_ms: None }
    }

    fn run(mut self, range: TimeRange, scratch: &mut Scratch) -> Result<Samples, F::Error> {
        let mut output = Output::default();
        while let Some(time_ms) = self.advance()? {
            if time_ms > range.max_ms {
                break;
            }
            output.settle_unless(self.uses_left, &self);
            if time_ms >= range.min_ms {
                let side = self.used();
                output.take(side, self.uses_left, side.at..side.at + 1);
            }
            if !self.follow(range, &mut output)? {
                break;
            }
        }
        Ok(Samples { floats: output.finish(self, scratch), ..Samples::default() })
    }

    fn used(&self) -> &Side<F, L> {
        if self.uses_left { &self.left } else { &self.right }
    }

    /// The next sample's time: `penalty::Pair::advance`.
    fn advance(&mut self) -> Result<Option<i64>, F::Error> {
        let used_left = self.uses_left;
        // Before the first step this is the left side's first value: it counts if the right side starts earlier.
        let used = if used_left { &mut self.left } else { &mut self.right };
        let last_value = used.time_ms()?.and_then(|_| used.value());
        let time_ms = self.choose()?;
        if let Some(last) = last_value
            && used_left != self.uses_left
        {
            for side in [&mut self.left, &mut self.right] {
                if side.time_ms()?.is_some() {
                    side.raise_to(last);
                }
            }
        }
        Ok(time_ms)
    }

    /// Moves both sides on and takes the one whose sample comes first.
    fn choose(&mut self) -> Result<Option<i64>, F::Error> {
        if let Some(last_ms) = self.last_ms {
            let Some(next_ms) = last_ms.checked_add(1) else {
                self.uses_left = false;
                return Ok(None);
            };
            self.left.seek(next_ms.saturating_add(self.left.penalty_ms));
            self.right.seek(next_ms.saturating_add(self.right.penalty_ms));
        }
        let (left_ms, right_ms) = (self.left.time_ms()?, self.right.time_ms()?);
        let chosen_ms = match (left_ms, right_ms) {
            (None, None) => {
                self.uses_left = false;
                return Ok(None);
            }
            (None, Some(right_ms)) => {
                self.uses_left = false;
                self.right.penalty_ms = 0;
                right_ms
            }
            (Some(left_ms), None) => {
                self.uses_left = true;
                self.left.penalty_ms = 0;
                left_ms
            }
            (Some(left_ms), Some(right_ms)) => {
                self.uses_left = left_ms <= right_ms;
                let chosen_ms = left_ms.min(right_ms);
                let penalty_ms = match self.last_ms {
                    Some(last_ms) => chosen_ms.saturating_sub(last_ms).saturating_mul(2),
                    None => INITIAL_PENALTY_MS,
                };
                (self.left.penalty_ms, self.right.penalty_ms) =
                    if self.uses_left { (0, penalty_ms) } else { (penalty_ms, 0) };
                chosen_ms
            }
        };
        self.last_ms = Some(chosen_ms);
        Ok(self.last_ms)
    }

    /// Gives out the samples after the last one for which the other side need not be looked at; false if nothing in the range is left.
    fn follow(&mut self, range: TimeRange, output: &mut Output) -> Result<bool, F::Error> {
        let Some(last_ms) = self.last_ms else { return Ok(true) };
        let (used, other) = if self.uses_left {
            (&mut self.left, &mut self.right)
        } else {
            (&mut self.right, &mut self.left)
        };
        // At equal times the left side comes first.
        let mut run = Run {
            lead_ms: i64::from(!self.uses_left),
            last_ms,
            penalty_ms: other.penalty_ms,
            other_ms: i64::MIN,
        };
        let end = loop {
            let column = used.feed.decoded();
            let times_ms = column.timestamps_ms.get(used.at + 1..).unwrap_or_default();
            let (taken, end) = run.take(times_ms, range.max_ms, used.feed.steps());
            let times_ms = times_ms.get(..taken).unwrap_or_default();
            let is_inside = times_ms.first().is_none_or(|first_ms| *first_ms >= range.min_ms);
            let skipped =
                if is_inside { 0 } else { times_ms.partition_point(|time_ms| *time_ms < range.min_ms) };
            output.take(used, self.uses_left, used.at + 1 + skipped..used.at + 1 + taken);
            used.at += taken;
            if end != RunEnd::Samples || !used.feed.decode_more(run.last_ms)? {
                break end;
            }
        };
        other.penalty_ms = run.penalty_ms;
        other.seek(run.other_ms);
        self.last_ms = Some(run.last_ms);
        Ok(end != RunEnd::Range)
    }
}

/// So many samples may stand before a stretch that is not copied: replicas are followed once the first few samples have shown which.
const MOST_BEFORE: usize = 16;

/// What is given out. For as long as that is one stretch of one side's column, but for a few samples before it, it is not copied: most often it stays so to the end.
#[derive(Default)]
struct Output {
    /// What was copied.
    floats: FloatColumn,
    /// Where what comes after that lies, and whether on the left.
    stretch: Option<(bool, Range<usize>)>,
}

impl Output {
    /// Gives out the samples at `positions` of the side in use.
    fn take<F: FloatFeed, L: Lift>(&mut self, side: &Side<F, L>, is_left: bool, positions: Range<usize>) {
        if positions.is_empty() {
            return;
        }
        if side.lift.is_none() {
            match &mut self.stretch {
                Some((_, stretch)) if stretch.end == positions.start => {
                    stretch.end = positions.end;
                    return;
                }
                None if self.floats.len() <= MOST_BEFORE => {
                    self.stretch = Some((is_left, positions));
                    return;
                }
                _ => {}
            }
        }
        let column = side.feed.decoded();
        self.settle(column, side.feed.expected());
        self.floats
            .timestamps_ms
            .extend_from_slice(column.timestamps_ms.get(positions.clone()).unwrap_or_default());
        let values = column.values.get(positions).unwrap_or_default();
        self.floats.values.extend(values.iter().map(|value| side.lift.apply(*value)));
    }

    /// Copies the stretch, as it was before anything was lifted, unless it lies on that side.
    fn settle_unless<F: FloatFeed, L: Lift>(&mut self, is_left: bool, follow: &Follow<F, L>) {
        if self.stretch.as_ref().is_some_and(|(was_left, _)| *was_left != is_left) {
            let feed = if is_left { &follow.right.feed } else { &follow.left.feed };
            self.settle(feed.decoded(), feed.expected());
        }
    }

    fn settle(&mut self, column: &FloatColumn, expected: usize) {
        let Some((_, stretch)) = self.stretch.take() else { return };
        // A few samples are most often followed by a stretch of the other side.
        if self.floats.len() + stretch.len() > MOST_BEFORE {
            let room = expected.max(stretch.len());
            self.floats.timestamps_ms.reserve(room);
            self.floats.values.reserve(room);
        }
        self.floats
            .timestamps_ms
            .extend_from_slice(column.timestamps_ms.get(stretch.clone()).unwrap_or_default());
        self.floats.values.extend_from_slice(column.values.get(stretch).unwrap_or_default());
    }

    fn finish<F: FloatFeed, L: Lift>(self, follow: Follow<F, L>, scratch: &mut Scratch) -> FloatColumn {
        let Follow { left, right, .. } = follow;
        let Some((is_left, stretch)) = self.stretch else {
            left.feed.leave(scratch);
            right.feed.leave(scratch);
            return self.floats;
        };
        let (side, other) = if is_left { (left, right) } else { (right, left) };
        other.feed.leave(scratch);
        let mut floats = side.feed.into_decoded();
        floats.timestamps_ms.truncate(stretch.end);
        floats.values.truncate(stretch.end);
        let before = ..stretch.start.min(floats.len());
        drop(floats.timestamps_ms.splice(before, self.floats.timestamps_ms));
        drop(floats.values.splice(before, self.floats.values));
        floats
    }
}

/// Samples of one side, taken one after the other.
struct Run {
    /// How much earlier than the other side a sample has to be.
    lead_ms: i64,
    /// Of the last sample taken.
    last_ms: i64,
    /// The other side's.
    penalty_ms: i64,
    /// Where the other side has to be sought.
    other_ms: i64,
}

/// Why no more samples are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunEnd {
    /// No more are decoded.
    Samples,
    /// The other side has to be looked at.
    Gap,
    /// The next one is beyond the range.
    Range,
}

/// Times beyond this are nobody's: they take the way on which nothing can overflow.
const ORDINARY_MS: i64 = 1 << 60;

impl Run {
    /// How many of the next samples of the side in use are taken, and why not more.
    fn take(&mut self, times_ms: &[i64], max_ms: i64, steps: Option<Steps>) -> (usize, RunEnd) {
        let Some(newest_ms) = times_ms.last() else { return (0, RunEnd::Samples) };
        if self.last_ms < -ORDINARY_MS || *newest_ms > ORDINARY_MS || self.penalty_ms > ORDINARY_MS {
            return (0, RunEnd::Gap);
        }
        let inside = match *newest_ms <= max_ms {
            true => times_ms,
            false => {
                times_ms.get(..times_ms.partition_point(|time_ms| *time_ms <= max_ms)).unwrap_or_default()
            }
        };
        // From the third sample on all that is asked for is told by the steps between these.
        let is_even = steps.is_some_and(|steps| steps.are_even());
        let walked = if is_even { 2 } else { inside.len() };
        for (taken, time_ms) in inside.iter().take(walked).enumerate() {
            let other_ms = self.other_can();
            if time_ms + self.lead_ms > other_ms {
                return (taken, RunEnd::Gap);
            }
            self.other_ms = self.other_ms.max(other_ms);
            self.penalty_ms = 2 * (time_ms - self.last_ms);
            self.last_ms = *time_ms;
        }
        if inside.len() > walked {
            self.leap(inside);
        }
        let end = match times_ms.get(inside.len()) {
            None => RunEnd::Samples,
            Some(time_ms) if time_ms + self.lead_ms > self.other_can() => RunEnd::Gap,
            Some(_) => RunEnd::Range,
        };
        (inside.len(), end)
    }

    /// Takes all of three samples or more whose steps are even: each is less than twice as long as the one before, so that the other side never has a turn. And three
    /// of one are no less than two of another, so that the other side can the later the further this one has come.
    fn leap(&mut self, times_ms: &[i64]) {
        let [.., earlier_ms, before_ms, newest_ms] = times_ms else { return };
        self.other_ms = self.other_ms.max(before_ms + 1 + 2 * (before_ms - earlier_ms));
        self.penalty_ms = 2 * (newest_ms - before_ms);
        self.last_ms = *newest_ms;
    }

    /// Before this the other side gives nothing. Of ordinary times a penalty is at most 2^62: no sum here overflows.
    fn other_can(&self) -> i64 {
        self.last_ms + 1 + self.penalty_ms
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn samples_at_even_steps_are_taken_as_they_are_one_by_one(
            steps_ms in prop::collection::vec((9i64..16, prop::option::weighted(0.02, 1i64..100)), 0..40),
            lead_ms in 0i64..2,
            penalty_ms in 0i64..60,
            other_ms in prop::option::of(0i64..500),
            max_ms in 0i64..600,
        ) {
            let mut times_ms = vec![10];
            for (step_ms, odd_ms) in steps_ms {
                times_ms.push(times_ms.last().unwrap() + odd_ms.unwrap_or(step_ms));
            }
            let known = times_ms.windows(2).fold(Steps::NONE, |known, pair| known.and(pair[1] - pair[0]));
            let outcome = |steps: Option<Steps>| {
                let other_ms = other_ms.unwrap_or(i64::MIN);
                let mut run = Run { lead_ms, last_ms: times_ms[0], penalty_ms, other_ms };
                let (taken, end) = run.take(&times_ms[1..], max_ms, steps);
                (taken, end as u8, run.last_ms, run.penalty_ms, run.other_ms)
            };
            prop_assert_eq!(outcome(Some(known)), outcome(None));
        }
    }
}
