//! The golden bucket: what a pass makes of `bucket-long-raw` is what Thanos made of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_compactor::{Compactor, CompactorConfig, MergeMode};
use parallax_model::{Labels, TimeRange};
use parallax_net::Context;
use parallax_tsdb::block::BlockReader;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};

use super::fixture::{Content, read_content};

/// Well after the last block.
pub(super) const NOW_MS: i64 = 1_795_300_000_000;

/// The shared golden data; `small_golden` has a small copy of these two buckets.
pub(super) fn golden(what: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    Some(shared.join("golden").join(what)).filter(|path| path.is_dir())
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What identifies a block that Thanos made: resolution, times, level, sources, labels.
type Identity = (i64, i64, i64, u32, Vec<BlockId>, BTreeMap<String, String>);

/// The blocks of a bucket that have no deletion mark.
fn living(bucket: &Path) -> BTreeMap<Identity, (PathBuf, BlockMeta)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(bucket).unwrap() {
        let dir = entry.unwrap().path();
        if dir.join("deletion-mark.json").exists() {
            continue;
        }
        // Of a deleted block its directory may stay, empty.
        let Ok(json) = std::fs::read(dir.join("meta.json")) else { continue };
        let meta = BlockMeta::parse("golden", &json).unwrap();
        let labels = meta.thanos.as_ref().unwrap().labels.clone().unwrap();
        let identity = (
            meta.resolution_ms(),
            meta.min_time_ms,
            meta.max_time_ms,
            meta.compaction.level,
            meta.compaction.sources.clone(),
            labels,
        );
        assert!(found.insert(identity, (dir, meta)).is_none(), "two blocks of the same identity");
    }
    found
}

/// The bytes of each part of each aggregate chunk, by series and chunk times.
type Aggregates = BTreeMap<(Labels, i64, i64, Aggregate), Option<(u8, Vec<u8>)>>;

fn aggregates(dir: &Path) -> Aggregates {
    let reader = BlockReader::open(dir).unwrap();
    let mut found = Aggregates::new();
    for series in reader.all_series(TimeRange::ALL).unwrap() {
        let series = series.unwrap();
        for meta in &series.chunks {
            let chunk = reader.chunk(meta).unwrap();
            let parts = Parts::decode(&chunk.data).unwrap();
            for which in Aggregate::ALL {
                let part = parts.get(which).map(|(encoding, data)| (encoding.as_byte(), data.to_vec()));
                found.insert((series.labels.clone(), meta.min_time_ms, meta.max_time_ms, which), part);
            }
        }
    }
    found
}

fn first_difference(ours: &Content, theirs: &Content) -> Option<String> {
    for (labels, expected) in theirs {
        let Some(found) = ours.get(labels) else { return Some(format!("{labels} is missing")) };
        let times = |samples: &BTreeMap<i64, _>| samples.keys().copied().collect::<Vec<i64>>();
        if times(found) != times(expected) {
            return Some(format!("{labels}: {} samples, not {}", found.len(), expected.len()));
        }
        for (time_ms, value) in expected {
            if found.get(time_ms) != Some(value) {
                return Some(format!("{labels} at {time_ms}: {:?}, not {value:?}", found.get(time_ms)));
            }
        }
    }
    (ours.len() != theirs.len()).then(|| "there are more series".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_golden_bucket_becomes_the_one_that_thanos_made_of_it() {
    let (Some(raw), Some(expected)) = (golden("bucket-long-raw"), golden("bucket-long")) else {
        eprintln!("the golden buckets are not beside this clone");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bucket");
    copy_dir(&raw, &path);
    let bucket = Bucket::open(&BucketConfig::filesystem(&path), Access::Write).unwrap();
    let config = CompactorConfig {
        mode: MergeMode::Penalty,
        replica_labels: vec!["prometheus_replica".to_owned()],
        consistency_delay: Duration::ZERO,
        delete_delay: Duration::from_secs(3600),
        ..CompactorConfig::new(bucket, dir.path().join("data"))
    };
    let compactor = Compactor::new(config, &Context::for_test()).unwrap();
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.set_aside, report.retries), (0, 0), "{:?}", compactor.quarantine().list());
    assert_eq!(report.downsamples, 2);

    let (ours, theirs) = (living(&path), living(&expected));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    assert_eq!(theirs.len(), 9);
    for (identity, (their_dir, their_meta)) in &theirs {
        let (our_dir, our_meta) = &ours[identity];
        assert_eq!(our_meta.stats, their_meta.stats);
        assert_eq!(our_meta.compaction.parents.len(), their_meta.compaction.parents.len());
        let series_max_size = |meta: &BlockMeta| {
            meta.thanos.as_ref().unwrap().index_stats.as_ref().unwrap().series_max_size_bytes
        };
        assert_eq!(series_max_size(our_meta), series_max_size(their_meta));
        if identity.0 == 0 {
            assert_eq!(first_difference(&read_content(our_dir), &read_content(their_dir)), None);
        } else {
            let (our_parts, their_parts) = (aggregates(our_dir), aggregates(their_dir));
            for (key, part) in &their_parts {
                assert!(our_parts.get(key) == Some(part), "resolution {}: {key:?}", identity.0);
            }
            assert_eq!(our_parts.len(), their_parts.len());
        }
        // Chunks are cut and written as Thanos does, bit by bit.
        let segment = |dir: &Path| std::fs::read(dir.join("chunks/000001")).unwrap();
        assert!(segment(our_dir) == segment(their_dir), "segments of {identity:?}");
        let index = |dir: &Path| std::fs::read(dir.join("index")).unwrap();
        assert!(index(our_dir) == index(their_dir), "indexes of {identity:?}");
    }

    // Nothing is left to do, and the next pass does nothing.
    let again = compactor.pass(NOW_MS + 1000).await.unwrap();
    assert_eq!((again.compactions, again.downsamples, again.garbage_collected), (0, 0, 0));
    // Once the marks are old enough, the sources go, and what was made of them stays.
    compactor.pass(NOW_MS + 2 * 3_600_000).await.unwrap();
    assert_eq!(living(&path).len(), 9);
    assert_eq!(
        std::fs::read_dir(&path)
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().path().join("meta.json").exists() })
            .count(),
        9
    );
}
