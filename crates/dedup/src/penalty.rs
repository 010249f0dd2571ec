//! The penalty algorithm at query time, exact with Thanos' `dedup.dedupSeriesIterator`.
//!
//! Two replicas are merged by following the one whose sample comes first. The other one is not looked at again
//! before twice the last distance between samples has passed, so that a switch happens only in a gap and the
//! output is no denser than one replica. More than two are merged pairwise from the left.
//!
//! A counter is lifted at each switch so that it does not fall; *both* sides are, each by what it is short of.

use std::sync::Arc;

use parallax_model::{FloatColumn, FloatHistogram, TimeRange};

use crate::cursor::{CounterLift, Kind, Lift, MixedCursor, NoLift, Side, emit};
use crate::scratch::Scratch;
use crate::{Samples, follow};

/// How long the side that lost the very first comparison is left alone: there is no distance yet to double.
pub(crate) const INITIAL_PENALTY_MS: i64 = 5000;

/// Most pairs within one another: each is a level of recursion, and a store decides how many chunks overlap. Beyond it what is merged so far
/// is written out and goes on as one replica; for a counter that can differ from Thanos, where a later switch would have lifted the parts.
const MAX_NESTED_PAIRS: usize = 256;

/// Merges two replicas or more; those before others are preferred at equal timestamps. Fewer are not its affair, and give nothing.
pub(crate) fn merge(replicas: &[Samples], raises_counters: bool, range: TimeRange) -> Samples {
    if let [left, right] = replicas
        && left.histograms.is_empty()
        && right.histograms.is_empty()
    {
        let scratch = &mut Scratch::default();
        let Ok(merged) = follow::merge(&left.floats, &right.floats, raises_counters, range, scratch);
        return merged;
    }
    if raises_counters {
        merge_lifted::<CounterLift>(replicas, range)
    } else {
        merge_lifted::<NoLift>(replicas, range)
    }
}

fn merge_lifted<L: Lift>(replicas: &[Samples], range: TimeRange) -> Samples {
    let [first, rest @ ..] = replicas else { return Samples::default() };
    let mut groups = rest.chunks(MAX_NESTED_PAIRS).peekable();
    let mut merged: Option<Samples> = None;
    while let Some(group) = groups.next() {
        let range = if groups.peek().is_some() { TimeRange::ALL } else { range };
        merged = Some(merge_nested::<L>(merged.as_ref().unwrap_or(first), group, range));
    }
    merged.unwrap_or_default()
}

fn merge_nested<L: Lift>(first: &Samples, rest: &[Samples], range: TimeRange) -> Samples {
    match rest {
        [middle @ .., last] => {
            let mut left: Box<dyn Side + '_> = Box::new(MixedCursor::<L>::new(first));
            for replica in middle {
                let mut pair = Pair::new(left, MixedCursor::<L>::new(replica));
                pair.advance();
                left = Box::new(pair);
            }
            drain(Pair::new(left, MixedCursor::<L>::new(last)), first.len(), range)
        }
        [] => Samples::default(),
    }
}

fn drain<A: Side, B: Side>(mut pair: Pair<A, B>, expected: usize, range: TimeRange) -> Samples {
    let mut output = Samples { floats: FloatColumn::with_capacity(expected), ..Samples::default() };
    while pair.advance() != Kind::End {
        if !emit(&pair, range, &mut output) {
            break;
        }
    }
    output
}

/// Two sides, the left of which may be a pair itself.
struct Pair<A, B> {
    left: A,
    right: B,
    uses_left: bool,
    /// Of the last sample given out.
    last_ms: Option<i64>,
    left_penalty_ms: i64,
    right_penalty_ms: i64,
}

impl<A: Side, B: Side> Pair<A, B> {
    /// Both sides stand on their first sample. The pair stands nowhere before its first [`Pair::advance`].
    fn new(left: A, right: B) -> Self {
        Self { left, right, uses_left: true, last_ms: None, left_penalty_ms: 0, right_penalty_ms: 0 }
    }

    fn advance(&mut self) -> Kind {
        let used_left = self.uses_left;
        // Before the first step this is the left side's first value: it counts if the right side starts earlier.
        let last_value = (self.kind() == Kind::Float).then(|| self.float());
        let kind = self.choose();
        if let Some(last) = last_value
            && used_left != self.uses_left
        {
            if self.left.kind() == Kind::Float {
                self.left.raise_to(last);
            }
            if self.right.kind() == Kind::Float {
                self.right.raise_to(last);
            }
        }
        kind
    }

    /// Moves both sides on and takes the one whose sample comes first.
    fn choose(&mut self) -> Kind {
        if let Some(last_ms) = self.last_ms {
            let Some(next_ms) = last_ms.checked_add(1) else {
                self.left.seek(i64::MAX);
                return self.end();
            };
            self.left.seek(next_ms.saturating_add(self.left_penalty_ms));
            self.right.seek(next_ms.saturating_add(self.right_penalty_ms));
        }
        match (self.left.kind(), self.right.kind()) {
            (Kind::End, Kind::End) => return self.end(),
            (Kind::End, _) => {
                self.uses_left = false;
                self.right_penalty_ms = 0;
            }
            (_, Kind::End) => {
                self.uses_left = true;
                self.left_penalty_ms = 0;
            }
            (_, _) => {
                let (left_ms, right_ms) = (self.left.time_ms(), self.right.time_ms());
                self.uses_left = left_ms <= right_ms;
                let chosen_ms = left_ms.min(right_ms);
                let penalty_ms = match self.last_ms {
                    Some(last_ms) => chosen_ms.saturating_sub(last_ms).saturating_mul(2),
                    None => INITIAL_PENALTY_MS,
                };
                (self.left_penalty_ms, self.right_penalty_ms) =
                    if self.uses_left { (0, penalty_ms) } else { (penalty_ms, 0) };
            }
        }
        self.last_ms = Some(self.time_ms());
        self.kind()
    }

    /// Time cannot go on: there is nothing more to give.
    fn end(&mut self) -> Kind {
        self.uses_left = false;
        Kind::End
    }
}

impl<A: Side, B: Side> Side for Pair<A, B> {
    fn kind(&self) -> Kind {
        if self.uses_left { self.left.kind() } else { self.right.kind() }
    }

    fn time_ms(&self) -> i64 {
        if self.uses_left { self.left.time_ms() } else { self.right.time_ms() }
    }

    fn float(&self) -> f64 {
        if self.uses_left { self.left.float() } else { self.right.float() }
    }

    fn histogram(&self) -> Option<&Arc<FloatHistogram>> {
        if self.uses_left { self.left.histogram() } else { self.right.histogram() }
    }

    /// Goes sample by sample: skipping would miss gaps, and with them switches.
    fn seek(&mut self, time_ms: i64) -> Kind {
        loop {
            if self.kind() == Kind::End {
                return Kind::End;
            }
            if self.time_ms() >= time_ms {
                return self.kind();
            }
            if self.advance() == Kind::End {
                return Kind::End;
            }
        }
    }

    fn raise_to(&mut self, last: f64) {
        if self.left.kind() == Kind::Float {
            self.left.raise_to(last);
        }
        if self.right.kind() == Kind::Float {
            self.right.raise_to(last);
        }
    }
}
