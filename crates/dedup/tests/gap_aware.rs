//! Gap-aware dedup on small cases worked out by hand. Times are in seconds.

use std::sync::Arc;

use parallax_dedup::{Algorithm, Dedup, Samples};
use parallax_model::float::{is_stale, stale_nan};
use parallax_model::{CounterResetHint, FloatHistogram, HistogramColumn, TimeRange};

type Pairs = Vec<(i64, f64)>;

fn floats(samples: &[(i64, f64)]) -> Samples {
    let mut all = Samples::default();
    samples.iter().for_each(|(time, value)| all.floats.push(*time * 1000, *value));
    all
}

/// Every `interval` from `start` to `end`, each the number of its replica.
fn scraped(start: i64, end: i64, interval: i64, replica: f64) -> Pairs {
    (0..)
        .map(|at| start + at * interval)
        .take_while(|time| *time <= end)
        .map(|time| (time, replica))
        .collect()
}

fn without(mut samples: Pairs, times: &[i64]) -> Pairs {
    samples.retain(|(time, _)| !times.contains(time));
    samples
}

fn dedup(function: &str) -> Dedup {
    Dedup::new(Some(Algorithm::GapAware), function, TimeRange::ALL, TimeRange::ALL)
}

fn merged(function: &str, replicas: &[Pairs]) -> Pairs {
    let replicas = replicas.iter().map(|samples| floats(samples)).collect();
    dedup(function).merge(replicas).floats.iter().map(|(time_ms, value)| (time_ms / 1000, value)).collect()
}

/// Which replica gives which stretch: its number, first and last time.
fn stretches(samples: &[(i64, f64)]) -> Vec<(f64, i64, i64)> {
    samples.chunk_by(|a, b| a.1 == b.1).map(|run| (run[0].1, run[0].0, run[run.len() - 1].0)).collect()
}

#[test]
fn a_replica_that_is_never_late_is_followed_alone() {
    let (left, right) = (scraped(10, 400, 15, 1.0), scraped(12, 400, 15, 2.0));
    assert_eq!(merged("", &[left.clone(), right.clone()]), left);
    assert_eq!(merged("", &[right, left.clone()]), left, "whoever comes first in time, not in order");
}

#[test]
fn at_a_missed_scrape_the_other_replica_is_taken_and_stayed_with() {
    let left = without(scraped(0, 300, 10, 1.0), &[100]);
    // Six seconds after 90 is far enough: the next sample is there already.
    let found = merged("", &[left.clone(), scraped(6, 306, 10, 2.0)]);
    assert_eq!(stretches(&found), [(1.0, 0, 90), (2.0, 96, 306)]);
    // Three seconds would be too near: the one after that.
    let found = merged("", &[left, scraped(3, 303, 10, 2.0)]);
    assert_eq!(stretches(&found), [(1.0, 0, 90), (2.0, 103, 303)]);
}

#[test]
fn a_scrape_that_is_somewhat_late_is_no_miss() {
    let mut left = scraped(0, 300, 10, 1.0);
    left.iter_mut().filter(|(time, _)| *time == 100).for_each(|(time, _)| *time = 105);
    assert_eq!(merged("", &[left.clone(), scraped(2, 302, 10, 2.0)]), left);
}

#[test]
fn a_marker_is_a_missed_scrape_where_another_replica_has_a_sample() {
    let mut left = without(scraped(0, 300, 10, 1.0), &[110, 120]);
    left.iter_mut().filter(|(time, _)| *time == 100).for_each(|(_, value)| *value = stale_nan());
    let found = merged("", &[left.clone(), scraped(7, 307, 10, 2.0)]);
    assert_eq!(stretches(&found), [(1.0, 0, 90), (2.0, 97, 307)]);
    // One comes within one and a half intervals, after the marker.
    let right = without(scraped(3, 303, 10, 2.0), &[93]);
    assert_eq!(stretches(&merged("", &[left, right])), [(1.0, 0, 90), (2.0, 103, 303)]);
}

#[test]
fn a_series_that_no_replica_has_any_more_ends_with_one_marker() {
    let mut left = scraped(0, 100, 10, 1.0);
    left.push((110, stale_nan()));
    let mut right = scraped(3, 103, 10, 2.0);
    right.push((113, stale_nan()));
    let found = merged("", &[left, right]);
    assert_eq!(stretches(&found[..11]), [(1.0, 0, 100)]);
    // What the right one had at 103 is too near, and its marker comes second.
    assert!(matches!(found[11..], [(110, value)] if is_stale(value)), "{found:?}");
}

