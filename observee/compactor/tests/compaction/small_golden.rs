//! A small copy of the golden buckets, which a clone that stands alone has: three series of them, and what Thanos made of each, as checksums.
//!
//! Compaction and downsampling treat every series by itself, so that what Thanos made of three among others is what has to be made of them alone. `PARALLAX_WRITE_GOLDEN=1`
//! with the shared golden data beside the clone writes the copy anew; without it, the copy is compared with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_compactor::{Compactor, CompactorConfig, MergeMode};
use parallax_model::{Labels, TimeRange};
use parallax_net::Context;
use parallax_tsdb::block::{BlockChunk, BlockReader, BlockWriter, symbols_of};
use parallax_tsdb::segment::SegmentConfig;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::golden::{NOW_MS, golden};

const REPLICAS: [&str; 2] = ["prometheus-0", "prometheus-1"];

/// A gauge that hardly changes, a counter with resets, a native histogram.
fn is_copied(labels: &Labels) -> bool {
    let of = |name: &str, value: &str| labels.get(name) == Some(value);
    let is_first = of("instance", "10.0.0.1:9100");
    let is_wanted = of("__name__", "up") || of("__name__", "rpc_latency_seconds");
    is_first && (is_wanted || of("__name__", "http_requests_total") && of("code", "200"))
}

/// `tests/golden/compact/blocks.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Blocks {
    /// ULID, number of the replica, minTime, maxTime.
    sources: Vec<(BlockId, usize, i64, i64)>,
    made: Vec<Made>,
}

/// What Thanos made.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Made {
    resolution_ms: i64,
    min_time_ms: i64,
    max_time_ms: i64,
    level: u32,
    sources: usize,
    /// By labels: the number of chunks, and a checksum of them and their times.
    series: BTreeMap<String, (usize, String)>,
}

type Series = BTreeMap<Labels, Vec<BlockChunk>>;

fn copy_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/compact")
}

fn read_series(dir: &Path) -> Series {
    let reader = BlockReader::open(dir).unwrap();
    let mut found = Series::new();
    for series in reader.all_series(TimeRange::ALL).unwrap() {
        let series = series.unwrap();
        if is_copied(&series.labels) {
            let chunks = series.chunks.iter().map(|meta| BlockChunk {
                min_time_ms: meta.min_time_ms,
                max_time_ms: meta.max_time_ms,
                chunk: reader.chunk(meta).unwrap(),
            });
            found.insert(series.labels.clone(), chunks.collect());
        }
    }
    found
}

fn checksum(chunks: &[BlockChunk]) -> String {
    let mut hashed = Vec::new();
    for chunk in chunks {
        hashed.extend(chunk.min_time_ms.to_le_bytes());
        hashed.extend(chunk.max_time_ms.to_le_bytes());
        hashed.push(chunk.chunk.encoding.as_byte());
        hashed.extend((chunk.chunk.data.len() as u64).to_le_bytes());
        hashed.extend(&chunk.chunk.data);
    }
    format!("{:016x}", xxh64(&hashed, 0))
}

/// The blocks of a bucket that are not marked for deletion.
fn living(bucket: &Path) -> Vec<(PathBuf, BlockMeta)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(bucket).unwrap() {
        let dir = entry.unwrap().path();
        if let Ok(json) = std::fs::read(dir.join("meta.json"))
            && !dir.join("deletion-mark.json").exists()
        {
            found.push((dir, BlockMeta::parse("golden", &json).unwrap()));
        }
    }
    found
}

fn made_of(bucket: &Path) -> Vec<Made> {
    let describe = |(dir, meta): (PathBuf, BlockMeta)| Made {
        resolution_ms: meta.resolution_ms(),
        min_time_ms: meta.min_time_ms,
        max_time_ms: meta.max_time_ms,
        level: meta.compaction.level,
        sources: meta.compaction.sources.len(),
        series: read_series(&dir)
            .into_iter()
            .map(|(labels, chunks)| (labels.to_string(), (chunks.len(), checksum(&chunks))))
            .collect(),
    };
    let mut made: Vec<Made> = living(bucket).into_iter().map(describe).collect();
    made.sort();
    made
}

fn write_block(target: &Path, series: &Series) -> parallax_tsdb::block::SealedBlock {
    let mut writer =
        BlockWriter::create(target, symbols_of(series.keys()), SegmentConfig::default()).unwrap();
    for (labels, chunks) in series {
        writer.add_series(labels, chunks).unwrap();
    }
    writer.seal().unwrap()
}

