//! Behaviour of the arithmetic as a whole.

use super::*;
use crate::Span;
use crate::histogram::CUSTOM_BUCKETS_SCHEMA;

fn exponential(schema: i32, offset: i32, counts: &[f64]) -> FloatHistogram {
    FloatHistogram {
        schema,
        count: counts.iter().sum(),
        sum: 1.0,
        positive_spans: vec![Span { offset, length: counts.len() as u32 }],
        positive_buckets: counts.to_vec(),
        ..FloatHistogram::default()
    }
}

fn custom(bounds: &[f64], counts: &[f64]) -> FloatHistogram {
    FloatHistogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        custom_values: bounds.into(),
        ..exponential(0, 0, counts)
    }
}

#[test]
fn adding_takes_the_coarser_schema() {
    let mut fine = exponential(1, 1, &[1.0, 2.0, 3.0, 4.0]);
    fine.add(&exponential(0, 1, &[10.0])).unwrap();
    assert_eq!(fine.schema, 0);
    assert_eq!(fine.positive_buckets, [13.0, 7.0]);
    assert_eq!(fine.count, 20.0);
    let mut coarse = exponential(0, 1, &[10.0]);
    coarse.add(&exponential(1, 1, &[1.0, 2.0, 3.0, 4.0])).unwrap();
    assert!(coarse.same_data(&fine));
}

#[test]
fn a_wider_zero_bucket_swallows_what_it_covers() {
    let mut narrow =
        FloatHistogram { zero_count: 1.0, zero_threshold: 0.001, ..exponential(0, 0, &[2.0, 3.0]) };
    let wide = FloatHistogram { zero_count: 5.0, zero_threshold: 0.75, ..exponential(0, 3, &[1.0]) };
    narrow.add(&wide).unwrap();
    // The bucket (0.5, 1] was populated, so the zero bucket grew to its end.
    assert_eq!(narrow.zero_threshold, 1.0);
    assert_eq!(narrow.zero_count, 8.0);
    assert_eq!(narrow.side(true), [(1, 3.0), (3, 1.0)]);
}

#[test]
fn custom_bounds_are_cut_to_what_is_common() {
    let mut a = custom(&[1.0, 2.0, 5.0], &[1.0, 2.0, 3.0, 4.0]);
    let reconciled = a.add(&custom(&[2.0, 4.0, 5.0], &[10.0, 20.0, 30.0, 40.0])).unwrap();
    assert!(reconciled.custom_bounds);
    assert_eq!(*a.custom_values, [2.0, 5.0]);
    assert_eq!(a.positive_buckets, [13.0, 53.0, 44.0]);
    assert_eq!(a.add(&exponential(0, 0, &[1.0])), Err(IncompatibleSchemas));
}

#[test]
fn contradicting_hints_collide_and_a_gauge_wins() {
    let with = |hint| FloatHistogram { counter_reset_hint: hint, ..exponential(0, 0, &[1.0]) };
    let mut reset = with(CounterResetHint::Reset);
    assert!(reset.add(&with(CounterResetHint::NotReset)).unwrap().counter_resets_collided);
    assert_eq!(reset.counter_reset_hint, CounterResetHint::Unknown);
    let mut counter = with(CounterResetHint::NotReset);
    assert!(!counter.sub(&with(CounterResetHint::Gauge)).unwrap().counter_resets_collided);
    assert_eq!(counter.counter_reset_hint, CounterResetHint::Gauge);
}

#[test]
fn a_reset_is_a_fallen_count_or_a_vanished_bucket() {
    let before = exponential(0, 0, &[1.0, 2.0]);
    assert!(!exponential(0, 0, &[1.0, 3.0]).detect_reset(&before));
    assert!(exponential(0, 0, &[0.5, 5.0]).detect_reset(&before));
    assert!(exponential(0, 1, &[5.0]).detect_reset(&before));
    assert!(exponential(1, 0, &[5.0, 5.0]).detect_reset(&before));
    assert!(!exponential(-1, 0, &[1.0, 2.0]).detect_reset(&before));
    let custom_before = custom(&[1.0, 2.0], &[1.0, 1.0]);
    assert!(!custom(&[1.0, 3.0], &[1.0, 1.0]).detect_reset(&custom_before));
    assert!(custom(&[2.0, 3.0], &[1.0, 5.0]).detect_reset(&custom_before));
}

#[test]
fn histograms_print_as_in_prometheus() {
    let mut histogram = FloatHistogram {
        zero_count: 2.0,
        zero_threshold: 0.001,
        negative_spans: vec![Span { offset: 0, length: 1 }],
        negative_buckets: vec![1.0],
        ..exponential(0, 0, &[2.5, 0.0, 3.0])
    };
    histogram.count = 8.5;
    assert_eq!(
        histogram.to_string(),
        "{count:8.5, sum:1, [-1,-0.5):1, [-0.001,0.001]:2, (0.5,1]:2.5, (2,4]:3}"
    );
}

#[test]
fn compacting_drops_empty_buckets_and_keeps_the_data() {
    let mut histogram = exponential(2, -3, &[0.0, 1.0, 0.0, 0.0, 2.0, 0.0]);
    histogram.compact();
    assert_eq!(histogram.positive_buckets, [1.0, 2.0]);
    assert_eq!(histogram.positive_spans, [Span { offset: -2, length: 1 }, Span { offset: 2, length: 1 }]);
}

#[test]
fn dividing_by_zero_leaves_no_buckets() {
    let mut histogram = exponential(0, 0, &[1.0]);
    histogram.divide(0.0);
    assert!(histogram.positive_buckets.is_empty());
    assert_eq!(histogram.count, f64::INFINITY);
}
