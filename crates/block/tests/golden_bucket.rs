//! The golden bucket: its metas byte for byte, and its list of blocks through every filter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_block::mark::place_mark;
use parallax_block::{
    BlockId, BlockMeta, BlockState, DeletionMark, Fetcher, FetcherConfig, FetcherMetrics, Filter,
    HashFunction, UploadOptions, upload_block, verify_block,
};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_model::TimeRange;

/// The shared golden data, or the small copy in the repository.
fn golden(what: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    [shared.join("golden").join(what), root.join("tests/golden").join(what)]
        .into_iter()
        .find(|path| path.is_dir())
        .unwrap_or_else(|| panic!("no golden {what}"))
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

struct Fixture {
    dir: tempfile::TempDir,
    bucket: Bucket,
    ids: Vec<BlockId>,
}

/// A copy of the golden bucket that a test may damage.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&golden("bucket-short"), dir.path());
    let bucket = Bucket::open(&BucketConfig::filesystem(dir.path()), Access::Write).unwrap();
    let mut ids: Vec<BlockId> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
        .collect();
    ids.sort();
    Fixture { dir, bucket, ids }
}

fn fetcher(bucket: &Bucket, filters: Vec<Filter>) -> Fetcher {
    fetcher_with(bucket, FetcherConfig { filters, ..FetcherConfig::default() }, FetcherMetrics::default())
}

fn fetcher_with(bucket: &Bucket, config: FetcherConfig, metrics: FetcherMetrics) -> Fetcher {
    Fetcher::new(bucket.clone(), config, metrics)
}

const NOW_MS: i64 = 1_795_400_000_000;

fn metas_of(bucket: &str) -> Vec<PathBuf> {
    let directory = golden(bucket);
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path().join("meta.json")).collect()
}

#[test]
fn every_golden_meta_comes_back_byte_for_byte() {
    let mut metas = metas_of("bucket-short");
    for optional in ["bucket-long", "bucket-long-raw"] {
        if std::panic::catch_unwind(|| golden(optional)).is_ok() {
            metas.extend(metas_of(optional));
        }
    }
    for path in &metas {
        let json = std::fs::read(path).unwrap();
        let meta = BlockMeta::parse("golden", &json).unwrap();
        assert!(meta.unknown.is_empty() && meta.thanos.as_ref().unwrap().unknown.is_empty());
        assert!(meta.to_json().unwrap() == json, "{} differs", path.display());
        assert!(meta.upload_time_ms().is_some() && !meta.external_labels().is_empty());
    }
    println!("{} golden metas", metas.len());
    assert!(metas.len() >= 4);
}

#[tokio::test]
async fn a_sync_finds_every_block_and_counts_it() {
    let fixture = fixture();
    let metrics = FetcherMetrics::default();
    let fetcher = fetcher_with(&fixture.bucket, FetcherConfig::default(), metrics.clone());
    let synced = fetcher.sync(NOW_MS).await.unwrap();
    assert!(synced.complete && synced.problems.is_empty());
    assert_eq!(synced.blocks.keys().copied().collect::<Vec<_>>(), fixture.ids);
    assert_eq!(metrics.synced(BlockState::Loaded), i64::try_from(fixture.ids.len()).unwrap());
}

#[tokio::test]
async fn partial_and_corrupted_blocks_are_named_and_the_rest_is_served() {
    let fixture = fixture();
    let [partial, corrupted, misplaced, rest @ ..] = fixture.ids.as_slice() else { panic!("few blocks") };
    std::fs::remove_file(fixture.dir.path().join(partial.meta_object())).unwrap();
    std::fs::write(fixture.dir.path().join(corrupted.meta_object()), b"{\"ulid\":").unwrap();
    std::fs::copy(
        fixture.dir.path().join(rest[0].meta_object()),
        fixture.dir.path().join(misplaced.meta_object()),
    )
    .unwrap();
    let synced = fetcher(&fixture.bucket, Vec::new()).sync(NOW_MS).await.unwrap();
    assert!(synced.complete);
    assert_eq!(synced.blocks.keys().collect::<Vec<_>>(), rest.iter().collect::<Vec<_>>());
    let states: Vec<_> = synced.problems.iter().map(|problem| (problem.block, problem.state)).collect();
    assert_eq!(
        states,
        [
            (*partial, BlockState::NoMeta),
            (*corrupted, BlockState::CorruptedMeta),
            (*misplaced, BlockState::CorruptedMeta)
        ]
    );
    for problem in &synced.problems {
        assert!(problem.error.to_string().contains(&problem.block.to_string()), "{}", problem.error);
    }
}

