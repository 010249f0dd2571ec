//! A replica, how far it has been walked, and what the distances of its next samples tell of its scrape interval.
//!
//! Nothing here looks back: a replica that is decoded from where it is wanted tells the same as one that is all there.

use std::sync::Arc;

use parallax_model::FloatHistogram;

use super::track::{Track, Value};

/// Distances that are looked at to learn an interval.
const DISTANCES: usize = 8;
/// Fewer than this many count only while nothing better is known.
const ENOUGH_DISTANCES: usize = 3;
/// How far back a sample is sought that is a float and no marker.
const MAX_LOOK_BACK: usize = 4;

pub(super) struct Side<T> {
    pub track: T,
    /// The first sample that is neither given out nor passed over.
    pub next: usize,
    /// The interval as of the last look, in milliseconds.
    pub learned: Option<Learned>,
    /// Samples known to be markers, from the first to before the second.
    markers: (usize, usize),
}

/// An interval as the next samples have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learned {
    pub interval_ms: i64,
    pub is_certain: bool,
    /// Whether samples come at the interval, or at multiples of it where some are missing; otherwise they come as they please.
    pub is_regular: bool,
}

impl<T: Track> Side<T> {
    pub(super) fn new(track: T) -> Self {
        Self { track, next: 0, learned: None, markers: (0, 0) }
    }

    pub(super) fn time_ms(&self, at: usize) -> Option<i64> {
        self.track.times_ms().get(at).copied()
    }

