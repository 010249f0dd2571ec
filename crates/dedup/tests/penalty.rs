//! Penalty and chain dedup on small cases worked out by hand.

use std::sync::Arc;

use parallax_dedup::{Algorithm, DecodedChunk, Dedup, Samples, join};
use parallax_model::{CounterResetHint, FloatColumn, FloatHistogram, HistogramColumn, TimeRange};

fn floats(samples: &[(i64, f64)]) -> Samples {
    Samples { floats: column(samples), ..Samples::default() }
}

fn column(samples: &[(i64, f64)]) -> FloatColumn {
    let mut column = FloatColumn::default();
    for (time_ms, value) in samples {
        column.push(*time_ms, *value);
    }
    column
}

fn counter(samples: &[(i64, f64)]) -> Samples {
    join([DecodedChunk::Floats(column(samples))], TimeRange::ALL, true)
}

fn merged(function: &str, replicas: &[Samples]) -> Vec<(i64, f64)> {
    Dedup::new(Some(Algorithm::Penalty), function, TimeRange::ALL, TimeRange::ALL)
        .merge(replicas.to_vec())
        .floats
        .iter()
        .collect()
}

#[test]
fn one_replica_is_followed_while_it_has_samples() {
    let left = floats(&[(10_000, 1.0), (20_000, 1.0), (30_000, 1.0), (40_000, 1.0)]);
    let right = floats(&[(10_001, 2.0), (20_001, 2.0), (30_001, 2.0), (40_001, 2.0)]);
    assert_eq!(merged("", &[left.clone(), right]), left.floats.iter().collect::<Vec<_>>());
}

#[test]
fn a_gap_is_filled_by_the_other_replica() {
    let left = floats(&[(10_000, 1.0), (20_000, 1.0), (30_000, 1.0), (90_000, 1.0), (100_000, 1.0)]);
    let right = floats(&(1..=10).map(|i| (i * 10_000 + 4_000, 2.0)).collect::<Vec<_>>());
    // After 30 s the left side is silent. The right one may be looked at from 30 s + 2 * 10 s on. Having taken it,
    // the left one must wait for twice the distance of that step.
    assert_eq!(
        merged("", &[left, right]),
        [
            (10_000, 1.0),
            (20_000, 1.0),
            (30_000, 1.0),
            (54_000, 2.0),
            (64_000, 2.0),
            (74_000, 2.0),
            (84_000, 2.0),
            (94_000, 2.0),
            (104_000, 2.0)
        ]
    );
}

#[test]
fn equal_timestamps_go_left() {
    assert_eq!(merged("", &[floats(&[(1, 1.0)]), floats(&[(1, 2.0)])]), [(1, 1.0)]);
}

#[test]
fn the_first_loser_waits_five_seconds() {
    let left = floats(&[(1_000, 1.0)]);
    let right = floats(&[(2_000, 2.0), (6_000, 2.0), (6_001, 3.0)]);
    assert_eq!(merged("", &[left, right]), [(1_000, 1.0), (6_001, 3.0)]);
}

#[test]
fn a_counter_loses_its_resets_even_alone() {
    let stale = parallax_model::float::stale_nan();
    assert_eq!(
        merged(
            "rate",
            &[counter(&[(10, 5.0), (20, 7.0), (30, stale), (40, 1.0), (50, f64::NAN), (60, 3.0)])]
        ),
        [(10, 5.0), (20, 7.0), (40, 8.0), (60, 10.0)]
    );
}

#[test]
fn a_repeated_timestamp_carries_the_true_last_value_of_a_counter() {
    // The second 20 says that the raw series ended at 2: what follows has grown by one.
    assert_eq!(
        merged("rate", &[counter(&[(10, 5.0), (20, 9.0), (20, 2.0), (30, 3.0)])]),
        [(10, 5.0), (20, 9.0), (30, 10.0)]
    );
}

#[test]
fn a_switch_of_replica_does_not_let_a_counter_fall() {
    let left = counter(&[(10_000, 100.0), (20_000, 110.0)]);
    let right = counter(&[(15_000, 40.0), (45_000, 50.0), (55_000, 60.0)]);
    assert_eq!(
        merged("increase", &[left, right]),
        [(10_000, 100.0), (20_000, 110.0), (45_000, 110.0), (55_000, 120.0)]
    );
}

