//! Zero buckets of different width, and counter resets.

use super::layout::{bound, exponential_bound, intersected_bounds, map_to_bounds, outside_zero, reduced};
use crate::{CounterResetHint, FloatHistogram};

impl FloatHistogram {
    /// Widens the zero bucket of `self` until it holds the other's zero bucket and cuts no populated bucket of
    /// either. Returns the zero count `other` would have with that width.
    pub(super) fn reconcile_zero_buckets(&mut self, other: &Self) -> f64 {
        let mut other_count = other.zero_count;
        let mut other_threshold = other.zero_threshold;
        while other_threshold != self.zero_threshold {
            if self.zero_threshold > other_threshold {
                (other_count, other_threshold) = other.zero_count_within(self.zero_threshold);
            }
            if other_threshold > self.zero_threshold {
                let (count, threshold) = self.zero_count_within(other_threshold);
                self.zero_count = count;
                self.zero_threshold = threshold;
                self.drop_buckets_within_zero();
            }
            // NaN thresholds compare to nothing: there is no width to agree on.
            if self.zero_threshold.is_nan() || other_threshold.is_nan() {
                break;
            }
        }
        other_count
    }

    /// The zero count, were the zero bucket as wide as `threshold` (not below the present width), and the
    /// width itself, which grows to the end of a populated bucket that `threshold` would cut.
    fn zero_count_within(&self, threshold: f64) -> (f64, f64) {
        // NaN is no width: nothing grows to it.
        if threshold.is_nan() || threshold <= self.zero_threshold {
            return (self.zero_count, self.zero_threshold);
        }
        let mut threshold = threshold;
        loop {
            let (positive, grown) = self.count_within(true, threshold);
            let (negative, regrown) = self.count_within(false, grown);
            if regrown == grown {
                return (self.zero_count + positive + negative, grown);
            }
            threshold = regrown;
        }
    }

    fn count_within(&self, positive: bool, threshold: f64) -> (f64, f64) {
        let mut total = 0.0;
        for (index, count) in self.side(positive) {
            if exponential_bound(index.saturating_sub(1), self.schema) >= threshold {
                break;
            }
            total += count;
            let upper = exponential_bound(index, self.schema);
            if upper > threshold {
                return (total, if count == 0.0 { threshold } else { upper });
            }
        }
        (total, threshold)
    }

    /// Empties the buckets that the zero bucket has swallowed.
    fn drop_buckets_within_zero(&mut self) {
        for positive in [true, false] {
            let side = self.side(positive);
            let swallowed = side
                .iter()
                .take_while(|(index, _)| {
                    bound(index.saturating_sub(1), self.schema, &[]) < self.zero_threshold
                })
                .count();
            let buckets = if positive { &mut self.positive_buckets } else { &mut self.negative_buckets };
            buckets.iter_mut().take(swallowed).for_each(|count| *count = 0.0);
        }
        self.compact();
    }

    /// Whether a counter was reset between `previous` and `self`: the hint says so, or any count fell, or a
    /// populated bucket vanished, or the layout became finer, which only a restart does.
    pub fn detect_reset(&self, previous: &Self) -> bool {
        match self.counter_reset_hint {
            CounterResetHint::Reset => return true,
            CounterResetHint::NotReset => return false,
            CounterResetHint::Unknown | CounterResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.uses_custom_buckets() {
            if !previous.uses_custom_buckets() {
                return true;
            }
            if self.custom_values != previous.custom_values {
                return self.custom_counts_fell(previous);
            }
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (previous_zero_count, threshold) = previous.zero_count_within(self.zero_threshold);
        if threshold != self.zero_threshold || self.zero_count < previous_zero_count {
            return true;
        }
        self.counts_fell(previous, true) || self.counts_fell(previous, false)
    }

    fn counts_fell(&self, previous: &Self, positive: bool) -> bool {
        let mut earlier = previous.side(positive);
        if !self.uses_custom_buckets() {
            earlier = outside_zero(earlier, previous.schema, self.zero_threshold);
        }
        if previous.schema > self.schema {
            earlier = reduced(&earlier, previous.schema, self.schema);
        }
        let mut now = self.side(positive).into_iter().peekable();
        earlier.into_iter().any(|(index, count)| {
            while now.next_if(|bucket| bucket.0 < index).is_some() {}
            match now.next_if(|bucket| bucket.0 == index) {
                Some(bucket) => bucket.1 < count,
                None => count != 0.0,
            }
        })
    }

    /// As [`Self::counts_fell`], over the bounds that both sets of custom buckets have.
    fn custom_counts_fell(&self, previous: &Self) -> bool {
        let bounds = intersected_bounds(&self.custom_values, &previous.custom_values);
        let now = map_to_bounds(&self.side(true), &self.custom_values, &bounds);
        let earlier = map_to_bounds(&previous.side(true), &previous.custom_values, &bounds);
        now.iter().zip(&earlier).any(|(now, earlier)| now < earlier)
    }
}
