//! Downsampled blocks of old versions of Thanos, and blocks that nothing comes of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parallax_block::{BlockId, BlockMeta};
use parallax_compactor::{CompactorConfig, MergeMode, Retention, group_blocks};
use parallax_model::{Labels, Resolution};
use parallax_tsdb::block::{BlockChunk, BlockReader};
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, XorAppender};
use parallax_tsdb::segment::Chunk;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, chunk, id};

/// An XOR chunk without samples.
const EMPTY: &[u8] = &[0, 0];

fn spec(hours: std::ops::Range<i64>) -> SeriesSpec {
    SeriesSpec {
        labels: Labels::from_pairs([("__name__", "up")]),
        seed: 7,
        histograms: false,
        times_ms: (hours.start * 60..hours.end * 60).map(|minute| minute * 60_000).collect(),
        chunk_samples: 120,
    }
}

fn chunks_of(bucket: &TestBucket, block: BlockId) -> Vec<BlockChunk> {
    let reader = BlockReader::open(&bucket.path().join(block.to_string())).unwrap();
    let mut chunks = Vec::new();
    for series in reader.all_series(parallax_model::TimeRange::ALL).unwrap() {
        for meta in series.unwrap().chunks {
            let (min_time_ms, max_time_ms) = (meta.min_time_ms, meta.max_time_ms);
            chunks.push(BlockChunk { min_time_ms, max_time_ms, chunk: reader.chunk(&meta).unwrap() });
        }
    }
    chunks
}

fn empty(min_time_ms: i64, max_time_ms: i64, encoding: ChunkEncoding) -> BlockChunk {
    let data = match encoding {
        ChunkEncoding::Aggregate => Parts::new([Some((ChunkEncoding::Xor, EMPTY)); 5]).encode(),
        _ => EMPTY.to_vec(),
    };
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding, data: data.into() } }
}

