//! Bad blocks, bad marks: the group is set aside with a reason that names block and place, everything else goes on, and nothing is lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_compactor::{CompactorConfig, MergeMode, PassReport, Retention};
use parallax_model::Labels;
use parallax_tsdb::index::{ChunkMeta, IndexReader, SeriesEntry};

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

/// Samples every minute, in chunks of an hour.
fn spec(name: &str, hours: std::ops::Range<i64>) -> SeriesSpec {
    SeriesSpec {
        labels: Labels::from_pairs([("__name__", name)]),
        seed: 1,
        histograms: false,
        times_ms: (hours.start * 60..hours.end * 60).map(|minute| minute * 60_000).collect(),
        chunk_samples: 60,
    }
}

fn add(bucket: &TestBucket, number: u64, hours: std::ops::Range<i64>, replica: &str) -> PathBuf {
    let range = (hours.start * HOUR_MS, hours.end * HOUR_MS);
    bucket.add(id(number), range, replica, &[spec("up", hours)]);
    bucket.path().join(id(number).to_string())
}

/// Five blocks of two hours that make an 8 h one, in two groups; the blocks of group "a" come back.
fn two_groups(bucket: &TestBucket) -> Vec<PathBuf> {
    let blocks = |first: u64, replica: &str| -> Vec<PathBuf> {
        (0..5).map(|n| add(bucket, first + n, 2 * n as i64..2 * n as i64 + 2, replica)).collect()
    };
    blocks(20, "b");
    blocks(10, "a")
}

async fn pass(bucket: &TestBucket) -> (PassReport, Vec<String>) {
    let compactor = bucket.compactor(|config| config);
    let report = compactor.pass(NOW_MS).await.unwrap();
    let reasons = compactor.quarantine().list().into_iter().map(|group| group.reason).collect();
    (report, reasons)
}

/// Group "a" is set aside for a reason with all of `expected`, group "b" is compacted, and no block of "a" is marked.
async fn one_group_is_set_aside(bucket: &TestBucket, expected: &[&str]) {
    let (report, reasons) = pass(bucket).await;
    assert_eq!((report.compactions, report.set_aside), (1, 1), "{reasons:?}");
    for part in expected {
        assert!(reasons[0].contains(part), "{part:?} in {:?}", reasons[0]);
    }
    for number in 10..15 {
        let dir = bucket.path().join(id(number).to_string());
        assert!(!dir.join("deletion-mark.json").exists(), "block {number} was marked");
    }
    for number in 20..24 {
        assert!(bucket.path().join(id(number).to_string()).join("deletion-mark.json").exists());
    }
}

/// Puts a block in place of `block` (of hours 2 to 4 of group "a") whose first chunk is said to end when the second one begins.
fn put_chunks_out_of_order(bucket: &TestBucket, number: u64) {
    let block = bucket.path().join(id(number).to_string());
    std::fs::remove_dir_all(&block).unwrap();
    // Close enough for distances of one byte, so that the entry keeps its length.
    let times_ms = (0..120).map(|n| 2 * HOUR_MS + n * 100).collect();
    let dense = SeriesSpec { times_ms, ..spec("up", 2..4) };
    bucket.add(id(number), (2 * HOUR_MS, 4 * HOUR_MS), "a", &[dense]);
    change_series(&block, |chunks| chunks[0].max_time_ms = chunks[1].min_time_ms);
}

