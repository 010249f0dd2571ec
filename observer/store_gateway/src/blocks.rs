//! The blocks that are served, and which of them a question needs.
//!
//! Per set of external labels: blocks of the coarsest resolution that the caller accepts, and where these leave gaps, of the next finer
//! one. Source: Thanos `pkg/store/bucket.go`, `bucketBlockSet.getFor`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use parallax_block::{BlockId, KeptMeta as _};
use parallax_model::{Labels, Matcher, Resolution, TimeRange};
use parallax_storeapi::matchers::without_external;

use crate::block::Block;

/// A block that the gateway knows of but cannot serve: its meta cannot be read.
#[derive(Clone, Debug)]
pub struct Unserved {
    pub block: BlockId,
    pub reason: String,
}

/// One version of the list; a call works on one from beginning to end.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Sorted.
    by_id: Box<[Arc<Block>]>,
    sets: Vec<BlockSet>,
    pub unserved: Vec<Unserved>,
}

/// The blocks of one set of external labels.
#[derive(Debug)]
struct BlockSet {
    external: Labels,
    /// By resolution, sorted by time.
    by_resolution: BTreeMap<Resolution, Vec<Arc<Block>>>,
}

/// A block that a question needs, and what is left of its matchers.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub block: Arc<Block>,
    pub matchers: Arc<[Matcher]>,
}

impl Blocks {
    /// Blocks of an unknown resolution are listed as unserved.
    pub fn new(blocks: impl IntoIterator<Item = Arc<Block>>, mut unserved: Vec<Unserved>) -> Self {
        let mut by_id = Vec::new();
        let mut sets: BTreeMap<Labels, BlockSet> = BTreeMap::new();
        for block in blocks {
            let Some(resolution) = block.meta.resolution() else {
                let reason = format!("resolution {} ms is not supported", block.meta.resolution_ms);
                unserved.push(Unserved { block: block.id(), reason });
                continue;
            };
            let set = sets.entry(block.external().clone()).or_insert_with(|| BlockSet {
                external: block.external().clone(),
                by_resolution: BTreeMap::new(),
            });
            set.by_resolution.entry(resolution).or_default().push(Arc::clone(&block));
            by_id.push(block);
        }
        by_id.sort_unstable_by_key(|block| block.id());
        let mut sets: Vec<BlockSet> = sets.into_values().collect();
        for blocks in sets.iter_mut().flat_map(|set| set.by_resolution.values_mut()) {
            blocks.sort_by_key(|block| (block.meta.min_time_ms, block.meta.max_time_ms, block.id()));
            blocks.shrink_to_fit();
        }
        Self { by_id: by_id.into(), sets, unserved }
    }

    pub fn get(&self, id: BlockId) -> Option<&Arc<Block>> {
        let index = self.by_id.binary_search_by_key(&id, |block| block.id()).ok()?;
        self.by_id.get(index)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.by_id.iter()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The sets of external labels, sorted.
    pub fn label_sets(&self) -> impl Iterator<Item = &Labels> {
        self.sets.iter().map(|set| &set.external)
    }

    /// The block that holds all that `gone` held: of the same external labels and resolution, with all of its sources. Of several the one with the fewest.
    pub fn successor(&self, gone: &Block) -> Option<Arc<Block>> {
        let wanted = gone.meta.sources();
        let resolution = gone.meta.resolution().filter(|_| !wanted.is_empty())?;
        let set = self.sets.iter().find(|set| set.external == *gone.external())?;
        let holds_all = |block: &&Arc<Block>| {
            let sources: HashSet<&BlockId> = block.meta.sources().iter().collect();
            block.id() != gone.id() && wanted.iter().all(|source| sources.contains(source))
        };
        let candidates = set.by_resolution.get(&resolution)?.iter().filter(holds_all);
        candidates.min_by_key(|block| (block.meta.sources().len(), block.id())).cloned()
    }

    /// The blocks that may hold series that match, in a window of up to `max_resolution_ms`.
    pub fn choose(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        max_resolution_ms: i64,
        is_wanted: impl Fn(&Block) -> bool,
    ) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        for set in &self.sets {
            let Some(rest) = without_external(matchers, &set.external) else { continue };
            let rest: Arc<[Matcher]> = rest.into();
            let coarsest =
                Resolution::ALL.into_iter().rev().find(|resolution| resolution.millis() <= max_resolution_ms);
            let mut blocks = Vec::new();
            set.fill(range, coarsest.unwrap_or_default(), &mut blocks);
            // A fine block that reaches over a coarse one fills the gaps on both sides of it.
            let mut seen = BTreeSet::new();
            blocks.retain(|block| seen.insert(block.id()) && is_wanted(block));
            chosen.extend(blocks.into_iter().map(|block| Chosen { block, matchers: Arc::clone(&rest) }));
        }
        chosen
    }

