//! A selection that is opened, and read if it is small, before its query has a thread of its own.
//!
//! A query of few series is answered in less time than it takes to hand it over to such a thread and its answer back. So what a query selects is asked for
//! where the query came in, and where all of it is there and there is little to do, it is evaluated there as well.
//!
//! Invariant: an evaluation that may not wait does not. What comes to something that it would have to wait for gives up, says so, and the query is evaluated again
//! where it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parallax_promql::source::SourceError;
use parallax_storeapi::chunks;

use super::stream::Delivery;

/// How much all of a selection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub series: usize,
    /// As the chunks say, and one of each at least.
    pub samples: usize,
    /// Of the chunks.
    pub data_bytes: usize,
}

impl Arrived {
    pub(super) fn add(&mut self, delivery: &Delivery) {
        let Delivery::Series(all, _) = delivery else { return };
        self.series += all.len();
        for (_, part) in all.iter().flat_map(|series| &series.chunks).flat_map(chunks::parts) {
            // As a job of decoding counts them: what is small here is never shared with a helper, for whom an I/O thread cannot wait.
            self.samples += chunks::samples(part).max(1);
            self.data_bytes += part.data.len();
        }
    }
}

/// Shared by what takes part in an evaluation that may not wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brief(Arc<AtomicBool>);

impl Brief {
    /// There is something to be waited for.
    pub(super) fn give_up(&self) -> SourceError {
        self.0.store(true, Ordering::Relaxed);
        SourceError::Canceled
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
