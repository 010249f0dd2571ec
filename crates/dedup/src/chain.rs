//! The chain algorithm, exact with Prometheus' `storage.ChainedSeriesMerge`: every sample of every replica, and of
//! equal timestamps one.
//!
//! Which one of equal timestamps survives follows from the order of a binary heap that Prometheus keeps (Go's
//! `container/heap`), so the heap here sifts in the same way. A histogram that does not directly follow the one
//! before it in the same replica loses what it claims to know about a counter reset.

use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram, TimeRange};

use crate::Samples;
use crate::cursor::{Kind, MixedCursor, NoLift, Side, emit};

/// Merges two replicas or more.
pub(crate) fn merge(replicas: &[Samples], range: TimeRange) -> Samples {
    let mut output = Samples::default();
    let mut chain = Chain::new(replicas);
    while let Some((replica, is_consecutive)) = chain.advance() {
        let had = output.histograms.len();
        if !emit(replica, range, &mut output) {
            break;
        }
        if !is_consecutive && let Some(last) = output.histograms.values.get_mut(had) {
            forget_reset(last);
        }
    }
    output
}

struct Chain<'a> {
    replicas: Vec<MixedCursor<'a, NoLift>>,
    /// Indices of replicas that have samples left, all but the current one; a binary heap by time.
    heap: Vec<usize>,
    current: usize,
    last_ms: Option<i64>,
    /// The current replica stands on its first sample, which was not given out yet.
    is_fresh: bool,
}

impl<'a> Chain<'a> {
    fn new(replicas: &'a [Samples]) -> Self {
        let replicas: Vec<_> = replicas.iter().map(MixedCursor::new).collect();
        let mut chain = Self {
            heap: Vec::with_capacity(replicas.len()),
            replicas,
            current: 0,
            last_ms: None,
            is_fresh: true,
        };
        for index in 1..chain.replicas.len() {
            if chain.kind(index) != Kind::End {
                chain.push(index);
            }
        }
        chain
    }

    /// The replica that stands on the next sample, and whether that sample directly follows the last one in it.
    fn advance(&mut self) -> Option<(&MixedCursor<'a, NoLift>, bool)> {
        let mut is_consecutive = !self.is_fresh;
        loop {
            if !std::mem::take(&mut self.is_fresh) {
                self.replicas.get_mut(self.current)?.advance();
            }
            if self.kind(self.current) != Kind::End {
                let time_ms = self.time_ms(self.current);
                if Some(time_ms) == self.last_ms {
                    continue;
                }
                if self.heap.first().is_none_or(|earliest| time_ms < self.time_ms(*earliest)) {
                    break;
                }
                self.push(self.current);
            }
            self.current = self.pop()?;
            is_consecutive = false;
            if Some(self.time_ms(self.current)) != self.last_ms {
                break;
            }
        }
        self.last_ms = Some(self.time_ms(self.current));
        self.replicas.get(self.current).map(|replica| (replica, is_consecutive))
    }

    fn kind(&self, index: usize) -> Kind {
        self.replicas.get(index).map_or(Kind::End, Side::kind)
    }

    fn time_ms(&self, index: usize) -> i64 {
        self.replicas.get(index).map_or(i64::MAX, Side::time_ms)
    }

    fn is_earlier(&self, a: usize, b: usize) -> bool {
        match (self.heap.get(a), self.heap.get(b)) {
            (Some(a), Some(b)) => self.time_ms(*a) < self.time_ms(*b),
            _ => false,
        }
    }

    fn push(&mut self, index: usize) {
        self.heap.push(index);
        let mut child = self.heap.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 2;
            if !self.is_earlier(child, parent) {
                break;
            }
            self.heap.swap(child, parent);
            child = parent;
        }
    }

    fn pop(&mut self) -> Option<usize> {
        if self.heap.is_empty() {
            return None;
        }
        let earliest = self.heap.swap_remove(0);
        let mut parent = 0;
        loop {
            let (left, right) = (2 * parent + 1, 2 * parent + 2);
            let child = if self.is_earlier(right, left) { right } else { left };
            if !self.is_earlier(child, parent) {
                return Some(earliest);
            }
            self.heap.swap(child, parent);
            parent = child;
        }
    }
}

/// For a histogram that does not follow the one before it in its own replica: whether there was a reset has to be looked for.
pub(crate) fn forget_reset(histogram: &mut Arc<FloatHistogram>) {
    if matches!(histogram.counter_reset_hint, CounterResetHint::Reset | CounterResetHint::NotReset) {
        Arc::make_mut(histogram).counter_reset_hint = CounterResetHint::Unknown;
    }
}
