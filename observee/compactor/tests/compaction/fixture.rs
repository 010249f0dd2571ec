//! Buckets to compact: blocks written from samples, and read back into samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_compactor::{Compactor, CompactorConfig, Job, JobConfig};
use parallax_model::{
    CounterResetHint, FloatColumn, FloatHistogram, Histogram, HistogramColumn, Labels, Span, TimeRange,
};
use parallax_net::Context;
use parallax_tsdb::block::{BlockChunk, BlockReader, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{Appended, ChunkEncoding, HistogramAppender, XorAppender, decode_chunk};
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use tokio_util::sync::CancellationToken;

pub const HOUR_MS: i64 = 3_600_000;

/// Long after every block of these tests.
pub const NOW_MS: i64 = 1_000 * HOUR_MS;

/// A sample's value; floats by their bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Float(u64),
    Histogram(Box<FloatHistogram>),
}

/// The samples of a block, by series.
pub type Content = BTreeMap<Labels, BTreeMap<i64, Value>>;

/// What a generated series holds at a time: the same in every block, so that replicas agree.
pub fn float_at(seed: i64, time_ms: i64) -> f64 {
    ((seed.wrapping_mul(31) ^ time_ms.wrapping_mul(7)) % 1000) as f64 / 8.0
}

pub fn histogram_at(seed: i64, time_ms: i64) -> Histogram {
    let count = time_ms.unsigned_abs() % 1_000_000 + seed.unsigned_abs();
    Histogram {
        count: 2 * count + 3,
        sum: count as f64 * 0.5,
        zero_threshold: 0.001,
        schema: 1,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_deltas: vec![count as i64 + 1, 1],
        ..Histogram::default()
    }
}

/// Times of samples, of floats or histograms, cut into chunks.
#[derive(Clone, Debug)]
pub struct SeriesSpec {
    pub labels: Labels,
    pub seed: i64,
    pub histograms: bool,
    pub times_ms: Vec<i64>,
    pub chunk_samples: usize,
}

impl SeriesSpec {
    fn chunks(&self) -> Vec<BlockChunk> {
        let mut chunks = Vec::new();
        for times in self.times_ms.chunks(self.chunk_samples.max(1)) {
            if self.histograms {
                histogram_chunks(self.seed, times, &mut chunks);
                continue;
            }
            let mut appender = XorAppender::new();
            for time_ms in times {
                appender.append(*time_ms, float_at(self.seed, *time_ms)).unwrap();
            }
            chunks.push(chunk(times, ChunkEncoding::Xor, appender.into_bytes()));
        }
        chunks
    }
}

fn histogram_chunks(seed: i64, times: &[i64], chunks: &mut Vec<BlockChunk>) {
    let mut appender = HistogramAppender::new();
    let mut begun = 0;
    for (at, time_ms) in times.iter().enumerate() {
        let appended = appender.append(*time_ms, &histogram_at(seed, *time_ms)).unwrap();
        if let Appended::NewChunk { finished } = appended {
            chunks.push(chunk(&times[begun..at], ChunkEncoding::Histogram, finished));
            begun = at;
        }
    }
    chunks.push(chunk(&times[begun..], ChunkEncoding::Histogram, appender.into_bytes()));
}

pub fn chunk(times: &[i64], encoding: ChunkEncoding, data: Vec<u8>) -> BlockChunk {
    let (min_time_ms, max_time_ms) = (times[0], *times.last().unwrap());
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding, data: data.into() } }
}

/// A bucket in a temporary directory.
pub struct TestBucket {
    pub dir: tempfile::TempDir,
    pub bucket: Bucket,
}

