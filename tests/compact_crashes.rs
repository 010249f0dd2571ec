//! `parallax compact` that is killed at any moment, and that runs out of disk: what is in the bucket afterwards.
//!
//! When it is killed comes from a seed, which a failure names and `PARALLAX_SEED` sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Finished, command, finish};
use parallax_block::{BlockMeta, verify_block};
use parallax_model::{Labels, TimeRange};
use parallax_tsdb::block::{BlockChunk, BlockReader, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::segment::{Chunk, SegmentConfig};

const DEFAULT_SEED: u64 = 7;

/// How often a run is killed in all, and before it may end at most.
const KILLS: usize = 24;
const KILLS_OF_ONE_BUCKET: usize = 4;

const HOUR_MS: i64 = 3_600_000;

/// Where a block belongs: external labels, and time.
type Place = (BTreeMap<String, String>, i64, i64);

/// Of each series the times, the encoding and the bytes of its chunks.
type Content = BTreeMap<String, Vec<(i64, i64, u8, Vec<u8>)>>;

struct Workplace {
    dir: tempfile::TempDir,
}

impl Workplace {
    fn new() -> Self {
        let workplace = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(workplace.bucket()).unwrap();
        workplace
    }

    /// With two clusters of two replicas, three blocks each.
    fn golden() -> Self {
        let workplace = Self::new();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short");
        copy_dir(&golden, &workplace.bucket());
        workplace
    }

    fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn arguments(&self) -> Vec<String> {
        let objstore =
            format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {}}}", self.bucket().display());
        let data_dir = format!("--data-dir={}", self.dir.path().join("data").display());
        let mut line: Vec<String> =
            ["compact", "--http-address=127.0.0.1:0", "--consistency-delay=0s"].map(str::to_owned).to_vec();
        line.extend(
            ["--deduplication.func=penalty", "--deduplication.replica-label=replica"].map(str::to_owned),
        );
        line.push("--deduplication.replica-label=prometheus_replica".to_owned());
        line.extend([objstore, data_dir]);
        line
    }

    fn compact(&self) -> Finished {
        finish(&mut command(self.arguments()))
    }

    /// Kills it after some time, unless it has come to its end.
    fn compact_and_kill(&self, after: Duration) {
        let mut child = command(self.arguments());
        let mut child =
            child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The directories of blocks that a reader sees; those that another replaces are marked.
    fn visible(&self) -> Vec<(PathBuf, BlockMeta, bool)> {
        let mut blocks = Vec::new();
        for entry in std::fs::read_dir(self.bucket()).unwrap() {
            let dir = entry.unwrap().path();
            let Ok(meta) = std::fs::read(dir.join("meta.json")) else { continue };
            verify_block(&dir).unwrap();
            let meta = BlockMeta::parse("test", &meta).unwrap();
            let is_marked = dir.join("deletion-mark.json").exists();
            blocks.push((dir, meta, is_marked));
        }
        blocks
    }

    /// What is not marked for deletion; nothing may stand there twice.
    fn content(&self) -> BTreeMap<Place, Content> {
        let mut found = BTreeMap::new();
        for (dir, meta, _) in self.visible().into_iter().filter(|(_, _, is_marked)| !is_marked) {
            let mut labels = meta.thanos.as_ref().unwrap().labels.clone().unwrap();
            labels.retain(|name, _| !name.ends_with("replica"));
            let place = (labels, meta.min_time_ms, meta.max_time_ms);
            assert!(found.insert(place, read(&dir)).is_none(), "two blocks like {}", dir.display());
        }
        found
    }

    /// What a job has staged and not removed.
    fn staged(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("data/compact")).unwrap().count()
    }
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

fn read(dir: &Path) -> Content {
    let block = BlockReader::open(dir).unwrap();
    let mut content = Content::new();
    for series in block.all_series(TimeRange::ALL).unwrap() {
        let series = series.unwrap();
        let chunks = series.chunks.iter().map(|meta| {
            let chunk = block.chunk(meta).unwrap();
            (meta.min_time_ms, meta.max_time_ms, chunk.encoding.as_byte(), chunk.data.to_vec())
        });
        content.insert(series.labels.to_string(), chunks.collect());
    }
    content
}

/// Steps of splitmix64.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit.max(1)
    }
}

