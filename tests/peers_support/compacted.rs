//! Blocks that we compacted, worked on further by the real code: Prometheus' compactor and Thanos' downsampling read them, and make of them what we make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_block::{BlockId, BlockMeta, HashFunction};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_compactor::{Clock, Job, JobConfig, MergeMode, group_blocks};
use parallax_model::{Labels, Resolution, TimeRange};
use parallax_tsdb::block::BlockReader;

use crate::peer::{Peer, program_or_leave_out};

/// What Prometheus keeps in one block.
const BLOCK_RANGE_MS: i64 = 7_200_000;
const REPLICA_LABEL: &str = "prometheus_replica";

/// By series and time: the encoding and the bytes of each chunk.
type Chunks = BTreeMap<(Labels, i64, i64), (u8, Vec<u8>)>;

fn chunks_of(block: &Path) -> Chunks {
    let reader = BlockReader::open(block).expect("a block");
    let mut found = Chunks::new();
    for series in reader.all_series(TimeRange::ALL).expect("series") {
        let series = series.expect("a series");
        for meta in &series.chunks {
            let chunk = reader.chunk(meta).expect("a chunk");
            let key = (series.labels.clone(), meta.min_time_ms, meta.max_time_ms);
            found.insert(key, (chunk.encoding.as_byte(), chunk.data.to_vec()));
        }
    }
    found
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

struct Workplace {
    dir: tempfile::TempDir,
    job: Job,
}

impl Workplace {
    /// With the recorded blocks of one cluster: two replicas, three blocks each.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let bucket = dir.path().join("bucket");
        copy_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short"), &bucket);
        std::fs::create_dir(dir.path().join("theirs")).expect("a directory");
        let job = Job::new(JobConfig {
            bucket: Bucket::open(&BucketConfig::filesystem(&bucket), Access::Write).expect("a bucket"),
            staging_dir: dir.path().join("staging"),
            workers: 2,
            hash: HashFunction::None,
            max_index_size_bytes: u64::MAX,
            clock: Clock::system(),
            cancelled: tokio_util::sync::CancellationToken::new(),
        });
        Self { dir, job }
    }

    fn metas(&self) -> Vec<Arc<BlockMeta>> {
        let entries = std::fs::read_dir(self.dir.path().join("bucket")).expect("a bucket");
        let metas = entries.filter_map(|entry| {
            let json = std::fs::read(entry.ok()?.path().join("meta.json")).ok()?;
            Some(Arc::new(BlockMeta::parse("recorded", &json).expect("a meta")))
        });
        let mut metas: Vec<_> =
            metas.filter(|meta| meta.external_labels().get("cluster") == Some("eu-1")).collect();
        metas.sort_by_key(|meta| (meta.min_time_ms, meta.ulid));
        metas
    }

    fn ours(&self, block: BlockId) -> PathBuf {
        self.dir.path().join("bucket").join(block.to_string())
    }

    fn theirs(&self) -> PathBuf {
        self.dir.path().join("theirs")
    }

    async fn compact(&self, blocks: &[Arc<BlockMeta>], mode: MergeMode) -> Arc<BlockMeta> {
        let groups = group_blocks(blocks, &[REPLICA_LABEL.to_owned()]);
        let group = groups.into_values().next().expect("a group");
        let outcome = self.job.compact(&group, &group.blocks, mode, 1).await.expect("a merge");
        Arc::new(outcome.made().expect("a block").meta)
    }

    async fn downsample(&self, block: &Arc<BlockMeta>, to: Resolution) -> Arc<BlockMeta> {
        let outcome = self.job.downsample(block, to, 2).await.expect("downsampling");
        Arc::new(outcome.made().expect("a block").meta)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_and_thanos_go_on_with_our_blocks_as_we_do() {
    let Some(peers) =
        program_or_leave_out("our compacted blocks under Prometheus' compactor and Thanos' downsampling")
    else {
        return;
    };
    let workplace = Workplace::new();
    let recorded = workplace.metas();
    assert_eq!(recorded.len(), 6);
    // A replica's first sample may be some seconds after the other's.
    let window = |meta: &BlockMeta| meta.min_time_ms.div_euclid(BLOCK_RANGE_MS);
    // Replicas become one, three times; then the three become one, by us and by Prometheus.
    let mut deduplicated = Vec::new();
    for pair in recorded.chunk_by(|a, b| window(a) == window(b)) {
        deduplicated.push(workplace.compact(pair, MergeMode::Penalty).await);
    }
    assert_eq!(deduplicated.len(), 3);
    let ours = workplace.compact(&deduplicated, MergeMode::OneToOne).await;
    let blocks: Vec<PathBuf> = deduplicated.iter().map(|meta| workplace.ours(meta.ulid)).collect();
    let theirs = Peer::compact(&peers, &workplace.theirs(), &blocks).expect("a block of Prometheus'");
    let (ours_dir, theirs_dir) = (workplace.ours(ours.ulid), workplace.theirs().join(theirs));
    let chunks = chunks_of(&ours_dir);
    assert!(!chunks.is_empty() && chunks == chunks_of(&theirs_dir), "merged");
    for file in ["index", "chunks/000001"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).expect("a file");
        assert!(read(&ours_dir) == read(&theirs_dir), "{file} differs");
    }
    // Thanos downsamples what we merged, and what we downsampled.
    let mut block = ours;
    for to in [Resolution::FiveMinutes, Resolution::OneHour] {
        let coarser = workplace.downsample(&block, to).await;
        let theirs = Peer::downsample(&peers, &workplace.theirs(), to.millis(), &workplace.ours(block.ulid))
            .expect("a block of Thanos'");
        let chunks = chunks_of(&workplace.ours(coarser.ulid));
        assert!(!chunks.is_empty() && chunks == chunks_of(&workplace.theirs().join(theirs)), "to {to}");
        block = coarser;
    }
}
