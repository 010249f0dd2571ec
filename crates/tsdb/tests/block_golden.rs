//! Blocks that the real Prometheus and Thanos wrote, copied through our reader and writer, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parallax_model::{Labels, MatchOp, Matcher, TimeRange};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::{BlockChunk, BlockReader, BlockWriter, UNFINISHED_SUFFIX, symbols_of};
use parallax_tsdb::chunk::ChunkEncoding;
use parallax_tsdb::index::ChunkMeta;
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use parallax_tsdb::tombstones::{TOMBSTONES_FILE_NAME, Tombstones};

/// The blocks of all golden buckets.
fn blocks() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    let golden = [shared.join("golden"), workspace.join("tests/golden")]
        .into_iter()
        .find(|path| path.join("bucket-short").is_dir())
        .expect("golden data");
    let mut found = Vec::new();
    for bucket in ["bucket-short", "bucket-long", "bucket-long-raw"] {
        let Ok(entries) = fs::read_dir(golden.join(bucket)) else { continue };
        let mut blocks: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        blocks.retain(|path| path.join("index").is_file());
        blocks.sort();
        // Each copy is synced to disk, and the uncompacted blocks are many and alike.
        let step = if bucket == "bucket-long-raw" { 20 } else { 1 };
        found.extend(blocks.into_iter().step_by(step));
    }
    found
}

fn series_of(block: &BlockReader) -> Vec<(Labels, Vec<BlockChunk>)> {
    let read = |series: Result<parallax_tsdb::block::BlockSeries, TsdbError>| {
        let series = series.unwrap();
        let chunk = |meta: &ChunkMeta| BlockChunk {
            min_time_ms: meta.min_time_ms,
            max_time_ms: meta.max_time_ms,
            chunk: block.chunk(meta).unwrap(),
        };
        (series.labels, series.chunks.iter().map(chunk).collect())
    };
    block.all_series(TimeRange::ALL).unwrap().map(read).collect()
}

#[test]
fn a_copied_block_is_the_same_bytes_and_has_the_numbers_of_meta_json() {
    for source in blocks() {
        let block = BlockReader::open(&source).unwrap();
        let series = series_of(&block);
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("copy");
        let symbols = symbols_of(series.iter().map(|(labels, _)| labels));
        let mut writer = BlockWriter::create(&target, symbols, SegmentConfig::default()).unwrap();
        for (labels, chunks) in &series {
            writer.add_series(labels, chunks).unwrap();
        }
        let sealed = writer.seal().unwrap();
        assert!(!target.exists());
        let meta = fs::read(source.join("meta.json")).unwrap();
        sealed.add_file("meta.json", &meta).unwrap();
        let stats = sealed.publish().unwrap();

        let names: Vec<&str> = stats.files.iter().map(|file| file.relative_path.as_str()).collect();
        assert!(names.contains(&"index") && names.contains(&"chunks/000001"), "{names:?}");
        for file in &stats.files {
            let copy = fs::read(target.join(&file.relative_path)).unwrap();
            assert_eq!(copy.len() as u64, file.size_bytes);
            assert!(copy == fs::read(source.join(&file.relative_path)).unwrap(), "{source:?} {file:?}");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);

        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        let number = |name: &str| meta["stats"][name].as_u64().unwrap_or(0);
        assert_eq!(stats.series_count, number("numSeries"));
        assert_eq!(stats.chunk_count, number("numChunks"));
        assert_eq!(stats.sample_count, number("numSamples"), "{source:?}");
        if meta["thanos"]["downsample"]["resolution"] == 0 {
            assert_eq!(stats.float_sample_count, number("numFloatSamples"));
            assert_eq!(stats.histogram_sample_count, number("numHistogramSamples"));
        }
        let range = stats.time_range.unwrap();
        assert!(meta["minTime"].as_i64().unwrap() <= range.min_ms);
        assert!(range.max_ms < meta["maxTime"].as_i64().unwrap());
    }
}

fn float_chunk(min_time_ms: i64, max_time_ms: i64) -> BlockChunk {
    let data = Bytes::from_static(&[0, 2, 1, 2, 3]);
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding: ChunkEncoding::Xor, data } }
}

fn labels(value: &str) -> Labels {
    Labels::from_pairs([("a", value)])
}

/// Three series, `a=x` to `a=z`, each with a chunk from 0 to 10 and one from 20 to 30.
fn small_block(target: &Path) {
    let mut writer = BlockWriter::create(target, ["a", "x", "y", "z"], SegmentConfig::default()).unwrap();
    for value in ["x", "y", "z"] {
        writer.add_series(&labels(value), &[float_chunk(0, 10), float_chunk(20, 30)]).unwrap();
    }
    writer.seal().unwrap().publish().unwrap();
}