#[tokio::test]
async fn a_block_whose_meta_vanishes_is_dropped_although_it_was_cached() {
    let fixture = fixture();
    let cache = tempfile::tempdir().unwrap();
    let config = FetcherConfig { cache_dir: Some(cache.path().into()), ..FetcherConfig::default() };
    let fetcher = fetcher_with(&fixture.bucket, config.clone(), FetcherMetrics::default());
    fetcher.sync(NOW_MS).await.unwrap();
    let gone = fixture.ids[0];
    assert!(cache.path().join("catalog-1").is_file());
    std::fs::remove_file(fixture.dir.path().join(gone.meta_object())).unwrap();
    let synced = fetcher.sync(NOW_MS).await.unwrap();
    assert_eq!(synced.dropped.get(&gone), Some(&BlockState::NoMeta));

    // A new process reads the others from the local cache: a meta that was damaged since does not matter to it.
    std::fs::write(fixture.dir.path().join(fixture.ids[1].meta_object()), b"damaged later").unwrap();
    let restarted = fetcher_with(&fixture.bucket, config, FetcherMetrics::default());
    let synced = restarted.sync(NOW_MS).await.unwrap();
    assert!(synced.blocks.contains_key(&fixture.ids[1]));
}

#[tokio::test]
async fn filters_name_their_reason() {
    let fixture = fixture();
    let all = fetcher(&fixture.bucket, Vec::new()).sync(NOW_MS).await.unwrap().blocks;
    let first = all.values().next().unwrap();

    let time = Filter::Time(TimeRange::new(first.min_time_ms, first.max_time_ms));
    let synced = fetcher(&fixture.bucket, vec![time]).sync(NOW_MS).await.unwrap();
    assert!(synced.blocks.contains_key(&first.ulid) && synced.blocks.len() < all.len());
    assert!(synced.dropped.values().all(|state| *state == BlockState::TimeExcluded));

    let uploaded_ms = first.upload_time_ms().unwrap();
    let fresh = Filter::Consistency { delay: Duration::from_secs(3600) };
    let synced = fetcher(&fixture.bucket, vec![fresh]).sync(uploaded_ms + 1000).await.unwrap();
    assert_eq!(synced.dropped.get(&first.ulid), Some(&BlockState::TooFresh));

    let mark = DeletionMark {
        id: first.ulid,
        version: 1,
        details: String::new(),
        deletion_time_s: NOW_MS / 1000 - 7200,
    };
    assert!(place_mark(&fixture.bucket, first.ulid, &mark).await.unwrap());
    assert!(!place_mark(&fixture.bucket, first.ulid, &mark).await.unwrap());
    for (delay_s, dropped) in [(3600, true), (7200, false)] {
        let filter = Filter::DeletionMark { delay: Duration::from_secs(delay_s) };
        let synced = fetcher(&fixture.bucket, vec![filter]).sync(NOW_MS).await.unwrap();
        assert_eq!(synced.dropped.get(&first.ulid) == Some(&BlockState::MarkedForDeletion), dropped);
    }
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_is_reported_and_its_block_served() {
    let fixture = fixture();
    let [broken, newer, ..] = fixture.ids.as_slice() else { panic!("few blocks") };
    std::fs::write(fixture.dir.path().join(broken.object("deletion-mark.json")), b"not json").unwrap();
    let version_9 = format!(r#"{{"id":"{newer}","version":9,"deletion_time":1}}"#);
    std::fs::write(fixture.dir.path().join(newer.object("deletion-mark.json")), version_9).unwrap();
    let filter = Filter::DeletionMark { delay: Duration::ZERO };
    let synced = fetcher(&fixture.bucket, vec![filter]).sync(NOW_MS).await.unwrap();
    assert_eq!(synced.blocks.len(), fixture.ids.len());
    let messages: Vec<String> = synced.problems.iter().map(|problem| problem.error.to_string()).collect();
    assert_eq!(messages.len(), 2);
    assert!(messages[0].contains("deletion-mark.json") && messages[1].contains("version 9"), "{messages:?}");
}

#[tokio::test]
async fn a_block_whose_sources_are_in_another_is_a_duplicate() {
    let fixture = fixture();
    let all = fetcher(&fixture.bucket, Vec::new()).sync(NOW_MS).await.unwrap().blocks;
    let metas: Vec<&BlockMeta> = all.values().map(AsRef::as_ref).collect();
    let [a, others @ ..] = metas.as_slice() else { panic!("few blocks") };
    let same_group = others.iter().find(|meta| meta.external_labels() == a.external_labels()).unwrap();
    let other_group = others.iter().find(|meta| meta.external_labels() != a.external_labels()).unwrap();

    let compacted: BlockId = "01M8000000AAAAAAAAAAAAAAAA".parse().unwrap();
    let mut meta = (*a).clone();
    meta.ulid = compacted;
    meta.compaction.sources = vec![a.ulid, same_group.ulid, other_group.ulid];
    std::fs::create_dir(fixture.dir.path().join(compacted.to_string())).unwrap();
    std::fs::write(fixture.dir.path().join(compacted.meta_object()), meta.to_json().unwrap()).unwrap();

    let synced = fetcher(&fixture.bucket, vec![Filter::Duplicate]).sync(NOW_MS).await.unwrap();
    let dropped: Vec<_> = synced.dropped.into_iter().collect();
    let mut expected = vec![(a.ulid, BlockState::Duplicate), (same_group.ulid, BlockState::Duplicate)];
    expected.sort();
    assert_eq!(dropped, expected);
    assert!(synced.blocks.contains_key(&compacted) && synced.blocks.contains_key(&other_group.ulid));
}

#[tokio::test]
async fn a_vanished_bucket_fails_the_sync_and_names_it() {
    let fixture = fixture();
    let path = fixture.dir.path().to_owned();
    let fetcher = fetcher(&fixture.bucket, Vec::new());
    drop(fixture.dir);
    let message = fetcher.sync(NOW_MS).await.unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
}

fn options() -> UploadOptions {
    UploadOptions {
        external_labels: BTreeMap::from([("cluster".to_owned(), "eu-1".to_owned())]),
        source: "sidecar".to_owned(),
        hash: HashFunction::Sha256,
        now_ms: NOW_MS,
        concurrency: 1,
    }
}

#[tokio::test]
async fn an_uploaded_block_describes_its_files_and_is_found_by_a_sync() {
    let fixture = fixture();
    let target = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&BucketConfig::filesystem(target.path()), Access::Write).unwrap();
    let directory = fixture.dir.path().join(fixture.ids[0].to_string());
    let mut local = BlockMeta::parse("local", &std::fs::read(directory.join("meta.json")).unwrap()).unwrap();
    local.thanos = None;
    let uploaded = upload_block(&bucket, &directory, local, &options()).await.unwrap();

    let synced = fetcher(&bucket, Vec::new()).sync(NOW_MS).await.unwrap();
    assert_eq!(**synced.blocks.get(&fixture.ids[0]).unwrap(), uploaded);
    assert_eq!(uploaded.upload_time_ms(), Some(NOW_MS));
    let thanos = uploaded.thanos.as_ref().unwrap();
    assert_eq!(thanos.segment_files, ["000001"]);
    let paths: Vec<&str> = thanos.files.iter().map(|file| file.rel_path.as_str()).collect();
    assert_eq!(paths, ["chunks/000001", "index", "meta.json"]);
    assert!(thanos.files[0].hash.is_some() && thanos.files[2].hash.is_none());
    assert_eq!(
        uploaded.file_size_bytes("index"),
        Some(std::fs::metadata(directory.join("index")).unwrap().len())
    );
    let block = target.path().join(fixture.ids[0].to_string());
    for file in ["chunks/000001", "index"] {
        assert!(std::fs::read(block.join(file)).unwrap() == std::fs::read(directory.join(file)).unwrap());
    }
}

#[tokio::test]
async fn a_block_that_cannot_be_uploaded_whole_gets_no_meta() {
    let fixture = fixture();
    let target = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&BucketConfig::filesystem(target.path()), Access::Write).unwrap();
    let directory = fixture.dir.path().join(fixture.ids[0].to_string());
    let meta = BlockMeta::parse("local", &std::fs::read(directory.join("meta.json")).unwrap()).unwrap();

    let unlabelled = UploadOptions { external_labels: BTreeMap::new(), ..options() };
    let error = upload_block(&bucket, &directory, meta.clone(), &unlabelled).await.unwrap_err();
    assert!(error.to_string().contains("external labels"), "{error}");

    std::fs::remove_file(directory.join("index")).unwrap();
    let error = upload_block(&bucket, &directory, meta, &options()).await.unwrap_err();
    assert!(error.to_string().contains("index"), "{error}");
    assert!(!bucket.exists(&fixture.ids[0].meta_object()).await.unwrap());
}

#[test]
fn golden_blocks_verify_and_damaged_ones_say_where() {
    let fixture = fixture();
    for id in &fixture.ids {
        let report = verify_block(&fixture.dir.path().join(id.to_string())).unwrap();
        assert!(report.series > 0 && report.chunks >= report.series);
    }
    let directory = fixture.dir.path().join(fixture.ids[0].to_string());
    for file in ["chunks/000001", "index"] {
        let path = directory.join(file);
        let sound = std::fs::read(&path).unwrap();
        for about in [0, sound.len() / 3, sound.len() / 2, sound.len() - 1] {
            // Zeros between series entries are padding, which no checksum covers.
            let place = (about..sound.len()).find(|place| sound[*place] != 0).unwrap();
            let mut damaged = sound.clone();
            damaged[place] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let message = verify_block(&directory).unwrap_err().to_string();
            assert!(message.contains(&fixture.ids[0].to_string()), "{file} at {place}: {message}");
        }
        std::fs::write(&path, &sound[..sound.len() - 7]).unwrap();
        assert!(verify_block(&directory).is_err(), "{file} truncated");
        std::fs::write(&path, &sound).unwrap();
    }
    verify_block(&directory).unwrap();
}
