//! What a compactor can be told. Defaults are Thanos'.

use std::path::PathBuf;
use std::time::Duration;

use parallax_block::HashFunction;
use parallax_bucket::Bucket;
use parallax_model::{Resolution, TimeRange};

use crate::merge::MergeMode;
use crate::plan::PlanConfig;

/// Configuration of one compactor.
#[derive(Clone, Debug)]
pub struct CompactorConfig {
    pub bucket: Bucket,
    /// Blocks are staged and metas are kept here; safe to delete between runs.
    pub data_dir: PathBuf,
    pub plan: PlanConfig,
    pub mode: MergeMode,
    /// External labels that only tell replicas apart. Any makes compaction vertical.
    pub replica_labels: Vec<String>,
    /// Blocks uploaded less than this ago are left alone, unless a compactor made them.
    pub consistency_delay: Duration,
    /// A marked block is deleted once its mark is this old.
    pub delete_delay: Duration,
    pub retention: Retention,
    pub downsampling: bool,
    /// Only blocks with samples in this range are looked at.
    pub time_range: TimeRange,
    /// Put a no-compact mark on a block whose chunks are out of order, so that its group goes on without it.
    pub skip_out_of_order: bool,
    /// Groups compacted at once.
    pub group_concurrency: usize,
    /// Blocks downsampled at once.
    pub downsample_concurrency: usize,
    /// Metas and marks read at once.
    pub fetch_concurrency: usize,
    /// Threads that merge one block, besides one that reads and one that writes.
    pub workers: usize,
    pub hash: HashFunction,
    /// Pause between two passes; `None`: one pass, and the end.
    pub wait_interval: Option<Duration>,
}

impl CompactorConfig {
    pub fn new(bucket: Bucket, data_dir: impl Into<PathBuf>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            bucket,
            data_dir: data_dir.into(),
            plan: PlanConfig::default(),
            mode: MergeMode::OneToOne,
            replica_labels: Vec::new(),
            consistency_delay: Duration::from_secs(30 * 60),
            delete_delay: Duration::from_secs(48 * 3600),
            retention: Retention::default(),
            downsampling: true,
            time_range: TimeRange::ALL,
            skip_out_of_order: false,
            group_concurrency: 1,
            downsample_concurrency: 1,
            fetch_concurrency: 32,
            workers: cpus,
            hash: HashFunction::None,
            wait_interval: None,
        }
    }
}

/// How long blocks are kept, by resolution; zero is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub raw: Duration,
    pub five_minutes: Duration,
    pub one_hour: Duration,
}

impl Retention {
    /// How long blocks of a resolution are kept; `None` is for ever.
    pub fn of(&self, resolution: Resolution) -> Option<Duration> {
        let kept = match resolution {
            Resolution::Raw => self.raw,
            Resolution::FiveMinutes => self.five_minutes,
            Resolution::OneHour => self.one_hour,
        };
        (!kept.is_zero()).then_some(kept)
    }
}