impl TestBucket {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = BucketConfig::filesystem(dir.path().join("bucket"));
        let bucket = Bucket::open(&config, Access::Write).unwrap();
        Self { bucket, dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    /// Writes a block of level 1.
    pub fn add(
        &self,
        id: BlockId,
        range: (i64, i64),
        replica: &str,
        series: &[SeriesSpec],
    ) -> Arc<BlockMeta> {
        let series: BTreeMap<&Labels, Vec<BlockChunk>> =
            series.iter().map(|spec| (&spec.labels, spec.chunks())).collect();
        self.add_chunks(id, range, replica, &series)
    }

    /// Writes `count` blocks of two hours, one after the other from 0 on, of one series with a sample every five minutes.
    pub fn add_two_hours_each(&self, first: u64, count: u64, replica: &str) {
        for (number, from_ms) in (first..first + count).zip((0..).step_by(2 * HOUR_MS as usize)) {
            let spec = SeriesSpec {
                labels: Labels::from_pairs([("__name__", "up")]),
                seed: 3,
                histograms: false,
                times_ms: (0..24).map(|k| from_ms + k * 300_000).collect(),
                chunk_samples: 10,
            };
            self.add(id(number), (from_ms, from_ms + 2 * HOUR_MS), replica, &[spec]);
        }
    }

    pub fn add_chunks(
        &self,
        id: BlockId,
        range: (i64, i64),
        replica: &str,
        series: &BTreeMap<&Labels, Vec<BlockChunk>>,
    ) -> Arc<BlockMeta> {
        let target = self.path().join(id.to_string());
        let symbols = symbols_of(series.keys().copied());
        let mut writer = BlockWriter::create(&target, symbols, SegmentConfig::default()).unwrap();
        for (labels, chunks) in series {
            writer.add_series(labels, chunks).unwrap();
        }
        let sealed = writer.seal().unwrap();
        let stats = sealed.stats().clone();
        let json = format!(
            r#"{{"ulid":"{id}","minTime":{},"maxTime":{},"version":1,
                "stats":{{"numSamples":{},"numSeries":{},"numChunks":{}}},
                "compaction":{{"level":1,"sources":["{id}"]}},
                "thanos":{{"labels":{{"cluster":"c","replica":"{replica}"}},"downsample":{{"resolution":0}},"source":"sidecar"}}}}"#,
            range.0, range.1, stats.sample_count, stats.series_count, stats.chunk_count
        );
        sealed.add_file("meta.json", json.as_bytes()).unwrap();
        sealed.publish().unwrap();
        Arc::new(BlockMeta::parse_of(id, json.as_bytes()).unwrap())
    }

    pub fn content(&self, id: BlockId) -> Content {
        read_content(&self.path().join(id.to_string()))
    }

    /// A compactor whose blocks are old enough, changed by `change`.
    pub fn compactor(&self, change: impl FnOnce(CompactorConfig) -> CompactorConfig) -> Arc<Compactor> {
        let config = CompactorConfig {
            consistency_delay: std::time::Duration::ZERO,
            ..CompactorConfig::new(self.bucket.clone(), self.dir.path().join("data"))
        };
        Compactor::new(change(config), &Context::for_test()).unwrap()
    }

    /// The metas of whole blocks without a deletion mark.
    pub fn living(&self) -> Vec<BlockMeta> {
        let mut metas = Vec::new();
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let dir = entry.unwrap().path();
            if let Ok(json) = std::fs::read(dir.join("meta.json"))
                && !dir.join("deletion-mark.json").exists()
            {
                metas.extend(BlockMeta::parse("test", &json));
            }
        }
        metas
    }

    /// All objects with their names, for a bucket elsewhere.
    pub fn objects(&self) -> Vec<(String, Bytes)> {
        let (mut objects, mut paths) = (Vec::new(), vec![self.path()]);
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let name = path.strip_prefix(self.path()).unwrap().to_str().unwrap().to_owned();
            objects.push((name, Bytes::from(std::fs::read(&path).unwrap())));
        }
        objects
    }

    pub fn job(&self) -> Job {
        Job::new(JobConfig {
            bucket: self.bucket.clone(),
            staging_dir: self.dir.path().join("staging"),
            workers: 2,
            hash: parallax_block::HashFunction::None,
            max_index_size_bytes: u64::MAX,
            clock: parallax_compactor::Clock::system(),
            cancelled: CancellationToken::new(),
        })
    }
}

/// Every sample of the block in a directory.
pub fn read_content(dir: &Path) -> Content {
    let reader = BlockReader::open(dir).unwrap();
    let mut content = Content::new();
    for series in reader.all_series(TimeRange::ALL).unwrap() {
        let series = series.unwrap();
        let samples = content.entry(series.labels.clone()).or_default();
        for meta in &series.chunks {
            let chunk = reader.chunk(meta).unwrap();
            let (mut floats, mut histograms) = (FloatColumn::default(), HistogramColumn::default());
            decode_chunk(chunk.encoding, &chunk.data, TimeRange::ALL, &mut floats, &mut histograms).unwrap();
            let floats = floats.iter().map(|(time_ms, value)| (time_ms, Value::Float(value.to_bits())));
            let histograms = histograms.timestamps_ms.iter().zip(&histograms.values);
            let histograms = histograms.map(|(time_ms, value)| (*time_ms, Value::Histogram(hintless(value))));
            for (time_ms, value) in floats.chain(histograms) {
                assert!(meta.min_time_ms <= time_ms && time_ms <= meta.max_time_ms);
                assert!(samples.insert(time_ms, value).is_none(), "{} at {time_ms} twice", series.labels);
            }
        }
    }
    content
}

/// Whether a counter was reset is said by a chunk's beginning, which merging may move.
fn hintless(histogram: &FloatHistogram) -> Box<FloatHistogram> {
    let mut histogram = histogram.clone();
    if histogram.counter_reset_hint != CounterResetHint::Gauge {
        histogram.counter_reset_hint = CounterResetHint::Unknown;
    }
    if histogram.sum.is_nan() {
        // NaN is not equal to itself.
        histogram.sum = 0.0;
        histogram.count = -1.0;
    }
    Box::new(histogram)
}

/// A ULID from a number.
pub fn id(number: u64) -> BlockId {
    format!("01{number:024}").parse().unwrap()
}
