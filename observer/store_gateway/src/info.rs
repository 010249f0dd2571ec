//! What the gateway says of itself: label sets, and which time each covers.

use std::collections::BTreeMap;

use parallax_model::{Labels, TimeRange};
use parallax_storeapi::labels::set_to_wire;
use parallax_storeapi::proto::thanos::ZLabelSet;
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo, TsdbInfo};

use crate::blocks::Blocks;

/// Thanos' name for this kind of component.
const COMPONENT_TYPE: &str = "store";

/// `limit` is what the gateway is configured to serve. What time a block covers that cannot be served is not known, so the range reaches over all
/// that it might: the gateway has to be asked to be able to say that something is missing.
pub fn info(blocks: &Blocks, limit: &TimeRange) -> InfoResponse {
    let metas = || blocks.all().map(|block| &block.meta);
    let newest_unserved_ms = blocks.unserved.iter().map(|unserved| unserved.block.time_ms()).max();
    let oldest_unserved_ms = newest_unserved_ms.map(|_| i64::MIN);
    let min_ms = metas().map(|meta| meta.min_time_ms).chain(oldest_unserved_ms).min().unwrap_or(i64::MAX);
    let max_ms = metas().map(|meta| meta.max_time_ms).chain(newest_unserved_ms).max().unwrap_or(i64::MIN);
    InfoResponse {
        label_sets: blocks.label_sets().map(set_to_wire).collect(),
        component_type: COMPONENT_TYPE.to_owned(),
        store: Some(StoreInfo {
            min_time: min_ms.max(limit.min_ms),
            max_time: max_ms.min(limit.max_ms),
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: tsdb_infos(blocks),
            supports_projections: false,
        }),
        ..InfoResponse::default()
    }
}

/// One entry per label set and stretch of time without a gap, so that together they cover all blocks. (Thanos' way of joining can shrink a stretch whose last block is
/// nested in an earlier one; this one does not.) Blocks that cannot be served may have any labels, and any time until they were made.
fn tsdb_infos(blocks: &Blocks) -> Vec<TsdbInfo> {
    let mut by_labels: BTreeMap<&Labels, Vec<(i64, i64)>> = BTreeMap::new();
    for block in blocks.all() {
        let range = (block.meta.min_time_ms, block.meta.max_time_ms);
        by_labels.entry(block.external()).or_default().push(range);
    }
    let mut infos = Vec::new();
    for (labels, mut ranges) in by_labels {
        ranges.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::new();
        for (min, max) in ranges {
            match joined.last_mut() {
                Some(last) if min <= last.1 => last.1 = last.1.max(max),
                _ => joined.push((min, max)),
            }
        }
        infos.extend(joined.into_iter().map(|(min_time, max_time)| TsdbInfo {
            labels: Some(set_to_wire(labels)),
            min_time,
            max_time,
        }));
    }
    infos.extend(
        blocks.unserved.iter().map(|unserved| unserved.block.time_ms()).max().map(|max_time| TsdbInfo {
            labels: Some(ZLabelSet::default()),
            min_time: i64::MIN,
            max_time,
        }),
    );
    infos
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Unserved;

    #[test]
    fn the_range_reaches_over_blocks_that_cannot_be_served() {
        let nothing = info(&Blocks::default(), &TimeRange::ALL).store.unwrap_or_default();
        assert!(nothing.min_time > nothing.max_time);
        let block: parallax_block::BlockId = "01M7ZT2XAE94D33BEGH3SZ0000".parse().unwrap();
        let unserved = Unserved { block, reason: "meta.json is damaged".to_owned() };
        let blocks = Blocks::new([], vec![unserved]);
        let limit = TimeRange::new(1000, i64::MAX);
        let store = info(&blocks, &limit).store.unwrap_or_default();
        assert_eq!((store.min_time, store.max_time), (1000, block.time_ms()));
        let info = &store.tsdb_infos[0];
        assert!(info.labels.as_ref().is_some_and(|set| set.labels.is_empty()), "they may be anybody's");
        assert_eq!((info.min_time, info.max_time), (i64::MIN, block.time_ms()));
    }
}
