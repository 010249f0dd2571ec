//! How far apart neighbouring samples are, as decoding shows it by the way.

use super::Order;

/// Steps of time up to this are ordinary: no sum over a chunk's samples overflows.
const ORDINARY_STEP_MS: i64 = 1 << 40;

/// The shortest and the longest way from one sample to the next. Bounds: of some of the samples the steps lie within them, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    pub least_ms: i64,
    pub most_ms: i64,
}

impl Steps {
    /// Of a single sample, or none.
    pub const NONE: Self = Self { least_ms: i64::MAX, most_ms: i64::MIN };

    /// With one more step.
    #[inline(always)]
    #[must_use]
    pub fn and(self, step_ms: i64) -> Self {
        Self { least_ms: self.least_ms.min(step_ms), most_ms: self.most_ms.max(step_ms) }
    }

    /// With all of `others`.
    #[inline]
    #[must_use]
    pub fn and_all(self, others: Self) -> Self {
        Self { least_ms: self.least_ms.min(others.least_ms), most_ms: self.most_ms.max(others.most_ms) }
    }

    /// Whether each went forward, and not too far.
    #[inline]
    pub fn ascend(&self) -> bool {
        self.least_ms >= 1 && self.most_ms < ORDINARY_STEP_MS
    }

    /// Whether no step is longer than half as much again as any other: so are those of scrapes of which none is missing.
    #[inline]
    pub fn are_even(&self) -> bool {
        self.ascend() && self.most_ms <= self.least_ms.saturating_add(self.least_ms / 2)
    }

    /// What is shown of the order of samples.
    pub(super) fn order(this: Option<Self>) -> Order {
        if this.is_some() { Order::Ascending } else { Order::Unknown }
    }
}
