//! Compacting a bucket of two replicas, beside `thanos compact` where `THANOS_BIN` names it.
//!
//!     COMPACT_SERIES=100000 THANOS_BIN=… cargo bench -p parallax-compactor --bench compact
//!
//! Three pairs of overlapping blocks of 2 h (or, as `one-to-one`, of replicas that hold the same), scraped every 15 s. Each measurement is a process
//! of its own, so that its peak of resident memory is its own; before each the bucket is copied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use parallax_block::BlockId;
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_compactor::{Compactor, CompactorConfig, MergeMode};
use parallax_model::Labels;
use parallax_net::Context;
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::segment::{Chunk, SegmentConfig};

const BLOCK_MS: i64 = 2 * 3_600_000;
const STEP_MS: i64 = 15_000;
const NOW_MS: i64 = 4_000_000_000_000;
/// Some 2 h border of 2026.
const START_MS: i64 = 1_782_950_400_000;

fn main() {
    let mut args = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    match (args.next().as_deref(), args.next()) {
        (Some("measure"), Some(dir)) => measure(Path::new(&dir), args.next().as_deref() == Some("penalty")),
        _ if std::env::args().any(|argument| argument == "--bench") => compare(),
        _ => println!("left out: this measures under `cargo bench`"),
    }
}

fn compare() {
    let series: usize = std::env::var("COMPACT_SERIES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let dir = tempfile::tempdir().unwrap();
    println!(
        "| what | program | seconds | CPU | peak MiB | MB read | MB written |\n|---|---|---|---|---|---|---|"
    );
    for (name, offset_ms) in [("penalty", 3_217), ("one-to-one", 0)] {
        let bucket = dir.path().join(name);
        let samples = generate(&bucket, series, offset_ms);
        let what = format!("{name}, {series} series, {samples} samples");
        let ours = dir.path().join("ours");
        copy(&bucket, &ours.join("bucket"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["measure", ours.to_str().unwrap(), name]);
        println!("| {what} | parallax | {} |", timed(&mut command));
        std::fs::remove_dir_all(&ours).unwrap();
        let Some(thanos) = std::env::var_os("THANOS_BIN") else { continue };
        let theirs = dir.path().join("theirs");
        copy(&bucket, &theirs.join("bucket"));
        let mut command = Command::new(thanos);
        let objstore =
            format!("type: FILESYSTEM\nconfig: {{directory: {}}}", theirs.join("bucket").display());
        command
            .args(["compact", "--log.level=error", "--http-address=127.0.0.1:0", "--consistency-delay=0s"])
            .arg("--deduplication.replica-label=replica")
            .arg(format!("--data-dir={}", theirs.join("data").display()))
            .arg(format!("--objstore.config={objstore}"));
        if name == "penalty" {
            command.arg("--deduplication.func=penalty");
        }
        println!("| {what} | thanos | {} |", timed(&mut command));
        std::fs::remove_dir_all(&theirs).unwrap();
    }
}

/// Seconds, seconds of CPU time, peak memory, and megabytes read from the disk and written, of a process.
fn timed(command: &mut Command) -> String {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let id = child.id();
    let of_process = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let field = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let (mut peak_kb, mut ticks, mut read_bytes, mut write_bytes) = (0, 0, 0, 0);
    loop {
        peak_kb = peak_kb.max(field(&of_process("status"), "VmHWM"));
        let stat = of_process("stat");
        let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        ticks = ticks.max(times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum());
        let io = of_process("io");
        read_bytes = read_bytes.max(field(&io, "read_bytes"));
        write_bytes = write_bytes.max(field(&io, "write_bytes"));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            let (seconds, cpu) = (started.elapsed().as_secs_f64(), ticks as f64 / 100.0);
            let (read_mb, written_mb) = (read_bytes / 1_000_000, write_bytes / 1_000_000);
            return format!("{seconds:.2} | {cpu:.2} | {} | {read_mb} | {written_mb}", peak_kb / 1024);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn measure(dir: &Path, penalty: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bucket = Bucket::open(&BucketConfig::filesystem(dir.join("bucket")), Access::Write).unwrap();
        let config = CompactorConfig {
            mode: if penalty { MergeMode::Penalty } else { MergeMode::OneToOne },
            replica_labels: vec!["replica".to_owned()],
            consistency_delay: Duration::ZERO,
            ..CompactorConfig::new(bucket, dir.join("data"))
        };
        let compactor = Compactor::new(config, &Context::for_test()).unwrap();
        let report = compactor.pass(NOW_MS).await.unwrap();
        assert_eq!((report.compactions, report.set_aside, report.retries), (3, 0, 0));
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Two replicas of three blocks; the second is scraped `offset_ms` later. Gives the number of samples.
fn generate(bucket: &Path, series: usize, offset_ms: i64) -> u64 {
    std::fs::create_dir_all(bucket).unwrap();
    let mut labels: Vec<Labels> = (0..series)
        .map(|n| {
            Labels::from_pairs([
                ("__name__", format!("metric_{}_total", n % 100).as_str()),
                ("instance", format!("10.0.{}.{}:9100", n / 100 % 250, n / 25_000).as_str()),
                ("job", "node"),
                ("path", format!("/api/{}", n / 100).as_str()),
            ])
        })
        .collect();
    labels.sort();
    let mut samples = 0;
    for (replica, offset_ms) in [("a", 0), ("b", offset_ms)] {
        for block in 0..3 {
            samples += write_block(bucket, replica, offset_ms, block, &labels);
        }
    }
    samples
}

fn write_block(bucket: &Path, replica: &str, offset_ms: i64, block: i64, all: &[Labels]) -> u64 {
    let number = block * 2 + i64::from(replica == "b") + 1;
    let id: BlockId = format!("01{number:024}").parse().unwrap();
    let target: PathBuf = bucket.join(id.to_string());
    let start_ms = START_MS + block * BLOCK_MS;
    let mut writer = BlockWriter::create(&target, symbols_of(all), SegmentConfig::default()).unwrap();
    let count = BLOCK_MS / STEP_MS - 1;
    for (n, labels) in (0..).zip(all) {
        let samples: Vec<(i64, f64)> = (0..count)
            .map(|k| {
                // A counter that grows unevenly; scrapes jitter by some milliseconds, alike for all series of a target.
                let jitter = (k * 7919 + i64::from(replica == "b" && offset_ms != 0) * 13) % 9;
                let at = block * count + k;
                (start_ms + offset_ms + k * STEP_MS + jitter, (at * (n % 17 + 1) + (at * 31 + n) % 5) as f64)
            })
            .collect();
        let chunks: Vec<BlockChunk> = samples
            .chunks(120)
            .map(|samples| BlockChunk {
                min_time_ms: samples[0].0,
                max_time_ms: samples[samples.len() - 1].0,
                chunk: Chunk { encoding: ChunkEncoding::Xor, data: encode_xor(samples).unwrap().into() },
            })
            .collect();
        writer.add_series(labels, &chunks).unwrap();
    }
    let sealed = writer.seal().unwrap();
    let stats = sealed.stats().clone();
    let labels: BTreeMap<&str, &str> = BTreeMap::from([("cluster", "c"), ("replica", replica)]);
    let range = stats.time_range.unwrap();
    let json = format!(
        r#"{{"ulid":"{id}","minTime":{},"maxTime":{},"version":1,"stats":{{"numSamples":{},"numSeries":{},"numChunks":{}}},
            "compaction":{{"level":1,"sources":["{id}"]}},
            "thanos":{{"version":1,"labels":{},"downsample":{{"resolution":0}},"source":"sidecar"}}}}"#,
        range.min_ms,
        range.max_ms + 1,
        stats.sample_count,
        stats.series_count,
        stats.chunk_count,
        serde_json::to_string(&labels).unwrap(),
    );
    sealed.add_file("meta.json", json.as_bytes()).unwrap();
    sealed.publish().unwrap();
    stats.sample_count
}
