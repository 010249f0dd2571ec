//! [`RetryBudget`]: how many failed requests to a bucket may be repeated, over all operations.
//!
//! Without one, a store that fails everything gets every request several times, just when it can least bear it. Each success
//! earns a tenth of a repetition; a failure that is repeated costs one. A full budget lets a short outage be ridden out.

use std::sync::atomic::{AtomicU32, Ordering};

/// Repetitions that a full budget holds.
const CAPACITY: u32 = 60;
/// A repetition's cost, in the units a success earns one of.
const COST: u32 = 10;

/// A token bucket; starts full.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    units: AtomicU32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { units: AtomicU32::new(CAPACITY * COST) }
    }
}

impl RetryBudget {
    pub(crate) fn succeeded(&self) {
        let add = |units: u32| (units < CAPACITY * COST).then_some(units + 1);
        // A full budget stays full: no update is no failure.
        let _ = self.units.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether a failed request may go out once more; takes its cost.
    pub(crate) fn may_repeat(&self) -> bool {
        self.units.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |units| units.checked_sub(COST)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_spend_the_budget_and_successes_earn_it_back() {
        let budget = RetryBudget::default();
        assert_eq!((0..1000).filter(|_| budget.may_repeat()).count(), CAPACITY as usize);
        (0..9).for_each(|_| budget.succeeded());
        assert!(!budget.may_repeat());
        budget.succeeded();
        assert!(budget.may_repeat());
        (0..100_000).for_each(|_| budget.succeeded());
        assert_eq!((0..1000).filter(|_| budget.may_repeat()).count(), CAPACITY as usize);
    }
}
