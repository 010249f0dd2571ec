//! What a compactor can be told. Defaults are Thanos'.

use std::path::PathBuf;
use std::time::Duration;

use parallax_block::{BlockMeta, HashFunction, Selector};
use parallax_bucket::Bucket;
use parallax_model::{Labels, Matcher, Resolution, TimeRange};

use crate::clock::Clock;
use crate::lease::LeaseConfig;
use crate::merge::MergeMode;
use crate::plan::PlanConfig;
use crate::shard::Shard;

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
    /// Of blocks that no rule speaks of.
    pub retention: Retention,
    /// The first that matches a block's external labels and speaks of its resolution decides.
    pub retention_rules: Vec<RetentionRule>,
    /// Only say what is past its retention.
    pub retention_dry_run: bool,
    /// Only say what would be marked, made or deleted.
    pub dry_run: bool,
    pub downsampling: bool,
    /// Only blocks with samples in this range are looked at.
    pub time_range: TimeRange,
    /// Only blocks whose external labels these rules choose are looked at. They must not look at names of blocks: a block that was made would be another worker's than its sources.
    pub selector: Selector,
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
    /// After this long in a pass the bucket is read again: other writers' blocks and marks must not go unseen for the days that a first pass may take.
    pub max_view_age: Duration,
    /// Share the bucket with other compactors through leases in it.
    pub sharing: Option<LeaseConfig>,
    /// Only the groups of this part of the bucket.
    pub shard: Option<Shard>,
    pub clock: Clock,
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
            retention_rules: Vec::new(),
            retention_dry_run: false,
            dry_run: false,
            downsampling: true,
            time_range: TimeRange::ALL,
            selector: Selector::default(),
            skip_out_of_order: false,
            group_concurrency: 1,
            downsample_concurrency: 1,
            fetch_concurrency: 32,
            workers: cpus,
            hash: HashFunction::None,
            wait_interval: None,
            max_view_age: Duration::from_secs(600),
            sharing: None,
            shard: None,
            clock: Clock::system(),
        }
    }
}

impl CompactorConfig {
    /// How long a block is kept at a resolution; `None` is for ever.
    pub fn kept(&self, meta: &BlockMeta, resolution: Resolution) -> Option<Duration> {
        let labels = meta.external_labels();
        let rules = self.retention_rules.iter().filter(|rule| rule.matches(&labels));
        match rules.filter_map(|rule| rule.of(resolution)).next() {
            Some(kept) => (!kept.is_zero()).then_some(kept),
            None => self.retention.of(resolution),
        }
    }
}

/// How long blocks with some external labels are kept, at the resolutions that it speaks of; zero is for ever.
#[derive(Clone, Debug, Default)]
pub struct RetentionRule {
    pub matchers: Vec<Matcher>,
    pub raw: Option<Duration>,
    pub five_minutes: Option<Duration>,
    pub one_hour: Option<Duration>,
}

impl RetentionRule {
    fn matches(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches_labels(labels))
    }

    fn of(&self, resolution: Resolution) -> Option<Duration> {
        match resolution {
            Resolution::Raw => self.raw,
            Resolution::FiveMinutes => self.five_minutes,
            Resolution::OneHour => self.one_hour,
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
