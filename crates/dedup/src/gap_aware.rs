//! The gap-aware algorithm: follow one replica for as long as it is scraped on its interval, and take the other one's sample as soon as a scrape is missed.
//!
//! Penalty knows no interval: it waits twice the last distance before it looks at the other replica, which leaves a hole at each switch, and after a switch it may give samples
//! that are as close together as the replicas' scrapes are. Here the **interval** is learned from the samples themselves (`gap_aware/side.rs`): of each replica from the next few
//! distances, and the shortest one of the replicas that are there counts. It is learned again where a replica is left, and where the pace of the one in use changes. Then, with
//! `last` the last sample given:
//!
//! - the replica in use goes on while its next sample lies within [⅖, 1⅗] intervals of `last`. If it comes as it pleases, and not in multiples of an interval, nothing is too near;
//! - otherwise, and at a staleness marker (to Prometheus, a scrape that failed), the earliest sample of **any** replica that is at least ⅖ of an interval after `last` is next, and its replica
//!   is followed. As long as one replica is scraped on its interval, that one comes within 1⅖ intervals, so there is no hole; and no two samples are so close that a small difference of clocks makes a
//!   high rate. (Half an interval and one and a half would do if scrapes were never late. The fifth more on either side is for those that are.);
//! - where none comes within 1⅗ intervals, the series did end there for a while if any replica says so: the first marker is given, once;
//! - where the data ends, nothing was missed yet: what another replica has by then is left until it is known whether the one in use goes on, and so is a marker that another one does not confirm.
//!
//! A replica that comes at longer intervals than another one that is there is thus left after each of its samples, and one that is away is looked at again when it is back if it is faster.
//!
//! Counters keep their resets, unlike with penalty: PromQL looks for them. What a change of replica must not do to a counter is in `gap_aware/counter.rs`; a histogram that
//! lags behind the other replica's is passed over. Every timestamp is one of a replica's, and so is every value that is not lifted there.
//!
//! Only the replica in use is read ahead, by a few samples; the others are decoded where they are looked at. `k` replicas cost as much as one where none misses a scrape, and `k` looks at each miss.

mod counter;
mod given;
mod side;
mod track;

use parallax_model::TimeRange;

use crate::Samples;
use crate::follow::FloatFeed;
use crate::penalty::INITIAL_PENALTY_MS;
use counter::{Change, Point};
use given::Given;
use side::Side;
use track::{FloatTrack, MixedTrack, Track, Value};

/// Where there is nothing to learn an interval from: penalty waits half of it there.
const UNKNOWN_INTERVAL_MS: i64 = 2 * INITIAL_PENALTY_MS;
/// A replica is there if its next sample comes within so many of its intervals.
const PRESENT_INTERVALS: i64 = 4;
/// Samples after which the pace of the replica in use is compared with the interval.
const PACE_SAMPLES: i64 = 16;
/// Its mean distance may differ by one part in this many.
const PACE_TOLERANCE: i64 = 8;
/// Most histograms passed over at one switch because they lag behind.
const MAX_PASSED: usize = 2;

/// What the values are to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counters {
    /// Anything: they stay as they are.
    No,
    /// Counters with their resets.
    WithResets,
    /// Counters whose resets were taken out of each replica.
    WithoutResets,
}

/// Merges replicas of floats; at equal timestamps the one in use is preferred, then the first.
///
/// # Errors
/// The feeds' own.
pub(crate) fn merge_floats<F: FloatFeed>(
    feeds: impl IntoIterator<Item = F>,
    counters: Counters,
    range: TimeRange,
) -> Result<Samples, F::Error> {
    GapAware::new(feeds.into_iter().map(FloatTrack), counters).run(range)
}

/// The same for samples that are all there, of both kinds.
pub(crate) fn merge(replicas: &[Samples], counters: Counters, range: TimeRange) -> Samples {
    let Ok(merged) = if replicas.iter().all(|replica| replica.histograms.is_empty()) {
        merge_floats(replicas.iter().map(|replica| &replica.floats), counters, range)
    } else {
        GapAware::new(replicas.iter().map(MixedTrack::new), counters).run(range)
    };
    merged
}

struct GapAware<T> {
    sides: Vec<Side<T>>,
    counters: Counters,
    interval_ms: i64,
    /// Whether it was learned from enough samples.
    is_certain: bool,
    /// Whether the replica in use may have samples that are too near.
    is_regular: bool,
    /// When a replica is back that has a shorter interval than those that are there.
    revisit_ms: i64,
    last: Option<Last>,
    given: Given,
}

/// What was given last.
#[derive(Clone, Copy)]
struct Last {
    /// Marker or not.
    time_ms: i64,
    /// Of the last sample that was no marker; the rest says which.
    real_ms: i64,
    side: usize,
    at: usize,
}