/// Two blocks of five minutes, made by us, and the same with empty chunks of both kinds and with an aggregate whose count is empty.
async fn two_blocks(bucket: &TestBucket) -> (Vec<Arc<BlockMeta>>, Vec<Arc<BlockMeta>>) {
    let (mut sound, mut old) = (Vec::new(), Vec::new());
    for n in 0..2u64 {
        // The last hours hold nothing.
        let (start, end) = (240 * n as i64, 240 * (n as i64 + 1));
        let raw = bucket.add(id(1 + n), (start * HOUR_MS, end * HOUR_MS), "a", &[spec(start..end - 40)]);
        let made = bucket.job().downsample(&raw, Resolution::FiveMinutes, 1 + n as i64).await.unwrap();
        let meta = made.made().unwrap().meta;
        let mut chunks = chunks_of(bucket, meta.ulid);
        let at = |hours: i64| (end - hours) * HOUR_MS;
        chunks.push(empty(at(30), at(29), ChunkEncoding::Xor));
        chunks.push(empty(at(20), at(19), ChunkEncoding::Aggregate));
        let labels = Labels::from_pairs([("__name__", "up")]);
        let number = 11 + n;
        bucket.add_chunks(
            id(number),
            (meta.min_time_ms, meta.max_time_ms),
            "a",
            &BTreeMap::from([(&labels, chunks)]),
        );
        let path = bucket.path().join(id(number).to_string()).join("meta.json");
        let json =
            std::fs::read_to_string(&path).unwrap().replace(r#""resolution":0"#, r#""resolution":300000"#);
        std::fs::write(&path, &json).unwrap();
        old.push(Arc::new(BlockMeta::parse_of(id(number), json.as_bytes()).unwrap()));
        sound.push(Arc::new(meta));
    }
    (sound, old)
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_without_samples_in_downsampled_blocks_are_passed_over() {
    let bucket = TestBucket::new();
    let (sound, old) = two_blocks(&bucket).await;
    let mut merged = Vec::new();
    let mut coarser = Vec::new();
    for blocks in [&sound, &old] {
        let group = group_blocks(blocks, &[]).pop_first().unwrap().1;
        let new = bucket.job().compact(&group, &group.blocks, MergeMode::OneToOne, 5).await.unwrap();
        let meta = new.made().unwrap().meta;
        merged.push(chunks_of(&bucket, meta.ulid));
        let hour = bucket.job().downsample(&Arc::new(meta), Resolution::OneHour, 6).await.unwrap();
        coarser.push(chunks_of(&bucket, hour.made().unwrap().meta.ulid));
    }
    assert!(!merged[0].is_empty() && merged[0] == merged[1]);
    assert!(!coarser[0].is_empty() && coarser[0] == coarser[1]);
}

/// Vertical compactions of old left a count without samples beside other aggregates.
#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_chunk_without_counts_is_copied_as_it_is() {
    let bucket = TestBucket::new();
    let mut sums = XorAppender::new();
    sums.append(299_999, 5.0).unwrap();
    let sums = sums.into_bytes();
    let mut parts = [Some((ChunkEncoding::Xor, EMPTY)); 5];
    parts[Aggregate::Sum as usize] = Some((ChunkEncoding::Xor, sums.as_slice()));
    let lame = chunk(&[299_999], ChunkEncoding::Aggregate, Parts::new(parts).encode());
    let whole = {
        let mut counts = XorAppender::new();
        counts.append(599_999, 1.0).unwrap();
        let counts = counts.into_bytes();
        let part = Some((ChunkEncoding::Xor, counts.as_slice()));
        chunk(&[599_999], ChunkEncoding::Aggregate, Parts::new([part; 5]).encode())
    };
    let labels = Labels::from_pairs([("__name__", "up")]);
    let chunks = vec![lame, whole];
    bucket.add_chunks(id(1), (0, 600_000), "a", &BTreeMap::from([(&labels, chunks.clone())]));
    let path = bucket.path().join(id(1).to_string()).join("meta.json");
    let json = std::fs::read_to_string(&path).unwrap().replace(r#""resolution":0"#, r#""resolution":300000"#);
    let blocks = [Arc::new(BlockMeta::parse_of(id(1), json.as_bytes()).unwrap())];
    let group = group_blocks(&blocks, &[]).pop_first().unwrap().1;
    let new = bucket.job().compact(&group, &blocks, MergeMode::OneToOne, 5).await.unwrap();
    assert!(chunks_of(&bucket, new.made().unwrap().meta.ulid) == chunks);
}

/// In a raw block there is no excuse.
#[tokio::test(flavor = "multi_thread")]
async fn a_raw_chunk_without_samples_is_still_refused() {
    let bucket = TestBucket::new();
    let labels = Labels::from_pairs([("__name__", "up")]);
    let chunks = vec![empty(0, 10, ChunkEncoding::Xor)];
    let meta = bucket.add_chunks(id(1), (0, 100), "a", &BTreeMap::from([(&labels, chunks)]));
    let group = group_blocks([&meta], &[]).pop_first().unwrap().1;
    let error = bucket.job().compact(&group, &[meta], MergeMode::OneToOne, 5).await.unwrap_err();
    assert!(error.to_string().contains("it has no samples"), "{error}");
}

fn add_stale_block(bucket: &TestBucket) -> std::path::PathBuf {
    let mut appender = XorAppender::new();
    let times: Vec<i64> = (0..48).map(|hour| hour * HOUR_MS).collect();
    for time_ms in &times {
        appender.append(*time_ms, f64::from_bits(parallax_model::float::STALE_NAN_BITS)).unwrap();
    }
    let chunks = vec![chunk(&times, ChunkEncoding::Xor, appender.into_bytes())];
    let labels = Labels::from_pairs([("__name__", "up")]);
    bucket.add_chunks(id(1), (0, 48 * HOUR_MS), "a", &BTreeMap::from([(&labels, chunks)]));
    bucket.path().join(id(1).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_with_nothing_to_downsample_is_read_once_and_does_not_outlive_its_retention() {
    let bucket = TestBucket::new();
    let block = add_stale_block(&bucket);
    let compactor = bucket.compactor(|config| config);
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.downsamples, report.retries, report.set_aside), (0, 0, 0));
    let mark = std::fs::read_to_string(block.join("no-downsample-mark.json")).unwrap();
    assert!(mark.contains("nothing-to-downsample"), "{mark}");
    assert_eq!(compactor.progress().downsample_blocks, 0);
    // Whether by the mark or by memory: nobody opens the chunks again.
    let segment = block.join("chunks/000001");
    std::fs::rename(&segment, block.join("chunks/moved")).unwrap();
    std::fs::remove_file(block.join("no-downsample-mark.json")).unwrap();
    compactor.pass(NOW_MS + 1).await.unwrap();
    std::fs::write(block.join("no-downsample-mark.json"), mark).unwrap();
    let retention = Retention { raw: Duration::from_secs(3600), ..Retention::default() };
    let later = bucket.compactor(|config| CompactorConfig { retention, ..config });
    let report = later.pass(NOW_MS + 2).await.unwrap();
    assert!(compactor.quarantine().list_blocks().is_empty() && later.quarantine().list_blocks().is_empty());
    assert_eq!((report.retired, report.retries), (1, 0));
}
