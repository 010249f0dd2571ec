//! [`Picked`]: the samples of a cluster that are kept so far, and which of them no later chunk can change any more.

use super::samples::SampleId;

/// How many settled samples stay: from the distance of the last two the penalty follows.
const REMEMBERED: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Picked {
    /// In order of time.
    pub(super) ids: Vec<SampleId>,
    /// Of `ids` so many are settled.
    pub(super) settled: usize,
    /// Memory of a fold.
    pub(super) tail: Vec<SampleId>,
}

impl Picked {
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.settled = 0;
    }

    /// What is settled and needed no more; to be taken away by [`Self::forget`].
    pub(super) fn written(&self) -> &[SampleId] {
        self.ids.get(..self.settled.saturating_sub(REMEMBERED)).unwrap_or_default()
    }

    /// Takes away what [`Self::written`] gave.
    pub(super) fn forget(&mut self) {
        let count = self.written().len();
        self.ids.drain(..count);
        self.settled -= count;
    }
}