/// A sample that comes next.
#[derive(Clone, Copy)]
struct Pick {
    time_ms: i64,
    side: usize,
    at: usize,
    is_marker: bool,
}

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
    fn new(tracks: impl Iterator<Item = T>, counters: Counters) -> Self {
        Self {
            sides: tracks.map(Side::new).collect(),
            counters,
            interval_ms: UNKNOWN_INTERVAL_MS,
            is_certain: false,
            is_regular: false,
            revisit_ms: i64::MAX,
            last: None,
            given: Given::default(),
        }
    }

    fn run(mut self, range: TimeRange) -> Result<Samples, T::Error> {
        while let Some(pick) = self.look()? {
            if pick.time_ms > range.max_ms {
                break;
            }
            if let (true, Some(side)) = (self.counters != Counters::No, self.sides.get_mut(pick.side)) {
                // How it rises from there tells how far replicas may be apart.
                side.has(pick.at + 1, pick.time_ms)?;
            }
            self.take(pick);
            if !pick.is_marker && !self.follow(pick.side, range.max_ms)? {
                break;
            }
        }
        Ok(crate::cut(self.given.finish(self.sides, self.counters), range))
    }

    /// Looks at all replicas for what comes next.
    fn look(&mut self) -> Result<Option<Pick>, T::Error> {
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

    /// The shortest interval of the replicas that are there.
    fn learn(&mut self, from_ms: i64) -> Result<(), T::Error> {
        let first_ms = self.sides.iter().filter_map(Side::next_ms).min();
        let reference_ms = self.last.map(|last| last.real_ms).or(first_ms).unwrap_or(from_ms);
        let used = self.last.map(|last| last.side);
        let own_ms = used.and_then(|used| self.sides.get(used)?.next_ms()).unwrap_or(i64::MAX);
        let (mut certain, mut guessed): (Option<i64>, Option<i64>) = (None, None);
        let mut away = Vec::new();
        for (index, side) in self.sides.iter_mut().enumerate() {
            let Some(learned) = side.learn(from_ms)? else { continue };
            let Some(next_ms) = side.next_ms() else { continue };
            let away_ms = next_ms.saturating_sub(reference_ms);
            // One that is back before the one in use has its next sample is there, too.
            let is_present = away_ms <= learned.interval_ms.saturating_mul(PRESENT_INTERVALS)
                || (used.is_some_and(|used| used != index) && own_ms < i64::MAX && next_ms <= own_ms);
            let shortest = match (is_present, learned.is_certain) {
                (true, true) => &mut certain,
                (true, false) => &mut guessed,
                (false, is_certain) => {
                    if is_certain {
                        away.push((learned.interval_ms, next_ms));
                    }
                    continue;
                }
            };
            *shortest = Some(shortest.unwrap_or(i64::MAX).min(learned.interval_ms));
        }
        if let Some(interval_ms) = certain {
            (self.interval_ms, self.is_certain) = (interval_ms, true);
        } else if let (Some(interval_ms), false) = (guessed, self.is_certain) {
            self.interval_ms = interval_ms;
        }
        let faster = away.iter().filter(|(interval_ms, _)| late_after(*interval_ms) < self.interval_ms);
        self.revisit_ms = faster.map(|(_, next_ms)| *next_ms).min().unwrap_or(i64::MAX);
        Ok(())
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

    /// Gives `pick` out.
    fn take(&mut self, pick: Pick) {
        let is_switch = self.last.is_some_and(|last| last.side != pick.side);
        if is_switch || !self.given.goes_on(pick) {
            self.given.flush(&self.sides, self.counters);
            if self.counters != Counters::No && !pick.is_marker {
                self.switch(pick);
            }
            self.given.run = Some((pick.side, pick.at..pick.at + 1));
        }
        if let Some(side) = self.sides.get_mut(pick.side) {
            side.next = pick.at + 1;
            self.is_regular = side.learned.is_some_and(|learned| learned.is_regular);
        }
        match &mut self.last {
            Some(last) if pick.is_marker => last.time_ms = pick.time_ms,
            last => {
                let time_ms = pick.time_ms;
                *last = Some(Last { time_ms, real_ms: time_ms, side: pick.side, at: pick.at });
            }
        }
    }

    /// Sees to it that a counter goes on with another replica as it should.
    fn switch(&mut self, pick: Pick) {
        let Some(last) = self.last.filter(|last| last.side != pick.side) else { return };
        let (Some(used), Some(side)) = (self.sides.get(last.side), self.sides.get(pick.side)) else { return };
        let is_number = used.number(last.at).is_some();
        let from = Point::until(used, last.at + 1, last.real_ms).filter(|_| is_number);
        match (from, side.number(pick.at)) {
            (Some(from), Some(value)) => {
                self.given.rising.switch(Change {
                    last: from,
                    before: Point::until(side, pick.at, last.real_ms),
                    next: Point { time_ms: pick.time_ms, value, rise: side.rise_after(pick.at) },
                    at: pick.at,
                    silence_ms: late_after(self.interval_ms).saturating_mul(2),
                    has_resets: self.counters == Counters::WithResets,
                });
            }
            _ => self.given.rising.restart(),
        }
    }

    /// Gives out the next samples of a replica while they come at the interval; false if the next one is beyond `max_ms`.
    fn follow(&mut self, index: usize, max_ms: i64) -> Result<bool, T::Error> {
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

/// How long after a sample the next one is too near.
const fn near_before(interval_ms: i64) -> i64 {
    interval_ms.saturating_mul(2) / 5
}

/// How long after a sample the next one is missing.
const fn late_after(interval_ms: i64) -> i64 {
    interval_ms.saturating_mul(8) / 5
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
