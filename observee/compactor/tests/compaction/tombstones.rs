//! Deleted samples: gone from what is made of their block, and nothing else is.

use std::collections::BTreeMap;
use std::path::Path;

use parallax_block::BlockId;
use parallax_compactor::{MergeMode, group_blocks};
use parallax_model::{Labels, TimeRange};
use parallax_tsdb::index::IndexReader;
use parallax_tsdb::tombstones::Tombstones;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

fn spec(name: &str, histograms: bool, hours: std::ops::Range<i64>) -> SeriesSpec {
    SeriesSpec {
        labels: Labels::from_pairs([("__name__", name)]),
        seed: 7,
        histograms,
        times_ms: (hours.start * 60..hours.end * 60).map(|minute| minute * 60_000).collect(),
        chunk_samples: 50,
    }
}

/// Deletes ranges of the series with these places in the block, as Prometheus' admin API does; and counts them in `meta.json`.
fn delete(block: &Path, deletions: &[(usize, TimeRange)]) {
    let index = IndexReader::open("index", std::fs::read(block.join("index")).unwrap().into()).unwrap();
    let refs: Vec<u32> = index.all_series().unwrap().collect();
    let mut tombstones = Tombstones::default();
    for (place, range) in deletions {
        tombstones.add(u64::from(refs[*place]), *range);
    }
    std::fs::write(block.join("tombstones"), tombstones.encode()).unwrap();
    let meta = block.join("meta.json");
    let json = std::fs::read_to_string(&meta).unwrap();
    let counted = format!(r#""stats":{{"numTombstones":{},"#, tombstones.len());
    std::fs::write(&meta, json.replacen(r#""stats":{"#, &counted, 1)).unwrap();
}

fn dir(bucket: &TestBucket, block: BlockId) -> std::path::PathBuf {
    bucket.path().join(block.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_samples_are_gone_after_a_pass_and_all_others_are_there() {
    let bucket = TestBucket::new();
    let mut expected = BTreeMap::new();
    for n in 0..5u64 {
        let hours = 2 * n as i64..2 * n as i64 + 2;
        let series = [
            spec("a", false, hours.clone()),
            spec("b", true, hours.clone()),
            spec("c", false, hours.clone()),
        ];
        bucket.add(id(10 + n), (hours.start * HOUR_MS, hours.end * HOUR_MS), "a", &series);
        if n < 4 {
            for (labels, samples) in bucket.content(id(10 + n)) {
                expected.entry(labels).or_insert_with(BTreeMap::new).extend(samples);
            }
        }
    }
    // Of one series the middle of a chunk and beyond, of a histogram the end of a block, of the third all of a block.
    let ranges = [
        (0, TimeRange::new(HOUR_MS, HOUR_MS + 1_234_567)),
        (1, TimeRange::new(HOUR_MS + 600_000, 9 * HOUR_MS)),
        (2, TimeRange::new(0, 2 * HOUR_MS)),
    ];
    delete(&dir(&bucket, id(10)), &ranges);
    for (place, samples) in expected.values_mut().enumerate() {
        // Tombstones are a block's: what lies behind its end is another's.
        samples.retain(|time_ms, _| *time_ms >= 2 * HOUR_MS || !ranges[place].1.contains(*time_ms));
    }
    let compactor = bucket.compactor(|config| config);
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.compactions, report.set_aside), (1, 0), "{:?}", compactor.quarantine().list());
    let merged = bucket.living().into_iter().find(|meta| meta.compaction.level == 2).unwrap();
    assert_eq!(merged.stats.num_tombstones, 0);
    assert!(bucket.content(merged.ulid) == expected);
    assert!(dir(&bucket, id(10)).join("deletion-mark.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_samples_are_all_deleted_goes_and_one_that_only_lacks_them_does_not() {
    for deleted in [true, false] {
        let bucket = TestBucket::new();
        let series: &[SeriesSpec] = &[spec("a", false, 0..48)];
        // A block that is long enough to be rewritten alone, and a newer one.
        let meta = bucket.add(id(1), (0, 48 * HOUR_MS), "a", if deleted { series } else { &[] });
        bucket.add(id(2), (48 * HOUR_MS, 50 * HOUR_MS), "a", &[spec("a", false, 48..50)]);
        let block = dir(&bucket, id(1));
        if deleted {
            delete(&block, &[(0, TimeRange::ALL)]);
        } else {
            let json = std::fs::read_to_string(block.join("meta.json")).unwrap();
            let claim = r#""stats":{"numTombstones":1,"numSamples":2880,"#;
            std::fs::write(block.join("meta.json"), json.replacen(r#""stats":{"numSamples":0,"#, claim, 1))
                .unwrap();
        }
        let compactor =
            bucket.compactor(|config| parallax_compactor::CompactorConfig { downsampling: false, ..config });
        let report = compactor.pass(NOW_MS).await.unwrap();
        let aside = compactor.quarantine().list();
        assert_eq!(
            (report.compactions, report.set_aside),
            if deleted { (1, 0) } else { (0, 1) },
            "{aside:?}"
        );
        assert_eq!(block.join("deletion-mark.json").exists(), deleted);
        if !deleted {
            assert!(aside[0].reason.contains("counts 2880 samples"), "{aside:?}");
        }
        assert!(meta.stats.num_samples > 0 || !deleted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_windows_of_a_downsampled_block_do_not_come_back() {
    let bucket = TestBucket::new();
    let raw = bucket.add(id(1), (0, 48 * HOUR_MS), "a", &[spec("a", false, 0..48), spec("b", true, 0..48)]);
    let job = bucket.job();
    let coarse =
        job.downsample(&raw, parallax_model::Resolution::FiveMinutes, 1).await.unwrap().made().unwrap().meta;
    let whole = coarse.stats.num_samples;
    let range = TimeRange::new(10 * HOUR_MS, 20 * HOUR_MS - 1);
    delete(&dir(&bucket, coarse.ulid), &[(0, range), (1, range)]);
    let blocks = [std::sync::Arc::new(coarse)];
    let group = group_blocks(&blocks, &[]).pop_first().unwrap().1;
    let rewritten = job.compact(&group, &blocks, MergeMode::OneToOne, 2).await.unwrap().made().unwrap().meta;
    // Ten hours of windows, of two series.
    assert_eq!(rewritten.stats.num_samples, whole - 2 * 120);
    let reader = parallax_tsdb::block::BlockReader::open(&dir(&bucket, rewritten.ulid)).unwrap();
    for series in reader.all_series(TimeRange::ALL).unwrap() {
        for chunk in series.unwrap().chunks {
            assert!(!range.contains(chunk.min_time_ms) && !range.contains(chunk.max_time_ms), "{chunk:?}");
        }
    }
}
