//! What is read off histograms: quantiles, fractions and moments, of native and of classic ones.
//!
//! Algorithms as in Prometheus 3.9 `promql/quantile.go`: within a bucket, observations are taken to be spread
//! evenly; in exponential buckets, evenly over the logarithm.

use parallax_model::FloatHistogram;
use parallax_model::float_histogram::Bucket;

use super::kahan::KahanSum;
use crate::annotations::Annotations;
use crate::ast::PosRange;

/// The mean of the squared distances from the mean, each bucket's observations taken at its middle.
pub(crate) fn variance(histogram: &FloatHistogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut squares = KahanSum::default();
    for bucket in histogram.buckets().iter().filter(|bucket| bucket.count != 0.0) {
        let middle = if histogram.uses_custom_buckets() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
        };
        let delta = middle - mean;
        squares.add(bucket.count * delta * delta);
    }
    (squares.sum + squares.compensation) / histogram.count
}

/// The zero bucket of a histogram with observations on one side only ends at zero.
fn without_empty_half(mut bucket: Bucket, histogram: &FloatHistogram) -> Bucket {
    match (histogram.negative_buckets.is_empty(), histogram.positive_buckets.is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
    bucket
}

/// The `q`-quantile of a native histogram. NaN observations count as greater than all others.
pub(crate) fn native_quantile(
    q: f64,
    histogram: &FloatHistogram,
    metric: &str,
    at: PosRange,
    notes: &mut Annotations,
) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if histogram.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    let has_nan = histogram.sum.is_nan();
    let forward = has_nan || q < 0.5;
    let mut buckets = histogram.buckets();
    let mut rank = q * histogram.count;
    if !forward {
        buckets.reverse();
        rank = (1.0 - q) * histogram.count;
    }
    let mut count = 0.0;
    let mut found =
        Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0 };
    let mut rest = buckets.iter();
    for bucket in rest.by_ref() {
        found = *bucket;
        count += bucket.count;
        if bucket.count != 0.0 && count >= rank {
            break;
        }
    }
    let custom = histogram.uses_custom_buckets();
    if custom {
        if found.lower == f64::NEG_INFINITY {
            if found.upper <= 0.0 {
                return found.upper;
            }
            found.lower = 0.0;
        } else if found.upper == f64::INFINITY {
            return found.lower;
        }
    } else if found.lower < 0.0 && found.upper > 0.0 {
        found = without_empty_half(found, histogram);
    }
    count = count.min(histogram.count);
    if count < rank {
        if has_nan {
            notes.quantile_is_nan(metric, at);
            return f64::NAN;
        }
        return found.upper;
    }
    let into_bucket = if forward { rank - (count - found.count) } else { count - rank };
    if has_nan {
        let counted = rest.fold(count, |counted, bucket| counted + bucket.count);
        if counted < histogram.count {
            notes.quantile_is_skewed(metric, at);
        }
    }
    let fraction = into_bucket / found.count;
    if custom || (found.lower <= 0.0 && found.upper >= 0.0) {
        return found.lower + (found.upper - found.lower) * fraction;
    }
    let (log_lower, log_upper) = (found.lower.abs().log2(), found.upper.abs().log2());
    if found.lower > 0.0 {
        (log_lower + (log_upper - log_lower) * fraction).exp2()
    } else {
        -(log_upper + (log_lower - log_upper) * (1.0 - fraction)).exp2()
    }
}

/// Ranks of the two ends of an interval, gathered while buckets go by in ascending order.
struct Ends {
    bounds: [f64; 2],
    ranks: [Option<f64>; 2],
}

impl Ends {
    fn new(lower: f64, upper: f64) -> Self {
        Self { bounds: [lower, upper], ranks: [None; 2] }
    }

    /// `rank` observations lie below this bucket; `within` gives the rank of a value inside it. True once
    /// both ends are found.
    fn pass(&mut self, lower: f64, upper: f64, rank: f64, within: impl Fn(f64) -> f64) -> bool {
        for (bound, found) in self.bounds.iter().zip(&mut self.ranks) {
            if found.is_none() {
                if lower >= *bound {
                    *found = Some(rank);
                } else if upper > *bound {
                    *found = Some(within(*bound));
                }
            }
        }
        self.ranks.iter().all(Option::is_some)
    }

    /// How many observations lie between the ends; what was not found, or too high, is at `count`.
    fn between(&self, count: f64) -> f64 {
        let [lower, upper] =
            self.ranks.map(|rank| rank.filter(|rank| *rank <= count || rank.is_nan()).unwrap_or(count));
        upper - lower
    }
}

/// The share of a native histogram's observations between `lower` and `upper`.
pub(crate) fn native_fraction(
    lower: f64,
    upper: f64,
    histogram: &FloatHistogram,
    metric: &str,
    at: PosRange,
    notes: &mut Annotations,
) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let custom = histogram.uses_custom_buckets();
    let mut ends = Ends::new(lower, upper);
    let mut rank = 0.0;
    let buckets = histogram.buckets();
    for bucket in &buckets {
        let around_zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        let bucket = if around_zero { without_empty_half(*bucket, histogram) } else { *bucket };
        let within = |value: f64| {
            if custom || around_zero {
                return if bucket.lower == f64::NEG_INFINITY {
                    bucket.count
                } else {
                    rank + bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower)
                };
            }
            let [low, high, at] = [bucket.lower, bucket.upper, value].map(|bound| bound.abs().log2());
            let fraction =
                if value > 0.0 { (at - low) / (high - low) } else { 1.0 - (at - high) / (low - high) };
            rank + bucket.count * fraction
        };
        if ends.pass(bucket.lower, bucket.upper, rank, within) {
            break;
        }
        rank += bucket.count;
    }
    let mut count = histogram.count;
    if histogram.sum.is_nan() {
        count = buckets.iter().map(|bucket| bucket.count).sum();
        if count < histogram.count {
            notes.fraction_excludes_nan(metric, at);
        }
    }
    ends.between(count) / histogram.count
}