    /// Every block, of any resolution, that overlaps the range and whose external labels contradict no matcher.
    pub fn overlapping(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        is_wanted: impl Fn(&Block) -> bool,
    ) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        for set in &self.sets {
            let Some(rest) = without_external(matchers, &set.external) else { continue };
            let rest: Arc<[Matcher]> = rest.into();
            let blocks = set.by_resolution.values().flatten();
            chosen.extend(
                blocks
                    .filter(|block| block.overlaps(&range) && is_wanted(block))
                    .map(|block| Chosen { block: Arc::clone(block), matchers: Arc::clone(&rest) }),
            );
        }
        chosen
    }
}

impl BlockSet {
    /// Fills `range` with blocks of up to `resolution`, gaps with finer ones.
    fn fill(&self, range: TimeRange, resolution: Resolution, into: &mut Vec<Arc<Block>>) {
        if range.is_empty() {
            return;
        }
        let finer = Resolution::ALL.into_iter().rev().find(|other| *other < resolution);
        let mut from_ms = range.min_ms;
        for block in self.by_resolution.get(&resolution).into_iter().flatten() {
            let (min_ms, end_ms) = (block.meta.min_time_ms, block.meta.max_time_ms);
            if end_ms <= range.min_ms {
                continue;
            }
            if min_ms > range.max_ms {
                break;
            }
            if let Some(finer) = finer {
                self.fill(TimeRange::new(from_ms, min_ms.saturating_sub(1)), finer, into);
            }
            into.push(Arc::clone(block));
            from_ms = from_ms.max(end_ms);
        }
        if let Some(finer) = finer {
            self.fill(TimeRange::new(from_ms, range.max_ms), finer, into);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use parallax_block::{BlockMeta, BlockSummary, Shared};

    use super::*;

    /// A block of cluster a, of that resolution, with samples in that range, made of those sources.
    pub fn block_of(id: &str, resolution_ms: i64, (min, max): (i64, i64), sources: &[&str]) -> Arc<Block> {
        let json = format!(
            r#"{{"ulid":"{id}","minTime":{min},"maxTime":{max},"version":1,"compaction":{{"level":1,"sources":{sources:?}}},
            "thanos":{{"labels":{{"cluster":"a"}},"downsample":{{"resolution":{resolution_ms}}}}}}}"#
        );
        let meta = BlockMeta::parse("test", json.as_bytes()).unwrap();
        let summary = Arc::new(BlockSummary::new(&meta, &Shared::default()));
        Arc::new(Block::new(summary, &std::path::Path::new("/nowhere").into()))
    }

    fn block(number: u32, resolution_ms: i64, min: i64, max: i64) -> Arc<Block> {
        block_of(&format!("01M7ZT2XAE94D33BEGH3SZ{number:04}"), resolution_ms, (min, max), &[])
    }

