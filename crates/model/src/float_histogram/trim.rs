//! Cutting a histogram at a bound (PromQL's `</` and `>/`).

use super::Bucket;
use super::layout::{from_side, side_of};
use crate::{CounterResetHint, FloatHistogram};

impl FloatHistogram {
    /// Drops the observations above `bound` (`drop_above`) or below it. A bucket across the bound keeps the
    /// share that interpolation puts on the side that stays; count and sum follow the buckets, the sum with
    /// each bucket's middle. A trimmed histogram is a gauge.
    pub fn trim(&mut self, bound: f64, drop_above: bool) {
        let custom = self.uses_custom_buckets();
        let (mut count, mut sum) = (0.0, 0.0);
        let mut trimmed_any = false;
        let mut kept = |bucket: Bucket| {
            let share = share_below(&bucket, bound, custom);
            let share = if drop_above { share } else { 1.0 - share };
            let keeps = bucket.count * share;
            trimmed_any |= keeps != bucket.count;
            count += keeps;
            if keeps != 0.0 {
                sum += keeps * middle(&bucket, custom);
            }
            keeps
        };
        let negative: Vec<f64> = self.negative_buckets().into_iter().map(&mut kept).collect();
        let zero = self.zero_bucket().map_or(0.0, &mut kept);
        let positive: Vec<f64> = self.positive_buckets().into_iter().map(&mut kept).collect();
        if !trimmed_any {
            return;
        }
        for (spans, buckets, counts) in [
            (&mut self.positive_spans, &mut self.positive_buckets, positive),
            (&mut self.negative_spans, &mut self.negative_buckets, negative),
        ] {
            let mut side = side_of(spans, buckets);
            side.iter_mut().zip(counts).for_each(|(bucket, count)| bucket.1 = count);
            (*spans, *buckets) = from_side(&side);
        }
        self.zero_count = zero;
        self.count = count;
        self.sum = sum;
        self.counter_reset_hint = CounterResetHint::Gauge;
    }
}

/// How much of a bucket lies below `bound`.
fn share_below(bucket: &Bucket, bound: f64, custom: bool) -> f64 {
    if bound >= bucket.upper {
        return 1.0;
    }
    if bound <= bucket.lower || bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return 0.0;
    }
    if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (bound - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let [lower, upper, at] = [bucket.lower, bucket.upper, bound].map(|value| value.abs().log2());
    (at - lower) / (upper - lower)
}

/// Where the observations of a bucket are taken to be.
fn middle(bucket: &Bucket, custom: bool) -> f64 {
    if bucket.lower == f64::NEG_INFINITY {
        return bucket.upper;
    }
    if bucket.upper == f64::INFINITY {
        return bucket.lower;
    }
    if custom {
        return (bucket.lower + bucket.upper) / 2.0;
    }
    if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
        return 0.0;
    }
    (bucket.lower * bucket.upper).sqrt().copysign(bucket.upper)
}
