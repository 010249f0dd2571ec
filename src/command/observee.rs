//! `parallax observee --config F`: one cluster's side of the mesh in one process.
//!
//! A sidecar (and shipper) per Prometheus replica, joined behind one StoreAPI that asks for an observer's certificate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use parallax_block::Selector;
use parallax_bucket::{Access, Bucket};
use parallax_compactor::{Compactor, CompactorConfig, LeaseConfig, Retention, RetentionRule};
use parallax_net::{Context, GrpcServerConfig};
use parallax_pki::Purpose;
use parallax_querier::{Connection, EndpointConfig, EndpointOptions, EndpointSet, Proxy, ProxyConfig};
use parallax_sidecar::{ReloadMethod, ReloaderConfig, ShipperConfig, Sidecar, SidecarConfig};
use serde::Deserialize;

use super::callers::{self, LabelPolicy};
use super::compact::{merge_mode, selector, shard, sharing};
use super::side_file::{self, DurationText, TimeText};
use super::tls::{self, TlsFiles};
use super::{objstore, retention_policy};
use crate::process::{self, Failure};
use crate::serve::{Addresses, Listeners};

/// Most Prometheus servers of one observee.
const MAX_PROMETHEUS: usize = 64;

/// Pause between two passes of the compactor, unless the file says otherwise.
const COMPACT_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How long a lease of a group lasts, unless the file says otherwise.
const LEASE_DURATION: Duration = Duration::from_secs(5 * 60);

/// The observee's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObserveeFile {
    /// The cluster's name: the `cluster` external label of each Prometheus must be the same.
    cluster: String,
    #[serde(default = "side_file::http_address")]
    http_address: String,
    /// TLS and passwords of the HTTP server: a file as of `--http.config`.
    http_config_file: Option<PathBuf>,
    #[serde(default = "side_file::grpc_address")]
    grpc_address: String,
    /// Without it the StoreAPI is plain text, for an ingress on the same host.
    tls: Option<TlsFiles>,
    /// Who may call the StoreAPI, such as `observer/hub`; without it, whoever shows a certificate of the CA.
    allowed_observers: Option<Vec<String>>,
    /// The header in which an ingress before the StoreAPI passes client certificates on: `xfcc`, `nginx`, `ingress-nginx` or `traefik`.
    forwarded_certificates: Option<String>,
    /// Which series callers of the StoreAPI may read, by who they are: as `--label-policy.config`. Without it, all.
    label_policy: Option<serde_json::Value>,
    prometheus: Vec<PrometheusSection>,
    /// Thanos' objstore YAML. Without it nothing is shipped.
    bucket: Option<serde_json::Value>,
    /// Compacts the bucket in this process. Other compactors may work on the bucket only if all of them share it, or each has a part of its own.
    compact: Option<CompactSection>,
}

/// As the flags of `parallax compact` of the same names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompactSection {
    data_dir: PathBuf,
    #[serde(default)]
    deduplication_func: String,
    #[serde(default)]
    deduplication_replica_labels: Vec<String>,
    #[serde(default)]
    downsampling_disable: bool,
    retention_resolution_raw: Option<DurationText>,
    retention_resolution_5m: Option<DurationText>,
    retention_resolution_1h: Option<DurationText>,
    retention_policy_file: Option<String>,
    #[serde(default)]
    retention_dry_run: bool,
    /// Share the bucket with other compactors through leases in it.
    #[serde(default)]
    shared: bool,
    lease_duration: Option<DurationText>,
    /// `0/3`: a fixed part of the bucket.
    shard: Option<String>,
    /// Relabel rules, as a list or as text.
    selector_relabel_config: Option<serde_json::Value>,
    concurrency: Option<usize>,
    downsample_concurrency: Option<usize>,
    delete_delay: Option<DurationText>,
    consistency_delay: Option<DurationText>,
    wait_interval: Option<DurationText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrometheusSection {
    url: String,
    /// Prometheus' data directory; needed to ship its blocks.
    tsdb_path: Option<PathBuf>,
    #[serde(default)]
    min_time: TimeText,
    heartbeat_interval: Option<DurationText>,
    ship_interval: Option<DurationText>,
    #[serde(default)]
    upload_compacted: bool,
    /// As `--prometheus.http-client`.
    http_client: Option<serde_json::Value>,
    /// Watches Prometheus' configuration and rules.
    reload: Option<ReloadSection>,
}

