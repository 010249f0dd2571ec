//! Offline penalty deduplication: of replicas that scrape the same targets at other times, one is followed until it has a gap.
//!
//! The chunks of a cluster are folded, in the order of the heap, one after the other into what was picked so far. A step takes the earlier of the
//! next two samples, the left one of equals; the side that was not taken may not return for twice the distance of the last two samples picked (5 s
//! before there are two). Nothing is done about counter resets. Source of the algorithm: Thanos `pkg/dedup/{chunk_iter,iter}.go`, which folds lazily; the
//! outcome is the same, since a fold's outcome does not depend on who asks for it.
//!
//! A chunk that is left out unread ends where the index says. Should it end later, what stands there would be missing where the samples that are kept have a gap, or end. So
//! wherever they do, the end is read of each chunk that has room for more ([`Samples::doubt_end`]).

use std::ops::Range;

use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::sample_count;

use super::overlap::MergeFailure;
use super::picked::Picked;
use super::samples::{Noted, SampleId, Samples, Unread};

/// Before two samples are picked.
const INITIAL_PENALTY_MS: i64 = 5000;

/// What is best known of the next chunk. Another answer would be as right, and slower.
pub(super) fn noted(
    samples: &mut Samples,
    chunk: &BlockChunk,
    picked: &mut Picked,
) -> Result<Noted, MergeFailure> {
    let reach_ms = settle(picked, chunk.min_time_ms, samples)?;
    let is_likely = match picked.ids.last() {
        // It is left for another one at once, or followed: then it may be as long as the chunks that are written, and is copied.
        None => true,
        // Others are followed from before it begins until about its end: it is left out, but for their gaps.
        Some(last) => {
            let steps = sample_count(&chunk.chunk.data).unwrap_or(0).saturating_sub(1).max(1);
            let step_ms = chunk.max_time_ms.saturating_sub(chunk.min_time_ms) / steps as i64;
            let end_ms = return_after(samples.time_ms(*last), step_ms.saturating_mul(2));
            chunk.min_time_ms < reach_ms && chunk.max_time_ms < end_ms
        }
    };
    Ok(if is_likely { Noted::Beginning } else { Noted::Places })
}

/// Does what needs times, and reads those that it finds missing: of each chunk once.
fn reading<T>(
    samples: &mut Samples,
    mut attempt: impl FnMut(&Samples) -> Result<T, Unread>,
) -> Result<T, MergeFailure> {
    loop {
        match attempt(samples) {
            Ok(done) => return Ok(done),
            Err(unread) => samples.read_chunk_of(unread)?,
        }
    }
}

/// Notes which samples no chunk that begins at `begin_ms` or later can change; gives from when on another side may return behind these.
///
/// # Errors
/// A chunk of which more than is said stands in a gap of these samples, or behind them if nothing else begins before `begin_ms`.
fn settle(picked: &mut Picked, begin_ms: i64, samples: &mut Samples) -> Result<i64, MergeFailure> {
    let (mut before, mut last) = reading(samples, |samples| last_two(&picked.ids, picked.settled, samples))?;
    let mut reach_ms = reach(before, last);
    while reach_ms <= begin_ms {
        let Some(id) = picked.ids.get(picked.settled) else {
            samples.check_ends(reach_ms, begin_ms)?;
            break;
        };
        let now = reading(samples, |samples| samples.known_ms(*id))?;
        if now > begin_ms {
            break;
        }
        if now > reach_ms {
            samples.check_ends(reach_ms, now)?;
        }
        (before, last) = (last, Some(now));
        reach_ms = reach(before, last);
        picked.settled += 1;
    }
    if let Some(last) = last {
        samples.trust_ends_before(last);
    }
    Ok(reach_ms)
}

/// To be called when no chunk is to come.
pub(super) fn finish(samples: &mut Samples, picked: &mut Picked) -> Result<(), MergeFailure> {
    // Else all times would be looked at for nothing.
    if samples.have_doubts() {
        settle(picked, i64::MAX, samples)?;
    }
    Ok(())
}

/// Folds the samples of the next chunk, by first time, into what was picked so far.
pub(super) fn add(
    samples: &mut Samples,
    chunk: &Range<SampleId>,
    picked: &mut Picked,
) -> Result<(), MergeFailure> {
    if chunk.is_empty() {
        return Ok(());
    }
    let begin_ms = reading(samples, |samples| samples.known_ms(chunk.start))?;
    settle(picked, begin_ms, samples)?;
    reading(samples, |samples| {
        let (head, rest) = picked.ids.split_at(picked.settled);
        picked.tail.clear();
        let right = Right { ids: chunk.clone(), times: samples.times_ms(chunk) };
        State::after(head, samples)?.run(rest, right, samples, &mut picked.tail)
    })?;
    picked.ids.truncate(picked.settled);
    picked.ids.append(&mut picked.tail);
    Ok(())
}

