//! What a cluster has: series whose values tell whose they are, some of which only one replica knows.

use std::collections::BTreeMap;

use parallax_model::TimeRange;
use parallax_testkit::fake_store::FakeStore;

/// Instances of a cluster, each with a series of both metrics.
const INSTANCES: usize = 12;
const SAMPLES: i64 = 160;
const SCRAPE_MS: i64 = 15_000;
/// When questions are about: all series have samples before and after. In seconds.
pub const NOW: i64 = 2000;

/// What replicas of one cluster know together.
#[derive(Clone, Debug)]
pub struct Truth {
    pub name: String,
    number: usize,
}

impl Truth {
    pub fn new(number: usize) -> Self {
        Self { name: format!("c{number}"), number }
    }

    /// Of the gauge `m`, at any time.
    fn value(&self, instance: usize) -> f64 {
        (100 * (self.number + 1) + instance) as f64
    }

    /// Of the counter `c_total`, per second.
    fn rate(&self, instance: usize) -> f64 {
        1.0 + self.number as f64 + instance as f64 / 8.0
    }

    /// Of six instances one is known to the first replica only, one to the second.
    fn knows(replica: usize, instance: usize) -> bool {
        instance % 6 < 4 || instance % 6 == 4 + replica
    }

    pub fn store(&self, replica: usize) -> FakeStore {
        let replica_text = replica.to_string();
        let external = [("cluster", self.name.as_str()), ("replica", &replica_text)];
        let known = (0..INSTANCES).filter(|instance| Self::knows(replica, *instance));
        known.fold(FakeStore::new(external).with_range(TimeRange::new(0, i64::MAX)), |store, instance| {
            let (text, job) = (instance.to_string(), (instance % 3).to_string());
            let labels = |name: &'static str| [("__name__", name), ("instance", &*text), ("job", &*job)];
            let at = |step: i64| step * SCRAPE_MS;
            let gauge = (1..SAMPLES).map(|step| (at(step), self.value(instance)));
            let counter = (1..SAMPLES).map(|step| (at(step), self.rate(instance) * at(step) as f64 / 1000.0));
            store.with_series(labels("m"), gauge).with_series(labels("c_total"), counter)
        })
    }

    /// The gauge, by instance.
    pub fn values(&self) -> BTreeMap<String, f64> {
        (0..INSTANCES).map(|instance| (instance.to_string(), self.value(instance))).collect()
    }

    pub fn sum(&self) -> f64 {
        self.values().values().sum()
    }

    pub fn sum_of_rates(&self) -> f64 {
        (0..INSTANCES).map(|instance| self.rate(instance)).sum()
    }
}