/// As the flags `--reloader.*` of `parallax sidecar`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadSection {
    config_file: Option<PathBuf>,
    config_envsubst_file: Option<PathBuf>,
    #[serde(default)]
    rule_dirs: Vec<PathBuf>,
    watch_interval: Option<DurationText>,
    retry_interval: Option<DurationText>,
    /// The process that gets the signal; without it Prometheus is told over HTTP.
    signal_process: Option<String>,
    #[serde(default)]
    tolerate_unset_variables: bool,
}

impl ReloadSection {
    fn config(&self) -> ReloaderConfig {
        let defaults = ReloaderConfig::default();
        let method = self.signal_process.clone().map(|process_name| ReloadMethod::Signal { process_name });
        ReloaderConfig {
            config_file: self.config_file.clone(),
            output_file: self.config_envsubst_file.clone(),
            rule_directories: self.rule_dirs.clone(),
            watch_interval: self.watch_interval.map_or(defaults.watch_interval, |interval| interval.0),
            retry_interval: self.retry_interval.map_or(defaults.retry_interval, |interval| interval.0),
            method: method.unwrap_or(defaults.method),
            tolerate_unset_variables: self.tolerate_unset_variables,
        }
    }
}

pub fn run(path: &str, check_only: bool) -> Result<(), Failure> {
    let file: ObserveeFile = side_file::read(path).map_err(Failure::usage)?;
    file.check().with_context(|| path.to_owned()).map_err(Failure::usage)?;
    if check_only {
        println!("{path}: cluster {} with {} prometheus servers", file.cluster, file.prometheus.len());
        return Ok(());
    }
    process::run(|context| async move {
        let listeners = Listeners::bind(file.addresses().map_err(Failure::usage)?, &context).await?;
        let bucket = file.bucket(&context).map_err(Failure::usage)?;
        let mut endpoints = Vec::new();
        let mut running = futures::stream::FuturesUnordered::new();
        for section in &file.prometheus {
            let scoped = context.scoped([("prometheus", section.url.as_str())]);
            let config = section.config(bucket.as_ref());
            let (sidecar, task) = Sidecar::start(config, &scoped).map_err(Failure::usage)?;
            running.push(task);
            let connection = Connection::Local(sidecar);
            endpoints.push(
                EndpointConfig::new(section.url.as_str(), connection).with_cluster(file.cluster.as_str()),
            );
        }
        let joined = join(endpoints, &context)?;
        let compactor = file.compactor(bucket.as_ref(), &context).map_err(Failure::usage)?;
        let router = compactor.as_ref().map_or_else(Router::new, Compactor::router);
        let compacting = async {
            match compactor {
                Some(compactor) => compactor.start().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            served = listeners.serve(&context, router, Arc::new(joined)) => served?,
            ended = compacting => ended.context("compact")?.context("compact")?,
            ended = futures::StreamExt::next(&mut running) => {
                ended.context("no prometheus is configured")?.context("sidecar")?.context("sidecar")?;
            }
        }
        Ok(())
    })
}

/// The sidecars as one store.
fn join(endpoints: Vec<EndpointConfig>, context: &Context) -> anyhow::Result<Proxy> {
    let options = EndpointOptions { info_interval: Duration::from_secs(1), ..EndpointOptions::default() };
    let set = EndpointSet::start(endpoints, options, &context.metrics, context.shutdown.clone())?;
    Ok(Proxy::new(set, ProxyConfig::default(), &context.metrics))
}

impl ObserveeFile {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.cluster.is_empty(), "cluster: the name is empty");
        ensure!(!self.prometheus.is_empty(), "prometheus: list at least one server");
        ensure!(self.prometheus.len() <= MAX_PROMETHEUS, "prometheus: at most {MAX_PROMETHEUS} servers");
        LabelPolicy::from_section(self.label_policy.as_ref())?;
        if let Some(section) = &self.compact {
            ensure!(self.bucket.is_some(), "compact: there is no bucket to compact");
            section.check().context("compact")?;
        }
        for (index, section) in self.prometheus.iter().enumerate() {
            let duplicate = self.prometheus[..index].iter().any(|other| other.url == section.url);
            ensure!(!duplicate, "prometheus: {} stands there twice", section.url);
            ensure!(
                self.bucket.is_none() || section.tsdb_path.is_some(),
                "prometheus {}: tsdb_path is needed to ship its blocks to the bucket",
                section.url
            );
        }
        Ok(())
    }

    fn addresses(&self) -> anyhow::Result<Addresses> {
        let tls = self.tls.as_ref().map(|files| files.load(Purpose::Server)).transpose().context("tls")?;
        if tls.is_none() {
            tracing::warn!(
                address = self.grpc_address,
                "the StoreAPI is plain text and asks for no certificate"
            );
        }
        let access = tls::access(self.allowed_observers.as_deref(), self.forwarded_certificates.as_deref())
            .context("allowed_observers, forwarded_certificates")?;
        Ok(Addresses {
            http: self.http_address.clone(),
            http_config: self.http_config_file.clone(),
            grpc: Some(GrpcServerConfig { tls, access, ..side_file::grpc_server(&self.grpc_address) }),
            guard: callers::of_store(LabelPolicy::from_section(self.label_policy.as_ref())?),
        })
    }

    fn compactor(
        &self,
        bucket: Option<&Bucket>,
        context: &Context,
    ) -> anyhow::Result<Option<Arc<Compactor>>> {
        let Some((section, bucket)) = self.compact.as_ref().zip(bucket) else { return Ok(None) };
        Ok(Some(Compactor::new(section.config(bucket.clone())?, context)?))
    }

    fn bucket(&self, context: &Context) -> anyhow::Result<Option<Bucket>> {
        let Some(section) = &self.bucket else { return Ok(None) };
        objstore::open(&section.to_string(), Access::Write, context).context("bucket").map(Some)
    }
}

