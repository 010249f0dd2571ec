//! How a running query is told to stop: a deadline, or somebody who no longer waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::QueryError;

/// Checked by the engine once per batch and once per group of rows. A clone cancels the same query.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    deadline: Option<Instant>,
    canceled: Arc<AtomicBool>,
}

impl Interrupt {
    /// Never interrupts by itself; it can still be canceled.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn at(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), canceled: Arc::default() }
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
