//! Arithmetic on native histograms: what a query does with them.
//!
//! Two histograms are brought to one bucket layout before they meet: the coarser of two exponential schemas,
//! the larger of two zero buckets (grown until it cuts no populated bucket), or the bounds that two custom
//! layouts have in common. Semantics are those of Prometheus 3.9 `model/histogram`; the way there is our own:
//! a side of a histogram is handled as a sorted list of (bucket index, count) and only stored as spans.
//!
//! Nothing here panics on histograms that came from outside: spans and buckets that do not fit each other are
//! read as far as they fit.

mod buckets;
mod display;
mod layout;
#[cfg(test)]
mod properties;
mod resets;
mod trim;

use std::sync::Arc;

pub use buckets::Bucket;
pub use display::format_g;

use crate::{CounterResetHint, FloatHistogram};
use layout::{Side, from_side, intersected_bounds, map_to_bounds, merged, outside_zero, reduced, side_of};

/// One of two histograms has exponential buckets and the other custom ones: they do not combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
pub struct IncompatibleSchemas;

/// What had to be smoothed over to combine two histograms; each is worth an annotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// One said "reset", the other "no reset".
    pub counter_resets_collided: bool,
    /// Two sets of custom bounds were cut down to what they have in common.
    pub custom_bounds: bool,
}

/// Bytes of a histogram besides its spans, buckets and bounds, as Prometheus counts them.
const STRUCT_SIZE_BYTES: usize = 168;

/// Bytes of one float sample (timestamp and value): the unit in which histograms count against a sample limit.
const FLOAT_SAMPLE_SIZE_BYTES: usize = 16;

impl FloatHistogram {
    /// Adds `other`, bucket by bucket.
    ///
    /// # Errors
    /// If one of the two has custom buckets and the other has not; `self` is then unchanged.
    pub fn add(&mut self, other: &Self) -> Result<Reconciled, IncompatibleSchemas> {
        self.combine(other, 1.0)
    }

