//! What the answers have to be, computed from the fleet sample by sample and without the engine.

use parallax_model::TimeRange;
use parallax_simulate::{Fleet, SimulatedSeries};

/// Sum over all series of a metric of the sum of their samples in the window `(end - range, end]`.
pub fn sum_over_time(fleet: &Fleet, metric: &str, end_ms: i64, range_ms: i64) -> f64 {
    series(fleet, metric)
        .map(|series| window(fleet, &series, end_ms, range_ms).iter().map(|(_, value)| value).sum::<f64>())
        .sum()
}

/// How many samples all series of a metric have in the window `(end - range, end]`.
pub fn count(fleet: &Fleet, metric: &str, end_ms: i64, range_ms: i64) -> f64 {
    series(fleet, metric).map(|series| window(fleet, &series, end_ms, range_ms).len() as f64).sum()
}

/// Sum over all series of a metric of their last sample within the lookback of five minutes.
pub fn sum(fleet: &Fleet, metric: &str, time_ms: i64) -> f64 {
    const LOOKBACK_MS: i64 = 300_000;
    series(fleet, metric)
        .filter_map(|series| window(fleet, &series, time_ms, LOOKBACK_MS).last().map(|(_, value)| *value))
        .sum()
}

/// Sum over all series of a metric of `rate(metric[range])` at `end_ms`.
pub fn rate(fleet: &Fleet, metric: &str, end_ms: i64, range_ms: i64) -> f64 {
    series(fleet, metric)
        .filter_map(|series| rate_of(&window(fleet, &series, end_ms, range_ms), end_ms, range_ms))
        .sum()
}

fn series(fleet: &Fleet, metric: &str) -> impl Iterator<Item = SimulatedSeries> {
    fleet.series().into_iter().filter(move |series| series.labels.metric_name() == metric)
}

fn window(fleet: &Fleet, series: &SimulatedSeries, end_ms: i64, range_ms: i64) -> Vec<(i64, f64)> {
    fleet
        .scrapes(TimeRange::new(end_ms - range_ms + 1, end_ms))
        .map(|timestamp_ms| (timestamp_ms, series.value_at(timestamp_ms)))
        .collect()
}

/// The documented rule of `rate`: the increase, resets added, stretched to the window's ends where samples come close to
/// them (by up to 1.1 of their mean distance, otherwise by half of it) and never below zero, per second.
fn rate_of(samples: &[(i64, f64)], end_ms: i64, range_ms: i64) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    if samples.len() < 2 {
        return None;
    }
    let mut increase = last.1 - first.1;
    for pair in samples.windows(2) {
        if pair[1].1 < pair[0].1 {
            increase += pair[0].1;
        }
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let sampled = seconds(last.0 - first.0);
    let mean = sampled / (samples.len() - 1) as f64;
    let stretch = |distance: f64| if distance < mean * 1.1 { distance } else { mean / 2.0 };
    let mut before = stretch(seconds(first.0 - (end_ms - range_ms)));
    if increase > 0.0 && first.1 >= 0.0 {
        // A counter cannot have been below zero.
        before = before.min(sampled * (first.1 / increase));
    }
    let after = stretch(seconds(end_ms - last.0));
    Some(increase * (sampled + before + after) / sampled / seconds(range_ms))
}
