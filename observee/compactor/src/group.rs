//! Groups: blocks that may become one, because they have the same resolution and, replica labels aside, the same external labels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parallax_block::{BlockId, BlockMeta};
use serde_json::Value;
use xxhash_rust::xxh64::xxh64;

/// Stands between the texts that are hashed. No UTF-8 has it.
const HASH_SEPARATOR: u8 = 0xff;

/// What is left of external labels that were replica labels only, as Thanos has it.
const DEDUPED: &str = "deduped";

/// Blocks of one resolution and one set of external labels.
#[derive(Clone, Debug)]
pub struct Group {
    /// Thanos' key: resolution and hash of the labels.
    pub key: String,
    pub resolution_ms: i64,
    /// Without replica labels.
    pub labels: BTreeMap<String, String>,
    /// By minTime, then by ULID.
    pub blocks: Vec<Arc<BlockMeta>>,
}

impl Group {
    /// The extensions that all blocks which have any agree on.
    pub fn extensions(&self) -> Option<Value> {
        let mut all =
            self.blocks.iter().filter_map(|meta| meta.thanos.as_ref()?.extensions.as_ref()?.as_object());
        let mut common = all.next()?.clone();
        for other in all {
            common.retain(|key, value| other.get(key) == Some(value));
        }
        Some(Value::Object(common))
    }

    /// The first two blocks that overlap in time.
    pub fn overlap(&self) -> Option<(BlockId, BlockId)> {
        let mut furthest: Option<&Arc<BlockMeta>> = None;
        for meta in &self.blocks {
            if let Some(last) = furthest
                && meta.min_time_ms < last.max_time_ms
            {
                return Some((last.ulid, meta.ulid));
            }
            if furthest.is_none_or(|last| meta.max_time_ms > last.max_time_ms) {
                furthest = Some(meta);
            }
        }
        None
    }
}

/// External labels without replica labels. If none is left, the first replica label stays, with a value that says so.
pub fn without_replicas(
    labels: &BTreeMap<String, String>,
    replica_labels: &[String],
) -> BTreeMap<String, String> {
    let mut kept = labels.clone();
    kept.retain(|name, _| !replica_labels.contains(name));
    if let Some(first) = replica_labels.first()
        && kept.is_empty()
    {
        kept.insert(first.clone(), DEDUPED.to_owned());
    }
    kept
}

/// Thanos' key of a group: the resolution in milliseconds, `@`, and the hash of the labels.
pub fn group_key(resolution_ms: i64, labels: &BTreeMap<String, String>) -> String {
    format!("{resolution_ms}@{}", labels_hash(labels))
}

/// The hash of external labels in a group's key.
pub fn labels_hash(labels: &BTreeMap<String, String>) -> u64 {
    let mut hashed = Vec::with_capacity(256);
    for (name, value) in labels {
        for text in [name, value] {
            hashed.extend_from_slice(text.as_bytes());
            hashed.push(HASH_SEPARATOR);
        }
    }
    xxh64(&hashed, 0)
}

/// Sorts blocks into groups, by key.
pub fn group_blocks<'a>(
    blocks: impl IntoIterator<Item = &'a Arc<BlockMeta>>,
    replica_labels: &[String],
) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for meta in blocks {
        let labels = meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone()).unwrap_or_default();
        let labels = without_replicas(&labels, replica_labels);
        let resolution_ms = meta.resolution_ms();
        let key = group_key(resolution_ms, &labels);
        let group = groups.entry(key.clone()).or_insert_with(|| Group {
            key,
            resolution_ms,
            labels,
            blocks: Vec::new(),
        });
        group.blocks.push(Arc::clone(meta));
    }
    for group in groups.values_mut() {
        group.blocks.sort_by_key(|meta| (meta.min_time_ms, meta.ulid));
    }
    groups
}

/// Two blocks of a plan that say they hold the same source, and that source.
pub fn shared_source(blocks: &[Arc<BlockMeta>]) -> Option<(BlockId, BlockId, BlockId)> {
    let mut holders: BTreeMap<BlockId, BlockId> = BTreeMap::new();
    for meta in blocks {
        let of_block: BTreeSet<BlockId> = meta.compaction.sources.iter().copied().collect();
        for source in of_block {
            if let Some(holder) = holders.insert(source, meta.ulid) {
                return Some((holder, meta.ulid, source));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn replica_labels_are_taken_away_but_never_all_labels() {
        let both = labels(&[("cluster", "eu"), ("replica", "a")]);
        let replica = ["replica".to_owned()];
        assert_eq!(without_replicas(&both, &replica), labels(&[("cluster", "eu")]));
        let only = labels(&[("replica", "a")]);
        assert_eq!(without_replicas(&only, &replica), labels(&[("replica", "deduped")]));
        assert_eq!(without_replicas(&both, &[]), both);
    }

    #[test]
    fn keys_are_the_resolution_and_the_hash_of_all_pairs() {
        // xxh64 of nothing is known.
        assert_eq!(group_key(0, &labels(&[])), "0@17241709254077376921");
        let key = group_key(300_000, &labels(&[("a", "bc")]));
        assert!(key.starts_with("300000@"), "{key}");
        assert_ne!(key, group_key(300_000, &labels(&[("ab", "c")])));
    }
}
