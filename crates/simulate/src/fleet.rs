//! The simulated machines of one cluster as one Prometheus replica sees them.
//!
//! A value depends on the series and the time alone, so two replicas scrape the same truth at different moments.
//! Each replica misses some scrapes, and no two replicas miss the same ones: dedup has something to do, and its
//! answer is known.

use parallax_model::{Labels, TimeRange};

/// How often the fleet is scraped.
pub const SCRAPE_INTERVAL_MS: i64 = 15_000;
/// How far apart replicas scrape.
const REPLICA_PHASE_MS: i64 = 7_000;
/// Replica `r` is down during every window of this length whose number is `GAP_FIRST + GAP_STRIDE * r` modulo `GAP_CYCLE`.
const GAP_WINDOW_MS: i64 = 600_000;
const GAP_CYCLE: i64 = 9;
const GAP_FIRST: i64 = 2;
const GAP_STRIDE: i64 = 4;

/// The job label of every simulated series.
pub const JOB: &str = "demo";

/// Name, type and help of what the machines expose.
pub(crate) const FAMILIES: [(&str, &str, &str); 4] = [
    ("demo_capacity", "gauge", "How much the machine can do"),
    ("demo_request_duration_seconds", "histogram", "How long requests took"),
    ("demo_requests_total", "counter", "Requests answered"),
    ("demo_temperature_celsius", "gauge", "How warm the machine is"),
];

/// Upper bounds of the duration histogram; the last bucket is `+Inf`.
const BUCKETS: [(&str, f64); 6] =
    [("0.05", 0.20), ("0.1", 0.45), ("0.25", 0.75), ("0.5", 0.90), ("1", 0.98), ("+Inf", 1.0)];

/// One cluster's machines, seen by one replica.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub cluster: String,
    /// 0 or 1: at most two replicas have gaps that do not overlap.
    pub replica: u32,
    pub instances: u32,
    /// Moves every value, so that clusters differ.
    pub seed: u64,
}

/// One series of a fleet.
#[derive(Clone, Debug)]
pub struct SimulatedSeries {
    /// Without external labels.
    pub labels: Labels,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Constant(f64),
    /// `base + amplitude * sin(2π t / period)`.
    Wave {
        base: f64,
        amplitude: f64,
        period_ms: i64,
    },
    /// Rises by `per_second` and starts again from zero every `reset_ms`.
    Counter {
        per_second: f64,
        reset_ms: i64,
    },
}

impl SimulatedSeries {
    /// The value at a moment.
    pub fn value_at(&self, timestamp_ms: i64) -> f64 {
        match self.shape {
            Shape::Constant(value) => value,
            Shape::Wave { base, amplitude, period_ms } => {
                let turn = timestamp_ms.rem_euclid(period_ms) as f64 / period_ms as f64;
                base + amplitude * (turn * std::f64::consts::TAU).sin()
            }
            Shape::Counter { per_second, reset_ms } => {
                // Whole units, as a counter of events has them.
                (timestamp_ms.rem_euclid(reset_ms) as f64 / 1000.0 * per_second).floor()
            }
        }
    }
}

impl Fleet {
    /// The labels that the Prometheus of this fleet adds to everything it sends away.
    pub fn external_labels(&self) -> Labels {
        Labels::from_pairs([
            ("cluster", self.cluster.as_str()),
            ("prometheus", "monitoring/demo"),
            ("prometheus_replica", &format!("prometheus-{}", self.replica)),
        ])
    }

    /// The value of the `instance` label of machine `number`.
    pub fn instance(number: u32) -> String {
        format!("demo-{number}:9100")
    }

    /// What `demo_capacity` of machine `number` always is.
    pub fn capacity(&self, number: u32) -> f64 {
        f64::from(100 * (number + 1)) + (self.seed % 50) as f64
    }

    /// Every series of the fleet, `up` included, sorted by labels.
    pub fn series(&self) -> Vec<SimulatedSeries> {
        let mut all: Vec<_> = (0..self.instances).flat_map(|number| self.series_of(number)).collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all
    }

