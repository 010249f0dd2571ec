//! Damaged blocks: a warning that names block, object and place; everything else is answered.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use parallax_bucket::BucketConfig;
use parallax_net::Context;
use parallax_store_gateway::{StoreGateway, StoreGatewayConfig};
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest, PartialResponseStrategy};
use parallax_storeapi::{Store, frames, labels};
use tonic::{Code, Request};

use crate::fixture::{Fixture, copy_dir, everything, golden, series};

struct Damaged {
    dir: tempfile::TempDir,
    /// The first block, which tests damage.
    block: String,
}

impl Damaged {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&golden("bucket-short"), dir.path());
        let mut blocks: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        blocks.sort();
        Self { block: blocks[0].clone(), dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(&self.block).join(name)
    }

    fn flip(&self, name: &str, place: usize) {
        let mut bytes = std::fs::read(self.file(name)).unwrap();
        bytes[place] ^= 0x20;
        std::fs::write(self.file(name), bytes).unwrap();
    }

    fn len(&self, name: &str) -> usize {
        std::fs::read(self.file(name)).unwrap().len()
    }

    async fn gateway(&self) -> Fixture {
        Fixture::new(self.dir.path()).await
    }
}

/// Labels and times of every chunk, to see that nothing is invented.
fn chunks(answer: &frames::Collected) -> BTreeSet<(String, i64, i64, Vec<u8>)> {
    let series = answer.series.iter();
    series
        .flat_map(|one| {
            let name = labels::display(&one.labels);
            one.chunks.iter().map(move |chunk| {
                let data = chunk.raw.as_ref().unwrap().data.to_vec();
                (name.clone(), chunk.min_time, chunk.max_time, data)
            })
        })
        .collect()
}

async fn sound() -> BTreeSet<(String, i64, i64, Vec<u8>)> {
    chunks(&Fixture::new(&golden("bucket-short")).await.series(everything()).await.unwrap())
}

