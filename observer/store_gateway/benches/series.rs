//! Series throughput of a gateway: one synthetic block of 2 h, asked as a querier asks, in process.
//!
//! `cargo bench -p parallax-store-gateway --bench series -- [series] [rounds]`. Each line is one shape of request: the best and the
//! median round, in series, chunks and megabytes of chunk data per second, and the time to the first frame. The index-header is
//! loaded before the first round.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parallax_block::{BlockId, BlockMeta, BlockStats, Compaction, HashFunction, UploadOptions, upload_block};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_model::{Labels, MatchOp, Matcher};
use parallax_net::Context;
use parallax_store_gateway::{StoreGateway, StoreGatewayConfig};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{Series, SeriesRequest};
use parallax_storeapi::{Store, chunks, matchers};
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, XorAppender};
use parallax_tsdb::segment::{Chunk, SegmentConfig};

const BLOCK_MS: i64 = 2 * 3600 * 1000;
const SCRAPE_MS: i64 = 15_000;
const SAMPLES_PER_CHUNK: usize = 120;
const START_MS: i64 = 1_782_864_000_000;

fn main() -> outcome::Result {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let series = numbers.next().unwrap_or(10_000);
    let rounds = numbers.next().unwrap_or(7).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(series, rounds))
}

/// What went wrong, for `main` to print.
mod outcome {
    pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
}

async fn run(series: usize, rounds: usize) -> outcome::Result {
    let dir = tempdir()?;
    let bucket_dir = dir.join("bucket");
    let started = Instant::now();
    make_block(&dir, &bucket_dir, series).await?;
    println!("block of {series} series x 2 h written in {:.2} s", started.elapsed().as_secs_f64());
    let context = Context::for_test();
    let config = StoreGatewayConfig::new(BucketConfig::filesystem(&bucket_dir), dir.join("data"));
    let gateway = StoreGateway::start(config, context.clone()).await?;
    gateway.sync().await?;
    let all = request(64)?;
    let one_in_ten = SeriesRequest {
        matchers: matchers::to_wire(&[Matcher::new(MatchOp::Regex, "instance", "host-.*3:9100")?]),
        ..all.clone()
    };
    let shapes = [
        ("all series, batches of 64", all.clone()),
        ("all series, single frames", SeriesRequest { response_batch_size: 0, ..all.clone() }),
        ("all series, labels only", SeriesRequest { skip_chunks: true, ..all }),
        ("one series in ten", one_in_ten),
    ];
    for (name, request) in shapes {
        ask(&gateway, &request).await?;
        let mut results = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            results.push(ask(&gateway, &request).await?);
        }
        results.sort_by_key(|result| result.took);
        for (which, result) in [("best", &results[0]), ("median", &results[rounds / 2])] {
            println!("{name:28} {which:7} {result}");
        }
    }
    context.shutdown.cancel();
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

struct Answer {
    series: usize,
    chunks: usize,
    bytes: usize,
    first: Duration,
    took: Duration,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(
            f,
            "{:>9.0} series/s {:>9.0} chunks/s {:>8.1} MB/s, first frame {:.2} ms, all {:.2} ms",
            self.series as f64 / seconds,
            self.chunks as f64 / seconds,
            self.bytes as f64 / 1e6 / seconds,
            self.first.as_secs_f64() * 1e3,
            seconds * 1e3
        )
    }
}

async fn ask(gateway: &Arc<StoreGateway>, request: &SeriesRequest) -> outcome::Result<Answer> {
    let started = Instant::now();
    let mut stream = gateway.series(tonic::Request::new(request.clone())).await?;
    let mut answer = Answer { series: 0, chunks: 0, bytes: 0, first: Duration::ZERO, took: Duration::ZERO };
    let mut count = |series: &Series| {
        answer.series += 1;
        answer.chunks += series.chunks.len();
        let parts = series.chunks.iter().flat_map(chunks::parts);
        answer.bytes += parts.map(|(_, part)| part.data.len()).sum::<usize>();
    };
    let mut first = None;
    while let Some(frame) = stream.next().await {
        first.get_or_insert_with(|| started.elapsed());
        match frame?.result {
            Some(Frame::Series(series)) => count(&series),
            Some(Frame::Batch(batch)) => batch.series.iter().for_each(&mut count),
            other => return Err(format!("unexpected frame {other:?}").into()),
        }
    }
    answer.first = first.unwrap_or_default();
    answer.took = started.elapsed();
    Ok(answer)
}

