//! The observer's file: its keys, their defaults, and what is wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use parallax_dedup::Algorithm;
use parallax_net::GrpcServerConfig;
use parallax_pki::Purpose;
use parallax_querier::api::ApiOptions;
use parallax_querier::query::QueryLimits;
use parallax_querier::{
    Distribution, EndpointConfig, EndpointOptions, EndpointSets, ForeignLabels, QuerierConfig,
};
use parallax_store_gateway::IndexCacheConfig;
use parallax_storeapi::{MessageLimits, SideService};
use serde::Deserialize;

use super::cluster::ClusterSection;
use crate::command::callers::{self, ChangingGuards, LabelPolicy, TenancySection};
use crate::command::objstore::CacheFlags;
use crate::command::side_file::{self, DurationText, SizeText};
use crate::command::tls::{self, TlsFiles};
use crate::serve::Addresses;

/// Most clusters of one observer.
const MAX_CLUSTERS: usize = 1000;
/// Most bytes of a file.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// For parts of indexes, if the file does not say: the default of `--index-cache.size`.
const INDEX_CACHE_BYTES: u64 = 250 << 20;
/// How long a cluster may be silent if the file does not say.
const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The keys that are read again while the observer runs.
const RELOADED_KEYS: [&str; 5] = ["clusters", "tls", "hedge_delay", "label_policy", "tenancy"];

/// See the module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserverFile {
    #[serde(default = "side_file::http_address")]
    http_address: String,
    /// TLS and passwords of the HTTP server: a file as of `--http.config`.
    http_config_file: Option<PathBuf>,
    /// Serves the StoreAPI upward, for a querier above this observer.
    grpc_address: Option<String>,
    /// The certificate shown to that querier; without it, plain text.
    grpc_tls: Option<TlsFiles>,
    /// The observer's own certificate, shown to every cluster that has no other.
    pub tls: Option<TlsFiles>,
    #[serde(default)]
    pub replica_labels: Vec<String>,
    /// How replicas become one series where a query does not say: `penalty`, `chain` or `gap-aware`. As `--deduplication.func`.
    deduplication_func: Option<String>,
    /// Where store gateways keep index-headers.
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    query_timeout: Option<DurationText>,
    /// Where aggregations are evaluated: `local`, or `distributed` for those whose clusters have a querier behind their address.
    #[serde(default)]
    query_mode: QueryMode,
    /// The external labels by which distributed queriers are told apart; without any, all that are no replica labels.
    #[serde(default)]
    partition_labels: Vec<String>,
    /// How long one cluster may be silent, before its first frame and between frames; then the answer goes on without it.
    response_timeout: Option<DurationText>,
    /// After which silence the next of a cluster's endpoints is asked, too, if the cluster does not say.
    pub hedge_delay: Option<DurationText>,
    #[serde(default = "partial_response")]
    partial_response: bool,
    /// Who may call the StoreAPI; without it, whoever shows a certificate of the CA. Such as `observer/global`.
    allowed_observers: Option<Vec<String>>,
    /// The header in which an ingress before the StoreAPI passes client certificates on: `xfcc`, `nginx`, `ingress-nginx` or `traefik`.
    forwarded_certificates: Option<String>,
    /// Which series callers may read, over HTTP and the StoreAPI, by who they are: as `--label-policy.config`. Without it, all.
    label_policy: Option<serde_json::Value>,
    /// Whose queries are whose: as the flags `--query.tenant-…` of `parallax query`.
    tenancy: Option<TenancySection>,
    /// Where the queries that run are logged, as `--query.active-query-path`.
    active_query_path: Option<PathBuf>,
    /// The external label that holds the name of a cluster.
    #[serde(default = "cluster_label")]
    pub cluster_label: String,
    /// What becomes of labels by which a cluster claims to be another: `drop`, `inject` or `refuse`.
    #[serde(default)]
    pub foreign_labels: ForeignLabels,
    /// How often store gateways look for new blocks.
    pub sync_interval: Option<DurationText>,
    /// How often endpoints are asked how they are.
    info_interval: Option<DurationText>,
    /// Largest frame of series taken from a cluster.
    max_frame_size: Option<SizeText>,
    /// Most bytes of series that one query may hold before they are evaluated.
    max_held_bytes: Option<SizeText>,
    /// What store gateways remember of indexes, as the document of `--index-cache.config`; they share it. Without it, 250 MB in memory, and of buckets that are
    /// directories only what matchers select.
    pub index_cache: Option<serde_json::Value>,
    /// What they remember of chunks and metas, as the document of `--store.caching-bucket.config`; without it, nothing.
    caching_bucket: Option<serde_json::Value>,
    pub clusters: Vec<ClusterSection>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum QueryMode {
    #[default]
    Local,
    Distributed,
}

