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
    tool("replicate", "Copy blocks to another bucket", replicate),
    tool("rewrite", "Write blocks anew without some of their samples", rewrite),
    tool("upload-blocks", "Upload the blocks of a directory", upload_blocks),
    tool("web", "Serve a page with the blocks of a bucket", web),
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

fn replicate() -> Vec<Flag> {
    let own = vec![
        output("table"),
        dry_run(),
        Flag::new("objstore-to.config", Text, "", "The bucket to copy to, as YAML (type, config, prefix)"),
        Flag::new("objstore-to.config-file", Text, "", "File with the bucket to copy to, as YAML"),
        Flag::new("data-dir", Text, "./data", "Directory for files on their way"),
        Flag::new("id", List, "", "Only these blocks, whatever their level and resolution"),
        Flag::new("resolution", List, "0s,5m,1h", "Only blocks of these resolutions"),
        Flag::new("compaction-min", Number, "1", "Only blocks of at least this compaction level"),
        Flag::new("compaction-max", Number, "4", "Only blocks of at most this compaction level"),
        Flag::new("compaction", List, "", "Only blocks of these compaction levels, instead of a range"),
        Flag::new("matcher", List, "", "Only blocks with these external labels: cluster=~\"eu-.*\""),
        Flag::new(
            "ignore-marked-for-deletion",
            Switch,
            "false",
            "Do not copy blocks that are marked for deletion",
        ),
        Flag::new("single-run", Switch, "true", "Copy once, then end")
            .no_effect("it runs once; start it again for what has come since"),
    ];
    with_common([own, time_range()].concat())
}

fn rewrite() -> Vec<Flag> {
    const RELABEL: &str = "relabelling blocks comes with a later version; run `thanos tools bucket rewrite` on the \
                           same bucket";
    with_common(vec![
        output("table"),
        Flag::new("dry-run", Switch, "true", "Only count what would be left (--no-dry-run to do it)"),
        Flag::new("id", List, "", "The blocks"),
        Flag::new("tmp.dir", Text, "./data/tools/rewrite", "Directory in which blocks are staged"),
        Flag::new("rewrite.to-delete-config", Text, "", "YAML of matchers and intervals that are deleted"),
        Flag::new("rewrite.to-delete-config-file", Text, "", "File with that YAML"),
        Flag::new("rewrite.to-relabel-config", Text, "", "Relabel rules").refused(RELABEL),
        Flag::new("rewrite.to-relabel-config-file", Text, "", "Relabel rules").refused(RELABEL),
        Flag::new("rewrite.add-change-log", Switch, "true", "Write a list of all changes").no_effect(
            "what was asked for stands in the new block's meta.json, and what was left in the table",
        ),
        Flag::new("delete-blocks", Switch, "false", "Mark the old blocks for deletion"),
        Flag::new("prom-blocks", Switch, "false", "Take blocks without external labels")
            .refused("a block in a bucket needs external labels: see upload-blocks --label"),
        Flag::new("hash-func", Text, "", "Hash of uploaded files in meta.json: empty or SHA256"),
    ])
}

fn upload_blocks() -> Vec<Flag> {
    with_common(vec![
        output("table"),
        dry_run(),
        Flag::new("path", Text, "./data", "The directory with the blocks"),
        Flag::new("label", List, "", "External labels, besides those in meta.json: cluster=\"eu-1\""),
        Flag::new("shipper.upload-compacted", Switch, "false", "Also blocks that were compacted"),
        Flag::new("shipper.upload-concurrency", Number, "5", "Files of chunks of a block uploaded at once"),
    ])
}

fn web() -> Vec<Flag> {
    const AT_ROOT: &str = "links are relative, so that the page works beneath any prefix";
    let own = vec![
        Flag::new("http-address", Text, "0.0.0.0:10902", "Address of the HTTP server"),
        common::http_config(),
        Flag::new("refresh", Duration, "30m", "How often the bucket is read"),
        Flag::new("timeout", Duration, "5m", "How long reading the bucket may take"),
        Flag::new("label", Text, "", "External label by which blocks are grouped"),
        Flag::new("web.route-prefix", Text, "", "Prefix of paths").no_effect(AT_ROOT),
        Flag::new("web.external-prefix", Text, "", "Prefix of links").no_effect(AT_ROOT),
        Flag::new("web.prefix-header", Text, "", "Header with the prefix of links").no_effect(AT_ROOT),
        Flag::new("web.disable-cors", Switch, "false", "No CORS headers")
            .no_effect("there are none in this version"),
        Flag::new("disable-admin-operations", Switch, "false", "Leave out calls that mark blocks")
            .no_effect("there are no such calls: use `tools bucket mark`"),
    ];
    with_common([own, selector(), time_range()].concat())
}
