//! The buckets that are read: counters of one metric, scraped every 15 s, in blocks of two hours, with Thanos' `meta.json`.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use parallax_model::Labels;
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, XorAppender};
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use serde_json::json;

/// 2026-07-01T00:00:00Z.
pub const START_MS: i64 = 1_782_864_000_000;
pub const HOUR_MS: i64 = 3_600_000;
const BLOCK_MS: i64 = 2 * HOUR_MS;
const SCRAPE_MS: i64 = 15_000;
const SAMPLES_PER_CHUNK: usize = 120;
/// Series of one instance.
const HANDLERS: usize = 20;

/// How much data.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Of all replicas together.
    pub series: usize,
    pub hours: usize,
}

impl Shape {
    pub fn end_ms(&self) -> i64 {
        START_MS + self.hours as i64 * HOUR_MS
    }
}

/// Writes the bucket: `replicas` that share the series evenly, each with blocks for all hours.
pub fn write(shape: Shape, replicas: usize, bucket: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    std::fs::create_dir_all(bucket)?;
    for replica in 0..replicas {
        for number in 0..shape.hours / 2 {
            write_block(bucket, replica, number, shape.series / replicas)?;
        }
    }
    println!(
        "bucket of {} series x {} h x 15 s in {replicas} replica(s) written in {:.1} s\n",
        shape.series,
        shape.hours,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn labels(index: usize) -> Labels {
    let (handler, instance) = (index % HANDLERS, index / HANDLERS);
    Labels::from_pairs([
        ("__name__", "bench_requests_total".to_owned()),
        ("code", ["200", "404", "500", "503"][index % 4].to_owned()),
        ("handler", format!("/api/v1/handler-{handler:02}")),
        ("instance", format!("host-{instance:05}:9100")),
        ("job", "bench".to_owned()),
    ])
}

fn write_block(bucket: &Path, replica: usize, number: usize, count: usize) -> anyhow::Result<()> {
    let id = format!("01M7ZT2XAE94D33BEGH3SZ0{:03}", replica * 100 + number);
    let first_ms = START_MS + number as i64 * BLOCK_MS;
    let mut series: Vec<(Labels, usize)> = (0..count).map(|index| (labels(index), index)).collect();
    series.sort();
    let symbols = symbols_of(series.iter().map(|(labels, _)| labels));
    let mut writer = BlockWriter::create(&bucket.join(&id), symbols, SegmentConfig::default())?;
    for (labels, index) in &series {
        writer.add_series(labels, &chunks(*index, replica, number, first_ms)?)?;
    }
    let sealed = writer.seal()?;
    let stats = sealed.stats();
    let meta = json!({
        "ulid": id, "minTime": first_ms, "maxTime": first_ms + BLOCK_MS, "version": 1,
        "stats": {
            "numSamples": stats.sample_count, "numSeries": stats.series_count, "numChunks": stats.chunk_count,
        },
        "compaction": {"level": 1, "sources": [id]},
        "thanos": {
            "labels": {"cluster": "eu-1", "prometheus_replica": format!("prometheus-{replica}")},
            "downsample": {"resolution": 0}, "source": "test",
        },
    });
    sealed.add_file("meta.json", meta.to_string().as_bytes())?;
    sealed.publish()?;
    Ok(())
}

/// A counter of its own slope with uneven steps and, now and then, a scrape some milliseconds late, so that chunks compress
/// as real ones do. Replicas scrape seven seconds apart.
fn chunks(index: usize, replica: usize, number: usize, first_ms: i64) -> anyhow::Result<Vec<BlockChunk>> {
    let scrapes = usize::try_from(BLOCK_MS / SCRAPE_MS)?;
    let mut state = (index as u64) << 20 ^ (number as u64) << 8 ^ 0x9e37_79b9_7f4a_7c15;
    let mut value = (number * scrapes * (index % 7 + 1) * 8 + index) as f64;
    let mut made = Vec::new();
    for from in (0..scrapes).step_by(SAMPLES_PER_CHUNK) {
        let mut appender = XorAppender::new();
        let (mut min_time_ms, mut max_time_ms) = (i64::MAX, i64::MIN);
        for scrape in from..(from + SAMPLES_PER_CHUNK).min(scrapes) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            value += ((state >> 60) as usize * (index % 7 + 1)) as f64;
            let late_ms = if state >> 40 & 15 == 0 { (state >> 50 & 3) as i64 } else { 0 };
            let at_ms = first_ms + scrape as i64 * SCRAPE_MS + replica as i64 * 7_000 + late_ms;
            appender.append(at_ms, value)?;
            (min_time_ms, max_time_ms) = (min_time_ms.min(at_ms), max_time_ms.max(at_ms));
        }
        let data = Bytes::from(appender.into_bytes());
        made.push(BlockChunk {
            min_time_ms,
            max_time_ms,
            chunk: Chunk { encoding: ChunkEncoding::Xor, data },
        });
    }
    Ok(made)
}
