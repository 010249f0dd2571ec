//! Flags of `parallax compact`.

use super::Flag;
use super::Kind::{Bytes, Duration, List, Number, Switch, Text, Time};
use super::common;

const STREAMED: &str = "blocks are read by ranges while they are merged; nothing is downloaded first";
const QUARANTINE: &str =
    "a group that cannot be compacted is set aside with its reason, and the others go on";
const WEB: &str =
    "the block viewer comes with a later version; GET /api/v1/compactor tells what is left to do";

pub(super) fn flags() -> Vec<Flag> {
    let http: Vec<Flag> = common::server().into_iter().filter(|flag| flag.name.starts_with("http")).collect();
    [work(), retention(), without_effect(), http, selector(), common::objstore(), common::process()].concat()
}

fn work() -> Vec<Flag> {
    vec![
        Flag::new("data-dir", Text, "./data", "Directory in which new blocks are staged"),
        Flag::new("wait", Switch, "false", "Go on with another pass after --wait-interval, for ever"),
        Flag::new("wait-interval", Duration, "5m", "Pause between two passes with --wait"),
        Flag::new("consistency-delay", Duration, "30m", "Age before a new block is looked at"),
        Flag::new("min-time", Time, "0000-01-01T00:00:00Z", "Start of the data that is compacted"),
        Flag::new("max-time", Time, "9999-12-31T23:59:59Z", "End of the data that is compacted"),
        Flag::new("compact.concurrency", Number, "1", "Groups compacted at once"),
        Flag::new("downsample.concurrency", Number, "1", "Blocks downsampled at once"),
        Flag::new("block-meta-fetch-concurrency", Number, "32", "meta.json files and marks fetched at once"),
        Flag::new(
            "compact.enable-vertical-compaction",
            Switch,
            "false",
            "Merge blocks that overlap in time, keeping one sample per timestamp",
        ),
        Flag::new(
            "deduplication.func",
            Text,
            "",
            "How overlapping blocks are merged: empty (one to one) or penalty",
        ),
        Flag::new(
            "deduplication.replica-label",
            List,
            "",
            "External labels that tell replicas apart; their blocks are merged",
        ),
        Flag::new("compact.block-max-index-size", Bytes, "64GB", "Largest index that a new block may have"),
        Flag::new(
            "compact.skip-block-with-out-of-order-chunks",
            Switch,
            "false",
            "Mark blocks whose chunks are out of order as not to be compacted, and go on without them",
        ),
        Flag::new(
            "debug.max-compaction-level",
            Number,
            "4",
            "How many of the ranges 2h, 8h, 2d, 14d are used",
        ),
        Flag::new(
            "compact.shared",
            Switch,
            "false",
            "Share the bucket with other compactors, through leases of groups in the bucket (needs conditional writes: S3, GCS, AZURE)",
        ),
        Flag::new("compact.lease-duration", Duration, "5m", "How long a lease lasts unless it is renewed"),
        Flag::new("shard", Text, "", "Compact only a part of the groups: 0/3, 1/3, 2/3 for three compactors"),
        Flag::new("hash-func", Text, "", "Hash of uploaded files in meta.json: empty or SHA256"),
    ]
}

/// As of `parallax store`, but for the names of blocks.
pub(super) fn selector() -> Vec<Flag> {
    vec![
        Flag::new(
            "selector.relabel-config",
            Text,
            "",
            "YAML of relabel rules (keep, drop, hashmod) on external labels: which blocks are this compactor's",
        ),
        Flag::new(
            "selector.relabel-config-file",
            Text,
            "",
            "File with the YAML of --selector.relabel-config",
        ),
    ]
}

fn retention() -> Vec<Flag> {
    vec![
        Flag::new(
            "retention.resolution-raw",
            Duration,
            "0d",
            "How long raw samples are kept; 0d is for ever",
        ),
        Flag::new(
            "retention.resolution-5m",
            Duration,
            "0d",
            "How long 5m aggregates are kept; 0d is for ever",
        ),
        Flag::new(
            "retention.resolution-1h",
            Duration,
            "0d",
            "How long 1h aggregates are kept; 0d is for ever",
        ),
        Flag::new(
            "retention.policy-file",
            Text,
            "",
            "YAML file with rules of how long blocks are kept, by external labels and resolution",
        ),
        Flag::new(
            "retention.dry-run",
            Switch,
            "false",
            "Only log which blocks are past their retention; mark none of them",
        ),
        Flag::new("downsampling.disable", Switch, "false", "Do not downsample"),
        Flag::new("delete-delay", Duration, "48h", "Age of a deletion mark before its block is deleted"),
    ]
}

fn without_effect() -> Vec<Flag> {
    vec![
        Flag::new("block-discovery-strategy", Text, "concurrent", "concurrent or recursive listing")
            .no_effect("one listing per pass finds blocks"),
        Flag::new("block-files-concurrency", Number, "1", "Files of a block fetched at once")
            .no_effect(STREAMED),
        Flag::new("compact.blocks-fetch-concurrency", Number, "1", "Blocks downloaded at once")
            .no_effect(STREAMED),
        Flag::new(
            "compact.cleanup-interval",
            Duration,
            "5m",
            "How often marked and partial blocks are cleaned",
        )
        .no_effect("marked blocks are deleted when a pass reads the bucket, partial ones when it ends"),
        Flag::new("compact.progress-interval", Duration, "5m", "How often progress is measured")
            .no_effect("it is measured at the end of each pass"),
        Flag::new("debug.halt-on-error", Switch, "true", "Halt on a critical error").no_effect(QUARANTINE),
        Flag::new("debug.accept-malformed-index", Switch, "false", "Accept labels out of order")
            .no_effect(QUARANTINE),
        Flag::new("disable-admin-operations", Switch, "false", "Leave out the HTTP calls that mark blocks")
            .no_effect("there are no such calls in this version"),
        Flag::new("block-viewer.global.sync-block-interval", Duration, "1m", "Block viewer").no_effect(WEB),
        Flag::new("block-viewer.global.sync-block-timeout", Duration, "5m", "Block viewer").no_effect(WEB),
        Flag::new("web.disable", Switch, "false", "Leave out the block viewer").no_effect(WEB),
        Flag::new("web.disable-cors", Switch, "false", "Block viewer").no_effect(WEB),
        Flag::new("web.external-prefix", Text, "", "Block viewer").no_effect(WEB),
        Flag::new("web.prefix-header", Text, "", "Block viewer").no_effect(WEB),
        Flag::new("bucket-web-label", Text, "", "Block viewer").no_effect(WEB),
    ]
}
