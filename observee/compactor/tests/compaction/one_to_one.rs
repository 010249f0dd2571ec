//! One-to-one compaction keeps every sample of any legal blocks, and copies what nothing overlaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use parallax_block::BlockMeta;
use parallax_compactor::{Group, MergeMode, group_blocks};
use parallax_model::Labels;
use proptest::prelude::*;

use super::fixture::{Content, SeriesSpec, TestBucket, id};

fn only_group(blocks: &[Arc<BlockMeta>]) -> Group {
    let mut groups = group_blocks(blocks, &["replica".to_owned()]);
    assert_eq!(groups.len(), 1);
    groups.pop_first().unwrap().1
}

/// A block's series: by name which kind, from where, how far apart, how many, and how they are cut.
fn series() -> impl Strategy<Value = Vec<SeriesSpec>> {
    let spec = (any::<bool>(), 0i64..400, 1i64..30, 1usize..300, 1usize..150, "[x-z]{0,2}");
    prop::collection::btree_map("[a-e]", spec, 0..5).prop_map(|by_name| {
        let specs =
            by_name.into_iter().map(|(name, (histograms, from, step, count, chunk_samples, value))| {
                SeriesSpec {
                    labels: Labels::from_pairs([("__name__", name.as_str()), ("v", value.as_str())]),
                    // A series is of one kind in all blocks of a series' name and value, or of both kinds.
                    seed: i64::from(name.as_bytes()[0]),
                    histograms: histograms && name.as_str() > "c",
                    times_ms: (0..count as i64).map(|n| from + n * step).filter(|t| *t < 10_000).collect(),
                    chunk_samples,
                }
            });
        specs.filter(|spec| !spec.times_ms.is_empty()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_sample_of_any_legal_blocks_is_kept(blocks in prop::collection::vec(series(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bucket = TestBucket::new();
        let mut metas = Vec::new();
        let mut times: BTreeMap<Labels, std::collections::BTreeSet<i64>> = BTreeMap::new();
        for (number, series) in (1..).zip(&blocks) {
            metas.push(bucket.add(id(number), (0, 10_000), &number.to_string(), series));
            for spec in series {
                times.entry(spec.labels.clone()).or_default().extend(&spec.times_ms);
            }
        }
        let before: Vec<Content> = metas.iter().map(|meta| bucket.content(meta.ulid)).collect();
        let group = only_group(&metas);
        let outcome = runtime.block_on(bucket.job().compact(&group, &group.blocks, MergeMode::OneToOne, 1)).unwrap();
        let Some(new) = outcome.made() else {
            prop_assert!(times.is_empty());
            return Ok(());
        };
        let after = bucket.content(new.meta.ulid);
        let kept: BTreeMap<Labels, std::collections::BTreeSet<i64>> =
            after.iter().map(|(labels, samples)| (labels.clone(), samples.keys().copied().collect())).collect();
        prop_assert_eq!(kept, times);
        for (labels, samples) in &after {
            for (time_ms, value) in samples {
                let of_sources = before.iter().filter_map(|content| content.get(labels)?.get(time_ms));
                prop_assert!(of_sources.into_iter().any(|source| source == value), "{} at {}", labels, time_ms);
            }
        }
        let report = parallax_block::verify_block(&bucket.path().join(new.meta.ulid.to_string())).unwrap();
        prop_assert_eq!(report.series, new.meta.stats.num_series);
        prop_assert_eq!(new.meta.compaction.sources.len(), metas.len());
        // Nothing is left on the local disk.
        let staging = bucket.dir.path().join("staging");
        prop_assert!(!staging.exists() || std::fs::read_dir(staging).unwrap().next().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_nothing_overlaps_are_copied_byte_for_byte() {
    let bucket = TestBucket::new();
    let spec = |from: i64, chunk_samples: usize| SeriesSpec {
        labels: Labels::from_pairs([("__name__", "up")]),
        seed: 1,
        histograms: false,
        times_ms: (0..300).map(|n| from + n * 10).collect(),
        chunk_samples,
    };
    // Chunks of 7 samples and of 200, neither of which we would write.
    let metas = [
        bucket.add(id(1), (0, 3000), "a", &[spec(0, 7)]),
        bucket.add(id(2), (3000, 6000), "a", &[spec(3000, 200)]),
    ];
    let group = only_group(&metas);
    let new =
        bucket.job().compact(&group, &group.blocks, MergeMode::Penalty, 1).await.unwrap().made().unwrap();
    assert_eq!(new.meta.stats.num_chunks, 43 + 2);
    let segment = |block: parallax_block::BlockId| {
        std::fs::read(bucket.path().join(block.to_string()).join("chunks/000001")).unwrap()
    };
    let expected = [segment(id(1)), segment(id(2))[8..].to_vec()].concat();
    assert!(segment(new.meta.ulid) == expected);
    assert_eq!((new.meta.min_time_ms, new.meta.max_time_ms), (0, 6000));
    assert_eq!(new.meta.compaction.level, 2);
    assert_eq!(new.meta.compaction.parents.len(), 2);
}

/// More symbols, and a longer table of postings, than are held in memory; each block has some that the other one lacks.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_with_many_label_values_of_their_own_lose_none() {
    let bucket = TestBucket::new();
    let spec = |number: i64, from: i64| SeriesSpec {
        labels: Labels::from_pairs([
            ("__name__", "up".to_owned()),
            // Scattered, so that the order of series is not that of the values.
            ("pod", format!("a-pod-that-came-and-went-{:08x}", (number as u32).wrapping_mul(0x9e37_79b1))),
            ("zone", format!("zone-{}", number % 3)),
        ]),
        seed: number,
        histograms: false,
        times_ms: vec![from, from + 10],
        chunk_samples: 2,
    };
    let blocks = [(1u64, 0i64), (2, 1000)].map(|(block, from)| {
        // Halves of them, and each sixth in both.
        let own = (0..60_000).filter(|number| number % 6 == 5 || number % 2 == from / 1000);
        let specs: Vec<SeriesSpec> = own.map(|number| spec(number, from)).collect();
        bucket.add(id(block), (from, from + 1000), "a", &specs)
    });
    let group = only_group(&blocks);
    let new =
        bucket.job().compact(&group, &group.blocks, MergeMode::OneToOne, 1).await.unwrap().made().unwrap();
    let mut expected = bucket.content(id(1));
    for (labels, samples) in bucket.content(id(2)) {
        expected.entry(labels).or_default().extend(samples);
    }
    assert!(bucket.content(new.meta.ulid) == expected);
    let report = parallax_block::verify_block(&bucket.path().join(new.meta.ulid.to_string())).unwrap();
    assert_eq!(report.series, expected.len() as u64);
}