    /// Subtracts `other`. The hint is treated as by [`Self::add`]; PromQL's `-` makes the result a gauge itself.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn sub(&mut self, other: &Self) -> Result<Reconciled, IncompatibleSchemas> {
        self.combine(other, -1.0)
    }

    fn combine(&mut self, other: &Self, sign: f64) -> Result<Reconciled, IncompatibleSchemas> {
        if self.uses_custom_buckets() != other.uses_custom_buckets() {
            return Err(IncompatibleSchemas);
        }
        let mut reconciled =
            Reconciled { counter_resets_collided: self.merge_hint(other), ..Reconciled::default() };
        if self.uses_custom_buckets() {
            reconciled.custom_bounds = self.combine_custom(other, sign);
        } else {
            self.combine_exponential(other, sign);
        }
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        Ok(reconciled)
    }

    fn combine_custom(&mut self, other: &Self, sign: f64) -> bool {
        let mine = side_of(&self.positive_spans, &self.positive_buckets);
        let theirs = side_of(&other.positive_spans, &other.positive_buckets);
        let matching = self.custom_values == other.custom_values;
        let combined = if matching {
            merged(mine, &theirs, sign)
        } else {
            let bounds: Arc<[f64]> = intersected_bounds(&self.custom_values, &other.custom_values).into();
            let mut counts = map_to_bounds(&mine, &self.custom_values, &bounds);
            let theirs = map_to_bounds(&theirs, &other.custom_values, &bounds);
            counts.iter_mut().zip(theirs).for_each(|(count, other)| *count += sign * other);
            self.custom_values = bounds;
            counts.iter().zip(0i32..).filter(|(c, _)| **c != 0.0).map(|(c, i)| (i, *c)).collect()
        };
        (self.positive_spans, self.positive_buckets) = from_side(&combined);
        !matching
    }

    fn combine_exponential(&mut self, other: &Self, sign: f64) {
        let other_zero_count = self.reconcile_zero_buckets(other);
        self.zero_count += sign * other_zero_count;
        if self.schema == other.schema && self.zero_threshold == other.zero_threshold {
            let positive = add_in_place(&mut self.positive_buckets, &self.positive_spans, other, true, sign);
            let negative = add_in_place(&mut self.negative_buckets, &self.negative_spans, other, false, sign);
            if positive && negative {
                return;
            }
            if !positive {
                self.combine_side(other, true, sign);
            }
            if !negative {
                self.combine_side(other, false, sign);
            }
            return;
        }
        if other.schema < self.schema {
            self.reduce_resolution(other.schema);
        }
        self.combine_side(other, true, sign);
        self.combine_side(other, false, sign);
    }

    fn combine_side(&mut self, other: &Self, positive: bool, sign: f64) {
        let (spans, buckets) = if positive {
            (&mut self.positive_spans, &mut self.positive_buckets)
        } else {
            (&mut self.negative_spans, &mut self.negative_buckets)
        };
        // What lies within the zero bucket is in the zero count already.
        let mut theirs = outside_zero(other.side(positive), other.schema, self.zero_threshold);
        if other.schema > self.schema {
            theirs = reduced(&theirs, other.schema, self.schema);
        }
        (*spans, *buckets) = from_side(&merged(side_of(spans, buckets), &theirs, sign));
    }

    /// Multiplies all counts and the sum. A negative factor makes a gauge.
    pub fn scale(&mut self, factor: f64) {
        self.for_each_count(|count| *count *= factor);
        if factor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    /// Divides all counts and the sum. Dividing by zero leaves no buckets; a negative divisor makes a gauge.
    pub fn divide(&mut self, divisor: f64) {
        if divisor == 0.0 {
            self.positive_spans.clear();
            self.positive_buckets.clear();
            self.negative_spans.clear();
            self.negative_buckets.clear();
        }
        self.for_each_count(|count| *count /= divisor);
        if divisor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    fn for_each_count(&mut self, mut change: impl FnMut(&mut f64)) {
        change(&mut self.zero_count);
        change(&mut self.count);
        change(&mut self.sum);
        self.positive_buckets.iter_mut().for_each(&mut change);
        self.negative_buckets.iter_mut().for_each(&mut change);
    }

    /// Drops empty buckets, and joins spans that touch.
    pub fn compact(&mut self) {
        compact_side(&mut self.positive_spans, &mut self.positive_buckets);
        compact_side(&mut self.negative_spans, &mut self.negative_buckets);
    }

    /// Merges buckets until the histogram has `target_schema`. Does nothing to custom buckets, or if the
    /// histogram is as coarse already.
    pub fn reduce_resolution(&mut self, target_schema: i32) {
        if self.uses_custom_buckets() || target_schema >= self.schema {
            return;
        }
        let positive = reduced(&self.side(true), self.schema, target_schema);
        let negative = reduced(&self.side(false), self.schema, target_schema);
        (self.positive_spans, self.positive_buckets) = from_side(&positive);
        (self.negative_spans, self.negative_buckets) = from_side(&negative);
        self.schema = target_schema;
    }

    /// Whether both hold the same data: the same buckets with bitwise equal counts. Hints do not count, nor
    /// how the buckets are cut into spans.
    pub fn same_data(&self, other: &Self) -> bool {
        let bits =
            |histogram: &Self| [histogram.count, histogram.sum, histogram.zero_count].map(f64::to_bits);
        let same_side = |positive: bool| {
            let (mine, theirs) = (self.side(positive), other.side(positive));
            mine.len() == theirs.len()
                && mine.iter().zip(&theirs).all(|(a, b)| a.0 == b.0 && a.1.to_bits() == b.1.to_bits())
        };
        self.schema == other.schema
            && bits(self) == bits(other)
            && self.zero_threshold == other.zero_threshold
            && (!self.uses_custom_buckets() || self.custom_values == other.custom_values)
            && same_side(true)
            && same_side(false)
    }

    /// How many float samples this histogram counts as in a limit on samples; at least 1.
    pub fn sample_weight(&self) -> usize {
        let elements = self.positive_spans.len()
            + self.negative_spans.len()
            + self.positive_buckets.len()
            + self.negative_buckets.len()
            + self.custom_values.len();
        (STRUCT_SIZE_BYTES + 8 * elements + 8) / FLOAT_SAMPLE_SIZE_BYTES
    }

    /// One side as (bucket index, count), sorted by index.
    pub(crate) fn side(&self, positive: bool) -> Side {
        if positive {
            side_of(&self.positive_spans, &self.positive_buckets)
        } else {
            side_of(&self.negative_spans, &self.negative_buckets)
        }
    }

    /// Settles the hint of a combination; true if the two contradict each other.
    fn merge_hint(&mut self, other: &Self) -> bool {
        use CounterResetHint::{Gauge, Unknown};
        let (mine, theirs) = (self.counter_reset_hint, other.counter_reset_hint);
        let (hint, collided) = match (mine, theirs) {
            _ if mine == theirs => (mine, false),
            (Gauge, _) | (_, Gauge) => (Gauge, false),
            (Unknown, _) | (_, Unknown) => (Unknown, false),
            _ => (Unknown, true),
        };
        self.counter_reset_hint = hint;
        collided
    }
}

/// The common case: both have exactly the same spans. False, with nothing done, if they have not.
fn add_in_place(
    buckets: &mut [f64],
    spans: &[crate::Span],
    other: &FloatHistogram,
    positive: bool,
    sign: f64,
) -> bool {
    let (their_spans, their_buckets) = if positive {
        (&other.positive_spans, &other.positive_buckets)
    } else {
        (&other.negative_spans, &other.negative_buckets)
    };
    // A bucket inside the zero bucket takes the careful way; with equal thresholds there is hardly ever one.
    let starts_inside = spans
        .first()
        .is_some_and(|span| layout::exponential_bound(span.offset, other.schema) <= other.zero_threshold);
    if starts_inside || spans != their_spans.as_slice() || buckets.len() != their_buckets.len() {
        return false;
    }
    buckets.iter_mut().zip(their_buckets).for_each(|(mine, theirs)| *mine += sign * theirs);
    true
}

fn compact_side(spans: &mut Vec<crate::Span>, buckets: &mut Vec<f64>) {
    let tidy = buckets.iter().all(|count| *count != 0.0)
        && spans.iter().all(|span| span.length > 0)
        && spans.iter().skip(1).all(|span| span.offset > 0);
    if tidy {
        return;
    }
    let mut side = side_of(spans, buckets);
    side.retain(|(_, count)| *count != 0.0);
    (*spans, *buckets) = from_side(&side);
}

#[cfg(test)]
mod tests;
