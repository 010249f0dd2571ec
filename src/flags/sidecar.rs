//! Flags of `parallax sidecar`.

use super::Flag;
use super::Kind::{Duration, Number, Switch, Text, Time};
use super::common;

const RELOADER: &str = "the reloader comes with a later version; run Prometheus' config-reloader beside it";

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
            "HTTP client options as YAML (basic_auth, bearer_token_file; tls_config is read, and used by nothing yet)",
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
        Flag::new("shipper.upload-concurrency", Number, "0", "Files of a block uploaded at once")
            .no_effect("the files of a block go up one after the other"),
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
        Flag::new("reloader.config-file", Text, "", "").refused(RELOADER),
        Flag::new("reloader.config-envsubst-file", Text, "", "").refused(RELOADER),
        Flag::new("reloader.rule-dir", Text, "", "").refused(RELOADER),
        Flag::new("reloader.watch-interval", Duration, "3m", "Reloader").no_effect(RELOADER),
        Flag::new("reloader.retry-interval", Duration, "5s", "Reloader").no_effect(RELOADER),
        Flag::new("reloader.method", Text, "http", "Reloader").no_effect(RELOADER),
        Flag::new("reloader.process-name", Text, "prometheus", "Reloader").no_effect(RELOADER),
    ];
    [own, common::series_limits(), common::objstore(), common::server(), common::process()].concat()
}