/// Rewrites the entry of the only series of a block; the new entry must take as much room as the old one.
fn change_series(block: &Path, change: impl FnOnce(&mut Vec<ChunkMeta>)) {
    let path = block.join("index");
    let mut bytes = std::fs::read(&path).unwrap();
    let index = IndexReader::open("index", bytes.clone().into()).unwrap();
    let series = index.all_series().unwrap().next().unwrap();
    let mut entry = SeriesEntry::default();
    index.read_series(series, &mut entry).unwrap();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    entry.encode(&mut before);
    change(&mut entry.chunks);
    entry.encode(&mut after);
    let room = before.len().next_multiple_of(16);
    assert_eq!(after.len().next_multiple_of(16), room, "the entry must keep its room");
    let at = series as usize * 16;
    assert_eq!(bytes[at..at + before.len()], before);
    bytes[at..at + room].fill(0);
    bytes[at..at + after.len()].copy_from_slice(&after);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_groups_are_both_compacted() {
    let bucket = TestBucket::new();
    two_groups(&bucket);
    let (report, reasons) = pass(&bucket).await;
    assert_eq!((report.compactions, report.set_aside), (2, 0), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlap_without_vertical_compaction_names_both_blocks_and_is_tried_again_when_blocks_change() {
    let bucket = TestBucket::new();
    two_groups(&bucket);
    let extra = add(&bucket, 16, 1..2, "a");
    let compactor = bucket.compactor(|config| config);
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.compactions, report.set_aside), (1, 1));
    let reason = compactor.quarantine().list()[0].reason.clone();
    assert!(reason.contains(&id(10).to_string()) && reason.contains(&id(16).to_string()), "{reason}");
    assert_eq!(compactor.pass(NOW_MS + 1).await.unwrap().set_aside, 0, "it is not tried in vain");
    assert_eq!(compactor.quarantine().list().len(), 1);
    std::fs::remove_dir_all(extra).unwrap();
    assert_eq!(compactor.pass(NOW_MS + 2).await.unwrap().compactions, 1);
    assert!(compactor.quarantine().list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_out_of_order_name_the_block_and_the_offset_of_the_series() {
    let bucket = TestBucket::new();
    two_groups(&bucket);
    put_chunks_out_of_order(&bucket, 11);
    let place = format!("{}/index at byte", id(11));
    one_group_is_set_aside(&bucket, &[&id(11).to_string(), &place, "begins before the end"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_with_chunks_out_of_order_can_be_skipped_with_a_mark() {
    let bucket = TestBucket::new();
    let blocks = two_groups(&bucket);
    put_chunks_out_of_order(&bucket, 11);
    let compactor = bucket.compactor(|config| CompactorConfig { skip_out_of_order: true, ..config });
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.compactions, report.set_aside), (2, 0));
    let mark = std::fs::read_to_string(blocks[1].join("no-compact-mark.json")).unwrap();
    assert!(mark.contains("block-index-out-of-order-chunk"), "{mark}");
    // The blocks behind it are compacted, and it stays.
    assert!(!blocks[1].join("deletion-mark.json").exists());
    assert!(blocks[2].join("deletion-mark.json").exists() && blocks[3].join("deletion-mark.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lies_about_a_chunk_names_the_chunk() {
    let bucket = TestBucket::new();
    let blocks = two_groups(&bucket);
    change_series(&blocks[2], |chunks| chunks[1].min_time_ms += 60_000);
    let place = format!("{}/chunks/000001", id(12));
    one_group_is_set_aside(&bucket, &[&place, "at byte", "the index says that this chunk begins at"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_an_index_lists_twice_counts_once() {
    let bucket = TestBucket::new();
    let blocks = two_groups(&bucket);
    std::fs::remove_dir_all(&blocks[1]).unwrap();
    let spec = SeriesSpec { chunk_samples: 20, ..spec("up", 2..4) };
    bucket.add(id(11), (2 * HOUR_MS, 4 * HOUR_MS), "a", std::slice::from_ref(&spec));
    // The second of six, while two go, so that the room is the same.
    change_series(&blocks[1], |chunks| {
        chunks.truncate(4);
        chunks.insert(1, chunks[1]);
    });
    let (report, reasons) = pass(&bucket).await;
    assert_eq!((report.compactions, report.set_aside), (2, 0), "{reasons:?}");
    let made = bucket.living().into_iter().find(|meta| {
        let sources = &meta.compaction.sources;
        sources.len() == 4 && sources.contains(&id(11))
    });
    // As often as a sample stands there, reading counts it; and twice is an error.
    let content = bucket.content(made.unwrap().ulid);
    let of_block: Vec<i64> =
        content[&spec.labels].range(2 * HOUR_MS..4 * HOUR_MS).map(|(time_ms, _)| *time_ms).collect();
    assert_eq!(of_block, spec.times_ms[..80]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_damaged_objects_are_named() {
    for (damage, expected) in
        [("missing segment", "000001"), ("cut segment", "truncated"), ("flipped bit", "checksum")]
    {
        let bucket = TestBucket::new();
        let blocks = two_groups(&bucket);
        let segment = blocks[0].join("chunks/000001");
        let mut bytes = std::fs::read(&segment).unwrap();
        match damage {
            "missing segment" => std::fs::remove_file(&segment).unwrap(),
            "cut segment" => std::fs::write(&segment, &bytes[..bytes.len() - 3]).unwrap(),
            _ => {
                bytes[60] ^= 4;
                std::fs::write(&segment, bytes).unwrap();
            }
        }
        one_group_is_set_aside(&bucket, &[&id(10).to_string(), expected]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_another_number_of_series_than_its_meta_is_not_trusted() {
    let bucket = TestBucket::new();
    let blocks = two_groups(&bucket);
    let meta = blocks[3].join("meta.json");
    let json = std::fs::read_to_string(&meta).unwrap().replace(r#""numSeries":1"#, r#""numSeries":2"#);
    std::fs::write(&meta, json).unwrap();
    one_group_is_set_aside(&bucket, &[&id(13).to_string(), "counts 2 series"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_another_version_keep_their_group_as_it_is() {
    for file in ["deletion-mark.json", "no-compact-mark.json", "no-downsample-mark.json"] {
        let bucket = TestBucket::new();
        let blocks = two_groups(&bucket);
        let key = file.trim_end_matches("-mark.json").replace('-', "_");
        let json = format!(r#"{{"id":"{}","version":7,"{key}_time":1,"reason":"manual"}}"#, id(12));
        std::fs::write(blocks[2].join(file), json).unwrap();
        let (report, reasons) = pass(&bucket).await;
        assert_eq!((report.compactions, report.set_aside), (1, 1), "{file}: {reasons:?}");
        assert!(reasons[0].contains("version 7") && reasons[0].contains(file), "{reasons:?}");
        assert!(
            blocks
                .iter()
                .all(|block| file.starts_with("deletion") || !block.join("deletion-mark.json").exists())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_meta_hides_one_block_and_nothing_else() {
    let bucket = TestBucket::new();
    let blocks = two_groups(&bucket);
    std::fs::write(blocks[4].join("meta.json"), "{").unwrap();
    let (report, reasons) = pass(&bucket).await;
    // The newest of group "a" is gone from sight, so that the one before is the newest, and its range is not full.
    assert_eq!((report.compactions, report.set_aside), (1, 0), "{reasons:?}");
    assert!(blocks[4].join("index").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_blocks_with_the_same_sources_the_one_that_has_more_is_never_marked() {
    let bucket = TestBucket::new();
    let sparse = SeriesSpec { times_ms: vec![0, 60_000], ..spec("up", 0..2) };
    bucket.add(id(1), (0, 2 * HOUR_MS), "a", &[sparse]);
    let full = add(&bucket, 2, 0..2, "a");
    let meta = full.join("meta.json");
    let sources = format!(r#""sources":["{}"]"#, id(2));
    let json =
        std::fs::read_to_string(&meta).unwrap().replace(&sources, &format!(r#""sources":["{}"]"#, id(1)));
    std::fs::write(&meta, json).unwrap();
    let (report, reasons) = pass(&bucket).await;
    assert_eq!(report.garbage_collected, 0);
    assert!(!full.join("deletion-mark.json").exists());
    assert!(reasons[0].contains("overlap"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_covered_block_is_marked_only_if_the_one_that_covers_it_is_whole() {
    for whole in [true, false] {
        let bucket = TestBucket::new();
        for n in 0..5 {
            add(&bucket, 10 + n as u64, 2 * n..2 * n + 2, "a");
        }
        let compactor = bucket.compactor(|config| config);
        assert_eq!(compactor.pass(NOW_MS).await.unwrap().compactions, 1);
        // As if the process had died before it marked the sources.
        let old = bucket.path().join(id(10).to_string());
        std::fs::remove_file(old.join("deletion-mark.json")).unwrap();
        if !whole {
            let new = bucket.living().into_iter().find(|meta| meta.compaction.level == 2).unwrap();
            let segment = bucket.path().join(new.ulid.to_string()).join("chunks/000001");
            std::fs::write(segment, b"cut").unwrap();
        }
        let report = compactor.pass(NOW_MS + 1).await.unwrap();
        assert_eq!(report.garbage_collected, u64::from(whole));
        assert_eq!(old.join("deletion-mark.json").exists(), whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_directory_that_cannot_be_written_marks_nothing_and_is_tried_again() {
    let bucket = TestBucket::new();
    let blocks = two_groups(&bucket);
    let compactor = bucket.compactor(|config| config);
    let staging = bucket.dir.path().join("data/compact");
    std::fs::remove_dir_all(&staging).unwrap();
    std::fs::write(&staging, b"in the way").unwrap();
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.compactions, report.set_aside, report.retries), (0, 0, 2));
    assert!(blocks.iter().all(|block| !block.join("deletion-mark.json").exists()));
    std::fs::remove_file(&staging).unwrap();
    assert_eq!(compactor.pass(NOW_MS + 1).await.unwrap().compactions, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_uploads_go_after_two_days_and_marked_blocks_after_the_delay() {
    let bucket = TestBucket::new();
    let marked = add(&bucket, 1, 0..2, "a");
    let partial = add(&bucket, 2, 2..4, "a");
    std::fs::remove_file(partial.join("meta.json")).unwrap();
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let mark = format!(r#"{{"id":"{}","version":1,"deletion_time":{}}}"#, id(1), now_ms / 1000);
    std::fs::write(marked.join("deletion-mark.json"), mark).unwrap();
    let compactor = bucket.compactor(|config| config);
    for (hours, remaining) in [(47, [true, true]), (49, [false, false])] {
        compactor.pass(now_ms + hours * HOUR_MS).await.unwrap();
        assert_eq!(
            [marked.join("index").exists(), partial.join("index").exists()],
            remaining,
            "after {hours} h"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_block_is_downsampled_before_retention_takes_its_raw_data() {
    let bucket = TestBucket::new();
    let block = add(&bucket, 1, 0..2, "a");
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let compactor = bucket.compactor(|config| CompactorConfig {
        mode: MergeMode::OneToOne,
        retention: Retention { raw: hours(48), ..Retention::default() },
        ..config
    });
    assert_eq!(compactor.pass(40 * HOUR_MS).await.unwrap().downsamples, 0, "too early");
    let report = compactor.pass(51 * HOUR_MS).await.unwrap();
    assert_eq!((report.downsamples, report.retired), (1, 1));
    assert!(block.join("deletion-mark.json").exists());
    let coarse = bucket.living().into_iter().find(|meta| meta.resolution_ms() == 300_000).unwrap();
    assert_eq!(coarse.stats.num_samples, 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_cannot_be_downsampled_is_set_aside_and_keeps_its_raw_data() {
    let bucket = TestBucket::new();
    let block = add(&bucket, 1, 0..48, "a");
    let sound = add(&bucket, 2, 48..96, "b");
    let segment = block.join("chunks/000001");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let compactor = bucket.compactor(|config| CompactorConfig {
        retention: Retention { raw: Duration::from_secs(100 * 3600), ..Retention::default() },
        ..config
    });
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.downsamples, report.retired, report.retries), (1, 1, 0));
    let aside = compactor.quarantine().list_blocks();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].block == id(1) && aside[0].reason.contains("chunks/000001"), "{aside:?}");
    assert!(!block.join("deletion-mark.json").exists() && sound.join("deletion-mark.json").exists());
    assert_eq!(compactor.pass(NOW_MS + 1).await.unwrap().retries, 0, "it is not tried in vain");
}