impl CompactSection {
    /// Whether its values can be used, files that it names included.
    fn check(&self) -> anyhow::Result<()> {
        merge_mode(Some(&self.deduplication_func), &self.deduplication_replica_labels)?;
        ensure!(self.shared || self.lease_duration.is_none(), "lease_duration: the bucket is not shared");
        self.sharing()?;
        shard(self.shard.as_deref()).context("shard")?;
        self.selector()?;
        self.retention_rules()?;
        Ok(())
    }

    fn sharing(&self) -> anyhow::Result<Option<LeaseConfig>> {
        if !self.shared {
            return Ok(None);
        }
        let lasts = self.lease_duration.map_or(LEASE_DURATION, |text| text.0);
        sharing(lasts).context("lease_duration").map(Some)
    }

    fn selector(&self) -> anyhow::Result<Selector> {
        let yaml = match &self.selector_relabel_config {
            None => return Ok(Selector::default()),
            Some(serde_json::Value::String(text)) => text.clone(),
            // JSON is YAML.
            Some(rules) => rules.to_string(),
        };
        selector(&yaml).context("selector_relabel_config")
    }

    fn retention_rules(&self) -> anyhow::Result<Vec<RetentionRule>> {
        let rules = self.retention_policy_file.as_deref().map(retention_policy::read);
        Ok(rules.transpose().context("retention_policy_file")?.unwrap_or_default())
    }

    fn config(&self, bucket: Bucket) -> anyhow::Result<CompactorConfig> {
        let defaults = CompactorConfig::new(bucket, &self.data_dir);
        let or = |text: Option<DurationText>, default: Duration| text.map_or(default, |text| text.0);
        let replica_labels = self.deduplication_replica_labels.clone();
        Ok(CompactorConfig {
            mode: merge_mode(Some(&self.deduplication_func), &replica_labels)?,
            replica_labels,
            downsampling: !self.downsampling_disable,
            retention: Retention {
                raw: or(self.retention_resolution_raw, Duration::ZERO),
                five_minutes: or(self.retention_resolution_5m, Duration::ZERO),
                one_hour: or(self.retention_resolution_1h, Duration::ZERO),
            },
            retention_rules: self.retention_rules()?,
            retention_dry_run: self.retention_dry_run,
            sharing: self.sharing()?,
            shard: shard(self.shard.as_deref()).context("shard")?,
            selector: self.selector()?,
            group_concurrency: self.concurrency.unwrap_or(defaults.group_concurrency).max(1),
            downsample_concurrency: self
                .downsample_concurrency
                .unwrap_or(defaults.downsample_concurrency)
                .max(1),
            delete_delay: or(self.delete_delay, defaults.delete_delay),
            consistency_delay: or(self.consistency_delay, defaults.consistency_delay),
            wait_interval: Some(or(self.wait_interval, COMPACT_INTERVAL)),
            ..defaults
        })
    }
}

