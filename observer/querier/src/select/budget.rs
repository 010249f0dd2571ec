//! How many bytes of series one query may hold that wait to be merged or decoded.
//!
//! Shared by all selections of a query and by the fan-out beneath them (a request extension carries it there). What is decoded the
//! engine counts, in samples. What is held is given back when its [`Held`] is dropped, and whoever waits for room hears of it.

use std::sync::Arc;

use parallax_model::{OverQuota, Quota, budget};
use parallax_promql::source::SourceError;
use tokio::sync::Notify;

/// The bytes of one query.
#[derive(Debug)]
pub struct Budget {
    bytes: Arc<Quota>,
    released: Notify,
}

impl Budget {
    /// A limit of 0 is no limit.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
        Arc::new(Self { bytes: Arc::new(Quota::new("bytes", limit)), released: Notify::new() })
    }

    /// # Errors
    /// If the query would then hold more than its limit.
    pub(crate) fn hold(self: &Arc<Self>, size_bytes: usize) -> Result<Held, OverBudget> {
        let held = self.bytes.hold(as_u64(size_bytes)).map_err(OverBudget)?;
        Ok(Held { held: Some(held), budget: Arc::clone(self) })
    }

    /// The same, if no more than one part in `share` of the limit is used then.
    pub(crate) fn hold_share(self: &Arc<Self>, size_bytes: usize, share: u64) -> Option<Held> {
        let limit = self.bytes.limit() / share.max(1);
        let held = self.bytes.hold_within(as_u64(size_bytes), limit).ok()?;
        Some(Held { held: Some(held), budget: Arc::clone(self) })
    }

    /// Told of everything that is given back.
    pub(crate) fn released(&self) -> &Notify {
        &self.released
    }
}

fn as_u64(size_bytes: usize) -> u64 {
    u64::try_from(size_bytes).unwrap_or(u64::MAX)
}

/// The query would hold too much.
#[derive(Debug)]
pub(crate) struct OverBudget(OverQuota);

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "query holds more than {} bytes of series that wait to be evaluated: select fewer series or a shorter range, or \
             raise the limit of bytes per query (--query.max-held-bytes, or max_held_bytes in an observer's file)",
            self.0.limit
        )
    }
}

impl From<OverBudget> for SourceError {
    fn from(over: OverBudget) -> Self {
        Self::Limit(over.to_string())
    }
}

/// A part of a [`Budget`] in use.
#[derive(Debug)]
pub(crate) struct Held {
    /// `None` only while it is dropped.
    held: Option<budget::Held>,
    budget: Arc<Budget>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Given back first: who is woken looks at once.
        drop(self.held.take());
        self.budget.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_held_again() {
        let budget = Budget::new(100);
        let first = budget.hold(60).unwrap();
        let refused = SourceError::from(budget.hold(60).unwrap_err());
        assert!(matches!(refused, SourceError::Limit(text) if text.contains("more than 100 bytes")));
        drop(first);
        assert!(budget.hold(60).is_ok());
        assert!(Budget::new(0).hold(usize::MAX).is_ok());
    }
}