    /// The series of one machine; the first is `up`, which Prometheus makes itself.
    pub fn series_of(&self, number: u32) -> Vec<SimulatedSeries> {
        let instance = Self::instance(number);
        let series = |name: &str, more: &[(&str, &str)], shape: Shape| {
            let fixed = [("__name__", name), ("instance", instance.as_str()), ("job", JOB)];
            SimulatedSeries { labels: Labels::from_pairs(fixed.iter().chain(more).copied()), shape }
        };
        let spread = f64::from(number + 1) + (self.seed % 7) as f64;
        let mut all = vec![
            series("up", &[], Shape::Constant(1.0)),
            series("demo_capacity", &[], Shape::Constant(self.capacity(number))),
            series(
                "demo_temperature_celsius",
                &[],
                Shape::Wave { base: 20.0 + spread, amplitude: 5.0, period_ms: 3_600_000 },
            ),
        ];
        for (method, code, share) in
            [("get", "200", 8.0), ("get", "500", 0.2), ("post", "200", 2.0), ("post", "404", 0.5)]
        {
            // The reset moments differ per machine and are far longer than the usual range of a rate.
            let reset_ms = 5_400_000 + i64::from(number) * 600_000;
            let shape = Shape::Counter { per_second: share * spread, reset_ms };
            all.push(series("demo_requests_total", &[("code", code), ("method", method)], shape));
        }
        let reset_ms = 86_400_000;
        for (bound, share) in BUCKETS {
            let shape = Shape::Counter { per_second: 10.0 * spread * share, reset_ms };
            all.push(series("demo_request_duration_seconds_bucket", &[("le", bound)], shape));
        }
        all.push(series(
            "demo_request_duration_seconds_count",
            &[],
            Shape::Counter { per_second: 10.0 * spread, reset_ms },
        ));
        all.push(series(
            "demo_request_duration_seconds_sum",
            &[],
            Shape::Counter { per_second: 1.9 * spread, reset_ms },
        ));
        all
    }

    /// When this replica scraped, within `range`.
    pub fn scrapes(&self, range: TimeRange) -> impl Iterator<Item = i64> + use<> {
        let phase_ms = i64::from(self.replica) * REPLICA_PHASE_MS;
        let gap = GAP_FIRST + GAP_STRIDE * i64::from(self.replica);
        let start_ms = range.min_ms.saturating_sub(phase_ms);
        let first =
            start_ms.div_euclid(SCRAPE_INTERVAL_MS) + i64::from(start_ms.rem_euclid(SCRAPE_INTERVAL_MS) != 0);
        (first..)
            .map_while(move |number| number.checked_mul(SCRAPE_INTERVAL_MS)?.checked_add(phase_ms))
            .take_while(move |timestamp_ms| *timestamp_ms <= range.max_ms)
            .filter(move |timestamp_ms| timestamp_ms.div_euclid(GAP_WINDOW_MS).rem_euclid(GAP_CYCLE) != gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(replica: u32) -> Fleet {
        Fleet { cluster: "eu-1".to_owned(), replica, instances: 3, seed: 7 }
    }

    #[test]
    fn replicas_never_miss_the_same_moment() {
        let range = TimeRange::new(0, 6 * 3_600_000);
        let windows = |replica| -> std::collections::BTreeSet<i64> {
            fleet(replica).scrapes(range).map(|t| t / GAP_WINDOW_MS).collect()
        };
        let (first, second) = (windows(0), windows(1));
        assert!(first.len() < 37 && second.len() < 37, "both replicas have gaps");
        assert_eq!(first.union(&second).count(), 37);
    }

    #[test]
    fn scrapes_stay_in_their_range() {
        let range = TimeRange::new(1_000_001, 1_090_000);
        let scrapes: Vec<i64> = fleet(1).scrapes(range).collect();
        assert!(scrapes.iter().all(|t| range.contains(*t)));
        assert_eq!(scrapes.len(), 6);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        assert!(fleet(1).scrapes(TimeRange::new(i64::MAX - 40_000, i64::MAX)).count() <= 3);
        assert_eq!(fleet(1).scrapes(TimeRange::new(i64::MIN, i64::MIN + 1)).count(), 0);
        assert_eq!(fleet(0).scrapes(TimeRange::new(10, 5)).count(), 0);
    }

    #[test]
    fn series_are_sorted_and_unique() {
        let series = fleet(0).series();
        assert!(series.windows(2).all(|pair| pair[0].labels < pair[1].labels));
    }
}