#[test]
fn where_the_data_ends_nothing_is_missed_yet() {
    let left = scraped(0, 100, 10, 1.0);
    // The next sample of the left replica may just be on its way.
    assert_eq!(merged("", &[left.clone(), scraped(6, 106, 10, 2.0)]), left);
    let found = merged("", &[left.clone(), scraped(6, 126, 10, 2.0)]);
    assert_eq!(stretches(&found), [(1.0, 0, 100), (2.0, 106, 126)]);
    // A scrape that failed here is no end of the series: there the next one may be on its way, too.
    let mut failing = left.clone();
    failing.push((110, stale_nan()));
    assert_eq!(merged("", &[failing.clone(), scraped(3, 103, 10, 2.0)]), left);
    assert_eq!(merged("", &[failing, scraped(3, 93, 10, 2.0)]).len(), 12, "the other one is late itself");
}

#[test]
fn after_a_gap_of_all_whoever_is_back_first_is_followed() {
    let left = [scraped(0, 100, 10, 1.0), scraped(500, 700, 10, 1.0)].concat();
    let right = [scraped(3, 103, 10, 2.0), scraped(493, 703, 10, 2.0)].concat();
    // 103 is too near 100, and nothing else comes.
    assert_eq!(stretches(&merged("", &[left, right])), [(1.0, 0, 100), (2.0, 493, 703)]);
}

#[test]
fn a_slow_replica_is_left_when_the_fast_one_is_back() {
    let fast = [scraped(1, 91, 10, 1.0), scraped(401, 700, 10, 1.0)].concat();
    let slow = scraped(0, 700, 60, 2.0);
    let found = merged("", &[slow, fast]);
    assert_eq!(stretches(&found), [(2.0, 0, 0), (1.0, 11, 91), (2.0, 120, 360), (1.0, 401, 691)]);
}

#[test]
fn a_shorter_interval_is_learned_and_a_longer_one() {
    let changing = |start: i64, replica: f64| {
        let (before, after) = (scraped(start, 600, 15, replica), scraped(start + 615, 3_000, 60, replica));
        [before, after, scraped(start + 3_020, 3_600, 15, replica)].concat()
    };
    let (left, right) = (changing(0, 1.0), changing(7, 2.0));
    assert_eq!(merged("", &[left.clone(), right.clone()]), left);
    // A miss is seen in each of the stretches.
    for missed in [300, 1_215, 3_320] {
        let found = merged("", &[without(left.clone(), &[missed]), right.clone()]);
        assert_eq!(stretches(&found).len(), 2, "without {missed}: {:?}", stretches(&found));
        let most = found.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
        assert!(most < 90, "without {missed}: {most}");
    }
}

#[test]
fn samples_that_come_as_they_please_all_stay() {
    let distances = [10, 3, 17, 13, 3, 26, 15, 9].into_iter().cycle();
    let left: Pairs = distances
        .scan(0, |time, distance| {
            *time += distance;
            Some((*time, 1.0))
        })
        .take(100)
        .collect();
    let found = merged("", &[left.clone(), left.clone()]);
    assert_eq!(found, left);
}

#[test]
fn few_samples_are_enough() {
    assert_eq!(merged("", &[vec![(1, 1.0)], vec![(2, 2.0)]]), [(1, 1.0)]);
    assert_eq!(merged("", &[vec![(1, 1.0)], vec![(6, 2.0), (11, 2.0)]]), [(1, 1.0), (6, 2.0), (11, 2.0)]);
    assert_eq!(merged("", &[vec![], vec![(6, 2.0)]]), [(6, 2.0)]);
    assert_eq!(merged("", &[vec![], vec![]]), []);
}

#[test]
fn a_counter_keeps_its_resets() {
    let counter: Pairs = (0..40).map(|at| (at * 10, (at % 20) as f64)).collect();
    let shifted: Pairs = (0..40).map(|at| (at * 10 + 3, (at % 20) as f64)).collect();
    assert_eq!(merged("rate", &[counter.clone(), shifted]), counter);
}

/// One per second, and a clock that is late by some.
fn counting(start: i64, end: i64, late: i64) -> Pairs {
    scraped(start, end, 10, 0.0).into_iter().map(|(time, _)| (time, (time - late) as f64)).collect()
}

#[test]
fn a_counter_does_not_fall_where_the_other_replicas_clock_is_late() {
    let left = without(counting(1_000, 1_300, 0), &[1_100]);
    let found = merged("rate", &[left, counting(1_006, 1_306, 9)]);
    // At 1096 the other one shows 1087; it is held until that is passed.
    let values: Pairs = found.iter().copied().filter(|(time, _)| (1_080..1_120).contains(time)).collect();
    assert_eq!(
        values,
        [(1_080, 1_080.0), (1_090, 1_090.0), (1_096, 1_090.0), (1_106, 1_097.0), (1_116, 1_107.0)]
    );
}

