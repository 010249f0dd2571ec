//! What a compactor counts, under Thanos' names.

use std::time::Duration;

use parallax_block::DeletionMark;
use parallax_model::Resolution;
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::view::mark_name;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResolutionLabels {
    resolution: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MarkLabels {
    marker: &'static str,
    reason: &'static str,
}

type ByResolution = Family<ResolutionLabels, Counter>;

/// Upper bounds, in seconds, of the duration of a search for covered blocks: Thanos' own.
const GARBAGE_BOUNDS_SECONDS: [f64; 16] =
    [0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0, 240.0, 360.0, 720.0];

/// A histogram that can be made without arguments.
#[derive(Clone, Debug)]
pub(crate) struct GarbageSeconds(Histogram);

impl Default for GarbageSeconds {
    fn default() -> Self {
        Self(Histogram::new(GARBAGE_BOUNDS_SECONDS))
    }
}

/// A clone counts into the same numbers.
#[derive(Clone, Debug, Default)]
pub struct CompactorMetrics {
    halted: Gauge,
    pub(crate) quarantined: Gauge,
    pub(crate) retries: Counter,
    pub(crate) iterations: Counter,
    pub(crate) cleanup_loops: Counter,
    pub(crate) partial_deletions: Counter,
    pub(crate) cleaned: Counter,
    pub(crate) cleanup_failures: Counter,
    pub(crate) garbage_collected: Counter,
    pub(crate) garbage_collections: Counter,
    pub(crate) garbage_collection_failures: Counter,
    garbage_collection_seconds: GarbageSeconds,
    marked_for_deletion: Counter,
    marked: Family<MarkLabels, Counter>,
    runs_started: ByResolution,
    runs_completed: ByResolution,
    compactions: ByResolution,
    vertical_compactions: ByResolution,
    compaction_failures: ByResolution,
    downsamples: ByResolution,
    downsample_failures: ByResolution,
    pub(crate) todo_compactions: Gauge,
    pub(crate) todo_compaction_blocks: Gauge,
    pub(crate) todo_downsample_blocks: Gauge,
    pub(crate) todo_deletion_blocks: Gauge,
    delete_delay_seconds: Gauge,
}

/// What happened to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupEvent {
    Started,
    Completed,
    Compacted,
    CompactedVertically,
    Failed,
    Downsampled,
    DownsampleFailed,
}

impl GroupEvent {
    const ALL: [Self; 7] = [
        Self::Started,
        Self::Completed,
        Self::Compacted,
        Self::CompactedVertically,
        Self::Failed,
        Self::Downsampled,
        Self::DownsampleFailed,
    ];
}

