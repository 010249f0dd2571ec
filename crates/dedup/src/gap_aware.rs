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
//! What comes next is looked for in `gap_aware/look.rs`; the replica in use is followed in `gap_aware/following.rs`.
//!
//! Only the replica in use is read ahead, by a few samples; the others are decoded where they are looked at. `k` replicas cost as much as one where none misses a scrape, and `k` looks at each miss.

mod counter;
mod following;
mod given;
mod look;
mod side;
mod track;

use parallax_model::TimeRange;

use crate::Samples;
use crate::follow::FloatFeed;
use crate::penalty::INITIAL_PENALTY_MS;
use counter::{Change, Point};
use given::Given;
use side::Side;
use track::{FloatTrack, MixedTrack, Track};

/// Where there is nothing to learn an interval from: penalty waits half of it there.
const UNKNOWN_INTERVAL_MS: i64 = 2 * INITIAL_PENALTY_MS;
/// A replica is there if its next sample comes within so many of its intervals.
const PRESENT_INTERVALS: i64 = 4;

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
}

/// How long after a sample the next one is too near.
const fn near_before(interval_ms: i64) -> i64 {
    interval_ms.saturating_mul(2) / 5
}

/// How long after a sample the next one is missing.
const fn late_after(interval_ms: i64) -> i64 {
    interval_ms.saturating_mul(8) / 5
}
