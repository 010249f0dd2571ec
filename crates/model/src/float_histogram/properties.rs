//! Histograms of any shape, sane or not, never break the arithmetic; sane ones obey its laws.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{CounterResetHint, FloatHistogram, Span};

fn any_spans() -> impl Strategy<Value = Vec<Span>> {
    vec((any::<i32>(), any::<u32>()).prop_map(|(offset, length)| Span { offset, length }), 0..4)
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), Just(0.0), Just(f64::NAN), Just(f64::INFINITY), 0.0..100.0]
}

fn any_schema() -> impl Strategy<Value = i32> {
    prop_oneof![any::<i32>(), -6..10, Just(-53)]
}

prop_compose! {
    /// Whatever a chunk or a peer might claim.
    fn insane()(
        schema in any_schema(),
        [zero_threshold, zero_count, count, sum] in [any_number(), any_number(), any_number(), any_number()],
        positive_spans in any_spans(), negative_spans in any_spans(),
        positive_buckets in vec(any_number(), 0..8), negative_buckets in vec(any_number(), 0..8),
        custom_values in vec(any_number(), 0..5),
    ) -> FloatHistogram {
        FloatHistogram {
            counter_reset_hint: CounterResetHint::Unknown, schema, zero_threshold, zero_count, count, sum,
            positive_spans, negative_spans, positive_buckets, negative_buckets,
            custom_values: custom_values.into(),
        }
    }
}

/// Runs of buckets from `first` on, so that none lies within the zero bucket.
fn sane_side(first: i32) -> impl Strategy<Value = (Vec<Span>, Vec<f64>)> {
    vec((0i32..5, vec(0u16..50, 1..5)), 0..3).prop_map(move |runs| {
        let spans = runs.iter().enumerate().map(|(at, (offset, counts))| Span {
            offset: if at == 0 { offset + first } else { *offset },
            length: counts.len() as u32,
        });
        let counts = runs.iter().flat_map(|(_, counts)| counts).map(|count| f64::from(*count));
        (spans.collect(), counts.collect())
    })
}

prop_compose! {
    /// Counts are whole numbers, so that sums are exact; the zero bucket ends below the lowest bucket.
    fn sane()(
        schema in -2i32..4, zero_count in 0u16..9, zero_power in -90i32..-40,
        (positive_spans, positive_buckets) in sane_side(-2),
        (negative_spans, negative_buckets) in sane_side(-2),
    ) -> FloatHistogram {
        let zero_count = f64::from(zero_count);
        let count = zero_count + positive_buckets.iter().sum::<f64>() + negative_buckets.iter().sum::<f64>();
        FloatHistogram {
            counter_reset_hint: CounterResetHint::Unknown, schema, zero_count, count, sum: count,
            zero_threshold: 2f64.powi(zero_power),
            positive_spans, negative_spans, positive_buckets, negative_buckets,
            custom_values: Vec::new().into(),
        }
    }
}

prop_compose! {
    /// As [`sane`], with a zero bucket that may reach into the buckets of another.
    fn wide()(histogram in sane(), zero_power in -3i32..3) -> FloatHistogram {
        let mut wide = histogram;
        let zero = FloatHistogram {
            schema: wide.schema, zero_threshold: 2f64.powi(zero_power), ..FloatHistogram::default()
        };
        wide.add(&zero).expect("both exponential");
        wide
    }
}

fn total(histogram: &FloatHistogram) -> f64 {
    histogram.buckets().iter().map(|bucket| bucket.count).sum()
}

proptest! {
    #[test]
    fn nothing_panics_on_any_histogram(
        a in insane(), b in insane(), bound in any_number(), schema in any_schema(),
    ) {
        let _ = a.clone().add(&b);
        let _ = a.clone().sub(&b);
        let _ = a.detect_reset(&b);
        let _ = a.same_data(&b);
        let _ = (a.buckets(), a.to_string(), a.sample_weight());
        let mut changed = a;
        changed.reduce_resolution(schema);
        changed.compact();
        changed.trim(bound, true);
        changed.trim(bound, false);
        changed.scale(bound);
        changed.divide(bound);
    }

    #[test]
    fn sums_keep_every_observation(a in wide(), b in wide()) {
        let mut sum = a.clone();
        sum.add(&b).expect("both exponential");
        prop_assert_eq!(sum.count, a.count + b.count);
        prop_assert_eq!(total(&sum), total(&a) + total(&b));
        prop_assert_eq!(sum.schema, a.schema.min(b.schema));
    }

    #[test]
    fn it_does_not_matter_which_is_added_to_which(a in sane(), b in sane()) {
        let (mut left, mut right) = (a.clone(), b.clone());
        left.add(&b).expect("both exponential");
        right.add(&a).expect("both exponential");
        left.compact();
        right.compact();
        prop_assert!(left.same_data(&right), "{} {}", left, right);
    }

    #[test]
    fn what_was_added_can_be_taken_away(a in wide(), b in wide()) {
        let mut sum = a.clone();
        sum.add(&b).expect("both exponential");
        // A counter that only grows is never reset.
        prop_assert!(!sum.detect_reset(&a));
        sum.sub(&b).expect("both exponential");
        prop_assert_eq!(sum.count, a.count);
        prop_assert_eq!(total(&sum), total(&a));
    }

    #[test]
    fn coarser_buckets_count_the_same(a in sane(), target in -4i32..4) {
        let mut coarse = a.clone();
        coarse.reduce_resolution(target);
        prop_assert_eq!(coarse.schema, a.schema.min(target));
        prop_assert_eq!(total(&coarse), total(&a));
    }

    #[test]
    fn compacting_changes_no_bucket(a in sane()) {
        let mut compact = a.clone();
        compact.compact();
        prop_assert_eq!(compact.to_string(), a.to_string());
        prop_assert!(compact.positive_buckets.iter().all(|count| *count != 0.0));
    }

    #[test]
    fn what_one_cut_keeps_the_other_drops(a in sane(), bound in -9.0f64..9.0) {
        let (mut below, mut above) = (a.clone(), a.clone());
        below.trim(bound, true);
        above.trim(bound, false);
        prop_assert!((below.count + above.count - a.count).abs() < 1e-9 * (1.0 + a.count));
    }
}