#[test]
fn a_reset_that_only_the_new_replica_saw_is_kept() {
    let left: Pairs = without(counting(1_000, 1_300, 0), &[1_100]);
    let right: Pairs = counting(1_006, 1_306, 0)
        .into_iter()
        .map(|(time, value)| (time, if time >= 1_096 { value - 1_094.0 } else { value }))
        .collect();
    let found = merged("increase", &[left, right]);
    let values: Pairs = found.iter().copied().filter(|(time, _)| (1_080..1_110).contains(time)).collect();
    assert_eq!(values, [(1_080, 1_080.0), (1_090, 1_090.0), (1_096, 2.0), (1_106, 12.0)]);
}

#[test]
fn a_reset_that_no_replica_was_there_to_see_is_kept() {
    let left = counting(1_000, 1_090, 0);
    let mut right = counting(1_200, 1_300, 1_120);
    right.insert(0, (900, 5.0));
    let found = merged("rate", &[left, right]);
    let values: Pairs = found.iter().copied().filter(|(time, _)| (1_080..1_220).contains(time)).collect();
    assert_eq!(values, [(1_080, 1_080.0), (1_090, 1_090.0), (1_200, 80.0), (1_210, 90.0)]);
}

#[test]
fn a_counter_of_another_level_goes_on_at_its_own_pace() {
    for offset in [50_000.0, -900.0] {
        let left = without(counting(1_000, 1_300, 0), &[1_100]);
        let right: Pairs =
            counting(1_006, 1_306, 0).iter().map(|(time, value)| (*time, value + offset)).collect();
        let found = merged("rate", &[left, right]);
        assert!(
            found.windows(2).all(|pair| pair[1].1 - pair[0].1 == (pair[1].0 - pair[0].0) as f64),
            "{found:?}"
        );
        assert_eq!(found.last(), Some(&(1_306, 1_306.0)));
    }
}

#[test]
fn without_a_counter_function_values_are_as_they_are() {
    let left = without(counting(1_000, 1_300, 0), &[1_100]);
    let right = counting(1_006, 1_306, 9);
    assert!(merged("", &[left, right.clone()]).contains(&(1_096, 1_087.0)));
}

fn histograms(samples: &[(i64, f64)]) -> Samples {
    let mut column = HistogramColumn::default();
    for (time, count) in samples {
        let hint = CounterResetHint::NotReset;
        let histogram =
            FloatHistogram { counter_reset_hint: hint, count: *count, ..FloatHistogram::default() };
        column.push(*time * 1000, Arc::new(histogram));
    }
    Samples { histograms: column, ..Samples::default() }
}

#[test]
fn a_histogram_that_lags_behind_is_passed_over_and_what_follows_says_nothing_of_resets() {
    let left = histograms(&without(counting(1_000, 1_300, 0), &[1_100]));
    let right = histograms(&counting(1_006, 1_306, 9));
    let found = dedup("rate").merge(vec![left, right]);
    let near: Vec<(i64, f64, CounterResetHint)> = found
        .histograms
        .iter()
        .map(|(time_ms, histogram)| (time_ms / 1000, histogram.count, histogram.counter_reset_hint))
        .filter(|(time, ..)| (1_090..1_120).contains(time))
        .collect();
    use CounterResetHint::{NotReset, Unknown};
    assert_eq!(near, [(1_090, 1_090.0, NotReset), (1_106, 1_097.0, Unknown), (1_116, 1_107.0, NotReset)]);
}

#[test]
fn floats_and_histograms_of_one_series_take_turns() {
    let half = |start: i64| {
        let mut samples = floats(&counting(1_000 + start, 1_100, 0));
        samples.histograms = histograms(&counting(1_110 + start, 1_300, 0)).histograms;
        samples
    };
    let found = dedup("rate").merge(vec![half(0), half(4)]);
    assert_eq!(found, half(0));
}

#[test]
fn the_ends_of_time_are_ends() {
    let at = |times_ms: &[i64]| {
        let mut samples = Samples::default();
        times_ms.iter().for_each(|time_ms| samples.floats.push(*time_ms, 1.0));
        samples
    };
    let replicas =
        vec![at(&[i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX]), at(&[i64::MIN, 0, i64::MAX])];
    for function in ["", "rate"] {
        let found = dedup(function).merge(replicas.clone()).floats.timestamps_ms;
        assert!(found.is_sorted_by(|a, b| a < b) && found.first() == Some(&i64::MIN), "{found:?}");
    }
}
