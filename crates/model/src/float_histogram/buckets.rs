//! A histogram's buckets with their bounds, in order of value.

use super::layout::bound;
use crate::FloatHistogram;

/// A bucket: the range of observations it counts, and their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub lower_inclusive: bool,
    pub upper_inclusive: bool,
    pub count: f64,
}

impl FloatHistogram {
    /// All buckets from the lowest to the highest, the zero bucket among them if it is populated. A bucket
    /// that overlaps the zero bucket is cut at the zero threshold.
    pub fn buckets(&self) -> Vec<Bucket> {
        let cut = |mut bucket: Bucket| {
            if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
                bucket.lower = self.zero_threshold;
            }
            if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
                bucket.upper = -self.zero_threshold;
            }
            bucket
        };
        let mut all = self.negative_buckets();
        all.reverse();
        all.extend(self.zero_bucket().filter(|bucket| bucket.count > 0.0));
        all.extend(self.positive_buckets());
        all.into_iter().map(cut).collect()
    }

    /// The positive buckets, away from zero. Custom buckets are all positive, whatever their bounds.
    pub fn positive_buckets(&self) -> Vec<Bucket> {
        let custom = self.uses_custom_buckets();
        self.side(true)
            .into_iter()
            .map(|(index, count)| {
                let lower = bound(index.saturating_sub(1), self.schema, &self.custom_values);
                let upper = bound(index, self.schema, &self.custom_values);
                Bucket {
                    lower,
                    upper,
                    lower_inclusive: if custom { index == 0 } else { lower < 0.0 },
                    upper_inclusive: custom || upper > 0.0,
                    count,
                }
            })
            .collect()
    }

    /// The negative buckets, away from zero.
    pub fn negative_buckets(&self) -> Vec<Bucket> {
        self.side(false)
            .into_iter()
            .map(|(index, count)| {
                let lower = -bound(index, self.schema, &[]);
                let upper = -bound(index.saturating_sub(1), self.schema, &[]);
                Bucket { lower, upper, lower_inclusive: lower < 0.0, upper_inclusive: upper > 0.0, count }
            })
            .collect()
    }

    /// The zero bucket; custom buckets have none.
    pub fn zero_bucket(&self) -> Option<Bucket> {
        (!self.uses_custom_buckets()).then_some(Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        })
    }
}
