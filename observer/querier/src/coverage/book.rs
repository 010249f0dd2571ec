//! How whole answers were, over time: metrics, and series that can be queried.
//!
//! `parallax_cluster_up{cluster}` is 1 while an endpoint that is well advertises the cluster; `parallax_cluster_coverage_ratio{cluster}` is the share of the
//! answers since the last sample that had all of the cluster, or where there were none, the share of the cluster's endpoints that are well. Samples are kept in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::log::CoverageLog;
use super::report::{Coverage, State};
use crate::endpoint::EndpointSet;

/// Between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);
/// Samples kept of a cluster: six hours.
const MAX_SAMPLES: usize = 6 * 60 * 4;
/// Clusters that are told apart in metrics and series; what peers say of others counts together.
const MAX_CLUSTERS: usize = 1000;
const OTHERS: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
    state: &'static str,
}

type AnswerCounter = Family<StateLabel, Counter<u64, AtomicU64>>;
type ClusterCounter = Family<ClusterLabels, Counter<u64, AtomicU64>>;

/// See the module. Of one querier.
#[derive(Debug)]
pub struct CoverageBook {
    answers: AnswerCounter,
    by_cluster: ClusterCounter,
    clusters: Mutex<BTreeMap<String, Record>>,
}

/// One moment of one cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub time_ms: i64,
    pub up: f64,
    pub ratio: f64,
}

#[derive(Debug, Default)]
struct Record {
    /// Answers since the last sample, and those of them that had all of the cluster.
    answers: u64,
    complete: u64,
    /// Whether an endpoint had it at the last sample: one that is configured no longer is not down.
    was_configured: bool,
    samples: VecDeque<Sample>,
}

impl CoverageBook {
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            answers: metrics.register(
                "parallax_querier_answers",
                "Answers to queries and other questions, by how whole they were",
                AnswerCounter::default(),
            ),
            by_cluster: metrics.register(
                "parallax_querier_cluster_answers",
                "Answers that needed a cluster, by how much of it was in them",
                ClusterCounter::default(),
            ),
            clusters: Mutex::default(),
        })
    }

    /// What the calls of one question left, counted as an answer.
    pub(crate) fn covered(&self, log: &CoverageLog) -> Option<Coverage> {
        let coverage = log.coverage();
        coverage.iter().for_each(|coverage| self.record(coverage));
        coverage
    }

    /// Counts an answer.
    pub fn record(&self, coverage: &Coverage) {
        self.answers.get_or_create(&StateLabel { state: coverage.state().as_str() }).inc();
        let mut records = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        for (cluster, state) in coverage.clusters() {
            let is_known = records.contains_key(cluster) || records.len() < MAX_CLUSTERS;
            let cluster = if is_known { cluster } else { OTHERS };
            let record = records.entry(cluster.to_owned()).or_default();
            record.answers += 1;
            record.complete += u64::from(state == State::Complete);
            let labels = ClusterLabels { cluster: cluster.to_owned(), state: state.as_str() };
            self.by_cluster.get_or_create(&labels).inc();
        }
    }

    /// Takes a sample of every cluster that `sets` know or an answer named.
    pub(crate) fn sample(&self, time_ms: i64, sets: &[Arc<EndpointSet>]) {
        let now = clusters_of(sets);
        let mut records = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        for cluster in now.keys() {
            if records.contains_key(cluster) || records.len() < MAX_CLUSTERS {
                records.entry(cluster.clone()).or_default();
            }
        }
        for (cluster, record) in &mut *records {
            let is_configured = now.contains_key(cluster);
            let is_gone = record.was_configured && !is_configured && record.answers == 0;
            record.was_configured |= is_configured;
            if is_gone {
                continue;
            }
            // One that only answers named is as well as they say.
            let (well, all) = now.get(cluster).copied().unwrap_or((record.complete.min(1), 1));
            let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
            let ratio =
                if record.answers > 0 { share(record.complete, record.answers) } else { share(well, all) };
            let up = if well > 0 { 1.0 } else { 0.0 };
            (record.answers, record.complete) = (0, 0);
            record.samples.push_back(Sample { time_ms, up, ratio });
            if record.samples.len() > MAX_SAMPLES {
                record.samples.pop_front();
            }
        }
    }

    /// The samples of every cluster within a closed range of time.
    pub(crate) fn samples(&self, min_ms: i64, max_ms: i64) -> BTreeMap<String, Vec<Sample>> {
        let records = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |sample: &&Sample| (min_ms..=max_ms).contains(&sample.time_ms);
        records
            .iter()
            .map(|(cluster, record)| {
                (cluster.clone(), record.samples.iter().filter(within).copied().collect())
            })
            .filter(|(_, samples): &(String, Vec<Sample>)| !samples.is_empty())
            .collect()
    }
}

