//! Offline penalty deduplication: of replicas that scrape the same targets at other times, one is followed until it has a gap.
//!
//! The chunks of a cluster are folded, in the order of the heap, one after the other into what was picked so far. A step takes the earlier of the
//! next two samples, the left one of equals; the side that was not taken may not return for twice the distance of the last two samples picked (5 s
//! before there are two). Nothing is done about counter resets. Source of the algorithm: Thanos `pkg/dedup/{chunk_iter,iter}.go`, which folds lazily; the
//! outcome is the same, since a fold's outcome does not depend on who asks for it.

use std::ops::Range;

use super::samples::{SampleId, Samples};

/// Before two samples are picked.
const INITIAL_PENALTY_MS: i64 = 5000;

/// The memory of a fold.
#[derive(Debug, Default)]
pub(super) struct Penalty {
    tail: Vec<SampleId>,
}

impl Penalty {
    /// Puts into `picked` what is left of the chunks, which are in the order of their first times.
    pub(super) fn merge(
        &mut self,
        samples: &Samples,
        chunks: &[Range<SampleId>],
        picked: &mut Vec<SampleId>,
    ) {
        picked.clear();
        let Some((base, others)) = chunks.split_first() else { return };
        picked.extend(base.clone());
        // What a later chunk cannot reach, a still later one cannot either.
        let mut settled = 0;
        for chunk in others {
            self.fold(samples.times_ms(), picked, &mut settled, chunk);
        }
    }

    fn fold(
        &mut self,
        times: &[i64],
        picked: &mut Vec<SampleId>,
        settled: &mut usize,
        chunk: &Range<SampleId>,
    ) {
        if chunk.is_empty() {
            return;
        }
        let time = |id: SampleId| times.get(id as usize).copied().unwrap_or(i64::MAX);
        let begin = time(chunk.start);
        let mut at = *settled;
        while let Some(id) = picked.get(at) {
            if time(*id) > begin || reach(picked, at, time) > begin {
                break;
            }
            at += 1;
        }
        *settled = at;
        let (head, rest) = picked.split_at(at);
        self.tail.clear();
        let state = State::after(head, time);
        state.run(rest, chunk.clone(), time, &mut self.tail);
        picked.truncate(at);
        picked.extend_from_slice(&self.tail);
    }
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