fn request(response_batch_size: i64) -> outcome::Result<SeriesRequest> {
    let matcher = Matcher::new(MatchOp::Regex, "__name__", ".+")?;
    Ok(SeriesRequest {
        min_time: START_MS,
        max_time: START_MS + BLOCK_MS,
        matchers: matchers::to_wire(&[matcher]),
        response_batch_size,
        ..SeriesRequest::default()
    })
}

fn labels_of(index: usize) -> Labels {
    let (metric, instance) = (index % 20, index / 20);
    Labels::from_pairs([
        ("__name__", format!("bench_metric_{metric:02}_total")),
        ("instance", format!("host-{instance:05}:9100")),
        ("job", "node".to_owned()),
        ("mode", ["idle", "user", "system", "iowait"][index % 4].to_owned()),
        ("region", "eu-1".to_owned()),
    ])
}

/// Counters that grow by uneven steps, so that chunks compress as real ones do.
fn chunks_of(index: usize) -> outcome::Result<Vec<BlockChunk>> {
    let mut made = Vec::new();
    let mut value = index as f64;
    let mut state = index as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let times: Vec<i64> = (0..BLOCK_MS / SCRAPE_MS).map(|step| START_MS + step * SCRAPE_MS).collect();
    for times in times.chunks(SAMPLES_PER_CHUNK) {
        let mut appender = XorAppender::new();
        for time in times {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            value += (state >> 60) as f64;
            appender.append(*time, value)?;
        }
        made.push(BlockChunk {
            min_time_ms: times[0],
            max_time_ms: times[times.len() - 1],
            chunk: Chunk { encoding: ChunkEncoding::Xor, data: Bytes::from(appender.into_bytes()) },
        });
    }
    Ok(made)
}

async fn make_block(dir: &Path, bucket_dir: &Path, count: usize) -> outcome::Result {
    let mut series: Vec<(Labels, usize)> = (0..count).map(|index| (labels_of(index), index)).collect();
    series.sort();
    let id: BlockId = "01M7ZT2XAE94D33BEGH3SZ0N19".parse()?;
    let target = dir.join(id.to_string());
    let symbols = symbols_of(series.iter().map(|(labels, _)| labels));
    let mut writer = BlockWriter::create(&target, symbols, SegmentConfig::default())?;
    for (labels, index) in &series {
        writer.add_series(labels, &chunks_of(*index)?)?;
    }
    let stats = writer.seal()?.publish()?;
    let meta = BlockMeta {
        ulid: id,
        min_time_ms: START_MS,
        max_time_ms: START_MS + BLOCK_MS,
        stats: BlockStats {
            num_samples: stats.sample_count,
            num_series: stats.series_count,
            num_chunks: stats.chunk_count,
            ..BlockStats::default()
        },
        compaction: Compaction { level: 1, sources: vec![id], ..Compaction::default() },
        version: 1,
        thanos: None,
        unknown: Default::default(),
    };
    let options = UploadOptions {
        external_labels: [("cluster".to_owned(), "eu-1".to_owned())].into(),
        source: "test".to_owned(),
        hash: HashFunction::None,
        now_ms: START_MS + BLOCK_MS,
        concurrency: 1,
    };
    let bucket = Bucket::open(&BucketConfig::filesystem(bucket_dir), Access::Write)?;
    upload_block(&bucket, &target, meta, &options).await?;
    Ok(())
}

/// A directory of this process below the system's temporary one; removed at the end.
fn tempdir() -> outcome::Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("parallax-bench-series-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
