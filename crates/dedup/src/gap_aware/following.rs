//! Following the replica in use: its samples are given out for as long as they come at the interval, without a look at the others.

use super::track::Track;
use super::{GapAware, late_after, near_before};

/// Samples after which the pace of the replica in use is compared with the interval.
const PACE_SAMPLES: i64 = 16;
/// Its mean distance may differ by one part in this many.
const PACE_TOLERANCE: i64 = 8;

/// Why the replica in use is not followed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// No more is decoded.
    Samples,
    /// Its pace is not the interval.
    Pace,
    /// Its next sample is too near, too late, or a marker; or a better replica is back.
    Gap,
    /// Its next sample is beyond the range.
    Range,
}

impl<T: Track> GapAware<T> {
    /// Gives out the next samples of a replica while they come at the interval; false if the next one is beyond `max_ms`.
    pub(super) fn follow(&mut self, index: usize, max_ms: i64) -> Result<bool, T::Error> {
        let mut pace = Pace { since_ms: self.last.map_or(0, |last| last.real_ms), samples: 0 };
        loop {
            let stop = self.follow_decoded(index, max_ms, &mut pace);
            let (Some(side), Some(last)) = (self.sides.get_mut(index), self.last) else { return Ok(true) };
            let next_ms = last.real_ms.saturating_add(1);
            match stop {
                Stop::Range => return Ok(false),
                Stop::Gap => return Ok(true),
                Stop::Samples => {
                    if !side.track.decode_more(next_ms)? {
                        return Ok(true);
                    }
                }
                Stop::Pace => {
                    if let Some(learned) = side.learn(next_ms)?.filter(|learned| learned.is_certain) {
                        (self.interval_ms, self.is_regular) = (learned.interval_ms, learned.is_regular);
                    }
                }
            }
        }
    }

    fn follow_decoded(&mut self, index: usize, max_ms: i64, pace: &mut Pace) -> Stop {
        let (Some(side), Some(last)) = (self.sides.get_mut(index), &mut self.last) else { return Stop::Gap };
        let interval_ms = self.interval_ms;
        let near_ms = if self.is_regular { near_before(interval_ms) } else { 0 };
        let late_ms = late_after(interval_ms);
        let times_ms = side.track.times_ms().get(side.next..).unwrap_or_default();
        let (mut stop, mut taken) = (Stop::Samples, 0);
        for time_ms in times_ms {
            let distance_ms = time_ms.saturating_sub(last.real_ms);
            let is_expected = (near_ms..=late_ms).contains(&distance_ms) && *time_ms < self.revisit_ms;
            if !is_expected || side.track.is_marker(side.next + taken) {
                stop = Stop::Gap;
                break;
            }
            if *time_ms > max_ms {
                stop = Stop::Range;
                break;
            }
            taken += 1;
            last.real_ms = *time_ms;
            if pace.strays(*time_ms, interval_ms) {
                stop = Stop::Pace;
                break;
            }
        }
        if taken > 0 {
            side.next += taken;
            (last.time_ms, last.at) = (last.real_ms, side.next - 1);
            self.given.extend(taken);
        }
        stop
    }
}

/// The mean distance of the last few samples.
struct Pace {
    since_ms: i64,
    samples: i64,
}

impl Pace {
    /// Counts a sample; whether the mean is known and not the interval.
    fn strays(&mut self, time_ms: i64, interval_ms: i64) -> bool {
        self.samples += 1;
        if self.samples < PACE_SAMPLES {
            return false;
        }
        let mean_ms = time_ms.saturating_sub(self.since_ms) / PACE_SAMPLES;
        *self = Self { since_ms: time_ms, samples: 0 };
        mean_ms.saturating_sub(interval_ms).saturating_abs() > interval_ms / PACE_TOLERANCE
    }
}
