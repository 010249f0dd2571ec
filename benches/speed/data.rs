//! The buckets that are read: request counters and the buckets of a latency histogram, scraped every 15 s, in blocks of two hours, with
//! Thanos' `meta.json`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use parallax_model::Labels;
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use serde_json::json;

/// 2026-07-01T00:00:00Z.
pub const START_MS: i64 = 1_782_864_000_000;
pub const HOUR_MS: i64 = 3_600_000;
const BLOCK_MS: i64 = 2 * HOUR_MS;
const SCRAPE_MS: i64 = 15_000;
const REPLICAS_APART_MS: i64 = 7_000;
const SAMPLES_PER_CHUNK: usize = 120;
/// Series of one instance.
const HANDLERS: usize = 20;
const NAMESPACES: usize = 50;
/// Bounds of the latency histogram: so many series make one histogram.
const BOUNDS: [&str; 10] = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"];

/// How much data.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Of one metric, in all replicas together.
    pub series: usize,
    pub hours: usize,
}

impl Shape {
    pub fn end_ms(&self) -> i64 {
        START_MS + self.hours as i64 * HOUR_MS
    }
}

/// Which metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Metric {
    /// `http_requests_total`.
    Requests,
    /// `http_request_duration_seconds_bucket`.
    Latency,
}

/// The bucket of that shape in `dir`, written if it is not there: `replicas` that share the series evenly, each with blocks for all hours.
pub fn bucket(shape: Shape, replicas: usize, dir: &Path) -> anyhow::Result<PathBuf> {
    let bucket = dir.join(format!("{}-series-{}-hours-{replicas}-replicas", shape.series, shape.hours));
    if !bucket.exists() {
        let unfinished = bucket.with_extension("unfinished");
        write_metrics(shape, replicas, &unfinished, &[Metric::Requests, Metric::Latency])?;
        std::fs::rename(unfinished, &bucket)?;
    }
    Ok(bucket)
}

/// As [`bucket`], of request counters only, in one replica.
pub fn requests(shape: Shape, dir: &Path) -> anyhow::Result<PathBuf> {
    let bucket = dir.join(format!("{}-requests-{}-hours", shape.series, shape.hours));
    if !bucket.exists() {
        let unfinished = bucket.with_extension("unfinished");
        write_metrics(shape, 1, &unfinished, &[Metric::Requests])?;
        std::fs::rename(unfinished, &bucket)?;
    }
    Ok(bucket)
}

/// What is to be compacted: of each replica some blocks, one after the other, with the request counters.
#[derive(Clone, Copy, Debug)]
pub struct Uncompacted {
    /// Of each replica.
    pub series: usize,
    pub replicas: usize,
    pub blocks: usize,
    /// Of a block; at most two hours if there are several.
    pub length_ms: i64,
    /// Whether each series has a label value that no other has, as where pods come and go: then there are as many symbols as series.
    pub has_own_values: bool,
}

