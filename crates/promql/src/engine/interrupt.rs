//! How a running query is told to stop: a deadline, or somebody who no longer waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::QueryError;

/// Checked by the engine once per batch and after every few thousand samples. A clone cancels the same query.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    deadline: Option<Instant>,
    canceled: Arc<AtomicBool>,
    checks: Arc<AtomicU64>,
    cancels_at: Option<u64>,
}

impl Interrupt {
    /// Never interrupts by itself; it can still be canceled.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn at(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// Cancels itself at the check after so many: for tests of how soon a query ends.
    pub fn after_checks(checks: u64) -> Self {
        Self { cancels_at: Some(checks), ..Self::default() }
    }

    /// How often the query has looked whether it is to stop.
    pub fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Makes the query end with [`QueryError::Canceled`] at its next check.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// If the query was canceled, or its deadline has passed.
    pub fn check(&self) -> Result<(), QueryError> {
        let checked = self.checks.fetch_add(1, Ordering::Relaxed);
        if self.cancels_at.is_some_and(|most| checked >= most) {
            self.cancel();
        }
        if self.canceled.load(Ordering::Relaxed) {
            return Err(QueryError::Canceled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                Err(QueryError::Timeout { waiting_for: "expression evaluation".to_owned() })
            }
            _ => Ok(()),
        }
    }
}
