//! Where the fan-outs of one question leave what they know, for whoever answers it.
//!
//! A request extension carries it to the fan-out nearest to the question; it never travels. A question has as many entries as it makes calls, and a
//! call that is made again replaces its entry. A fan-out vouches for what it passed on; whoever throws some of that away takes the word back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::report::Coverage;

/// Of one question. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct CoverageLog {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    calls: Mutex<BTreeMap<u64, Coverage>>,
}

/// Where one call leaves its coverage.
#[derive(Clone, Debug)]
pub(crate) struct CoverageEntry {
    log: CoverageLog,
    number: u64,
}

impl CoverageLog {
    /// For the next call.
    pub(crate) fn entry(&self) -> CoverageEntry {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        CoverageEntry { log: self.clone(), number }
    }

    /// What all calls left, or `None` if none of them came to a fan-out.
    pub fn coverage(&self) -> Option<Coverage> {
        let calls = self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner);
        (!calls.is_empty()).then(|| Coverage::union(calls.values().cloned()))
    }
}

impl CoverageEntry {
    pub(crate) fn leave(&self, coverage: Coverage) {
        self.calls().insert(self.number, coverage);
    }

    /// Takes back that anything is whole, of a call of which not all that came is in the answer, or which was not made.
    pub(crate) fn cut_short(&self, reason: &str) {
        let mut calls = self.calls();
        let left = calls.remove(&self.number).unwrap_or_else(Coverage::unknown);
        calls.insert(self.number, left.cut_short(reason));
    }

    /// Leaves what stays true if the call is made again.
    pub(crate) fn leave_for_good(&self, coverage: Coverage) {
        self.log.entry().leave(coverage);
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<u64, Coverage>> {
        self.log.inner.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::{Part, State};

    fn coverage(state: State) -> Coverage {
        let part = Part {
            cluster: "a".to_owned(),
            tier: String::new(),
            store: "s".to_owned(),
            state,
            min_time_ms: 0,
            max_time_ms: 0,
            reason: String::new(),
        };
        Coverage::new([part], 0)
    }

    #[test]
    fn a_call_that_is_made_again_replaces_what_it_left() {
        let log = CoverageLog::default();
        assert_eq!(log.coverage(), None);
        let (first, second) = (log.entry(), log.entry());
        first.leave(coverage(State::Missing));
        second.leave(coverage(State::Complete));
        assert_eq!(log.coverage().unwrap().state(), State::Missing);
        first.leave(coverage(State::Complete));
        assert_eq!(log.coverage().unwrap().state(), State::Complete);
    }

    #[test]
    fn what_was_vouched_for_can_be_taken_back_and_what_stays_true_is_not_replaced() {
        let log = CoverageLog::default();
        let entry = log.entry();
        for (left, state) in [
            (State::Complete, State::Late),
            (State::Unattested, State::Late),
            (State::Refused, State::Refused),
        ] {
            entry.leave(coverage(left));
            entry.cut_short("too slow");
            assert_eq!(log.coverage().unwrap().state(), state);
        }
        entry.leave_for_good(coverage(State::Missing));
        entry.leave(coverage(State::Complete));
        assert_eq!(log.coverage().unwrap().state(), State::Missing);

        let log = CoverageLog::default();
        log.entry().cut_short("too slow");
        assert_eq!(log.coverage().unwrap().state(), State::Partial, "nobody was asked");
    }
}