/// For each cluster how many of its endpoints are well, and how many there are.
fn clusters_of(sets: &[Arc<EndpointSet>]) -> BTreeMap<String, (u64, u64)> {
    let (mut clusters, now): (BTreeMap<String, (u64, u64)>, _) = (BTreeMap::new(), Instant::now());
    for set in sets {
        for endpoint in set.endpoints().iter() {
            let snapshot = endpoint.snapshot(now);
            let missing = snapshot.absent();
            for cluster in snapshot.clusters() {
                let is_well = snapshot.is_healthy && !missing.contains(&cluster.as_str());
                let (well, all) = clusters.entry(cluster).or_default();
                *well += u64::from(is_well);
                *all += 1;
            }
        }
    }
    clusters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::Part;

    fn answer(states: &[(&str, State)]) -> Coverage {
        let part = |(cluster, state): &(&str, State)| Part {
            cluster: (*cluster).to_owned(),
            tier: String::new(),
            store: "s".to_owned(),
            state: *state,
            min_time_ms: 0,
            max_time_ms: 0,
            reason: String::new(),
        };
        Coverage::new(states.iter().map(part), 0)
    }

    #[test]
    fn the_ratio_is_of_the_answers_since_the_last_sample() {
        let metrics = Metrics::new();
        let book = CoverageBook::new(&metrics);
        book.record(&answer(&[("a", State::Complete), ("b", State::Late)]));
        book.record(&answer(&[("a", State::Complete), ("b", State::Complete)]));
        book.sample(1000, &[]);
        book.record(&answer(&[("b", State::Missing)]));
        book.sample(2000, &[]);
        let samples = book.samples(0, 5000);
        let ratios = |cluster: &str| samples[cluster].iter().map(|one| one.ratio).collect::<Vec<_>>();
        assert_eq!(ratios("b"), [0.5, 0.0]);
        assert_eq!(ratios("a")[0], 1.0);
        assert_eq!(book.samples(1500, 5000)["b"].len(), 1);
        let text = metrics.encode().unwrap();
        assert!(text.contains("parallax_querier_answers_total{state=\"partial\"} 1"), "{text}");
        assert!(
            text.contains("parallax_querier_cluster_answers_total{cluster=\"b\",state=\"late\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let book = CoverageBook::new(&Metrics::new());
        for number in 0..MAX_CLUSTERS + 10 {
            book.record(&answer(&[(&format!("{number}"), State::Complete)]));
        }
        for time_ms in 0..10 {
            book.sample(time_ms, &[]);
        }
        assert_eq!(book.samples(0, 10).len(), MAX_CLUSTERS + 1);
        assert!(book.samples(0, 10).contains_key(OTHERS));
        let one = CoverageBook::new(&Metrics::new());
        one.record(&answer(&[("a", State::Complete)]));
        (0..i64::try_from(MAX_SAMPLES).unwrap() + 5).for_each(|time_ms| one.sample(time_ms, &[]));
        assert_eq!(one.samples(i64::MIN, i64::MAX)["a"].len(), MAX_SAMPLES);
    }
}