/// What the other blocks answer.
async fn without(block: &str) -> BTreeSet<(String, i64, i64, Vec<u8>)> {
    let damaged = Damaged::new();
    std::fs::remove_dir_all(damaged.dir.path().join(block)).unwrap();
    chunks(&damaged.gateway().await.series(everything()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_anywhere_is_a_warning_or_harmless_and_never_a_wrong_answer() {
    let sound = sound().await;
    let others = without(&Damaged::new().block).await;
    let mut warned = 0;
    for (file, steps) in [("index", 24), ("chunks/000001", 24)] {
        let len = Damaged::new().len(file);
        for step in 0..steps {
            let damaged = Damaged::new();
            let place = step * (len - 1) / (steps - 1);
            damaged.flip(file, place);
            let fixture = damaged.gateway().await;
            let answer = fixture.series(everything()).await.unwrap();
            let got = chunks(&answer);
            assert!(got.is_subset(&sound), "{file} at {place}: invented data");
            assert!(got.is_superset(&others), "{file} at {place}: other blocks suffered");
            assert_eq!(got == sound, answer.warnings.is_empty(), "{file} at {place}: {:?}", answer.warnings);
            for warning in &answer.warnings {
                assert!(warning.contains(&damaged.block) && warning.contains(file), "{warning}");
            }
            warned += usize::from(!answer.warnings.is_empty());
        }
    }
    println!("{warned} of 48 flips were noticed");
    assert!(warned >= 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_chunk_costs_that_chunk_only_and_names_its_offset() {
    let damaged = Damaged::new();
    let place = damaged.len("chunks/000001") / 2;
    damaged.flip("chunks/000001", place);
    let fixture = damaged.gateway().await;
    let answer = fixture.series(everything()).await.unwrap();
    let lost = sound().await.len() - chunks(&answer).len();
    assert_eq!((lost, answer.warnings.len()), (1, 1), "{:?}", answer.warnings);
    assert!(answer.warnings[0].contains("at byte"), "{:?}", answer.warnings);
    assert!(fixture.metric("parallax_store_warnings_total{reason=\"damaged\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_chunk_file_costs_what_was_cut_off() {
    for keep in [0, 4, 8, 1000] {
        let damaged = Damaged::new();
        let bytes = std::fs::read(damaged.file("chunks/000001")).unwrap();
        std::fs::write(damaged.file("chunks/000001"), &bytes[..keep]).unwrap();
        let answer = damaged.gateway().await.series(everything()).await.unwrap();
        let got = chunks(&answer);
        assert!(got.is_superset(&without(&damaged.block).await) && got.is_subset(&sound().await));
        assert!(!answer.warnings.is_empty());
        for warning in &answer.warnings {
            assert!(warning.contains(&damaged.block), "{warning}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_objects_of_a_block_are_named() {
    for object in ["index", "chunks/000001"] {
        let damaged = Damaged::new();
        std::fs::remove_file(damaged.file(object)).unwrap();
        let answer = damaged.gateway().await.series(everything()).await.unwrap();
        assert_eq!(chunks(&answer), without(&damaged.block).await, "{object}");
        assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
        assert!(answer.warnings[0].contains(&format!("{}/{object}", damaged.block)), "{:?}", answer.warnings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_index_and_an_empty_one_are_named() {
    let whole = Damaged::new().len("index");
    for keep in [0, 3, 60, whole / 2, whole - 1] {
        let damaged = Damaged::new();
        let bytes = std::fs::read(damaged.file("index")).unwrap();
        std::fs::write(damaged.file("index"), &bytes[..keep]).unwrap();
        let answer = damaged.gateway().await.series(everything()).await.unwrap();
        assert_eq!(chunks(&answer), without(&damaged.block).await, "{keep}");
        assert!(answer.warnings[0].contains(&format!("{}/index", damaged.block)), "{:?}", answer.warnings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_meta_is_a_warning_where_the_block_could_have_mattered() {
    let damaged = Damaged::new();
    let bytes = std::fs::read(damaged.file("meta.json")).unwrap();
    std::fs::write(damaged.file("meta.json"), &bytes[..bytes.len() / 2]).unwrap();
    let fixture = damaged.gateway().await;
    let answer = fixture.series(everything()).await.unwrap();
    assert_eq!(chunks(&answer), without(&damaged.block).await);
    assert!(answer.warnings[0].contains(&damaged.block) && answer.warnings[0].contains("meta.json"));

    // A block holds nothing newer than its name.
    let mut later = everything();
    later.min_time = i64::MAX - 1;
    assert!(fixture.series(later).await.unwrap().warnings.is_empty());

    let request = LabelNamesRequest { start: 0, end: i64::MAX, ..Default::default() };
    let names = fixture.gateway.label_names(Request::new(request)).await.unwrap();
    assert!(!names.names.is_empty() && names.warnings[0].contains(&damaged.block));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_block_is_no_reason_to_warn() {
    let damaged = Damaged::new();
    std::fs::remove_file(damaged.file("meta.json")).unwrap();
    let answer = damaged.gateway().await.series(everything()).await.unwrap();
    assert!(answer.warnings.is_empty());
    assert_eq!(chunks(&answer), without(&damaged.block).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_partial_answer_is_allowed_damage_aborts() {
    let damaged = Damaged::new();
    damaged.flip("chunks/000001", damaged.len("chunks/000001") / 2);
    let fixture = damaged.gateway().await;
    let mut by_strategy = everything();
    by_strategy.partial_response_strategy = PartialResponseStrategy::Abort.into();
    let mut by_flag = everything();
    by_flag.partial_response_disabled = true;
    for request in [by_strategy, by_flag] {
        let status = fixture.series(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        assert!(status.message().contains(&damaged.block), "{status}");
    }
    std::fs::remove_file(damaged.file("index")).unwrap();
    let fixture = damaged.gateway().await;
    let request = LabelValuesRequest {
        label: "job".to_owned(),
        end: i64::MAX,
        partial_response_disabled: true,
        ..Default::default()
    };
    let status = fixture.gateway.label_values(Request::new(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_comes_while_serving_is_named_too() {
    let damaged = Damaged::new();
    let fixture = damaged.gateway().await;
    assert!(fixture.series(everything()).await.unwrap().warnings.is_empty());
    std::fs::remove_file(damaged.file("index")).unwrap();
    let answer = fixture.series(everything()).await.unwrap();
    assert!(answer.warnings[0].contains(&format!("{}/index", damaged.block)), "{:?}", answer.warnings);
    // The next sync drops a block that is gone altogether, and its files in the data directory.
    std::fs::remove_dir_all(damaged.dir.path().join(&damaged.block)).unwrap();
    fixture.gateway.sync().await.unwrap();
    assert!(fixture.series(everything()).await.unwrap().warnings.is_empty());
    assert!(!fixture.data_dir().join(&damaged.block).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_header_that_was_damaged_on_disk_is_built_anew() {
    let damaged = Damaged::new();
    let fixture = damaged.gateway().await;
    let before = chunks(&fixture.series(everything()).await.unwrap());
    let header = fixture.data_dir().join(&damaged.block).join("index-header");
    let sound = std::fs::read(&header).unwrap();
    for damage in [&b""[..], b"short", &sound[..sound.len() - 1]] {
        std::fs::write(&header, damage).unwrap();
        let restarted = fixture.restarted().await;
        let answer = series(&*restarted, everything()).await.unwrap();
        assert_eq!(chunks(&answer), before);
        assert!(std::fs::read(&header).unwrap() == sound);
    }
}

#[tokio::test]
async fn a_missing_bucket_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no-such-bucket");
    let config = StoreGatewayConfig::new(BucketConfig::filesystem(&missing), dir.path().join("data"));
    let error = StoreGateway::start(config, Context::for_test()).await.unwrap_err();
    assert!(error.to_string().contains("no-such-bucket"), "{error}");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let bucket: &Path = dir.path();
    let config = StoreGatewayConfig::new(BucketConfig::filesystem(bucket), dir.path().join("file/data"));
    let error = StoreGateway::start(config, Context::for_test()).await.unwrap_err();
    assert!(error.to_string().contains("file/data"), "{error}");
}