#[test]
fn series_are_selected_by_matchers_and_chunks_by_time() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("block");
    small_block(&target);
    let block = BlockReader::open(&target).unwrap();
    let matchers = [Matcher::new(MatchOp::NotEqual, "a", "y").unwrap()];
    let select = |min, max| -> Vec<(String, usize)> {
        let series = block.series(&matchers, TimeRange::new(min, max)).unwrap();
        series.map(|s| s.unwrap()).map(|s| (s.labels.value_of("a").to_owned(), s.chunks.len())).collect()
    };
    assert_eq!(select(10, 20), [("x".to_owned(), 2), ("z".to_owned(), 2)]);
    assert_eq!(select(15, 25), [("x".to_owned(), 1), ("z".to_owned(), 1)]);
    assert_eq!(select(11, 19), []);
}

#[test]
fn deleted_chunks_are_left_out_and_other_deletions_are_told() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("block");
    small_block(&target);
    let refs: Vec<u64> = {
        let block = BlockReader::open(&target).unwrap();
        block.all_series(TimeRange::ALL).unwrap().map(|series| u64::from(series.unwrap().series)).collect()
    };
    let mut tombstones = Tombstones::default();
    tombstones.add(refs[0], TimeRange::new(0, 25));
    tombstones.add(refs[1], TimeRange::new(-5, 40));
    fs::write(target.join(TOMBSTONES_FILE_NAME), tombstones.encode()).unwrap();

    let block = BlockReader::open(&target).unwrap();
    assert_eq!(block.tombstones(), &tombstones);
    let found: Vec<_> = block.all_series(TimeRange::ALL).unwrap().map(Result::unwrap).collect();
    let told: Vec<_> =
        found.iter().map(|s| (s.labels.value_of("a"), s.chunks.len(), s.deleted.as_slice())).collect();
    assert_eq!(told, [("x", 1, &[TimeRange::new(0, 25)][..]), ("z", 2, &[])]);
}

#[test]
fn what_is_out_of_order_is_refused_and_leaves_no_trace() {
    let home = tempfile::tempdir().unwrap();
    let (target, clean) = (home.path().join("block"), home.path().join("clean"));
    let symbols = ["", "a", "x", "y", "z"];
    let mut writer = BlockWriter::create(&target, symbols, SegmentConfig::default()).unwrap();
    writer.add_series(&labels("x"), &[float_chunk(0, 10), float_chunk(20, 30)]).unwrap();
    let refused: [(&str, &[BlockChunk]); 7] = [
        ("y", &[]),
        ("x", &[float_chunk(0, 10)]),
        ("", &[float_chunk(0, 10)]),
        ("unknown", &[float_chunk(0, 10)]),
        ("y", &[float_chunk(0, 10), float_chunk(10, 20)]),
        ("y", &[float_chunk(20, 30), float_chunk(0, 10)]),
        ("y", &[float_chunk(10, 0)]),
    ];
    for (value, chunks) in refused {
        let error = writer.add_series(&labels(value), chunks).unwrap_err();
        assert!(matches!(error, TsdbError::OutOfOrder { .. } | TsdbError::Invalid { .. }), "{error}");
    }
    for value in ["y", "z"] {
        writer.add_series(&labels(value), &[float_chunk(0, 10), float_chunk(20, 30)]).unwrap();
    }
    writer.seal().unwrap().publish().unwrap();
    small_block(&clean);
    for file in ["index", "chunks/000001"] {
        assert_eq!(fs::read(target.join(file)).unwrap(), fs::read(clean.join(file)).unwrap());
    }
}

#[test]
fn a_block_that_is_not_published_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("block");
    let leftover = home.path().join(format!("block{UNFINISHED_SUFFIX}"));
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("index"), "what a crash left").unwrap();
    let writer = BlockWriter::create(&target, ["a"], SegmentConfig::default()).unwrap();
    assert!(leftover.is_dir());
    drop(writer.seal().unwrap());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);

    small_block(&target);
    let error = BlockWriter::create(&target, ["a"], SegmentConfig::default()).unwrap_err();
    assert!(matches!(error, TsdbError::Io { .. }), "a block is never written over: {error}");
}

#[test]
fn a_block_without_series_is_still_a_block() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("block");
    let writer = BlockWriter::create(&target, [], SegmentConfig::default()).unwrap();
    let stats = writer.seal().unwrap().publish().unwrap();
    assert_eq!((stats.series_count, stats.time_range), (0, None));
    let block = BlockReader::open(&target).unwrap();
    assert_eq!(block.all_series(TimeRange::ALL).unwrap().count(), 0);
}