impl PrometheusSection {
    fn config(&self, bucket: Option<&Bucket>) -> SidecarConfig {
        let defaults = SidecarConfig::new(self.url.as_str());
        let shipper = bucket.zip(self.tsdb_path.as_ref()).map(|(bucket, path)| {
            let defaults = ShipperConfig::new(bucket.clone(), path);
            ShipperConfig {
                upload_compacted: self.upload_compacted,
                interval: self.ship_interval.map_or(defaults.interval, |interval| interval.0),
                ..defaults
            }
        });
        SidecarConfig {
            min_time_ms: self.min_time.0,
            // One replica that never gets ready must not end the others: it is reported missing, for ever if need be.
            ready_timeout: Duration::MAX,
            heartbeat_interval: self
                .heartbeat_interval
                .map_or(defaults.heartbeat_interval, |interval| interval.0),
            // JSON is YAML.
            http_client_yaml: self.http_client.as_ref().map(ToString::to_string).unwrap_or_default(),
            shipper,
            reloader: self.reload.as_ref().map(ReloadSection::config),
            ..defaults
        }
    }
}

#[cfg(test)]
mod tests {
    use parallax_bucket::BucketConfig;

    use super::*;

    /// The compactor of a file whose `compact` section goes on like this.
    fn compactor(more: &str, dir: &std::path::Path) -> anyhow::Result<CompactorConfig> {
        let text = format!(
            "cluster: eu-1\nprometheus: [{{url: 'http://localhost:9090', tsdb_path: /prometheus}}]\n\
             bucket: {{type: FILESYSTEM}}\ncompact:\n  data_dir: {}\n{more}",
            dir.display()
        );
        let path = dir.join("observee.yaml");
        std::fs::write(&path, text)?;
        let file: ObserveeFile = side_file::read(path.to_str().unwrap_or_default())?;
        file.check()?;
        let section = file.compact.context("no section")?;
        section.config(Bucket::open(&BucketConfig::filesystem(dir), Access::Write)?)
    }

    #[test]
    fn a_compactor_shares_its_bucket_keeps_a_policy_and_chooses_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.yaml");
        std::fs::write(&policy, "rules: [{match: '{team=\"a\"}', raw: 30d}]").unwrap();
        let more = format!(
            "  shared: true\n  lease_duration: 10m\n  shard: 1/3\n  retention_policy_file: {}\n  retention_dry_run: true\n  \
             concurrency: 3\n  selector_relabel_config: [{{action: keep, source_labels: [cluster], regex: eu.*}}]\n",
            policy.display()
        );
        let config = compactor(&more, dir.path()).unwrap();
        assert_eq!(config.sharing.as_ref().map(|sharing| sharing.lasts), Some(Duration::from_secs(600)));
        assert_eq!(config.shard, shard(Some("1/3")).unwrap());
        assert_eq!((config.retention_rules.len(), config.retention_dry_run), (1, true));
        assert_eq!((config.group_concurrency, config.selector.is_empty()), (3, false));
        let plain = compactor("", dir.path()).unwrap();
        assert!(plain.sharing.is_none() && plain.shard.is_none() && plain.selector.is_empty());
    }

    #[test]
    fn mistakes_of_the_compactor_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for (more, complaint) in [
            ("  lease_duration: 5m\n", "not shared"),
            ("  shared: true\n  lease_duration: 1s\n", "lease_duration"),
            ("  shard: 3/3\n", "shard"),
            ("  retention_policy_file: /nowhere/policy.yaml\n", "retention_policy_file"),
            (
                "  selector_relabel_config: '[{action: keep, source_labels: [__block_id]}]'\n",
                "external labels",
            ),
            ("  deduplication_func: penalty\n", "replica label"),
        ] {
            let error = format!("{:#}", compactor(more, dir.path()).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
