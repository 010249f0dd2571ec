//! Which blocks are covered by another: all their sources are among the other's.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{BlockId, BlockMeta};

/// The blocks whose samples are all in another block of the same external labels and resolution.
///
/// Of blocks with the same sources the oldest ULID stays. A block without sources covers and is covered by nothing.
pub(super) fn covered<'a>(metas: impl Iterator<Item = &'a BlockMeta>) -> HashSet<BlockId> {
    /// Resolution and external labels.
    type Group<'a> = (i64, Vec<(&'a str, &'a str)>);
    let mut groups: BTreeMap<Group<'_>, Vec<&BlockMeta>> = BTreeMap::new();
    for meta in metas {
        let labels = meta.thanos.as_ref().and_then(|thanos| thanos.labels.as_ref());
        let labels = labels.into_iter().flatten().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        groups.entry((meta.resolution_ms(), labels)).or_default().push(meta);
    }
    let mut covered = HashSet::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|meta| (std::cmp::Reverse(meta.compaction.sources.len()), meta.ulid));
        // By source: the blocks that stay and hold it. Few blocks share a source, so each check is short.
        let mut holders: HashMap<BlockId, Vec<(BlockId, HashSet<BlockId>)>> = HashMap::new();
        for meta in group {
            let sources = &meta.compaction.sources;
            let Some(first) = sources.first() else { continue };
            let is_covered = holders.get(first).is_some_and(|candidates| {
                candidates.iter().any(|(_, all)| sources.iter().all(|s| all.contains(s)))
            });
            if is_covered {
                covered.insert(meta.ulid);
                continue;
            }
            let all: HashSet<BlockId> = sources.iter().copied().collect();
            for source in sources {
                holders.entry(*source).or_default().push((meta.ulid, all.clone()));
            }
        }
    }
    covered
}