/// Writes the blocks of the copy as a sidecar would have uploaded them.
fn unfold(bucket: &Path, blocks: &Blocks) {
    std::fs::create_dir_all(bucket).unwrap();
    let replicas = REPLICAS.map(|name| read_series(&copy_dir().join(name)));
    for (id, replica, min_time_ms, max_time_ms) in &blocks.sources {
        let range = TimeRange::new(*min_time_ms, max_time_ms - 1);
        let of_block = replicas[*replica].iter().map(|(labels, chunks)| {
            let chunks = chunks.iter().filter(|chunk| range.contains(chunk.min_time_ms)).cloned().collect();
            (labels.clone(), chunks)
        });
        let series: Series = of_block.filter(|(_, chunks): &(_, Vec<_>)| !chunks.is_empty()).collect();
        let sealed = write_block(&bucket.join(id.to_string()), &series);
        let stats = sealed.stats();
        let name = REPLICAS[*replica];
        let json = format!(
            r#"{{"ulid":"{id}","minTime":{min_time_ms},"maxTime":{max_time_ms},"version":1,
                "stats":{{"numSamples":{},"numSeries":{},"numChunks":{}}},
                "compaction":{{"level":1,"sources":["{id}"]}},
                "thanos":{{"labels":{{"cluster":"ap-1","prometheus":"monitoring/k8s","prometheus_replica":"{name}"}},
                    "downsample":{{"resolution":0}},"source":"sidecar"}}}}"#,
            stats.sample_count, stats.series_count, stats.chunk_count
        );
        sealed.add_file("meta.json", json.as_bytes()).unwrap();
        sealed.publish().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_series_of_the_golden_bucket_become_what_thanos_made_of_them() {
    let blocks: Blocks =
        serde_json::from_slice(&std::fs::read(copy_dir().join("blocks.json")).unwrap()).unwrap();
    assert_eq!((blocks.sources.len(), blocks.made.len()), (360, 9));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bucket");
    unfold(&path, &blocks);
    let bucket = Bucket::open(&BucketConfig::filesystem(&path), Access::Write).unwrap();
    let config = CompactorConfig {
        mode: MergeMode::Penalty,
        replica_labels: vec!["prometheus_replica".to_owned()],
        consistency_delay: Duration::ZERO,
        ..CompactorConfig::new(bucket, dir.path().join("data"))
    };
    let compactor = Compactor::new(config, &Context::for_test()).unwrap();
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.set_aside, report.retries), (0, 0), "{:?}", compactor.quarantine().list());
    assert_eq!(made_of(&path), blocks.made);
    for (_, meta) in living(&path) {
        let within = blocks.sources.iter().filter(|(_, _, min_time_ms, max_time_ms)| {
            meta.min_time_ms <= *min_time_ms && *max_time_ms <= meta.max_time_ms
        });
        let mut expected: Vec<BlockId> = within.map(|(id, ..)| *id).collect();
        expected.sort_unstable();
        assert_eq!(meta.compaction.sources, expected);
    }
}

/// The copy, cut from the shared golden data.
fn cut(raw: &Path, compacted: &Path) -> (Blocks, [Series; 2]) {
    let mut replicas = [Series::new(), Series::new()];
    let mut sources = Vec::new();
    let mut all = living(raw);
    all.sort_by_key(|(_, meta)| (meta.min_time_ms, meta.ulid));
    for (dir, meta) in all {
        let labels = meta.thanos.as_ref().unwrap().labels.clone().unwrap();
        let replica = REPLICAS.iter().position(|name| *name == labels["prometheus_replica"]).unwrap();
        sources.push((meta.ulid, replica, meta.min_time_ms, meta.max_time_ms));
        for (labels, chunks) in read_series(&dir) {
            replicas[replica].entry(labels).or_default().extend(chunks);
        }
    }
    (Blocks { sources, made: made_of(compacted) }, replicas)
}

#[test]
fn the_small_copy_is_cut_from_the_golden_buckets() {
    let (Some(raw), Some(compacted)) = (golden("bucket-long-raw"), golden("bucket-long")) else {
        eprintln!("the golden buckets are not beside this clone: the copy stands for itself");
        return;
    };
    let (blocks, replicas) = cut(&raw, &compacted);
    let target = copy_dir();
    if std::env::var_os("PARALLAX_WRITE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir_all(&target).unwrap();
        for (name, series) in REPLICAS.iter().zip(&replicas) {
            write_block(&target.join(name), series).publish().unwrap();
        }
        std::fs::write(target.join("blocks.json"), serde_json::to_vec(&blocks).unwrap()).unwrap();
    }
    let copied: Blocks = serde_json::from_slice(&std::fs::read(target.join("blocks.json")).unwrap()).unwrap();
    assert_eq!(copied, blocks);
    for (name, series) in REPLICAS.iter().zip(&replicas) {
        assert!(read_series(&target.join(name)) == *series, "{name}");
    }
}
