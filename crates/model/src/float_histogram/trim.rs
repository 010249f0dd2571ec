//! Cutting a histogram at a bound: PromQL's `</` and `>/`, which came after Prometheus 3.9.

use super::Bucket;
use super::layout::{from_side, side_of};
use crate::FloatHistogram;

/// Where a histogram is cut, and which part goes.
#[derive(Clone, Copy)]
struct Cut {
    bound: f64,
    drop_above: bool,
    /// Custom buckets: observations are spread evenly, not over the logarithm.
    linear: bool,
}

impl FloatHistogram {
    /// Drops the observations above `bound` (`drop_above`) or below it. A bucket across the bound keeps the share
    /// that interpolation puts on the side that stays. If anything goes, count and sum are made anew from the
    /// buckets, with each bucket's observations at the middle of what stays of it.
    pub fn trim(&mut self, bound: f64, drop_above: bool) {
        let cut = Cut { bound, drop_above, linear: self.uses_custom_buckets() };
        let (mut count, mut sum) = (0.0, 0.0);
        let mut trimmed = false;
        let mut keep = |bucket: &Bucket, (kept, middle): (f64, f64)| {
            trimmed |= kept != bucket.count;
            count += kept;
            sum += middle * kept;
            kept
        };
        let populated = |buckets: &[f64]| buckets.iter().any(|count| *count != 0.0);
        let (has_positive, has_negative) =
            (populated(&self.positive_buckets), populated(&self.negative_buckets));
        let mut side = |buckets: Vec<Bucket>, positive: bool| -> Vec<f64> {
            let part = |bucket: &Bucket| {
                if bucket.count == 0.0 { (0.0, 0.0) } else { cut.part_of(bucket, positive) }
            };
            buckets.iter().map(|bucket| keep(bucket, part(bucket))).collect()
        };
        let positive = side(self.positive_buckets(), true);
        let negative = side(self.negative_buckets(), false);
        let zero = match self.zero_bucket().filter(|zero| zero.count > 0.0) {
            Some(mut zero) => {
                if has_negative && !has_positive {
                    zero.upper = 0.0;
                } else if has_positive && !has_negative {
                    zero.lower = 0.0;
                }
                keep(&zero, Cut { linear: true, ..cut }.part_of(&zero, true))
            }
            None => self.zero_count,
        };
        if !trimmed {
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
        self.compact();
    }
}

impl Cut {
    /// What stays of a bucket: its count, and the middle of its observations.
    fn part_of(self, bucket: &Bucket, positive: bool) -> (f64, f64) {
        let bound = self.bound;
        let (whole, none) = if self.drop_above {
            (bucket.upper <= bound, bucket.lower >= bound)
        } else {
            (bucket.lower >= bound, bucket.upper <= bound)
        };
        if whole {
            return (bucket.count, self.middle(bucket.lower, bucket.upper, positive));
        }
        if none || bound.is_nan() {
            return (0.0, 0.0);
        }
        if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
            return self.part_of_endless(bucket);
        }
        let below = bucket.count * self.share_below(bucket);
        if self.drop_above {
            (below, self.middle(bucket.lower, bound, positive))
        } else {
            (bucket.count - below, self.middle(bound, bucket.upper, positive))
        }
    }

    /// Of a bucket without an end nothing is known but that a positive one begins at zero; otherwise it goes or
    /// stays as a whole.
    fn part_of_endless(self, bucket: &Bucket) -> (f64, f64) {
        let bound = self.bound;
        if bucket.lower == f64::NEG_INFINITY && bucket.upper.is_finite() {
            return match (self.drop_above, bucket.upper > 0.0) {
                (true, true) if bound > 0.0 => (bucket.count * bound / bucket.upper, bound / 2.0),
                (true, false) => (bucket.count, bound),
                (false, true) if bound >= 0.0 => {
                    (bucket.count * (1.0 - bound / bucket.upper), (bound + bucket.upper) / 2.0)
                }
                _ => (0.0, 0.0),
            };
        }
        if self.drop_above || bucket.lower == f64::NEG_INFINITY { (0.0, 0.0) } else { (bucket.count, bound) }
    }

    fn share_below(self, bucket: &Bucket) -> f64 {
        if self.linear {
            return (self.bound - bucket.lower) / (bucket.upper - bucket.lower);
        }
        let [lower, upper, bound] = [bucket.lower, bucket.upper, self.bound].map(|value| value.abs().log2());
        if self.bound > 0.0 {
            (bound - lower) / (upper - lower)
        } else {
            1.0 - (bound - upper) / (lower - upper)
        }
    }

    fn middle(self, lower: f64, upper: f64, positive: bool) -> f64 {
        match (lower.is_infinite(), upper.is_infinite()) {
            (true, true) => 0.0,
            (true, false) => {
                if upper > 0.0 {
                    upper / 2.0
                } else {
                    upper
                }
            }
            (false, true) => lower,
            (false, false) if self.linear => (lower + upper) / 2.0,
            (false, false) => {
                let middle = (lower * upper).abs().sqrt();
                if positive { middle } else { -middle }
            }
        }
    }
}