fn data_dir() -> PathBuf {
    PathBuf::from("./data")
}

fn cluster_label() -> String {
    "cluster".to_owned()
}

const fn partial_response() -> bool {
    true
}

/// Its text.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let subject = || path.display().to_string();
    let size_bytes = std::fs::metadata(path).with_context(subject)?.len();
    ensure!(
        size_bytes <= MAX_FILE_BYTES,
        "{}: it has {size_bytes} bytes, and at most {MAX_FILE_BYTES} are read",
        subject()
    );
    std::fs::read_to_string(path).with_context(subject)
}

/// The file that `text` is, checked. Errors name the file, and the line or the cluster and the key.
pub fn parse(path: &Path, text: &str) -> anyhow::Result<ObserverFile> {
    let file: ObserverFile =
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    file.check().with_context(|| path.display().to_string())?;
    Ok(file)
}

/// The keys that differ between two texts and are only read at the start.
pub fn changed_for_good(before: &str, after: &str) -> Vec<String> {
    type Keys = BTreeMap<String, serde_json::Value>;
    let keys = |text: &str| serde_saphyr::from_str::<Keys>(text).unwrap_or_default();
    let (before, after) = (keys(before), keys(after));
    let all = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
    let changed = all.filter(|key| before.get(*key) != after.get(*key));
    changed.filter(|key| !RELOADED_KEYS.contains(&key.as_str())).cloned().collect()
}

