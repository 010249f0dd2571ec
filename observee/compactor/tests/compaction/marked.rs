//! Blocks that are marked for deletion hold nothing for others.

use std::time::Duration;

use parallax_block::BlockId;
use parallax_compactor::{CompactorConfig, Retention};
use parallax_model::Labels;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

const TWO_DAYS: Duration = Duration::from_secs(48 * 3600);

fn series(from_ms: i64, to_ms: i64) -> Vec<SeriesSpec> {
    let times_ms = (from_ms..to_ms).step_by(60_000).collect();
    vec![SeriesSpec {
        labels: Labels::from_pairs([("__name__", "up")]),
        seed: 1,
        histograms: false,
        times_ms,
        chunk_samples: 120,
    }]
}

fn mark(bucket: &TestBucket, block: BlockId) {
    let json = format!(
        r#"{{"id":"{block}","version":1,"details":"by hand","deletion_time":{}}}"#,
        NOW_MS / 1000 - 60
    );
    std::fs::write(bucket.path().join(block.to_string()).join("deletion-mark.json"), json).unwrap();
}

/// A second block with the same sources, as a rewrite makes one.
fn add_rewritten(bucket: &TestBucket, new: BlockId, of: BlockId) {
    let (from, to) = (bucket.path().join(of.to_string()), bucket.path().join(new.to_string()));
    std::fs::create_dir_all(to.join("chunks")).unwrap();
    for file in ["index", "chunks/000001"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let meta = std::fs::read_to_string(from.join("meta.json")).unwrap();
    let meta = meta.replacen(&of.to_string(), &new.to_string(), 1);
    std::fs::write(to.join("meta.json"), meta).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_block_does_not_take_its_replacement_with_it() {
    let bucket = TestBucket::new();
    bucket.add(id(1), (0, 2 * HOUR_MS), "a", &series(0, 2 * HOUR_MS));
    add_rewritten(&bucket, id(2), id(1));
    mark(&bucket, id(1));
    let compactor =
        bucket.compactor(|config| CompactorConfig { delete_delay: TWO_DAYS, downsampling: false, ..config });
    for _ in 0..3 {
        compactor.pass(NOW_MS).await.unwrap();
    }
    let living: Vec<BlockId> = bucket.living().iter().map(|meta| meta.ulid).collect();
    assert_eq!(living, [id(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_unmarked_blocks_with_the_same_sources_the_older_stays() {
    let bucket = TestBucket::new();
    bucket.add(id(1), (0, 2 * HOUR_MS), "a", &series(0, 2 * HOUR_MS));
    add_rewritten(&bucket, id(2), id(1));
    let compactor =
        bucket.compactor(|config| CompactorConfig { delete_delay: TWO_DAYS, downsampling: false, ..config });
    compactor.pass(NOW_MS).await.unwrap();
    let living: Vec<BlockId> = bucket.living().iter().map(|meta| meta.ulid).collect();
    assert_eq!(living, [id(1)]);
}

/// An operator marks a downsampled block so that it is made again; meanwhile its raw block comes to the end of its retention.
#[tokio::test(flavor = "multi_thread")]
async fn raw_data_is_not_retired_for_a_downsampled_block_that_is_going_itself() {
    let bucket = TestBucket::new();
    bucket.add(id(1), (0, 48 * HOUR_MS), "a", &series(0, 48 * HOUR_MS));
    let keeping = |config| CompactorConfig { delete_delay: TWO_DAYS, ..config };
    bucket.compactor(keeping).pass(NOW_MS).await.unwrap();
    let downsampled = |bucket: &TestBucket| {
        let metas = bucket.living().into_iter();
        metas.filter(|meta| meta.resolution_ms() == 300_000).map(|meta| meta.ulid).collect::<Vec<_>>()
    };
    let [first] = downsampled(&bucket)[..] else { panic!("one block of five minutes") };
    mark(&bucket, first);
    let retention = Retention { raw: Duration::from_secs(3600), ..Retention::default() };
    bucket.compactor(|config| CompactorConfig { retention, ..keeping(config) }).pass(NOW_MS).await.unwrap();
    let [second] = downsampled(&bucket)[..] else { panic!("one block of five minutes") };
    assert_ne!(first, second);
    assert!(bucket.living().iter().all(|meta| meta.resolution_ms() > 0), "raw data has done its time");
}