    #[test]
    fn a_successor_has_all_sources_the_same_labels_and_the_same_resolution() {
        let id = |number: u32| format!("01M7ZT2XAE94D33BEGH3SZ{number:04}");
        let make = |number, resolution_ms, sources: &[u32]| {
            let sources: Vec<String> = sources.iter().map(|source| id(*source)).collect();
            let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
            block_of(&id(number), resolution_ms, (0, 100), &sources)
        };
        let gone = make(1, 0, &[1, 2]);
        let successor = |blocks: &[&Arc<Block>]| {
            let blocks = Blocks::new(blocks.iter().copied().cloned(), Vec::new());
            blocks.successor(&gone).map(|found| found.id().to_string())
        };
        let (coarse, part, whole, more) = (
            make(4, 300_000, &[1, 2]),
            make(5, 0, &[1, 3]),
            make(6, 0, &[1, 2, 3]),
            make(3, 0, &[1, 2, 3, 4]),
        );
        assert_eq!(successor(&[&gone, &coarse, &part]), None);
        assert_eq!(successor(&[&gone, &coarse, &part, &more, &whole]), Some(id(6)));
        assert_eq!(successor(&[&more]), Some(id(3)));
        // What has no sources is in nothing.
        let lone = make(7, 0, &[]);
        assert!(Blocks::new([whole], Vec::new()).successor(&lone).is_none());
    }

    fn chosen(blocks: &Blocks, min: i64, max: i64, max_resolution_ms: i64) -> Vec<(i64, i64)> {
        blocks
            .choose(&[], TimeRange::new(min, max), max_resolution_ms, |_| true)
            .iter()
            .map(|c| (c.block.meta.resolution_ms, c.block.meta.min_time_ms))
            .collect()
    }

    #[test]
    fn gaps_of_a_coarse_resolution_are_filled_with_finer_blocks() {
        let blocks = Blocks::new(
            [
                block(0, 0, 0, 100),
                block(1, 0, 100, 200),
                block(2, 0, 200, 300),
                block(3, 300_000, 0, 100),
                block(4, 300_000, 100, 200),
                block(5, 3_600_000, 0, 100),
            ],
            Vec::new(),
        );
        assert_eq!(chosen(&blocks, 0, 300, 0), [(0, 0), (0, 100), (0, 200)]);
        assert_eq!(chosen(&blocks, 0, 300, 299_999), [(0, 0), (0, 100), (0, 200)]);
        assert_eq!(chosen(&blocks, 0, 300, 300_000), [(300_000, 0), (300_000, 100), (0, 200)]);
        assert_eq!(chosen(&blocks, 0, 300, i64::MAX), [(3_600_000, 0), (300_000, 100), (0, 200)]);
        // One that reaches over a coarser one is read once.
        let over = Blocks::new([block(0, 0, 0, 300), block(1, 300_000, 100, 200)], Vec::new());
        assert_eq!(chosen(&over, 0, 300, 300_000), [(0, 0), (300_000, 100)]);
        // A block ends before its exclusive end.
        assert_eq!(chosen(&blocks, 100, 199, 0), [(0, 100)]);
        assert_eq!(chosen(&blocks, 99, 100, 0), [(0, 0), (0, 100)]);
        assert_eq!(chosen(&blocks, 300, 400, 0), []);
        assert_eq!(chosen(&blocks, 50, 40, 0), []);
    }

    #[test]
    fn a_block_of_an_unknown_resolution_is_named_and_not_mixed_in() {
        let blocks = Blocks::new([block(0, 0, 0, 100), block(1, 77, 0, 100)], Vec::new());
        assert_eq!(chosen(&blocks, 0, 100, i64::MAX), [(0, 0)]);
        assert!(blocks.unserved[0].reason.contains("77 ms"));
    }

    #[test]
    fn matchers_on_external_labels_are_checked_and_removed() {
        let blocks = Blocks::new([block(0, 0, 0, 100)], Vec::new());
        let ask = |matchers: &[Matcher]| blocks.choose(matchers, TimeRange::ALL, 0, |_| true);
        assert_eq!(ask(&[Matcher::equal("cluster", "b")]).len(), 0);
        let found = ask(&[Matcher::equal("cluster", "a"), Matcher::equal("job", "x")]);
        assert_eq!(found[0].matchers.iter().map(Matcher::name).collect::<Vec<_>>(), ["job"]);
    }
}
