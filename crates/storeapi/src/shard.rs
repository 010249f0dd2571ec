//! Which series belong to a shard of a request.
//!
//! Source: Thanos, `ShardInfo` in the store protocol and its matcher: xxhash64 over `name 0xff value 0xff` of the kept
//! labels, modulo the number of shards.

use xxhash_rust::xxh64::xxh64;

use crate::Error;
use crate::proto::thanos::{Label, ShardInfo};

const SEPARATOR: u8 = 0xff;

/// Decides series by series; the request's `shard_info`, checked.
#[derive(Clone, Debug, Default)]
pub struct ShardMatcher(Option<Shard>);

#[derive(Clone, Debug)]
struct Shard {
    index: u64,
    total: u64,
    by: bool,
    labels: Vec<String>,
    /// Reused for every series.
    text: Vec<u8>,
}

impl ShardMatcher {
    /// A matcher for everything if there is no `info`, or if it asks for no shards.
    ///
    /// # Errors
    /// If the shard is not one of the shards.
    pub fn new(info: Option<&ShardInfo>) -> Result<Self, Error> {
        let Some(info) = info.filter(|info| info.total_shards >= 1) else { return Ok(Self(None)) };
        let bad = || Error::BadShard { shard_index: info.shard_index, total_shards: info.total_shards };
        let index = u64::try_from(info.shard_index).map_err(|_| bad())?;
        let total = u64::try_from(info.total_shards).map_err(|_| bad())?;
        if index >= total {
            return Err(bad());
        }
        Ok(Self(Some(Shard { index, total, by: info.by, labels: info.labels.clone(), text: Vec::new() })))
    }

    /// Whether this asks for less than everything.
    pub fn is_sharded(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a series, with the labels it is answered with, belongs to the shard.
    pub fn matches(&mut self, labels: &[Label]) -> bool {
        self.matches_texts(labels.iter().map(|label| (&*label.name, &*label.value)))
    }

    /// The same of names and values.
    pub fn matches_texts<'a>(&mut self, labels: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> bool {
        let Some(shard) = &mut self.0 else { return true };
        shard.text.clear();
        for (name, value) in labels {
            let listed = shard.labels.iter().any(|listed| name == listed.as_bytes());
            if listed == shard.by {
                shard.text.extend_from_slice(name);
                shard.text.push(SEPARATOR);
                shard.text.extend_from_slice(value);
                shard.text.push(SEPARATOR);
            }
        }
        xxh64(&shard.text, 0) % shard.total == shard.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parallax_model::Labels;

    fn info(shard_index: i64, total_shards: i64, by: bool, labels: &[&str]) -> ShardInfo {
        ShardInfo {
            shard_index,
            total_shards,
            by,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }

    #[test]
    fn every_series_is_in_exactly_one_shard_and_groups_stay_together() {
        let mut shards: Vec<ShardMatcher> =
            (0..3).map(|i| ShardMatcher::new(Some(&info(i, 3, true, &["job"]))).unwrap()).collect();
        let mut homes = std::collections::BTreeMap::new();
        for i in 0..60 {
            let job = format!("job-{}", i % 7);
            let labels = crate::labels::to_wire(&Labels::from_pairs([
                ("job", job.as_str()),
                ("instance", &i.to_string()),
            ]));
            let hits: Vec<usize> =
                shards.iter_mut().enumerate().filter_map(|(n, s)| s.matches(&labels).then_some(n)).collect();
            assert_eq!(hits.len(), 1);
            assert_eq!(*homes.entry(job).or_insert(hits[0]), hits[0]);
        }
        assert!(homes.values().collect::<std::collections::BTreeSet<_>>().len() > 1);
    }

    #[test]
    fn without_leaves_the_listed_labels_out() {
        let series = |le: &str| crate::labels::to_wire(&Labels::from_pairs([("job", "x"), ("le", le)]));
        let mut shard = ShardMatcher::new(Some(&info(0, 2, false, &["le"]))).unwrap();
        assert_eq!(shard.matches(&series("1")), shard.matches(&series("2")));
    }

    #[test]
    fn a_shard_that_does_not_exist_is_refused_and_none_means_all() {
        assert!(ShardMatcher::new(Some(&info(3, 3, true, &[]))).is_err());
        assert!(ShardMatcher::new(Some(&info(-1, 3, true, &[]))).is_err());
        assert!(!ShardMatcher::new(Some(&info(5, 0, true, &[]))).unwrap().is_sharded());
        assert!(ShardMatcher::new(None).unwrap().matches(&[]));
    }
}