    /// Of the next sample.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.time_ms(self.next)
    }

    /// Goes to the first sample at or after `from_ms`.
    pub(super) fn seek(&mut self, from_ms: i64) -> Result<(), T::Error> {
        self.next = self.first_from(self.next, from_ms, from_ms)?;
        Ok(())
    }

    /// The first position from `at` on whose time is at or after `soonest_ms`; one past the last if there is none. Nothing from `from_ms` on is left undecoded before it.
    fn first_from(&mut self, mut at: usize, soonest_ms: i64, from_ms: i64) -> Result<usize, T::Error> {
        loop {
            let rest = self.track.times_ms().get(at..).unwrap_or_default();
            at += rest.partition_point(|time_ms| *time_ms < soonest_ms);
            if at < self.track.times_ms().len() || !self.track.decode_more(from_ms)? {
                return Ok(at);
            }
        }
    }

    /// Whether there is a sample at `at`, which is decoded then.
    pub(super) fn has(&mut self, at: usize, from_ms: i64) -> Result<bool, T::Error> {
        while at >= self.track.times_ms().len() {
            if !self.track.decode_more(from_ms)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first sample at or after `soonest_ms` that is no marker.
    pub(super) fn first_real(&mut self, soonest_ms: i64, from_ms: i64) -> Result<Option<usize>, T::Error> {
        let at = self.first_from(self.next, soonest_ms, from_ms)?;
        self.real_from(at, from_ms)
    }

    /// The first position from `at` on that is no marker.
    pub(super) fn real_from(&mut self, at: usize, from_ms: i64) -> Result<Option<usize>, T::Error> {
        let (known_from, known_to) = self.markers;
        let mut real = at;
        loop {
            // What was once seen to be markers is not walked again.
            if (known_from..known_to).contains(&real) {
                real = known_to;
            }
            if !self.has(real, from_ms)? {
                break;
            }
            if !self.track.is_marker(real) {
                break;
            }
            real += 1;
        }
        if real > at {
            self.markers = (at, real);
        }
        Ok((real < self.track.times_ms().len()).then_some(real))
    }

    /// The first marker from the next sample on, which is at or after `from_ms`, before `before_ms`.
    pub(super) fn first_marker(
        &mut self,
        from_ms: i64,
        before_ms: Option<i64>,
    ) -> Result<Option<usize>, T::Error> {
        let mut at = self.next;
        while self.has(at, from_ms)? {
            if self.time_ms(at).zip(before_ms).is_some_and(|(time_ms, before_ms)| time_ms >= before_ms) {
                break;
            }
            if self.track.is_marker(at) {
                return Ok(Some(at));
            }
            at += 1;
        }
        Ok(None)
    }

    /// Whether there is a sample after `time_ms`.
    pub(super) fn has_after(&mut self, time_ms: i64, from_ms: i64) -> Result<bool, T::Error> {
        let Some(soonest_ms) = time_ms.checked_add(1) else { return Ok(false) };
        let at = self.first_from(self.next, soonest_ms, from_ms)?;
        Ok(at < self.track.times_ms().len())
    }

    /// Whether the last sample is a marker, or there is none from the next one on.
    pub(super) fn ends_with_marker(&mut self, from_ms: i64) -> Result<bool, T::Error> {
        while self.track.decode_more(from_ms)? {}
        let samples = self.track.times_ms().len();
        Ok(self.next >= samples || self.track.is_marker(samples.saturating_sub(1)))
    }

    /// The interval at which the next samples come, from `from_ms` on.
    ///
    /// Missed scrapes make distances longer, and many do, so it is a short one of the next eight: the third of all. Two that are too short (a late scrape is
    /// followed by one, a restart has one) and five that are too long do not count.
    pub(super) fn learn(&mut self, from_ms: i64) -> Result<Option<Learned>, T::Error> {
        self.has(self.next.saturating_add(DISTANCES), from_ms)?;
        let times_ms = self.track.times_ms().get(self.next..).unwrap_or_default();
        let mut distances_ms = [i64::MAX; DISTANCES];
        let mut count = 0;
        for (slot, pair) in distances_ms.iter_mut().zip(times_ms.windows(2)) {
            if let [earlier_ms, later_ms] = pair {
                *slot = later_ms.saturating_sub(*earlier_ms);
                count += 1;
            }
        }
        let of_all = distances_ms.get_mut(..count).unwrap_or_default();
        of_all.sort_unstable();
        self.learned = of_all.get(count.saturating_sub(1) / 3).map(|third_ms| {
            let interval_ms = (*third_ms).max(1);
            let on_grid = of_all.iter().filter(|distance_ms| is_multiple(**distance_ms, interval_ms)).count();
            let is_certain = count >= ENOUGH_DISTANCES;
            Learned { interval_ms, is_certain, is_regular: is_certain && on_grid * 4 >= count * 3 }
        });
        Ok(self.learned)
    }

    /// The last sample before position `before` and not after `until_ms` that is a number, and its time.
    pub(super) fn number_until(&self, before: usize, until_ms: i64) -> Option<(usize, i64, f64)> {
        let times_ms = self.track.times_ms().get(..before)?;
        let end = times_ms.partition_point(|time_ms| *time_ms <= until_ms);
        let mut nearest = (end.saturating_sub(MAX_LOOK_BACK)..end).rev();
        let (at, value) = nearest.find_map(|at| Some((at, self.number(at)?)))?;
        Some((at, *times_ms.get(at)?, value))
    }

    /// By how much the counter rises from the sample to the next one, which is decoded.
    pub(super) fn rise_after(&self, at: usize) -> f64 {
        match (self.number(at), self.number(at + 1)) {
            (Some(value), Some(later)) if later > value => later - value,
            _ => 0.0,
        }
    }

    /// The last histogram before position `before` and not after `until_ms` that is no marker.
    pub(super) fn histogram_until(&self, before: usize, until_ms: i64) -> Option<&Arc<FloatHistogram>> {
        let end = self.track.times_ms().get(..before)?.partition_point(|time_ms| *time_ms <= until_ms);
        let mut nearest = (end.saturating_sub(MAX_LOOK_BACK)..end).rev();
        nearest.find_map(|at| match self.track.value(at)? {
            Value::Histogram(histogram) if !histogram.is_stale() => Some(histogram),
            Value::Float(_) | Value::Histogram(_) => None,
        })
    }

    /// The sample's value, if it is a float and not NaN.
    pub(super) fn number(&self, at: usize) -> Option<f64> {
        match self.track.value(at)? {
            Value::Float(value) if !value.is_nan() => Some(value),
            Value::Float(_) | Value::Histogram(_) => None,
        }
    }
}

/// Whether `distance_ms` is one interval or some, but for a quarter of one.
fn is_multiple(distance_ms: i64, interval_ms: i64) -> bool {
    let rest_ms = distance_ms % interval_ms;
    rest_ms.min(interval_ms - rest_ms) <= interval_ms / 4 && distance_ms > interval_ms / 2
}
