//! What is left to do, as the plans say, and how long it may take, as the work so far says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parallax_block::BlockMeta;
use parallax_model::Resolution;
use serde::Serialize;

use super::Pass;
use crate::plan::{Outlook, outlook, size_of};

/// At most so many groups are told of one by one: those with the most to do.
const MAX_GROUPS: usize = 100;

/// What is left to do in the bucket, set-aside groups aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Compactions until nothing is left to compact.
    pub compactions: usize,
    pub compaction_blocks: usize,
    /// What they will have read, as far as `meta.json` tells the sizes of files.
    pub compaction_bytes: u64,
    pub downsample_blocks: usize,
    pub downsample_bytes: u64,
    pub deletion_blocks: usize,
    /// Since the process began.
    pub done_compactions: u64,
    pub done_downsamples: u64,
    /// How long compactions and downsampling may take, at the speed of what was done so far; `None` before anything was.
    pub eta_seconds: Option<u64>,
    /// By the group's key.
    pub groups: BTreeMap<String, GroupProgress>,
}

/// What is left to compact in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupProgress {
    pub labels: BTreeMap<String, String>,
    pub resolution_ms: i64,
    #[serde(flatten)]
    pub todo: Outlook,
}

/// How much was done in how long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) size_bytes: u64,
    /// Of all steps together: steps at once count once each.
    pub(crate) took: Duration,
    pub(crate) compactions: u64,
    pub(crate) downsamples: u64,
}

impl Pace {
    /// How long so many bytes take if `at_once` steps run beside each other.
    fn eta(&self, size_bytes: u64, at_once: usize) -> Option<u64> {
        if self.size_bytes == 0 {
            return None;
        }
        let share = size_bytes as f64 / self.size_bytes as f64;
        // A float beyond the range saturates.
        Some((share * self.took.as_secs_f64() / at_once.max(1) as f64).ceil() as u64)
    }
}

impl Pass<'_> {
    pub(super) fn measure_progress(&self) {
        let config = &self.compactor.config;
        let mut progress = Progress::default();
        let no_compact = self.view.no_compact();
        let mut groups = Vec::new();
        for (key, group) in self.view.groups(&config.replica_labels) {
            if self.compactor.quarantine.holds(&group, &no_compact) {
                continue;
            }
            let todo = outlook(&group, &no_compact, &config.plan);
            progress.compactions += todo.compactions;
            progress.compaction_blocks += todo.blocks;
            progress.compaction_bytes = progress.compaction_bytes.saturating_add(todo.size_bytes);
            if todo.compactions > 0 {
                let (labels, resolution_ms) = (group.labels, group.resolution_ms);
                groups.push((key, GroupProgress { labels, resolution_ms, todo }));
            }
        }
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.todo.size_bytes));
        progress.groups = groups.into_iter().take(MAX_GROUPS).collect();
        if config.downsampling {
            let due = [self.due(Resolution::Raw), self.due(Resolution::FiveMinutes)].concat();
            progress.downsample_blocks = due.len();
            progress.downsample_bytes = due.iter().map(|meta| size_of(meta)).sum();
        }
        let is_due =
            |meta: &&Arc<BlockMeta>| self.retires(meta) && !self.view.is_marked_for_deletion(meta.ulid);
        progress.deletion_blocks = self.view.blocks.values().filter(is_due).count();
        let pace = self.compactor.pace();
        let todo_bytes = progress.compaction_bytes.saturating_add(progress.downsample_bytes);
        progress.eta_seconds = pace.eta(todo_bytes, config.group_concurrency);
        (progress.done_compactions, progress.done_downsamples) = (pace.compactions, pace.downsamples);
        let metrics = self.metrics();
        for (gauge, count) in [
            (&metrics.todo_compactions, progress.compactions),
            (&metrics.todo_compaction_blocks, progress.compaction_blocks),
            (&metrics.todo_downsample_blocks, progress.downsample_blocks),
            (&metrics.todo_deletion_blocks, progress.deletion_blocks),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.compactor.note_progress(progress);
    }

    /// Notes that blocks were worked on, since `began` by the compactor's clock.
    pub(super) fn note_done(&self, blocks: &[Arc<BlockMeta>], began: Duration, is_compaction: bool) {
        let took = self.compactor.config.clock.since(began);
        let size_bytes = blocks.iter().map(|meta| size_of(meta)).sum();
        self.compactor.note_done(Pace {
            size_bytes,
            took,
            compactions: u64::from(is_compaction),
            downsamples: u64::from(!is_compaction),
        });
    }
}
