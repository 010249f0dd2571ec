//! What a change of replica does to a counter: nothing, if it can be helped.
//!
//! Replicas scrape one target, so what one of them has goes on where the other's ended, and resets stay in the data as whoever scraped them saw them. Only what
//! cannot be true of one counter is mended: it does not fall because the other replica's clock, or its scrape, is late; and where the two are not of one level (the
//! compactor has taken out resets that one of them missed) it goes on from where it was, at the pace that its new replica saw.

use std::ops::Range;
use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram};

use super::side::Side;
use super::track::{Track, Value};
use crate::Samples;

/// How the replica in use is lifted.
#[derive(Debug)]
pub(super) struct Rising {
    /// Added to its values until it is reset.
    shift: f64,
    /// What was reached before: nothing less is given until it is reset.
    floor: f64,
    /// A sample whose fall, if it is one, was looked at already.
    judged: Option<usize>,
}

impl Default for Rising {
    fn default() -> Self {
        Self { shift: 0.0, floor: f64::NEG_INFINITY, judged: None }
    }
}

/// A sample of a counter, with its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub time_ms: i64,
    pub value: f64,
    /// By how much it had risen since the sample before it; 0 if it had not, or there is none.
    pub rise: f64,
}

impl Point {
    /// The last number of `side` before position `before` and not after `until_ms`.
    pub(super) fn until<T: Track>(side: &Side<T>, before: usize, until_ms: i64) -> Option<Self> {
        let (at, time_ms, value) = side.number_until(before, until_ms)?;
        let rise = match side.number_until(at, until_ms) {
            Some((_, _, earlier)) if value > earlier => value - earlier,
            _ => 0.0,
        };
        Some(Self { time_ms, value, rise })
    }
}

/// A counter goes on with another replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// What was given last, as its replica has it.
    pub last: Point,
    /// What the new replica had then.
    pub before: Option<Point>,
    /// What it has now; its rise is the one that follows.
    pub next: Point,
    /// The position of that.
    pub at: usize,
    /// A replica that has been silent for longer was not there in between.
    pub silence_ms: i64,
    /// Whether resets are in the data.
    pub has_resets: bool,
}

impl Change {
    /// The shift with which `next` follows on `level`, and the level: of what its replica rose since `before`, the share of the time after `last`.
    fn realigned(&self, level: f64) -> (f64, f64) {
        let Self { last, before, next, .. } = self;
        let rise = before.map_or(0.0, |before| {
            let whole_ms = next.time_ms.saturating_sub(before.time_ms).max(1) as f64;
            let share = next.time_ms.saturating_sub(last.time_ms) as f64 / whole_ms;
            (next.value - before.value).max(0.0) * share.clamp(0.0, 1.0)
        });
        (level + rise - next.value, level)
    }

    /// Whether there may have been a reset that the new replica was not there to see.
    fn may_hide_reset(&self) -> bool {
        let silent_ms = |before: Point| self.next.time_ms.saturating_sub(before.time_ms);
        self.has_resets && self.before.is_none_or(|before| silent_ms(before) > self.silence_ms)
    }
}

impl Rising {
    /// Forgets all: what comes stands for itself.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    fn is_plain(&self) -> bool {
        self.shift == 0.0 && self.floor == f64::NEG_INFINITY
    }

    fn lift(&self, value: f64) -> f64 {
        (value + self.shift).max(self.floor)
    }

    /// Settles how the new replica is lifted.
    pub(super) fn switch(&mut self, change: Change) {
        let Change { last, before, next, .. } = change;
        let level = self.lift(last.value);
        self.judged = Some(change.at);
        // How far the two may be apart, whose clocks and scrapes differ by less than an interval.
        let slack = last.rise.max(next.rise).max(before.map_or(0.0, |before| before.rise));
        let reset = before.filter(|before| next.value < before.value);
        let as_it_is = (0.0, f64::NEG_INFINITY);
        (self.shift, self.floor) = if next.value >= level {
            let is_likely = reset.is_some() || before.is_none_or(|before| before.value - level <= slack);
            if is_likely { as_it_is } else { change.realigned(level) }
        } else if reset.is_some_and(|before| last.value >= before.value - slack) {
            // The new replica saw a reset, and the other one had not yet.
            as_it_is
        } else if level - next.value <= slack {
            (0.0, level)
        } else if change.may_hide_reset() && self.shift == 0.0 && slack > 0.0 {
            as_it_is
        } else {
            change.realigned(level)
        };
        if !self.shift.is_finite() {
            self.restart();
        }
    }

    /// Appends the samples of `side` at `positions` to `output`.
    pub(super) fn give<T: Track>(
        &mut self,
        side: &Side<T>,
        mut positions: Range<usize>,
        output: &mut Samples,
    ) {
        while !self.is_plain() && !positions.is_empty() {
            let at = positions.start;
            positions.start += 1;
            let (Some(time_ms), Some(value)) = (side.time_ms(at), side.number(at)) else {
                side.track.copy(at..at + 1, output);
                continue;
            };
            let has_fallen = side.number_until(at, time_ms).is_some_and(|(_, _, earlier)| value < earlier);
            if self.judged.take() != Some(at) && has_fallen {
                self.restart();
            }
            let lifted = self.lift(value);
            output.floats.push(time_ms, lifted);
            if self.shift == 0.0 && value >= self.floor {
                self.restart();
            }
        }
        if !positions.is_empty() {
            side.track.copy(positions, output);
        }
    }
}

/// Whether `next`, of another replica, has less than `last` though the counter was not reset: what that replica had `before` tells.
pub(super) fn lags(
    last: Value<'_>,
    before: Option<&Arc<FloatHistogram>>,
    next: &Arc<FloatHistogram>,
) -> bool {
    let Value::Histogram(last) = last else { return false };
    if next.counter_reset_hint == CounterResetHint::Gauge || !has_fallen(last, next) {
        return false;
    }
    before.is_none_or(|before| !has_fallen(before, next) || has_fallen(before, last))
}

/// Whether counts are lower, whatever the hint says of a sample that is not the one before.
fn has_fallen(earlier: &FloatHistogram, later: &FloatHistogram) -> bool {
    if later.counter_reset_hint == CounterResetHint::Unknown {
        return later.detect_reset(earlier);
    }
    let later = FloatHistogram { counter_reset_hint: CounterResetHint::Unknown, ..later.clone() };
    later.detect_reset(earlier)
}
