//! Offline penalty deduplication: of replicas that scrape the same targets at other times, one is followed until it has a gap.
//!
//! The chunks of a cluster are folded, in the order of the heap, one after the other into what was picked so far. A step takes the earlier of the
//! next two samples, the left one of equals; the side that was not taken may not return for twice the distance of the last two samples picked (5 s
//! before there are two). Nothing is done about counter resets. Source of the algorithm: Thanos `pkg/dedup/{chunk_iter,iter}.go`, which folds lazily; the
//! outcome is the same, since a fold's outcome does not depend on who asks for it.

use std::ops::Range;

use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::sample_count;

use super::encoder::MAX_CHUNK_SAMPLES;
use super::picked::Picked;
use super::samples::{Noted, SampleId, Samples};

/// Before two samples are picked.
const INITIAL_PENALTY_MS: i64 = 5000;

/// What is best known of the next chunk. Another answer would be as right, and slower.
pub(super) fn noted(samples: &Samples, chunk: &BlockChunk, picked: &mut Picked) -> Noted {
    let time = |id: SampleId| samples.time_ms(id);
    let reach_at_begin = settle(picked, chunk.min_time_ms, time);
    let is_likely = if picked.ids.is_empty() {
        // It is followed and as long as the chunks that are written, or left for another one at once.
        sample_count(&chunk.chunk.data).is_ok_and(|count| count == MAX_CHUNK_SAMPLES)
    } else {
        // Others are followed from before it begins until after its end: it is left out, but for their gaps.
        let (before, last) = last_two(&picked.ids, picked.ids.len(), time);
        chunk.min_time_ms < reach_at_begin && chunk.max_time_ms < reach(before, last)
    };
    if is_likely { Noted::Times } else { Noted::Places }
}

/// Notes which samples no chunk that begins at `begin_ms` or later can change; gives from when on another side may return behind these.
fn settle(picked: &mut Picked, begin_ms: i64, time: impl Fn(SampleId) -> i64) -> i64 {
    let mut at = picked.settled;
    let (mut before, mut last) = last_two(&picked.ids, at, &time);
    while let Some(id) = picked.ids.get(at) {
        let now = time(*id);
        if now > begin_ms || reach(before, last) > begin_ms {
            break;
        }
        (before, last) = (last, Some(now));
        at += 1;
    }
    picked.settled = at;
    reach(before, last)
}

/// Folds the samples of the next chunk, by first time, into what was picked so far.
pub(super) fn add(samples: &Samples, chunk: &Range<SampleId>, picked: &mut Picked) {
    if chunk.is_empty() {
        return;
    }
    let time = |id: SampleId| samples.time_ms(id);
    settle(picked, time(chunk.start), time);
    let ids = &mut picked.ids;
    let (head, rest) = ids.split_at(picked.settled);
    picked.tail.clear();
    State::after(head, time).run(
        rest,
        Right { ids: chunk.clone(), times: samples.times_ms(chunk) },
        time,
        &mut picked.tail,
    );
    ids.truncate(picked.settled);
    ids.append(&mut picked.tail);
}

/// The times of the last two samples that were picked before the place `at`.
fn last_two(picked: &[SampleId], at: usize, time: impl Fn(SampleId) -> i64) -> (Option<i64>, Option<i64>) {
    match picked.get(..at) {
        Some([.., before, last]) => (Some(time(*before)), Some(time(*last))),
        Some([last]) => (None, Some(time(*last))),
        _ => (None, None),
    }
}

/// From when on the other side may return after the last sample was picked, and one before it.
#[inline]
fn reach(before: Option<i64>, last: Option<i64>) -> i64 {
    last.map_or(i64::MIN, |last| return_after(last, penalty(before, last)))
}

#[inline]
fn return_after(last: i64, penalty: i64) -> i64 {
    last.saturating_add(1).saturating_add(penalty)
}

/// Between two picks.
struct State {
    last: Option<i64>,
    penalty_left: i64,
    penalty_right: i64,
}

impl State {
    /// As it is after `head` was picked, all from the left.
    fn after(head: &[SampleId], time: impl Fn(SampleId) -> i64) -> Self {
        let (before, last) = last_two(head, head.len(), time);
        Self { last, penalty_left: 0, penalty_right: last.map_or(0, |last| penalty(before, last)) }
    }

