//! Which blocks are covered by another: all their sources are among the other's.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{BlockId, KeptMeta};

/// The blocks whose samples are all in another block of the same external labels and resolution.
///
/// Of blocks with the same sources the oldest ULID stays. A block without sources covers and is covered by nothing.
pub(super) fn covered<'a, M: KeptMeta>(metas: impl Iterator<Item = &'a M>) -> HashSet<BlockId> {
    /// Resolution and external labels.
    type Group<'a> = (i64, Vec<(&'a str, &'a str)>);
    let mut groups: BTreeMap<Group<'_>, Vec<&M>> = BTreeMap::new();
    for meta in metas {
        // An empty value is no label.
        let labels = meta.labels().filter(|(_, value)| !value.is_empty()).collect();
        groups.entry((meta.resolution_ms(), labels)).or_default().push(meta);
    }
    let mut covered = HashSet::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|meta| (std::cmp::Reverse(meta.sources().len()), meta.id()));
        // By source: the blocks that stay and hold it. Few blocks share a source, so each check is short.
        let mut holders: HashMap<BlockId, Vec<(BlockId, HashSet<BlockId>)>> = HashMap::new();
        for meta in group {
            let sources = meta.sources();
            let Some(first) = sources.first() else { continue };
            let is_covered = holders.get(first).is_some_and(|candidates| {
                candidates.iter().any(|(_, all)| sources.iter().all(|s| all.contains(s)))
            });
            if is_covered {
                covered.insert(meta.id());
                continue;
            }
            let all: HashSet<BlockId> = sources.iter().copied().collect();
            for source in sources {
                holders.entry(*source).or_default().push((meta.id(), all.clone()));
            }
        }
    }
    covered
}
