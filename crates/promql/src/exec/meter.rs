//! How often a query looks whether it is to stop.

use std::cell::Cell;

use crate::engine::{Interrupt, QueryError};

/// How many samples are handled between two looks at the interrupt. The dearest (a histogram, a text made of a value) takes less
/// than a microsecond, so this is far below the tenth of a second in which a query has to end.
pub(crate) const WORK_PER_CHECK: usize = 1 << 14;

/// Counts the work that one thread does for a query.
pub(crate) struct Meter<'q> {
    interrupt: &'q Interrupt,
    /// Work done since the last look at the interrupt.
    unchecked: Cell<usize>,
    /// Whether such a look found the query interrupted.
    stopped: Cell<bool>,
}

impl<'q> Meter<'q> {
    pub fn new(interrupt: &'q Interrupt) -> Self {
        Self { interrupt, unchecked: Cell::new(0), stopped: Cell::new(false) }
    }

    /// Notes that so many samples, or as much work as they are, are about to be handled. Whatever loops over rows calls it, so that
    /// an interrupted query ends after at most [`WORK_PER_CHECK`] of them.
    ///
    /// # Errors
    /// If the query was interrupted.
    #[inline]
    pub fn spend(&self, work: usize) -> Result<(), QueryError> {
        let unchecked = self.unchecked.get().saturating_add(work).saturating_add(1);
        if unchecked < WORK_PER_CHECK {
            self.unchecked.set(unchecked);
            return Ok(());
        }
        self.unchecked.set(0);
        self.interrupt.check().inspect_err(|_| self.stopped.set(true))
    }

    /// # Errors
    /// If [`Meter::spend`] has found the query interrupted.
    pub fn stopped(&self) -> Result<(), QueryError> {
        if self.stopped.get() { self.interrupt.check() } else { Ok(()) }
    }
}
