//! How many bytes of series one query may hold that wait to be decoded.
//!
//! What is decoded the engine counts, in samples. What is held is given back when its [`Held`] is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parallax_promql::source::SourceError;

/// Shared by all selections of one query.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    held_bytes: AtomicUsize,
}

impl Budget {
    /// A limit of 0 is no limit.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, held_bytes: AtomicUsize::new(0) })
    }

    /// # Errors
    /// If the query would then hold more than its limit.
    pub(super) fn hold(self: &Arc<Self>, size_bytes: usize) -> Result<Held, SourceError> {
        let held = Held { budget: self.clone(), size_bytes };
        let before = self.held_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        if self.limit_bytes > 0 && before.saturating_add(size_bytes) > self.limit_bytes {
            return Err(SourceError::Limit(format!(
                "query holds more than {} bytes of series that wait to be evaluated: select fewer series or a shorter \
                 range, or raise the limit of bytes per query",
                self.limit_bytes
            )));
        }
        Ok(held)
    }
}

/// A part of a [`Budget`] in use.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    size_bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held_bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_held_again() {
        let budget = Budget::new(100);
        let first = budget.hold(60).unwrap();
        assert!(matches!(budget.hold(60), Err(SourceError::Limit(_))));
        drop(first);
        assert!(budget.hold(60).is_ok());
        assert!(Budget::new(0).hold(usize::MAX).is_ok());
    }
}
