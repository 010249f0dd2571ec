//! Flags of `parallax sidecar`.

use super::Flag;
use super::Kind::{Duration, List, Number, Switch, Text, Time};
use super::common;

/// The Prometheus Operator passes tracing to every sidecar of a Prometheus that has it, so it cannot be refused here.
const NO_TRACES: &str = "this version exports no traces; the sidecar runs without";

pub(super) fn flags() -> Vec<Flag> {
    let own = vec![
        Flag::new("prometheus.url", Text, "http://localhost:9090", "URL of Prometheus"),
        Flag::new("prometheus.ready_timeout", Duration, "10m", "How long to wait for Prometheus to be ready"),
        Flag::new("prometheus.get_config_interval", Duration, "30s", "How often external labels are read"),
        Flag::new("prometheus.get_config_timeout", Duration, "30s", "How long one such read may take"),
        Flag::new(
            "prometheus.http-client",
            Text,
            "",
            "HTTP client options as YAML (basic_auth, bearer_token, bearer_token_file, tls_config)",
        ),
        Flag::new("prometheus.http-client-file", Text, "", "File with the HTTP client options"),
        Flag::new("tsdb.path", Text, "./data", "Prometheus' data directory"),
        Flag::new("min-time", Time, "0000-01-01T00:00:00Z", "Start of the data this sidecar serves"),
        Flag::new(
            "shipper.upload-compacted",
            Switch,
            "false",
            "Also upload blocks that Prometheus compacted",
        ),
        Flag::new(
            "shipper.meta-file-name",
            Text,
            "thanos.shipper.json",
            "File in --tsdb.path that lists uploaded blocks",
        ),
        Flag::new(
            "shipper.upload-concurrency",
            Number,
            "0",
            "Files of chunks of a block uploaded at once (at most 64); 0 is one. Index and meta.json follow, in this order",
        ),
        Flag::new(
            "shipper.ignore-unequal-block-size",
            Switch,
            "false",
            "Upload although block durations are unequal",
        ),
        Flag::new(
            "shipper.allow-out-of-order-uploads",
            Switch,
            "false",
            "Go on with newer blocks when one fails",
        ),
        Flag::new("shipper.skip-corrupted-blocks", Switch, "false", "Skip blocks that cannot be read")
            .no_effect("corrupted blocks are always reported and skipped, and the rest goes on"),
        Flag::new("hash-func", Text, "", "Hash of uploaded files in meta.json: empty or SHA256"),
        Flag::new("reloader.config-file", Text, "", "Prometheus' configuration file to watch; may be gzip"),
        Flag::new(
            "reloader.config-envsubst-file",
            Text,
            "",
            "Where the watched configuration is written with $(NAME) replaced from the environment",
        ),
        Flag::new("reloader.rule-dir", List, "", "Directories of rule files to watch (repeated)"),
        Flag::new(
            "reloader.watch-interval",
            Duration,
            "3m",
            "How often configuration and rules are read again",
        ),
        Flag::new("reloader.retry-interval", Duration, "5s", "How long after a failure it is tried again"),
        Flag::new("reloader.method", Text, "http", "How Prometheus is told to reload: http or signal"),
        Flag::new("reloader.process-name", Text, "prometheus", "Whom to signal where the method is signal"),
        Flag::new(
            "reloader.tolerate-unset-variables",
            Switch,
            "false",
            "Leave references to variables that are not set as they are, instead of refusing the configuration",
        ),
    ];
    let process = common::process().into_iter().map(|flag| match flag.name {
        "tracing.config" | "tracing.config-file" => flag.no_effect(NO_TRACES),
        _ => flag,
    });
    [own, common::series_limits(), common::objstore(), common::server(), process.collect()].concat()
}