    fn run(
        mut self,
        mut left: &[SampleId],
        mut right: Right<'_>,
        time: impl Fn(SampleId) -> i64,
        out: &mut Vec<SampleId>,
    ) {
        loop {
            if let Some(last) = self.last {
                left = without_before(left, return_after(last, self.penalty_left), &time);
                right.skip_before(return_after(last, self.penalty_right));
            }
            match (left.first(), right.times.first()) {
                (None, None) => return,
                // Alone, a side goes on without a penalty.
                (None, Some(_)) => {
                    out.extend(right.ids);
                    return;
                }
                (Some(_), None) => {
                    out.extend_from_slice(left);
                    return;
                }
                (Some(first), Some(right_ms)) => {
                    let left_ms = time(*first);
                    if left_ms <= *right_ms {
                        let (taken, right_from) = self.follow(left, *right_ms, &time);
                        let (taken, others) = left.split_at(taken);
                        out.extend_from_slice(taken);
                        left = others;
                        right.skip_before(right_from);
                    } else {
                        let (taken, left_from) = self.follow_right(right.times, left_ms);
                        out.extend(right.take(taken));
                        left = without_before(left, left_from, &time);
                    }
                }
            }
        }
    }

    /// Picks from the left, whose next sample comes first, as long as the right, whose next one is at `right_ms`, cannot come before; gives how many samples, and from
    /// when on the right may return. Each pick moves that on or leaves it, so that it need not be looked at in between.
    #[inline]
    fn follow(&mut self, left: &[SampleId], right_ms: i64, time: impl Fn(SampleId) -> i64) -> (usize, i64) {
        let mut right_from = i64::MIN;
        let mut taken = 0;
        for id in left {
            let now = time(*id);
            if now > right_ms.max(right_from) {
                break;
            }
            self.penalty_right = penalty(self.last, now);
            right_from = right_from.max(return_after(now, self.penalty_right));
            self.last = Some(now);
            taken += 1;
        }
        self.penalty_left = 0;
        (taken, right_from)
    }

    /// As [`Self::follow`], from the right, whose samples are at these times and whose next one comes first, while the next one of the left is at `left_ms`.
    #[inline]
    fn follow_right(&mut self, right: &[i64], left_ms: i64) -> (usize, i64) {
        let mut left_from = i64::MIN;
        let mut taken = 0;
        for now in right {
            // Of two equal ones the left one is taken.
            if *now >= left_ms.max(left_from) {
                break;
            }
            self.penalty_left = penalty(self.last, *now);
            left_from = left_from.max(return_after(*now, self.penalty_left));
            self.last = Some(*now);
            taken += 1;
        }
        self.penalty_right = 0;
        (taken, left_from)
    }
}

/// The samples of a chunk that are still to come, and their times.
struct Right<'a> {
    ids: Range<SampleId>,
    times: &'a [i64],
}

impl Right<'_> {
    #[inline]
    fn skip_before(&mut self, from: i64) {
        let skipped = self.times.iter().take_while(|time| **time < from).count();
        self.take(skipped);
    }

    fn take(&mut self, count: usize) -> Range<SampleId> {
        let (taken, rest) = self.times.split_at(count.min(self.times.len()));
        self.times = rest;
        // A chunk has at most 65,535 samples.
        let end = self.ids.start.saturating_add(taken.len() as SampleId).min(self.ids.end);
        let ids = self.ids.start..end;
        self.ids.start = end;
        ids
    }
}

/// What is left without the samples before a time.
#[inline]
fn without_before(samples: &[SampleId], from: i64, time: impl Fn(SampleId) -> i64) -> &[SampleId] {
    let skipped = samples.iter().take_while(|id| time(**id) < from).count();
    samples.get(skipped..).unwrap_or_default()
}

#[inline]
fn penalty(last: Option<i64>, now: i64) -> i64 {
    last.map_or(INITIAL_PENALTY_MS, |last| now.saturating_sub(last).saturating_mul(2))
}

#[cfg(test)]
mod tests;