/// A bucket of a classic histogram: how many observations are at most `upper`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassicBucket {
    pub upper: f64,
    pub count: f64,
}

/// Sorted, buckets of the same bound added up. `None` if the last bound is not +∞.
fn tidied(buckets: &mut Vec<ClassicBucket>) -> Option<()> {
    // A bound that is NaN cannot be parsed from a label that Prometheus writes; it stays where it is.
    buckets.sort_by(|a, b| a.upper.partial_cmp(&b.upper).unwrap_or(std::cmp::Ordering::Equal));
    buckets.last().filter(|last| last.upper == f64::INFINITY)?;
    buckets.dedup_by(|next, kept| {
        let same = next.upper == kept.upper;
        if same {
            kept.count += next.count;
        }
        same
    });
    Some(())
}

/// Differences below this share of the counts come from floating-point arithmetic, not from observations.
const SMALL_DELTA: f64 = 1e-12;

/// Makes counts rise from bucket to bucket; true if more than small differences had to be mended.
fn make_monotonic(buckets: &mut [ClassicBucket]) -> bool {
    let mut forced = false;
    let mut highest: Option<f64> = None;
    for bucket in buckets {
        let before = *highest.get_or_insert(bucket.count);
        if bucket.count == before {
            continue;
        }
        if almost_equal(before, bucket.count) {
            bucket.count = before;
        } else if bucket.count < before {
            bucket.count = before;
            forced = true;
        } else {
            highest = Some(bucket.count);
        }
    }
    forced
}

fn almost_equal(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < SMALL_DELTA * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < SMALL_DELTA
}

/// The `q`-quantile of a classic histogram, and whether its counts had to be made monotonic.
pub(crate) fn classic_quantile(q: f64, buckets: &mut Vec<ClassicBucket>) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, false);
    }
    if q > 1.0 {
        return (f64::INFINITY, false);
    }
    if tidied(buckets).is_none() {
        return (f64::NAN, false);
    }
    let forced = make_monotonic(buckets);
    let [inner @ .., last] = buckets.as_slice() else { return (f64::NAN, false) };
    let (Some(highest), true) = (inner.last(), last.count != 0.0) else { return (f64::NAN, false) };
    let rank = q * last.count;
    // The first bucket that reaches the rank; counts rise, but may be NaN.
    let reaches = |bucket: &ClassicBucket| bucket.count >= rank;
    let position = inner.partition_point(|bucket| !reaches(bucket));
    let Some(bucket) = inner.get(position) else { return (highest.upper, forced) };
    let Some(below) = position.checked_sub(1).and_then(|below| inner.get(below)) else {
        if bucket.upper <= 0.0 {
            return (bucket.upper, forced);
        }
        return (bucket.upper * (rank / bucket.count), forced);
    };
    let share = (rank - below.count) / (bucket.count - below.count);
    (below.upper + (bucket.upper - below.upper) * share, forced)
}

/// The share of a classic histogram's observations between `lower` and `upper`.
pub(crate) fn classic_fraction(lower: f64, upper: f64, buckets: &mut Vec<ClassicBucket>) -> f64 {
    if tidied(buckets).is_none() {
        return f64::NAN;
    }
    let count = buckets.last().map_or(0.0, |last| last.count);
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut ends = Ends::new(lower, upper);
    let starts_positive = buckets.first().is_some_and(|first| first.upper > 0.0);
    let mut from = if starts_positive { 0.0 } else { f64::NEG_INFINITY };
    let mut rank = 0.0;
    for bucket in buckets.iter() {
        let within = |value: f64| {
            if from == f64::NEG_INFINITY {
                bucket.count
            } else {
                rank + (bucket.count - rank) * (value - from) / (bucket.upper - from)
            }
        };
        if ends.pass(from, bucket.upper, rank, within) {
            break;
        }
        (from, rank) = (bucket.upper, bucket.count);
    }
    ends.between(count) / count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic(buckets: &[(f64, f64)]) -> Vec<ClassicBucket> {
        buckets.iter().map(|(upper, count)| ClassicBucket { upper: *upper, count: *count }).collect()
    }

    #[test]
    fn classic_quantiles_interpolate() {
        let buckets = classic(&[(f64::INFINITY, 10.0), (1.0, 2.0), (2.0, 8.0)]);
        assert_eq!(classic_quantile(0.5, &mut buckets.clone()), (1.5, false));
        assert_eq!(classic_quantile(0.1, &mut buckets.clone()), (0.5, false));
        assert_eq!(classic_quantile(0.99, &mut buckets.clone()), (2.0, false));
        assert_eq!(classic_fraction(0.0, 1.5, &mut buckets.clone()), 0.5);
        assert!(classic_quantile(0.5, &mut classic(&[(1.0, 2.0)])).0.is_nan());
    }

    #[test]
    fn falling_counts_are_mended_and_told() {
        let mut buckets = classic(&[(1.0, 5.0), (2.0, 4.0), (f64::INFINITY, 10.0)]);
        assert!(classic_quantile(0.5, &mut buckets).1);
        let mut nearly = classic(&[(1.0, 5.0), (2.0, 5.0 - 1e-14), (f64::INFINITY, 10.0)]);
        assert!(!classic_quantile(0.5, &mut nearly).1);
    }
}