impl ObserverFile {
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.clusters.is_empty(), "clusters: list at least one");
        ensure!(self.clusters.len() <= MAX_CLUSTERS, "clusters: at most {MAX_CLUSTERS}");
        self.caches()?;
        self.algorithm()?;
        self.guards()?;
        ensure!(
            self.partition_labels.is_empty() || self.query_mode == QueryMode::Distributed,
            "partition_labels: they are for query_mode: distributed"
        );
        for (index, cluster) in self.clusters.iter().enumerate() {
            let name = &cluster.name;
            ensure!(!name.is_empty(), "clusters: the name of number {} is empty", index + 1);
            let duplicate = self.clusters.iter().take(index).any(|other| other.name == *name);
            ensure!(!duplicate, "cluster {name}: stands there twice");
            cluster.check(self).with_context(|| format!("cluster {name}"))?;
        }
        Ok(())
    }

    fn algorithm(&self) -> anyhow::Result<Algorithm> {
        match &self.deduplication_func {
            None => Ok(Algorithm::default()),
            Some(name) => name.parse().with_context(|| format!("deduplication_func: {name}")),
        }
    }

    /// What all store gateways share, those that come later included.
    pub fn caches(&self) -> anyhow::Result<CacheFlags> {
        let text = |section: &Option<serde_json::Value>| section.as_ref().map(ToString::to_string);
        let (bucket, index) = (text(&self.caching_bucket), text(&self.index_cache));
        let default = IndexCacheConfig::in_memory(INDEX_CACHE_BYTES);
        CacheFlags::parse(bucket.as_deref(), index.as_deref(), Some(default))
            .context("caching_bucket, index_cache")
    }

    /// Where it is served, behind `guards`.
    pub fn addresses(&self, guards: &ChangingGuards) -> anyhow::Result<Addresses> {
        let tls = self
            .grpc_tls
            .as_ref()
            .map(|files| files.load(Purpose::Server))
            .transpose()
            .context("grpc_tls")?;
        let access = tls::access(self.allowed_observers.as_deref(), self.forwarded_certificates.as_deref())
            .context("allowed_observers, forwarded_certificates")?;
        ensure!(
            self.grpc_address.is_some() || !access.needs_certificates(),
            "allowed_observers, forwarded_certificates: there is no grpc_address to guard"
        );
        let grpc = self.grpc_address.as_ref().map(|address| GrpcServerConfig {
            tls,
            access,
            ..side_file::grpc_server(address)
        });
        Ok(Addresses {
            http: self.http_address.clone(),
            http_config: self.http_config_file.clone(),
            grpc,
            guard: Some(guards.grpc.clone()),
        })
    }

    pub fn query_timeout(&self) -> Duration {
        self.query_timeout.map_or(QueryLimits::default().timeout, |timeout| timeout.0)
    }

    pub fn response_timeout(&self) -> Duration {
        self.response_timeout.map_or(DEFAULT_RESPONSE_TIMEOUT, |timeout| timeout.0)
    }

    /// Over gRPC and over HTTP; without a policy or tenants, everybody may see everything.
    ///
    /// # Errors
    /// Names the rule or the value that cannot be.
    pub fn guards(&self) -> anyhow::Result<Option<callers::Guards>> {
        let policy = LabelPolicy::from_section(self.label_policy.as_ref())?;
        let tenancy = self.tenancy.as_ref().map(TenancySection::options).transpose().context("tenancy")?;
        Ok((policy.is_some() || tenancy.is_some())
            .then(|| callers::of_querier(policy, tenancy.unwrap_or_default())))
    }

    pub fn endpoint_options(&self) -> EndpointOptions {
        let defaults = EndpointOptions::default();
        EndpointOptions {
            info_interval: self.info_interval.map_or(defaults.info_interval, |interval| interval.0),
            cluster_label: self.cluster_label.clone(),
            foreign_labels: self.foreign_labels,
            message_limits: MessageLimits {
                frame_bytes: self.max_frame_size.map_or(defaults.message_limits.frame_bytes, |size| size.0),
                ..defaults.message_limits
            },
            ..defaults
        }
    }

    /// The global querier over `endpoints`, behind `guards`; `beneath` are those of the clusters' queriers among them.
    pub fn global(
        &self,
        endpoints: Vec<EndpointConfig>,
        beneath: EndpointSets,
        guards: &ChangingGuards,
    ) -> QuerierConfig {
        let limits = QueryLimits::default();
        QuerierConfig {
            name: "global".to_owned(),
            endpoints,
            beneath,
            endpoint_options: self.endpoint_options(),
            limits: QueryLimits {
                timeout: self.query_timeout(),
                max_held_bytes: self.max_held_bytes.map_or(limits.max_held_bytes, |size| size.0),
                // `check` has seen to its name.
                algorithm: self.algorithm().unwrap_or_default(),
                ..limits
            },
            distribution: (self.query_mode == QueryMode::Distributed)
                .then(|| Distribution { partition_labels: self.partition_labels.clone() }),
            api: ApiOptions {
                replica_labels: self.replica_labels.clone(),
                partial_response: self.partial_response,
                whole_side: if self.partial_response { Vec::new() } else { SideService::ALL.to_vec() },
                guard: Some(guards.http.clone()),
                ..ApiOptions::default()
            },
            active_query_dir: self.active_query_path.clone(),
            ..QuerierConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_only_read_at_the_start_are_named() {
        let before = "http_address: a\nquery_timeout: 1m\nclusters: [{name: a}]\n";
        assert_eq!(changed_for_good(before, before), Vec::<String>::new());
        let clusters = "http_address: a\nquery_timeout: 1m\ntls: {cert: c}\nhedge_delay: 1s\nlabel_policy: {rules: []}\ntenancy: {}\nclusters: []\n";
        assert_eq!(changed_for_good(before, clusters), Vec::<String>::new());
        let after = "http_address: b\ndata_dir: d\nclusters: [{name: a}]\n";
        assert_eq!(changed_for_good(before, after), ["http_address", "query_timeout", "data_dir"]);
    }
}
