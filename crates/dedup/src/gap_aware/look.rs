//! What comes next: the earliest sample that is neither too near nor, where there is any other, too late; or a marker, where the series did end.
//!
//! Replicas are looked at from the sample that was given last. Nothing is given out here, and no replica is followed.

use super::counter;
use super::track::{Track, Value};
use super::{Counters, GapAware, Pick, late_after, near_before};

/// Most histograms passed over at one switch because they lag behind.
const MAX_PASSED: usize = 2;

impl<T: Track> GapAware<T> {
    /// Looks at all replicas for what comes next.
    pub(super) fn look(&mut self) -> Result<Option<Pick>, T::Error> {
        let from_ms = match self.last.map(|last| last.time_ms.checked_add(1)) {
            None => i64::MIN,
            Some(Some(from_ms)) => from_ms,
            Some(None) => return Ok(None),
        };
        for side in &mut self.sides {
            side.seek(from_ms)?;
        }
        let before_ms = self.interval_ms;
        self.learn(from_ms)?;
        let Some(last) = self.last else { return self.earliest(from_ms, from_ms) };
        // Where the interval has just changed, nothing is too near that was not before.
        let near_ms = near_before(self.interval_ms.min(before_ms));
        let soonest_ms = from_ms.max(last.real_ms.saturating_add(near_ms));
        let in_time_ms = last.real_ms.saturating_add(late_after(self.interval_ms));
        if let Some(own) = self.own(last.side, soonest_ms, from_ms)?.filter(|own| own.time_ms <= in_time_ms) {
            return Ok(Some(own));
        }
        let best = self.earliest(soonest_ms, from_ms)?;
        if last.time_ms != last.real_ms {
            return Ok(best);
        }
        match best {
            Some(pick) if pick.time_ms <= in_time_ms => {
                let goes_on = self.sides.get(last.side).is_some_and(|side| side.next_ms().is_some());
                if goes_on { Ok(best) } else { self.if_later(in_time_ms, from_ms, pick) }
            }
            Some(pick) => Ok(self.first_marker(from_ms, Some(pick.time_ms))?.or(best)),
            None => {
                let marker = self.first_marker(from_ms, None)?;
                match marker {
                    Some(marker) if self.have_ended(from_ms)? => Ok(Some(marker)),
                    Some(marker) => self.if_later(in_time_ms, from_ms, marker),
                    None => Ok(None),
                }
            }
        }
    }

    /// `pick`, if any replica has something after `time_ms`: otherwise the data ends before it is known that a scrape was missed.
    fn if_later(&mut self, time_ms: i64, from_ms: i64, pick: Pick) -> Result<Option<Pick>, T::Error> {
        for side in &mut self.sides {
            if side.has_after(time_ms, from_ms)? {
                return Ok(Some(pick));
            }
        }
        Ok(None)
    }

    /// Whether all replicas that have anything from `from_ms` on end with a marker.
    fn have_ended(&mut self, from_ms: i64) -> Result<bool, T::Error> {
        for side in &mut self.sides {
            if !side.ends_with_marker(from_ms)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The earliest such sample of the replica in use.
    fn own(&mut self, index: usize, soonest_ms: i64, from_ms: i64) -> Result<Option<Pick>, T::Error> {
        let Some(side) = self.sides.get_mut(index) else { return Ok(None) };
        let Some(at) = side.first_real(soonest_ms, from_ms)? else { return Ok(None) };
        Ok(side.time_ms(at).map(|time_ms| Pick { time_ms, side: index, at, is_marker: false }))
    }

    /// The earliest sample at or after `soonest_ms` that is no marker.
    fn earliest(&mut self, soonest_ms: i64, from_ms: i64) -> Result<Option<Pick>, T::Error> {
        let used = self.last.map(|last| last.side);
        let mut passed: Vec<Pick> = Vec::new();
        loop {
            let mut best: Option<Pick> = None;
            for (index, side) in self.sides.iter_mut().enumerate() {
                let at = match passed.iter().rev().find(|pick| pick.side == index) {
                    None => side.first_real(soonest_ms, from_ms)?,
                    Some(pick) => side.real_from(pick.at + 1, from_ms)?,
                };
                let Some((at, time_ms)) = at.and_then(|at| Some((at, side.time_ms(at)?))) else { continue };
                let is_earlier = best.is_none_or(|best| {
                    time_ms < best.time_ms || (time_ms == best.time_ms && used == Some(index))
                });
                if is_earlier {
                    best = Some(Pick { time_ms, side: index, at, is_marker: false });
                }
            }
            match best {
                Some(pick) if passed.len() < MAX_PASSED && self.lags(pick) => passed.push(pick),
                best => return Ok(best),
            }
        }
    }

    /// Whether `pick` is a histogram that is behind the other replica's.
    fn lags(&self, pick: Pick) -> bool {
        let are_counters = self.counters != Counters::No;
        let Some(last) = self.last.filter(|last| are_counters && last.side != pick.side) else {
            return false;
        };
        let (Some(used), Some(side)) = (self.sides.get(last.side), self.sides.get(pick.side)) else {
            return false;
        };
        match (used.track.value(last.at), side.track.value(pick.at)) {
            (Some(last_value), Some(Value::Histogram(next))) => {
                counter::lags(last_value, side.histogram_until(pick.at, last.real_ms), next)
            }
            _ => false,
        }
    }

    /// The first marker of any replica, before `before_ms`.
    fn first_marker(&mut self, from_ms: i64, before_ms: Option<i64>) -> Result<Option<Pick>, T::Error> {
        let mut first: Option<Pick> = None;
        for (index, side) in self.sides.iter_mut().enumerate() {
            let before_ms = first.map(|first| first.time_ms).or(before_ms);
            let Some(at) = side.first_marker(from_ms, before_ms)? else { continue };
            let Some(time_ms) = side.time_ms(at) else { continue };
            first = Some(Pick { time_ms, side: index, at, is_marker: true });
        }
        Ok(first)
    }
}
