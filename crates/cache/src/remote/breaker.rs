//! [`Breaker`]: a server that fails several times in a row is left alone for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// How long it stays open; then one request in this time tries.
const REST: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    closed_until: Option<Instant>,
}

impl Breaker {
    /// Whether a request may go out.
    pub(super) fn lets_through(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.closed_until {
            Some(until) if now < until => false,
            Some(_) => {
                // This one tries; the others wait for what it finds.
                state.closed_until = Some(now + REST);
                true
            }
            None => true,
        }
    }

    pub(super) fn succeeded(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::default();
    }

    /// Says whether this failure opened it.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        if state.failures < FAILURES {
            return false;
        }
        let opened = state.closed_until.is_none();
        state.closed_until = Some(now + REST);
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_keep_requests_back_until_one_succeeds() {
        let breaker = Breaker::default();
        let now = Instant::now();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(now));
            assert!(breaker.lets_through(now));
        }
        assert!(breaker.failed(now));
        assert!(!breaker.lets_through(now));
        let later = now + REST;
        assert!(breaker.lets_through(later));
        assert!(!breaker.lets_through(later));
        assert!(!breaker.failed(later));
        assert!(!breaker.lets_through(later));
        assert!(breaker.lets_through(later + REST));
        breaker.succeeded();
        assert!(breaker.lets_through(later + REST));
        assert!(!breaker.failed(later + REST));
    }
}
