//! Flags of `parallax tools bucket …`.

use super::Kind::{Duration, List, Number, Switch, Text, Time};
use super::{Component, Flag, common};

/// The tools of a bucket, in the order of the help.
pub const BUCKET_TOOLS: &[Component] = &[
    tool("ls", "List the blocks of a bucket", ls),
    tool("inspect", "A table of the blocks of a bucket", inspect),
    tool("verify", "Look for what is wrong with the blocks of a bucket; nothing is changed", verify),
    tool("mark", "Place or remove a mark on blocks", mark),
    tool("cleanup", "Delete what was marked long enough ago and uploads that were given up", cleanup),
    tool("retention", "Mark blocks for deletion that are past their retention", retention),
    tool("downsample", "Downsample the blocks that are long enough, once", downsample),
];

const fn tool(name: &'static str, about: &'static str, flags: fn() -> Vec<Flag>) -> Component {
    Component { name, about, flags, unbuilt: None }
}

fn with_common(own: Vec<Flag>) -> Vec<Flag> {
    [own, concurrency(), common::objstore(), common::process()].concat()
}

fn concurrency() -> Vec<Flag> {
    vec![Flag::new("block-sync-concurrency", Number, "20", "meta.json files and marks fetched at once")]
}

fn output(default: &'static str) -> Flag {
    Flag::new("output", Text, default, "Form of the output: table, wide, csv, tsv or json")
}

fn dry_run() -> Flag {
    Flag::new("dry-run", Switch, "false", "Only say what would be done")
}

fn time_range() -> Vec<Flag> {
    vec![
        Flag::new("min-time", Time, "0000-01-01T00:00:00Z", "Start of the data that is looked at"),
        Flag::new("max-time", Time, "9999-12-31T23:59:59Z", "End of the data that is looked at"),
    ]
}

fn ls() -> Vec<Flag> {
    let own = vec![
        output(""),
        Flag::new("exclude-delete", Switch, "false", "Leave out blocks that are marked for deletion"),
    ];
    with_common([own, selector(), time_range()].concat())
}

fn selector() -> Vec<Flag> {
    vec![Flag::new("selector", List, "", "Only blocks with these external labels: cluster=\"eu-1\"")]
}

fn inspect() -> Vec<Flag> {
    let own = vec![
        output("table"),
        Flag::new("sort-by", List, "", "Columns to sort by, such as FROM,UNTIL; FROM without any"),
    ];
    with_common([own, selector(), time_range()].concat())
}

fn verify() -> Vec<Flag> {
    const REPAIR: &str =
        "repairs come with a later version; mark the block with `tools bucket mark`, or upload it anew";
    with_common(vec![
        output("table"),
        Flag::new(
            "issues",
            List,
            "index_known_issues,overlapped_blocks,duplicated_compaction",
            "What to look for",
        ),
        Flag::new("id", List, "", "Only these blocks"),
        Flag::new("repair", Switch, "false", "Repair blocks").refused(REPAIR),
        Flag::new("delete-delay", Duration, "0s", "Repair blocks").no_effect(REPAIR),
    ])
}

fn mark() -> Vec<Flag> {
    with_common(vec![
        output("table"),
        Flag::new("id", List, "", "The blocks"),
        Flag::new("marker", Text, "", "deletion-mark.json, no-compact-mark.json or no-downsample-mark.json"),
        Flag::new("details", Text, "", "Why, for people"),
        Flag::new("remove", Switch, "false", "Remove the mark"),
        dry_run(),
    ])
}

/// What cleaning, retention and downsampling have in common with `parallax compact`.
fn chore() -> Vec<Flag> {
    vec![
        output("table"),
        dry_run(),
        Flag::new("data-dir", Text, "./data", "Directory in which blocks are staged and metas are kept"),
        Flag::new("consistency-delay", Duration, "30m", "Age before a new block is looked at"),
        Flag::new("delete-delay", Duration, "48h", "Age of a deletion mark before its block is deleted"),
        Flag::new(
            "deduplication.replica-label",
            List,
            "",
            "External labels that tell replicas apart, as given to compact",
        ),
    ]
}

fn cleanup() -> Vec<Flag> {
    with_common(chore())
}

fn retention() -> Vec<Flag> {
    let own = vec![
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
            "YAML file with rules by external labels and resolution",
        ),
        Flag::new(
            "downsampling.disable",
            Switch,
            "false",
            "Do not wait for what would have to be downsampled first",
        ),
    ];
    with_common([own, chore()].concat())
}

fn downsample() -> Vec<Flag> {
    let own = vec![
        Flag::new("downsample.concurrency", Number, "1", "Blocks downsampled at once"),
        Flag::new("hash-func", Text, "", "Hash of uploaded files in meta.json: empty or SHA256"),
        Flag::new("block-files-concurrency", Number, "1", "Files of a block fetched at once")
            .no_effect("blocks are read by ranges while they are downsampled"),
        Flag::new("wait-interval", Duration, "5m", "Pause between runs")
            .no_effect("it runs once; `parallax compact --wait` goes on for ever"),
    ];
    with_common([own, chore()].concat())
}
