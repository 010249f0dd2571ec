//! Offline penalty deduplication: of replicas that scrape the same targets at other times, one is followed until it has a gap.
//!
//! The chunks of a cluster are folded, in the order of the heap, one after the other into what was picked so far. A step takes the earlier of the
//! next two samples, the left one of equals; the side that was not taken may not return for twice the distance of the last two samples picked (5 s
//! before there are two). Nothing is done about counter resets. Source of the algorithm: Thanos `pkg/dedup/{chunk_iter,iter}.go`, which folds lazily; the
//! outcome is the same, since a fold's outcome does not depend on who asks for it.

use std::ops::Range;

use super::picked::Picked;
use super::samples::{SampleId, Samples};

/// Before two samples are picked.
const INITIAL_PENALTY_MS: i64 = 5000;

/// Folds the samples of the next chunk, by first time, into what was picked so far.
pub(super) fn add(samples: &Samples, chunk: &Range<SampleId>, picked: &mut Picked) {
    if chunk.is_empty() {
        return;
    }
    let time = |id: SampleId| samples.time_ms(id);
    let begin = time(chunk.start);
    let ids = &mut picked.ids;
    // What this chunk cannot reach, a later one cannot either.
    let mut at = picked.settled;
    while let Some(id) = ids.get(at) {
        if time(*id) > begin || reach(ids, at, time) > begin {
            break;
        }
        at += 1;
    }
    picked.settled = at;
    let (head, rest) = ids.split_at(at);
    picked.tail.clear();
    State::after(head, time).run(rest, chunk.clone(), time, &mut picked.tail);
    ids.truncate(at);
    ids.append(&mut picked.tail);
}

/// From when on the other side may return after the sample before `at` was picked.
fn reach(picked: &[SampleId], at: usize, time: impl Fn(SampleId) -> i64) -> i64 {
    match picked.get(..at) {
        Some([.., before, last]) => {
            let (before, last) = (time(*before), time(*last));
            last.saturating_add(1).saturating_add(last.saturating_sub(before).saturating_mul(2))
        }
        Some([last]) => time(*last).saturating_add(1 + INITIAL_PENALTY_MS),
        _ => i64::MIN,
    }
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
        let (last, penalty_right) = match head {
            [.., before, last] => (Some(time(*last)), penalty(Some(time(*before)), time(*last))),
            [last] => (Some(time(*last)), INITIAL_PENALTY_MS),
            [] => (None, 0),
        };
        Self { last, penalty_left: 0, penalty_right }
    }

    fn run(
        mut self,
        mut left: &[SampleId],
        mut right: Range<SampleId>,
        time: impl Fn(SampleId) -> i64,
        out: &mut Vec<SampleId>,
    ) {
        loop {
            if let Some(last) = self.last {
                let from = last.saturating_add(1).saturating_add(self.penalty_left);
                while let [first, rest @ ..] = left
                    && time(*first) < from
                {
                    left = rest;
                }
                let from = last.saturating_add(1).saturating_add(self.penalty_right);
                while right.start < right.end && time(right.start) < from {
                    right.start += 1;
                }
            }
            let (id, from_left) = match (left.first(), right.start < right.end) {
                (None, false) => return,
                // Alone, a side goes on without a penalty.
                (None, true) => {
                    out.extend(right);
                    return;
                }
                (Some(_), false) => {
                    out.extend_from_slice(left);
                    return;
                }
                (Some(first), true) => {
                    if time(*first) <= time(right.start) {
                        (*first, true)
                    } else {
                        (right.start, false)
                    }
                }
            };
            let now = time(id);
            let other = penalty(self.last, now);
            (self.penalty_left, self.penalty_right) = if from_left { (0, other) } else { (other, 0) };
            self.last = Some(now);
            out.push(id);
        }
    }
}

fn penalty(last: Option<i64>, now: i64) -> i64 {
    last.map_or(INITIAL_PENALTY_MS, |last| now.saturating_sub(last).saturating_mul(2))
}

#[cfg(test)]
mod tests;