#[test]
fn a_right_side_that_begins_earlier_is_raised_to_the_left_ones_first_value() {
    let left = counter(&[(2_000, 100.0)]);
    let right = counter(&[(1_000, 40.0), (30_000, 50.0)]);
    assert_eq!(merged("rate", &[left, right]), [(1_000, 100.0), (30_000, 110.0)]);
}

#[test]
fn counters_stay_as_they_are_without_dedup() {
    let chunk = DecodedChunk::Floats(column(&[(10, 5.0), (20, 1.0)]));
    let dedup = Dedup::new(None, "resets", TimeRange::ALL, TimeRange::ALL);
    let replica = join([chunk], TimeRange::ALL, false);
    assert_eq!(dedup.merge(vec![replica]).floats.iter().collect::<Vec<_>>(), [(10, 5.0), (20, 1.0)]);
}

#[test]
fn overlapping_chunks_of_one_replica_do_not_go_back_in_time() {
    let chunks = [column(&[(10, 1.0), (20, 1.0), (30, 1.0)]), column(&[(20, 2.0), (30, 2.0), (40, 2.0)])];
    let samples = join(chunks.map(DecodedChunk::Floats), TimeRange::ALL, false);
    assert_eq!(samples, floats(&[(10, 1.0), (20, 1.0), (30, 1.0), (40, 2.0)]));
}

#[test]
fn the_end_of_time_is_an_end() {
    let left = floats(&[(i64::MAX - 1, 1.0), (i64::MAX, 1.0)]);
    let right = floats(&[(i64::MIN, 2.0), (i64::MAX, 2.0)]);
    assert_eq!(merged("", &[left, right]), [(i64::MIN, 2.0), (i64::MAX - 1, 1.0), (i64::MAX, 1.0)]);
}

#[test]
fn chained_histograms_forget_resets_where_the_replica_changes() {
    let replica = |times_ms: &[i64]| {
        let mut histograms = HistogramColumn::default();
        for time_ms in times_ms {
            let hint = CounterResetHint::NotReset;
            histograms.push(
                *time_ms,
                Arc::new(FloatHistogram { counter_reset_hint: hint, ..FloatHistogram::default() }),
            );
        }
        Samples { histograms, ..Samples::default() }
    };
    let dedup = Dedup::new(Some(Algorithm::Chain), "", TimeRange::ALL, TimeRange::ALL);
    let chained = dedup.merge(vec![replica(&[10, 20, 50]), replica(&[30, 40])]);
    let hints: Vec<_> = chained.histograms.iter().map(|(t, h)| (t, h.counter_reset_hint)).collect();
    use CounterResetHint::{NotReset, Unknown};
    assert_eq!(hints, [(10, Unknown), (20, NotReset), (30, Unknown), (40, NotReset), (50, Unknown)]);
}

#[test]
fn of_equal_timestamps_the_chain_takes_the_later_replica() {
    let dedup = Dedup::new(Some(Algorithm::Chain), "", TimeRange::ALL, TimeRange::ALL);
    let chained = dedup.merge(vec![floats(&[(10, 1.0), (20, 1.0)]), floats(&[(10, 2.0), (30, 2.0)])]);
    assert_eq!(chained.floats.iter().collect::<Vec<_>>(), [(10, 2.0), (20, 1.0), (30, 2.0)]);
}

#[test]
fn any_number_of_overlapping_replicas_is_merged_without_exhausting_the_stack() {
    let samples: Vec<(i64, f64)> = (1..=3).map(|i| (i * 15_000, i as f64)).collect();
    let late = floats(&[(45_000, 3.0), (200_000, 4.0)]);
    for function in ["", "rate"] {
        let mut replicas = vec![floats(&samples); 20_000];
        replicas.push(late.clone());
        let expected: Vec<_> = samples.iter().copied().chain([(200_000, 4.0)]).collect();
        assert_eq!(merged(function, &replicas), expected);
    }
}