impl CompactorMetrics {
    pub fn register(registry: &Metrics, delete_delay: Duration) -> Self {
        let fresh = Self::default();
        let counter = |name, help, metric| registry.register(name, help, metric);
        let family = |name, help, metric: ByResolution| registry.register(name, help, metric);
        let gauge = |name, help, metric: Gauge| registry.register(name, help, metric);
        let metrics = Self {
            halted: gauge(
                "thanos_compact_halted",
                "Always 0: a bad group is set aside, the others go on",
                fresh.halted,
            ),
            quarantined: gauge(
                "parallax_compact_quarantined_groups",
                "Groups that are set aside",
                fresh.quarantined,
            ),
            retries: counter("thanos_compact_retries", "Errors that are tried again", fresh.retries),
            iterations: counter(
                "thanos_compact_iterations",
                "Passes over the bucket that finished",
                fresh.iterations,
            ),
            cleanup_loops: counter(
                "thanos_compact_block_cleanup_loops",
                "Cleanups of marked and partial blocks",
                fresh.cleanup_loops,
            ),
            partial_deletions: counter(
                "thanos_compact_aborted_partial_uploads_deletion_attempts",
                "Deletions begun of blocks whose upload was given up",
                fresh.partial_deletions,
            ),
            cleaned: counter("thanos_compact_blocks_cleaned", "Blocks deleted", fresh.cleaned),
            cleanup_failures: counter(
                "thanos_compact_block_cleanup_failures",
                "Blocks that could not be deleted",
                fresh.cleanup_failures,
            ),
            garbage_collected: counter(
                "thanos_compact_garbage_collected_blocks",
                "Blocks marked because another holds all they hold",
                fresh.garbage_collected,
            ),
            garbage_collections: counter(
                "thanos_compact_garbage_collection",
                "Searches for such blocks",
                fresh.garbage_collections,
            ),
            garbage_collection_failures: counter(
                "thanos_compact_garbage_collection_failures",
                "Such blocks that could not be marked, or may not be",
                fresh.garbage_collection_failures,
            ),
            garbage_collection_seconds: GarbageSeconds(registry.register(
                "thanos_compact_garbage_collection_duration_seconds",
                "Duration of a search for such blocks",
                fresh.garbage_collection_seconds.0,
            )),
            marked_for_deletion: counter(
                "thanos_compact_blocks_marked_for_deletion",
                "Blocks marked for deletion: the name that Thanos' dashboards ask for",
                fresh.marked_for_deletion,
            ),
            marked: registry.register(
                "thanos_compact_blocks_marked",
                "Blocks marked, by kind and reason",
                fresh.marked,
            ),
            runs_started: family(
                "thanos_compact_group_compaction_runs_started",
                "Groups looked at",
                fresh.runs_started,
            ),
            runs_completed: family(
                "thanos_compact_group_compaction_runs_completed",
                "Groups looked at without an error",
                fresh.runs_completed,
            ),
            compactions: family(
                "thanos_compact_group_compactions",
                "Compactions that made a block",
                fresh.compactions,
            ),
            vertical_compactions: family(
                "thanos_compact_group_vertical_compactions",
                "Compactions of overlapping blocks that made a block",
                fresh.vertical_compactions,
            ),
            compaction_failures: family(
                "thanos_compact_group_compactions_failures",
                "Compactions that failed",
                fresh.compaction_failures,
            ),
            downsamples: family("thanos_compact_downsample", "Blocks downsampled", fresh.downsamples),
            downsample_failures: {
                let help = "Blocks whose downsampling failed";
                let failures = family("thanos_compact_downsample_failures", help, fresh.downsample_failures);
                // The name that Thanos' dashboards ask for.
                family("thanos_compact_downsample_failed", help, failures)
            },
            todo_compactions: gauge(
                "thanos_compact_todo_compactions",
                "Compactions that are planned",
                fresh.todo_compactions,
            ),
            todo_compaction_blocks: gauge(
                "thanos_compact_todo_compaction_blocks",
                "Blocks that are planned to be compacted",
                fresh.todo_compaction_blocks,
            ),
            todo_downsample_blocks: gauge(
                "thanos_compact_todo_downsample_blocks",
                "Blocks that are planned to be downsampled",
                fresh.todo_downsample_blocks,
            ),
            todo_deletion_blocks: gauge(
                "thanos_compact_todo_deletion_blocks",
                "Blocks that have crossed their retention",
                fresh.todo_deletion_blocks,
            ),
            delete_delay_seconds: gauge(
                "thanos_delete_delay_seconds",
                "The delay between a deletion mark and the deletion",
                fresh.delete_delay_seconds,
            ),
        };
        metrics.delete_delay_seconds.set(i64::try_from(delete_delay.as_secs()).unwrap_or(i64::MAX));
        metrics.begin();
        metrics
    }

    /// Makes the series of every resolution exist, at zero, so that rates see the first event.
    fn begin(&self) {
        for resolution in Resolution::ALL {
            let labels = ResolutionLabels { resolution: resolution.millis().to_string() };
            for family in GroupEvent::ALL.into_iter().flat_map(|event| self.families(event)) {
                drop(family.get_or_create(&labels));
            }
        }
        drop(self.marked.get_or_create(&MarkLabels { marker: mark_name::<DeletionMark>(), reason: "" }));
    }

    fn families(&self, event: GroupEvent) -> Vec<&ByResolution> {
        match event {
            GroupEvent::Started => vec![&self.runs_started],
            GroupEvent::Completed => vec![&self.runs_completed],
            GroupEvent::Compacted => vec![&self.compactions],
            GroupEvent::CompactedVertically => vec![&self.compactions, &self.vertical_compactions],
            GroupEvent::Failed => vec![&self.compaction_failures],
            GroupEvent::Downsampled => vec![&self.downsamples],
            GroupEvent::DownsampleFailed => vec![&self.downsample_failures],
        }
    }

    pub(crate) fn count(&self, event: GroupEvent, resolution_ms: i64) {
        for family in self.families(event) {
            family.get_or_create(&ResolutionLabels { resolution: resolution_ms.to_string() }).inc();
        }
    }

    pub(crate) fn marked(&self, marker: &'static str, reason: &'static str) {
        self.marked.get_or_create(&MarkLabels { marker, reason }).inc();
        if marker == mark_name::<DeletionMark>() {
            self.marked_for_deletion.inc();
        }
    }

    pub(crate) fn garbage_collected_in(&self, took: Duration) {
        self.garbage_collection_seconds.0.observe(took.as_secs_f64());
    }
}
