//! Series come in the order of the labels they are answered with, whatever external labels do to those of the blocks: random blocks against a model.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use parallax_block::{BlockId, BlockMeta, BlockStats, Compaction, HashFunction, UploadOptions, upload_block};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_model::{Labels, MatchOp, Matcher};
use parallax_storeapi::proto::thanos::ShardInfo;
use parallax_storeapi::{ShardMatcher, labels, matchers};
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, XorAppender};
use parallax_tsdb::segment::{Chunk, SegmentConfig};

use crate::fixture::{Fixture, everything};

/// Names that sort before, between and after each other's, and before the metric's name.
const NAMES: [&str; 6] = ["A", "_b", "a", "f", "m", "z"];
const BLOCKS: usize = 3;
const BLOCK_MS: i64 = 1000;

/// A small generator of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn labels(&mut self, one_in: u64, values: u64) -> Vec<(String, String)> {
        let mut chosen: Vec<(String, String)> = Vec::new();
        for name in NAMES {
            if self.below(one_in) == 0 {
                chosen.push((name.to_owned(), format!("v{}", self.below(values))));
            }
        }
        chosen
    }
}

/// One block: its external labels, and of each series the times of its chunks.
struct Block {
    external: Labels,
    series: BTreeMap<Labels, Vec<i64>>,
}

fn random_block(random: &mut Random, number: usize) -> Block {
    let mut external = random.labels(3, 2);
    external.push(("cluster".to_owned(), format!("eu-{}", random.below(2))));
    let external = Labels::from_pairs(external);
    let mut series = BTreeMap::new();
    for _ in 0..60 {
        let mut pairs = random.labels(2, 3);
        pairs.push(("__name__".to_owned(), format!("metric{}", random.below(3))));
        // Blocks overlap, and some chunks are in two of them.
        let start = (number / 2) as i64 * BLOCK_MS;
        let times: Vec<i64> = (0..1 + random.below(3) as i64).map(|at| start + at * 300).collect();
        series.insert(Labels::from_pairs(pairs), times);
    }
    Block { external, series }
}

fn chunk_at(labels: &Labels, time_ms: i64) -> BlockChunk {
    let mut appender = XorAppender::new();
    appender.append(time_ms, labels.iter().count() as f64).unwrap();
    appender.append(time_ms + 100, 1.0).unwrap();
    let chunk = Chunk { encoding: ChunkEncoding::Xor, data: Bytes::from(appender.into_bytes()) };
    BlockChunk { min_time_ms: time_ms, max_time_ms: time_ms + 100, chunk }
}

async fn write(dir: &Path, bucket: &Bucket, number: usize, block: &Block) {
    let id: BlockId = format!("01M7ZT2XAE94D33BEGH3SZ000{number}").parse().unwrap();
    let target = dir.join(id.to_string());
    let mut writer =
        BlockWriter::create(&target, symbols_of(block.series.keys()), SegmentConfig::default()).unwrap();
    for (labels, times) in &block.series {
        let chunks: Vec<BlockChunk> = times.iter().map(|time| chunk_at(labels, *time)).collect();
        writer.add_series(labels, &chunks).unwrap();
    }
    let stats = writer.seal().unwrap().publish().unwrap();
    let meta = BlockMeta {
        ulid: id,
        min_time_ms: 0,
        max_time_ms: 10 * BLOCK_MS,
        stats: BlockStats { num_series: stats.series_count, ..BlockStats::default() },
        compaction: Compaction { level: 1, sources: vec![id], ..Compaction::default() },
        version: 1,
        thanos: None,
        unknown: Default::default(),
    };
    let options = UploadOptions {
        external_labels: block
            .external
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        source: "test".to_owned(),
        hash: HashFunction::None,
        now_ms: 10 * BLOCK_MS,
        concurrency: 1,
    };
    upload_block(bucket, &target, meta, &options).await.unwrap();
}

/// The labels that each series is answered with, sorted, and the times of its chunks, equal chunks once.
fn model(blocks: &[Block], without: &[String], shard: Option<&ShardInfo>) -> Vec<(Labels, Vec<i64>)> {
    let mut all: BTreeMap<Labels, Vec<(i64, usize)>> = BTreeMap::new();
    let mut shard = ShardMatcher::new(shard).unwrap();
    for block in blocks {
        for (own, times) in &block.series {
            let mut pairs: BTreeMap<&str, &str> = own.iter().collect();
            pairs.extend(block.external.iter());
            let answered = Labels::from_pairs(pairs).without(without);
            if shard.matches(&labels::to_wire(&answered)) {
                // What is in a chunk depends on its time and on how many labels the series has in its block.
                all.entry(answered).or_default().extend(times.iter().map(|time| (*time, own.iter().count())));
            }
        }
    }
    let distinct = |(labels, mut chunks): (Labels, Vec<(i64, usize)>)| {
        chunks.sort_unstable();
        chunks.dedup();
        (labels, chunks.into_iter().map(|(time, _)| time).collect())
    };
    all.into_iter().map(distinct).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_blocks_are_answered_in_order_with_every_chunk_once() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("bucket");
        let bucket = Bucket::open(&BucketConfig::filesystem(&place), Access::Write).unwrap();
        let blocks: Vec<Block> = (0..BLOCKS).map(|number| random_block(&mut random, number)).collect();
        for (number, block) in blocks.iter().enumerate() {
            write(dir.path(), &bucket, number, block).await;
        }
        let fixture = Fixture::new(&place).await;
        for _ in 0..6 {
            let mut request = everything();
            request.without_replica_labels = random.labels(4, 1).into_iter().map(|(name, _)| name).collect();
            request.response_batch_size = random.below(5) as i64;
            if random.below(3) == 0 {
                let labels = random.labels(3, 1).into_iter().map(|(name, _)| name).collect();
                let by = random.below(2) == 0;
                request.shard_info = Some(ShardInfo { shard_index: 1, total_shards: 2, by, labels });
            }
            if random.below(2) == 0 {
                let any = Matcher::new(MatchOp::Regex, "m", ".*").unwrap();
                request.matchers.extend(matchers::to_wire(&[any]));
            }
            let expected = model(&blocks, &request.without_replica_labels, request.shard_info.as_ref());
            let answer = fixture.series(request.clone()).await.unwrap();
            assert_eq!(answer.warnings, [""; 0], "seed {seed}, {request:?}");
            let found: Vec<(Labels, Vec<i64>)> = answer
                .series
                .iter()
                .map(|one| {
                    let times = one.chunks.iter().map(|chunk| chunk.min_time).collect();
                    (labels::from_wire(&one.labels).unwrap(), times)
                })
                .collect();
            assert_eq!(found, expected, "seed {seed}, {request:?}");

            request.skip_chunks = true;
            let names = fixture.series(request.clone()).await.unwrap();
            let found: Vec<Labels> =
                names.series.iter().map(|one| labels::from_wire(&one.labels).unwrap()).collect();
            let expected: Vec<Labels> = expected.into_iter().map(|(labels, _)| labels).collect();
            assert_eq!(found, expected, "seed {seed}, labels of {request:?}");
        }
    }
}
