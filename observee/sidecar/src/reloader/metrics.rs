//! The reloader's metrics, with Thanos' names, and one of ours for files that are not YAML.

use std::sync::atomic::AtomicU64;

use parallax_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Clone)]
pub(super) struct ReloaderMetrics {
    pub reloads: Counter,
    pub failed_reloads: Counter,
    pub last_successful: Gauge,
    pub last_success_seconds: Gauge<f64, AtomicU64>,
    pub applies: Counter,
    pub failed_applies: Counter,
    pub unset_variables: Gauge,
    pub watches: Gauge,
    pub watch_events: Counter,
    pub watch_errors: Counter,
    pub not_yaml: Gauge,
}

impl ReloaderMetrics {
    pub fn new(metrics: &Metrics, method: &str) -> Self {
        let counter = |name: &str, help: &str| {
            metrics.register(&format!("thanos_sidecar_reloader_{name}"), help, Counter::default())
        };
        let gauge = |name: &str, help: &str| {
            metrics.register(&format!("thanos_sidecar_reloader_{name}"), help, Gauge::default())
        };
        let info = metrics.register(
            "thanos_sidecar_reloader_info",
            "Always 1, with the way in which Prometheus is told: http or signal",
            Family::<[(String, String); 1], Gauge>::default(),
        );
        info.get_or_create(&[("method".to_owned(), method.to_owned())]).set(1);
        Self {
            reloads: counter("reloads", "Times that Prometheus was told to reload"),
            failed_reloads: counter("reloads_failed", "Times that Prometheus did not reload"),
            last_successful: gauge("last_reload_successful", "Whether the last reload was successful"),
            last_success_seconds: metrics.register(
                "thanos_sidecar_reloader_last_reload_success_timestamp_seconds",
                "When Prometheus last reloaded, in seconds since the epoch",
                Gauge::default(),
            ),
            applies: counter("config_apply_operations", "Times that configuration and rules were read"),
            failed_applies: counter(
                "config_apply_operations_failed",
                "Times that configuration or rules could not be read or written",
            ),
            unset_variables: gauge(
                "config_environment_variable_expansion_errors",
                "Variables in the configuration that the environment did not have at the last look",
            ),
            watches: gauge("watches", "Files and directories that are watched"),
            watch_events: counter("watch_events", "Changes of files and directories that were seen"),
            watch_errors: counter("watch_errors", "Times that files or directories could not be looked at"),
            not_yaml: metrics.register(
                "parallax_sidecar_reloader_files_not_yaml",
                "Configuration and rule files that were not YAML at the last look; the log names them",
                Gauge::default(),
            ),
        }
    }
}
