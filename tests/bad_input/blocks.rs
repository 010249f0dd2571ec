//! Buckets that are not there, and blocks with damaged files.

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::program::{Program, command};
use crate::question::{Answer, ask_until, get};
use crate::sides::{Keys, MACHINES, MACHINES_UP, Observee, observer, server_name};

/// The end of the golden bucket; [`EVERYTHING`] at this moment reads each of its chunks.
const END: &str = "2026-07-01T06:00:00Z";
const EVERYTHING: &str = "count by (cluster, prometheus_replica) (last_over_time({__name__=~\".+\"}[6h]))";
/// A reader of warnings is not told of each lost chunk.
const MAX_WARNINGS: usize = 11;

/// A copy of the golden bucket.
struct Bucket {
    directory: TempDir,
    /// The block that is damaged.
    block: String,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Bucket {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short");
        copy(&golden, &directory.path().join("bucket"));
        let blocks = std::fs::read_dir(golden).unwrap().flatten();
        let block = blocks.map(|entry| entry.file_name().to_string_lossy().into_owned()).min().unwrap();
        Self { directory, block }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("bucket").join(&self.block).join(name)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        std::fs::write(self.file(name), bytes).unwrap();
    }

    /// Asks a querier over a gateway over this bucket for everything, without dedup.
    async fn ask(&self) -> Answer {
        let directory = self.directory.path();
        let addresses = ["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"];
        let bucket = directory.join("bucket");
        let mut store = Program::start(
            command(["store"])
                .args(addresses)
                .arg(format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {bucket:?}}}"))
                .arg(format!("--data-dir={}", directory.join("data").display())),
            directory,
            "store",
        );
        store.ready().await;
        let endpoint = format!("--endpoint={}", store.grpc().await);
        let mut query = Program::start(command(["query", &endpoint]).args(addresses), directory, "query");
        let url = query.http().await;
        ask_until(&url, "count(up @ 1782874800)", |answer| !answer.by("").is_empty()).await;
        get(&url, "/api/v1/query", &[("query", EVERYTHING), ("time", END), ("dedup", "false")]).await
    }
}

/// The answer comes, with all four replicas in it, and each of its few warnings is about the damaged block.
fn assert_named(answer: &Answer, bucket: &Bucket, words: &[&str]) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let sources = answer.data()["result"].as_array().unwrap().len();
    assert_eq!(sources, 4, "the other blocks of every replica answer: {answer:?}");
    let warnings = answer.warnings();
    println!("{} warnings: {:#?}", warnings.len(), warnings.first());
    assert!((1..=MAX_WARNINGS).contains(&warnings.len()), "{} warnings", warnings.len());
    for warning in &warnings {
        assert!(warning.contains(&bucket.block), "{} in {warning}", bucket.block);
    }
    for word in words {
        assert!(warnings[0].contains(word), "{word:?} in {warnings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_blocks_draw_no_warning() {
    let answer = Bucket::new().ask().await;
    assert_eq!(answer.warnings(), Vec::<String>::new());
    assert_eq!(answer.data()["result"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_an_index_is_a_warning_that_names_block_and_file() {
    let bucket = Bucket::new();
    // Within the table of contents, whose checksum then fails.
    bucket.change("index", |bytes| {
        let place = bytes.len() - 30;
        bytes[place] ^= 0x10;
    });
    assert_named(&bucket.ask().await, &bucket, &["index"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_chunk_is_a_warning_that_names_block_and_file() {
    let bucket = Bucket::new();
    bucket.change("chunks/000001", |bytes| {
        let place = bytes.len() / 2;
        bytes[place] ^= 0x10;
    });
    assert_named(&bucket.ask().await, &bucket, &["chunks/000001"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_chunk_file_is_a_warning_that_names_block_and_file() {
    let bucket = Bucket::new();
    bucket.change("chunks/000001", |bytes| bytes.truncate(bytes.len() / 2));
    assert_named(&bucket.ask().await, &bucket, &["chunks/000001"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_meta_json_is_a_warning_that_names_the_block() {
    let bucket = Bucket::new();
    bucket.change("meta.json", |bytes| bytes[0] ^= 0x10);
    assert_named(&bucket.ask().await, &bucket, &["meta.json"]);
}

#[test]
fn a_bucket_directory_that_does_not_exist_is_named() {
    let finished = crate::program::run([
        "store",
        "--http-address=127.0.0.1:0",
        "--grpc-address=127.0.0.1:0",
        "--objstore.config=type: FILESYSTEM\nconfig: {directory: /no/such/bucket}",
    ]);
    assert!(matches!(finished.code, Some(1 | 2)), "{finished:?}");
    let errors: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("parallax:")).collect();
    assert_eq!(errors.len(), 1, "{}", finished.stderr);
    assert!(errors[0].contains("/no/such/bucket"), "{}", errors[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_bucket_does_not_exist_is_a_warning_and_its_fresh_data_answers() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let good = Observee::start("eu-1", Some(&keys.observee("eu-1")), directory.path()).await;
    let clusters = [json!({
        "name": "eu-1",
        "address": good.grpc,
        "server_name": server_name("eu-1"),
        "bucket": {"type": "FILESYSTEM", "config": {"directory": "/no/such/bucket"}},
    })];
    let mut observer = observer(&clusters, Some(&keys.observer("hub")), directory.path());
    let url = observer.http().await;
    let answer =
        ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").get("eu-1") == Some(&MACHINES)).await;
    let warning = answer.warning_about("eu-1").unwrap_or_else(|| panic!("no warning: {answer:?}"));
    assert!(warning.contains("/no/such/bucket"), "{warning}");
}
