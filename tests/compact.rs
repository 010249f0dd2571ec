//! `parallax compact` on a copy of the golden bucket: two clusters of two replicas, three blocks each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::program::{self, run};
use parallax_block::{BlockMeta, verify_block};

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

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short");
        copy_dir(&golden, &dir.path().join("bucket"));
        Self { dir }
    }

    fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn compact(&self, more: &[&str]) -> program::Finished {
        let objstore =
            format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {}}}", self.bucket().display());
        let data_dir = format!("--data-dir={}", self.dir.path().join("data").display());
        let mut line = vec![
            "compact",
            "--http-address=127.0.0.1:0",
            "--consistency-delay=0s",
            objstore.as_str(),
            data_dir.as_str(),
        ];
        line.extend(more);
        run(line)
    }

    /// Whole blocks without a deletion mark.
    fn living(&self) -> Vec<BlockMeta> {
        let dirs = std::fs::read_dir(self.bucket()).unwrap().map(|entry| entry.unwrap().path());
        // The compactor's list of blocks stands beside them.
        let blocks = dirs.filter(|dir| !dir.ends_with("parallax"));
        let metas = blocks.filter(|dir| !dir.join("deletion-mark.json").exists()).map(|dir| {
            verify_block(&dir).unwrap();
            BlockMeta::parse("test", &std::fs::read(dir.join("meta.json")).unwrap()).unwrap()
        });
        metas.collect()
    }
}

#[test]
fn replicas_become_one_and_a_second_run_finds_nothing_to_do() {
    let fixture = Fixture::new();
    let dedup = ["--deduplication.func=penalty", "--deduplication.replica-label=prometheus_replica"];
    let finished = fixture.compact(&dedup);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let living = fixture.living();
    let mut by_cluster: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for meta in &living {
        let labels = meta.thanos.as_ref().unwrap().labels.clone().unwrap();
        assert!(!labels.contains_key("prometheus_replica"), "{labels:?}");
        by_cluster.entry(labels["cluster"].clone()).or_default().push(meta.compaction.level);
        assert_eq!(meta.compaction.sources.len(), 2);
    }
    assert_eq!(
        by_cluster.into_iter().collect::<Vec<_>>(),
        [("eu-1".to_owned(), vec![2; 3]), ("us-1".to_owned(), vec![2; 3])]
    );
    let again = fixture.compact(&dedup);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(fixture.living().len(), living.len());
}

#[test]
fn rules_choose_what_is_compacted() {
    let fixture = Fixture::new();
    let rules = "--selector.relabel-config=[{action: keep, source_labels: [cluster], regex: eu-1}]";
    let finished = fixture.compact(&["--deduplication.replica-label=prometheus_replica", rules]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let mut levels: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for meta in fixture.living() {
        let labels = meta.thanos.as_ref().unwrap().labels.clone().unwrap();
        levels.entry(labels["cluster"].clone()).or_default().push(meta.compaction.level);
    }
    assert_eq!(
        levels.into_iter().collect::<Vec<_>>(),
        [("eu-1".to_owned(), vec![2; 3]), ("us-1".to_owned(), vec![1; 6])]
    );
}

#[test]
fn mistakes_on_the_command_line_are_named_before_anything_is_touched() {
    let fixture = Fixture::new();
    for (flag, complaint) in [
        ("--deduplication.func=penalty", "replica label"),
        ("--deduplication.func=best", "--deduplication.func=best"),
        ("--hash-func=MD5", "--hash-func=MD5"),
        ("--debug.max-compaction-level=9", "--debug.max-compaction-level=9"),
        (
            "--selector.relabel-config=[{action: keep, source_labels: [__block_id]}]",
            "--selector.relabel-config",
        ),
        ("--shard=3/3", "--shard"),
    ] {
        let finished = fixture.compact(&[flag]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(complaint), "{}", finished.stderr);
    }
    assert_eq!(fixture.living().len(), 12);
}
