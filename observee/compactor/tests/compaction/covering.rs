//! A block covers another only if it is whole, also where its `meta.json` names no files.

use std::path::PathBuf;

use parallax_model::Labels;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

/// Compacts four blocks; gives the directory of the new one, whose meta then names no files, and that of a source whose mark is gone.
async fn old_style(bucket: &TestBucket) -> (PathBuf, PathBuf) {
    for n in 0..5i64 {
        let spec = SeriesSpec {
            labels: Labels::from_pairs([("__name__", "up")]),
            seed: 3,
            histograms: false,
            times_ms: (0..24).map(|k| 2 * n * HOUR_MS + k * 300_000).collect(),
            chunk_samples: 10,
        };
        bucket.add(id(10 + n as u64), (2 * n * HOUR_MS, (2 * n + 2) * HOUR_MS), "a", &[spec]);
    }
    assert_eq!(bucket.compactor(|config| config).pass(NOW_MS).await.unwrap().compactions, 1);
    let new = bucket.living().into_iter().find(|meta| meta.compaction.level == 2).unwrap();
    let dir = bucket.path().join(new.ulid.to_string());
    let mut meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("meta.json")).unwrap()).unwrap();
    let thanos = meta["thanos"].as_object_mut().unwrap();
    assert!(thanos.remove("files").is_some() && thanos.remove("segment_files").is_some());
    std::fs::write(dir.join("meta.json"), meta.to_string()).unwrap();
    let source = bucket.path().join(id(10).to_string());
    std::fs::remove_file(source.join("deletion-mark.json")).unwrap();
    (dir, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_collected_only_if_the_objects_of_the_block_that_covers_it_are_there() {
    type Damage = fn(&std::path::Path);
    let damages: [(Damage, bool); 4] = [
        (|_| (), true),
        (|block| std::fs::remove_dir_all(block.join("chunks")).unwrap(), false),
        (|block| std::fs::rename(block.join("chunks/000001"), block.join("chunks/000002")).unwrap(), false),
        (|block| std::fs::write(block.join("chunks/000001"), b"cut").unwrap(), false),
    ];
    for (place, (damage, whole)) in damages.into_iter().enumerate() {
        let bucket = TestBucket::new();
        let (block, source) = old_style(&bucket).await;
        damage(&block);
        // Another process, which remembers no meta.
        std::fs::remove_dir_all(bucket.dir.path().join("data")).unwrap();
        let report = bucket.compactor(|config| config).pass(NOW_MS + 1).await.unwrap();
        assert_eq!(report.garbage_collected, u64::from(whole), "damage {place}");
        assert_eq!(source.join("deletion-mark.json").exists(), whole, "damage {place}");
    }
}