/// The times of the last two samples that were picked before the place `at`.
fn last_two(picked: &[SampleId], at: usize, samples: &Samples) -> Result<(Option<i64>, Option<i64>), Unread> {
    Ok(match picked.get(..at) {
        Some([.., before, last]) => (Some(samples.known_ms(*before)?), Some(samples.known_ms(*last)?)),
        Some([last]) => (None, Some(samples.known_ms(*last)?)),
        _ => (None, None),
    })
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
    fn after(head: &[SampleId], samples: &Samples) -> Result<Self, Unread> {
        let (before, last) = last_two(head, head.len(), samples)?;
        let penalty_right = last.map_or(0, |last| penalty(before, last));
        Ok(Self { last, penalty_left: 0, penalty_right })
    }

    fn run(
        mut self,
        mut left: &[SampleId],
        mut right: Right<'_>,
        samples: &Samples,
        out: &mut Vec<SampleId>,
    ) -> Result<(), Unread> {
        loop {
            if let Some(last) = self.last {
                left = without_before(left, return_after(last, self.penalty_left), samples)?;
                right.skip_before(return_after(last, self.penalty_right), samples)?;
            }
            match (left.first(), right.times.first()) {
                (None, None) => return Ok(()),
                // Alone, a side goes on without a penalty.
                (None, Some(_)) => {
                    out.extend(right.ids);
                    return Ok(());
                }
                (Some(_), None) => {
                    out.extend_from_slice(left);
                    return Ok(());
                }
                (Some(first), Some(right_ms)) => {
                    let left_ms = samples.known_ms(*first)?;
                    let right_ms = samples.known(right.ids.start, *right_ms)?;
                    if left_ms <= right_ms {
                        let (taken, right_from) = self.follow(left, right_ms, samples)?;
                        let (taken, others) = left.split_at(taken);
                        out.extend_from_slice(taken);
                        left = others;
                        right.skip_before(right_from, samples)?;
                    } else {
                        let (taken, left_from) = self.follow_right(&right, left_ms, samples)?;
                        out.extend(right.take(taken));
                        left = without_before(left, left_from, samples)?;
                    }
                }
            }
        }
    }

    /// Picks from the left, whose next sample comes first, as long as the right, whose next one is at `right_ms`, cannot come before; gives how many samples, and from
    /// when on the right may return. Each pick moves that on or leaves it, so that it need not be looked at in between.
    #[inline]
    fn follow(
        &mut self,
        left: &[SampleId],
        right_ms: i64,
        samples: &Samples,
    ) -> Result<(usize, i64), Unread> {
        let mut right_from = i64::MIN;
        let mut taken = 0;
        for id in left {
            let now = samples.known_ms(*id)?;
            if now > right_ms.max(right_from) {
                break;
            }
            self.penalty_right = penalty(self.last, now);
            right_from = right_from.max(return_after(now, self.penalty_right));
            self.last = Some(now);
            taken += 1;
        }
        self.penalty_left = 0;
        Ok((taken, right_from))
    }

    /// As [`Self::follow`], from the right, whose next sample comes first, while the next one of the left is at `left_ms`, before which the left does not return in any case.
    #[inline]
    fn follow_right(
        &mut self,
        right: &Right<'_>,
        left_ms: i64,
        samples: &Samples,
    ) -> Result<(usize, i64), Unread> {
        let mut left_from = left_ms;
        let mut taken = 0;
        for now in right.times {
            let now = samples.known(right.id(taken), *now)?;
            // Of two equal ones the left one is taken.
            if now >= left_from {
                break;
            }
            self.penalty_left = penalty(self.last, now);
            left_from = left_from.max(return_after(now, self.penalty_left));
            self.last = Some(now);
            taken += 1;
        }
        self.penalty_right = 0;
        Ok((taken, left_from))
    }
}

/// The samples of a chunk that are still to come, and their times, of which that of the last one is always known.
struct Right<'a> {
    ids: Range<SampleId>,
    times: &'a [i64],
}

impl Right<'_> {
    #[inline]
    fn skip_before(&mut self, from: i64, samples: &Samples) -> Result<(), Unread> {
        if self.times.last().is_some_and(|last| *last < from) {
            self.take(self.times.len());
            return Ok(());
        }
        let mut skipped = 0;
        for time in self.times {
            if samples.known(self.id(skipped), *time)? >= from {
                break;
            }
            skipped += 1;
        }
        self.take(skipped);
        Ok(())
    }

    /// The number of the sample at a place.
    #[inline(always)]
    fn id(&self, place: usize) -> SampleId {
        self.ids.start.wrapping_add(place as SampleId)
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
fn without_before<'a>(left: &'a [SampleId], from: i64, samples: &Samples) -> Result<&'a [SampleId], Unread> {
    let (Some(first), Some(last)) = (left.first(), left.last()) else { return Ok(left) };
    if samples.known_ms(*first)? >= from {
        return Ok(left);
    }
    // Of a side that is not followed all is left behind, most of the time, and not all of its times are known.
    if samples.known_ms(*last)? < from {
        return Ok(&[]);
    }
    let mut skipped = 0;
    for id in left {
        if samples.known_ms(*id)? >= from {
            break;
        }
        skipped += 1;
    }
    Ok(left.get(skipped..).unwrap_or_default())
}

#[inline]
fn penalty(last: Option<i64>, now: i64) -> i64 {
    last.map_or(INITIAL_PENALTY_MS, |last| now.saturating_sub(last).saturating_mul(2))
}

#[cfg(test)]
mod tests;
