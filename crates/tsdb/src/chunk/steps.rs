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

#[cfg(test)]
mod tests {
    use parallax_model::{FloatColumn, TimeRange};
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::{decode_xor_range, encode_xor};

    proptest! {
        #[test]
        fn steps_are_those_between_the_samples(
            steps_ms in prop::collection::vec(prop_oneof![8 => 14_990i64..15_010, 1 => 0i64..100_000, 1 => Just(1i64 << 41)], 0..60),
            from in 0usize..60,
            to in 0usize..60,
        ) {
            let mut samples = vec![(1_700_000_000_000, 0.0)];
            for step_ms in steps_ms {
                samples.push((samples.last().unwrap().0 + step_ms, samples.len() as f64));
            }
            let time_ms = |at: usize| samples[at.min(samples.len() - 1)].0;
            let chunk = encode_xor(&samples).unwrap();
            for range in [TimeRange::ALL, TimeRange::new(time_ms(from), time_ms(to))] {
                let mut column = FloatColumn::default();
                let found = decode_xor_range(&chunk, range, &mut column).unwrap();
                let between = column.timestamps_ms.windows(2).fold(Steps::NONE, |all, pair| all.and(pair[1] - pair[0]));
                if let Some(found) = found {
                    prop_assert!(between.ascend());
                    prop_assert!(found.least_ms <= between.least_ms && between.most_ms <= found.most_ms);
                }
                if range == TimeRange::ALL {
                    prop_assert_eq!(found, Some(between).filter(Steps::ascend));
                }
            }
        }
    }
}
