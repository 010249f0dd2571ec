//! What one query or one call may use: quotas of series, samples and bytes, shared by everything that works for it.
//!
//! Invariant: what was refused is not counted as held, and the refusal says which limit it was and how large. How a component words
//! it for its caller, and whether somebody waits instead, is left to the component.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One bounded thing, counted by any number of threads. A limit of 0 is no limit.
#[derive(Debug)]
pub struct Quota {
    /// What is counted, in the plural: `series`, `bytes`.
    what: &'static str,
    limit: u64,
    used: AtomicU64,
}

/// A quota is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverQuota {
    pub what: &'static str,
    pub limit: u64,
    /// What would have been used.
    pub wanted: u64,
}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, limit, wanted } = self;
        write!(f, "exceeded {what} limit: limit {limit} violated (got {wanted})")
    }
}

impl std::error::Error for OverQuota {}

impl Quota {
    pub const fn new(what: &'static str, limit: u64) -> Self {
        Self { what, limit, used: AtomicU64::new(0) }
    }

    pub const fn limit(&self) -> u64 {
        self.limit
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Uses `amount` up for good.
    ///
    /// # Errors
    /// If that is more than there is; it counts all the same, for what was asked for has been spent.
    pub fn take(&self, amount: u64) -> Result<(), OverQuota> {
        let wanted = self.used.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        if self.allows(wanted, self.limit) { Ok(()) } else { Err(self.over(wanted)) }
    }

    /// Uses `amount` until the answer is dropped.
    ///
    /// # Errors
    /// If that is more than there is.
    pub fn hold(self: &Arc<Self>, amount: u64) -> Result<Held, OverQuota> {
        self.hold_within(amount, self.limit)
    }

    /// As [`Quota::hold`], if no more than `limit` is used then: for those who have to leave something to others.
    ///
    /// # Errors
    /// If it would be more.
    pub fn hold_within(self: &Arc<Self>, amount: u64, limit: u64) -> Result<Held, OverQuota> {
        let limit = limit.min(self.limit);
        let grown = |used: u64| used.checked_add(amount).filter(|wanted| self.allows(*wanted, limit));
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(Held { quota: Arc::clone(self), amount }),
            Err(used) => Err(self.over(used.saturating_add(amount))),
        }
    }

    const fn allows(&self, wanted: u64, limit: u64) -> bool {
        self.limit == 0 || wanted <= limit
    }

    const fn over(&self, wanted: u64) -> OverQuota {
        OverQuota { what: self.what, limit: self.limit, wanted }
    }
}

/// A part of a [`Quota`] in use; dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    quota: Arc<Quota>,
    amount: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// The most that one query or call may use; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLimits {
    pub series: u64,
    pub samples: u64,
    pub bytes: u64,
}

/// The quotas of one query or call.
#[derive(Debug)]
pub struct Budget {
    pub series: Quota,
    pub samples: Quota,
    /// Held while data is in memory, or taken for good where transfer is what counts.
    pub bytes: Arc<Quota>,
}

impl Budget {
    pub fn new(limits: BudgetLimits) -> Self {
        Self {
            series: Quota::new("series", limits.series),
            samples: Quota::new("samples", limits.samples),
            bytes: Arc::new(Quota::new("bytes", limits.bytes)),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BudgetLimits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_the_most_that_is_allowed_and_zero_is_none() {
        let quota = Quota::new("series", 3);
        quota.take(3).unwrap();
        let refused = quota.take(1).unwrap_err();
        assert_eq!(refused.to_string(), "exceeded series limit: limit 3 violated (got 4)");
        let unlimited = Arc::new(Quota::new("bytes", 0));
        unlimited.take(u64::MAX / 2).unwrap();
        assert!(unlimited.hold(1).is_ok());
        assert_eq!(unlimited.used(), u64::MAX / 2);
    }

    #[test]
    fn what_is_given_back_can_be_held_again_and_a_refusal_holds_nothing() {
        let bytes = Budget::new(BudgetLimits { bytes: 100, ..BudgetLimits::default() }).bytes;
        let first = bytes.hold(60).unwrap();
        assert_eq!(bytes.hold(60).unwrap_err(), OverQuota { what: "bytes", limit: 100, wanted: 120 });
        assert_eq!(bytes.used(), 60);
        assert!(bytes.hold_within(10, 50).is_err() && bytes.hold_within(10, 70).is_ok());
        drop(first);
        assert!(bytes.hold(100).is_ok());
    }
}