impl Uncompacted {
    /// The bucket of that shape in `dir`, written if it is not there.
    pub fn bucket(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let Self { series, replicas, blocks, length_ms, has_own_values } = *self;
        let values = if has_own_values { "-own-values" } else { "" };
        let name =
            format!("{series}-series{values}-{}-minutes-{blocks}x{replicas}-blocks", length_ms / 60_000);
        let bucket = dir.join(name);
        if bucket.exists() {
            return Ok(bucket);
        }
        let started = Instant::now();
        let unfinished = bucket.with_extension("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        std::fs::create_dir_all(&unfinished)?;
        let labels_of = |index: usize| {
            let shared = labels(Metric::Requests, index);
            if !has_own_values {
                return shared;
            }
            // Scattered, so that the order of series is not that of the values.
            let pod = format!("http-server-{:08x}", (index as u32).wrapping_mul(0x9e37_79b1));
            Labels::from_pairs(shared.iter().chain([("pod", pod.as_str())]))
        };
        let mut of_block: Vec<(Labels, Metric, usize)> =
            (0..series).map(|index| (labels_of(index), Metric::Requests, index)).collect();
        of_block.sort();
        for replica in 0..replicas {
            for number in 0..blocks {
                write_block(&unfinished, replica, number, length_ms, &of_block)?;
            }
        }
        std::fs::rename(unfinished, &bucket)?;
        println!("{} written in {:.1} s\n", bucket.display(), started.elapsed().as_secs_f64());
        Ok(bucket)
    }
}

fn write_metrics(shape: Shape, replicas: usize, bucket: &Path, metrics: &[Metric]) -> anyhow::Result<()> {
    let started = Instant::now();
    std::fs::create_dir_all(bucket)?;
    let count = shape.series / replicas;
    let mut series: Vec<(Labels, Metric, usize)> = Vec::with_capacity(count * metrics.len());
    for metric in metrics {
        series.extend((0..count).map(|index| (labels(*metric, index), *metric, index)));
    }
    series.sort();
    for replica in 0..replicas {
        for number in 0..shape.hours.div_ceil(2) {
            let hours = (shape.hours - number * 2).min(2);
            write_block(bucket, replica, number, hours as i64 * HOUR_MS, &series)?;
        }
    }
    println!(
        "bucket of {} metric(s) x {} series x {} h x 15 s in {replicas} replica(s) written in {:.1} s\n",
        metrics.len(),
        shape.series,
        shape.hours,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn labels(metric: Metric, index: usize) -> Labels {
    match metric {
        Metric::Requests => {
            let (handler, instance) = (index % HANDLERS, index / HANDLERS);
            Labels::from_pairs([
                ("__name__", "http_requests_total".to_owned()),
                ("code", ["200", "404", "500", "503"][index % 4].to_owned()),
                ("handler", format!("/api/v1/handler-{handler:02}")),
                ("instance", format!("host-{instance:05}:9100")),
                ("job", "bench".to_owned()),
                ("namespace", format!("namespace-{:02}", instance % NAMESPACES)),
            ])
        }
        Metric::Latency => {
            let (bound, instance) = (index % BOUNDS.len(), index / BOUNDS.len());
            Labels::from_pairs([
                ("__name__", "http_request_duration_seconds_bucket".to_owned()),
                ("instance", format!("host-{instance:05}:9100")),
                ("job", "bench".to_owned()),
                ("le", BOUNDS[bound].to_owned()),
                ("namespace", format!("namespace-{:02}", instance % NAMESPACES)),
            ])
        }
    }
}

fn write_block(
    bucket: &Path,
    replica: usize,
    number: usize,
    length_ms: i64,
    series: &[(Labels, Metric, usize)],
) -> anyhow::Result<()> {
    let id = format!("01M7ZT2XAE94D33BEGH3SZ{:04}", replica * 1000 + number);
    let first_ms = START_MS + number as i64 * BLOCK_MS;
    let symbols = symbols_of(series.iter().map(|(labels, _, _)| labels));
    let mut writer = BlockWriter::create(&bucket.join(&id), symbols, SegmentConfig::default())?;
    for (labels, metric, index) in series {
        writer.add_series(labels, &chunks(*metric, *index, replica, number, length_ms)?)?;
    }
    let sealed = writer.seal()?;
    let stats = sealed.stats();
    let meta = json!({
        "ulid": id, "minTime": first_ms, "maxTime": first_ms + length_ms, "version": 1,
        "stats": {
            "numSamples": stats.sample_count, "numSeries": stats.series_count, "numChunks": stats.chunk_count,
        },
        "compaction": {"level": 1, "sources": [id]},
        "thanos": {
            "labels": {"cluster": "eu-1", "prometheus_replica": format!("prometheus-{replica}")},
            "downsample": {"resolution": 0}, "source": "test",
            "index_stats": {
                "series_max_size": stats.series_max_size_bytes, "chunk_max_size": stats.chunk_max_size_bytes,
            },
        },
    });
    sealed.add_file("meta.json", meta.to_string().as_bytes())?;
    sealed.publish()?;
    Ok(())
}

/// A counter of its own slope with uneven steps and, now and then, a scrape some milliseconds late, so that chunks compress
/// as real ones do. Buckets of one histogram rise with their bounds. Replicas scrape seven seconds apart.
fn chunks(
    metric: Metric,
    index: usize,
    replica: usize,
    number: usize,
    length_ms: i64,
) -> anyhow::Result<Vec<BlockChunk>> {
    let first_ms = START_MS + number as i64 * BLOCK_MS;
    let scrapes = usize::try_from(length_ms / SCRAPE_MS)?;
    // Buckets of one histogram share their randomness: the more a bound admits, the more a bucket counts.
    let (seed, slope) = match metric {
        Metric::Requests => (index, index % 7 + 1),
        Metric::Latency => (index / BOUNDS.len(), index % BOUNDS.len() + 1),
    };
    let mut state = (seed as u64) << 20 ^ (number as u64) << 8 ^ 0x9e37_79b9_7f4a_7c15;
    let mut value = (number * usize::try_from(BLOCK_MS / SCRAPE_MS)? * slope * 8) as f64;
    let mut made = Vec::new();
    for from in (0..scrapes).step_by(SAMPLES_PER_CHUNK) {
        let mut samples: Vec<(i64, f64)> = Vec::with_capacity(SAMPLES_PER_CHUNK);
        for scrape in from..(from + SAMPLES_PER_CHUNK).min(scrapes) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            value += ((state >> 60) as usize * slope) as f64;
            let late_ms = if state >> 40 & 15 == 0 { (state >> 50 & 3) as i64 } else { 0 };
            let at_ms = first_ms + scrape as i64 * SCRAPE_MS + replica as i64 * REPLICAS_APART_MS + late_ms;
            samples.push((at_ms, value));
        }
        let (Some((min_time_ms, _)), Some((max_time_ms, _))) = (samples.first(), samples.last()) else {
            continue;
        };
        made.push(BlockChunk {
            min_time_ms: *min_time_ms,
            max_time_ms: *max_time_ms,
            chunk: Chunk { encoding: ChunkEncoding::Xor, data: Bytes::from(encode_xor(&samples)?) },
        });
    }
    Ok(made)
}