#[test]
fn a_bucket_whose_compactor_is_killed_again_and_again_holds_everything_once() {
    let seed = std::env::var("PARALLAX_SEED").ok().map_or(DEFAULT_SEED, |text| text.parse().unwrap());
    let undisturbed = Workplace::golden();
    let began = Instant::now();
    assert_eq!(undisturbed.compact().code, Some(0));
    let takes_us = u64::try_from(began.elapsed().as_micros()).unwrap();
    let wanted = undisturbed.content();
    assert_eq!(wanted.len(), 6, "three blocks of two clusters");
    let mut random = Random(seed);
    let (mut kills, mut interrupted) = (0, 0);
    while kills < KILLS {
        let workplace = Workplace::golden();
        for _ in 0..=random.below(KILLS_OF_ONE_BUCKET as u64) {
            workplace.compact_and_kill(Duration::from_micros(random.below(takes_us)));
            kills += 1;
            // Whatever is visible is sound, and every source is, or is replaced by what is.
            let living: Vec<_> =
                workplace.visible().into_iter().filter(|(_, _, is_marked)| !is_marked).collect();
            let made = living.iter().filter(|(_, meta, _)| meta.compaction.level > 1).count();
            interrupted += usize::from(made > 0 && made < wanted.len());
            for (_, source, _) in
                undisturbed.visible().iter().filter(|(_, meta, _)| meta.compaction.level == 1)
            {
                let is_there =
                    living.iter().any(|(_, meta, _)| meta.compaction.sources.contains(&source.ulid));
                assert!(is_there, "seed {seed}, kill {kills}: block {} is gone", source.ulid);
            }
        }
        let finished = workplace.compact();
        assert_eq!(finished.code, Some(0), "seed {seed}: {finished:?}");
        assert_eq!(workplace.content(), wanted, "seed {seed}, after kill {kills}");
        assert_eq!(workplace.staged(), 0, "seed {seed}, after kill {kills}");
    }
    println!("seed {seed}: {kills} kills, {interrupted} between the first block and the last");
}

/// A block of level 1 whose samples do not compress.
fn add_block(bucket: &Path, number: u64, cluster: &str, replica: &str, series: usize, random: &mut Random) {
    let id = format!("01{number:024}");
    let labels: Vec<Labels> =
        (0..series).map(|n| Labels::from_pairs([("__name__", format!("metric_{n:04}"))])).collect();
    let mut writer =
        BlockWriter::create(&bucket.join(&id), symbols_of(&labels), SegmentConfig::default()).unwrap();
    for labels in &labels {
        let samples: Vec<(i64, f64)> =
            (0..120).map(|n| (n * 15_000, f64::from_bits(random.below(u64::MAX) >> 2))).collect();
        let chunk = Chunk { encoding: ChunkEncoding::Xor, data: encode_xor(&samples).unwrap().into() };
        writer
            .add_series(labels, &[BlockChunk { min_time_ms: 0, max_time_ms: 119 * 15_000, chunk }])
            .unwrap();
    }
    let sealed = writer.seal().unwrap();
    let stats = sealed.stats().clone();
    let json = serde_json::json!({
        "ulid": id, "minTime": 0, "maxTime": 2 * HOUR_MS, "version": 1,
        "stats": {
            "numSamples": stats.sample_count, "numSeries": stats.series_count, "numChunks": stats.chunk_count,
        },
        "compaction": {"level": 1, "sources": [id]},
        "thanos": {
            "version": 1, "labels": {"cluster": cluster, "replica": replica}, "downsample": {"resolution": 0},
            "source": "sidecar",
        },
    });
    sealed.add_file("meta.json", json.to_string().as_bytes()).unwrap();
    sealed.publish().unwrap();
}

#[test]
fn a_disk_that_is_full_holds_up_one_group_and_costs_nothing() {
    let workplace = Workplace::new();
    let mut random = Random(DEFAULT_SEED);
    for (number, replica) in [(1, "a"), (2, "b")] {
        add_block(&workplace.bucket(), number, "large", replica, 400, &mut random);
        add_block(&workplace.bucket(), number + 2, "small", replica, 4, &mut random);
    }
    // A shell's limit on the size of a file: writing beyond it fails, as on a disk that is full.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_parallax")]);
    let finished = finish(limited.args(workplace.arguments()));
    assert!(
        finished.stderr.contains("a group was not compacted") && finished.stderr.contains("File too large"),
        "{finished:?}"
    );
    let living: BTreeMap<String, Vec<u32>> = workplace
        .visible()
        .into_iter()
        .filter(|(_, _, is_marked)| !is_marked)
        .fold(BTreeMap::new(), |mut living, (_, meta, _)| {
            let cluster = meta.thanos.unwrap().labels.unwrap()["cluster"].clone();
            living.entry(cluster).or_default().push(meta.compaction.level);
            living
        });
    assert_eq!(living, BTreeMap::from([("large".to_owned(), vec![1, 1]), ("small".to_owned(), vec![2])]));
    assert_eq!(workplace.staged(), 0);
    let again = workplace.compact();
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(workplace.content().len() == 2 && workplace.staged() == 0);
}
