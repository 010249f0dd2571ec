//! Where the fan-outs of one question leave what they know, for whoever answers it.
//!
//! A request extension carries it to the fan-out nearest to the question; it never travels. A question has as many entries as it makes calls, and a
//! call that is made again replaces its entry.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
        self.log.inner.calls.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, coverage);
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
}
