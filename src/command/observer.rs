//! `parallax observer --config F`: the hub in one process.
//!
//! Per cluster a TLS querier over its ingress and, if it has a bucket, a store gateway; above them the global querier. The file
//! lists the expected clusters: one that is missing is a warning in the answer and in `/api/v1/stores`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_bucket::{BucketConfig, Provider};
use parallax_net::{ClientTls, Context, GrpcServerConfig, GrpcTarget, watch_credentials};
use parallax_pki::{CredentialSource, Purpose};
use parallax_querier::api::ApiOptions;
use parallax_querier::query::QueryLimits;
use parallax_querier::{
    Connection, Distribution, EndpointConfig, EndpointOptions, EndpointSet, ForeignLabels, Proxy,
    ProxyConfig, Querier, QuerierConfig, delegation_defect,
};
use parallax_store_gateway::{Caches, StoreGatewayConfig};
use parallax_storeapi::{MessageLimits, SideService};
use serde::Deserialize;

use super::discovery;
use super::doctor::Patient;
use super::late_gateway::LateGateway;
use super::objstore::CacheFlags;
use super::side_file::{self, DurationText, SizeText};
use super::tls::{self, TlsFiles};
use crate::process::{self, Failure};
use crate::serve::{Addresses, Listeners};

/// Most clusters of one observer.
const MAX_CLUSTERS: usize = 1000;
/// For parts of indexes, if the file does not say: the default of `--index-cache-size`.
const INDEX_CACHE_BYTES: u64 = 250 << 20;
/// How long a cluster may be silent if the file does not say.
const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The observer's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObserverFile {
    #[serde(default = "side_file::http_address")]
    http_address: String,
    /// TLS and passwords of the HTTP server: a file as of `--http.config`.
    http_config_file: Option<PathBuf>,
    /// Serves the StoreAPI upward, for a querier above this observer.
    grpc_address: Option<String>,
    /// The certificate shown to that querier; without it, plain text.
    grpc_tls: Option<TlsFiles>,
    /// The observer's own certificate, shown to every cluster that has no other.
    tls: Option<TlsFiles>,
    #[serde(default)]
    replica_labels: Vec<String>,
    /// Where store gateways keep index-headers.
    #[serde(default = "data_dir")]
    data_dir: PathBuf,
    query_timeout: Option<DurationText>,
    /// Where aggregations are evaluated: `local`, or `distributed` for those whose clusters have a querier behind their address.
    #[serde(default)]
    query_mode: QueryMode,
    /// The external labels by which distributed queriers are told apart; without any, all that are no replica labels.
    #[serde(default)]
    partition_labels: Vec<String>,
    /// How long one cluster may be silent, before its first frame and between frames; then the answer goes on without it.
    response_timeout: Option<DurationText>,
    #[serde(default = "partial_response")]
    partial_response: bool,
    /// Who may call the StoreAPI; without it, whoever shows a certificate of the CA. Such as `observer/global`.
    allowed_observers: Option<Vec<String>>,
    /// The header in which an ingress before the StoreAPI passes client certificates on: `xfcc`, `nginx` or `traefik`.
    forwarded_certificates: Option<String>,
    /// The external label that holds the name of a cluster.
    #[serde(default = "cluster_label")]
    cluster_label: String,
    /// What becomes of labels by which a cluster claims to be another: `drop`, `inject` or `refuse`.
    #[serde(default)]
    foreign_labels: ForeignLabels,
    /// How often store gateways look for new blocks.
    sync_interval: Option<DurationText>,
    /// How often endpoints are asked how they are.
    info_interval: Option<DurationText>,
    /// Largest frame of series taken from a cluster.
    max_frame_size: Option<SizeText>,
    /// Most bytes of series that one query may hold before they are evaluated.
    max_held_bytes: Option<SizeText>,
    /// What store gateways remember of indexes, as the document of `--index-cache.config`; they share it. Without it, 250 MB in memory, and nothing
    /// of buckets that are directories.
    index_cache: Option<serde_json::Value>,
    /// What they remember of chunks and metas, as the document of `--store.caching-bucket.config`; without it, nothing.
    caching_bucket: Option<serde_json::Value>,
    clusters: Vec<ClusterSection>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum QueryMode {
    #[default]
    Local,
    Distributed,
}

/// One expected cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterSection {
    /// The value of the `cluster` label of its series.
    name: String,
    /// Of a hub over several clusters, whose name is `name`: those that it may answer for, and no others.
    delegated: Option<Vec<String>>,
    /// host:port of its ingress; none for a cluster that is no more, whose history is still asked for.
    address: Option<String>,
    /// The name to expect in the ingress' certificate, if it is not the host of the address.
    server_name: Option<String>,
    /// The identity to expect there, such as `spiffe://mesh.example/observee/eu-1`, whatever names the certificate has; or `dns`, for a certificate with the
    /// name whoever it identifies. By default the name, and no other cluster's identity.
    identity: Option<String>,
    /// Of calls to it: `none`, `snappy`, or `zstd` where it is one of ours.
    compression: Option<String>,
    /// As that of the file, for this cluster.
    foreign_labels: Option<ForeignLabels>,
    /// What the ingress routes by, if it is not the address.
    authority: Option<String>,
    tls: Option<TlsFiles>,
    /// Set for a cluster that speaks plain text; otherwise a cluster without certificates is an error.
    #[serde(default)]
    plaintext: bool,
    /// Thanos' objstore YAML of the cluster's bucket.
    bucket: Option<serde_json::Value>,
    /// The same as a file, for a document that holds keys.
    bucket_file: Option<PathBuf>,
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

pub fn run(path: &str, check_only: bool) -> Result<(), Failure> {
    let file: ObserverFile = side_file::read(path).map_err(Failure::usage)?;
    file.check().with_context(|| path.to_owned()).map_err(Failure::usage)?;
    if check_only {
        println!("{path}: {} clusters", file.clusters.len());
        return Ok(());
    }
    process::run(|context| async move {
        let listeners = Listeners::bind(file.addresses().map_err(Failure::usage)?, &context).await?;
        let caches = file.caches().map_err(Failure::usage)?.open(&context);
        let hub = file.tls.as_ref().map(|files| files.load(Purpose::Client { skip_verify: false }));
        let hub = hub.transpose().context("tls").map_err(Failure::usage)?;
        if let Some(source) = &hub {
            watch_credentials(&context.metrics, "grpc_client", source);
        }
        let (mut endpoints, mut beneath) = (Vec::new(), Vec::new());
        for cluster in &file.clusters {
            if let Some(address) = &cluster.address {
                let leaf =
                    file.leaf_querier(cluster, address, hub.as_ref(), &context).map_err(Failure::usage)?;
                beneath.push(leaf.endpoints().clone());
                let name = format!("querier {}", cluster.name);
                let local = EndpointConfig::new(name, Connection::Local(leaf));
                endpoints.push(cluster.declare(local));
            }
            if let Some(gateway) = file.store_gateway(cluster, &caches, &context).await? {
                let name = format!("store gateway {}", cluster.name);
                let local = EndpointConfig::new(name, Connection::Local(gateway));
                endpoints.push(cluster.declare(local).that_may_be_empty());
            }
        }
        let querier =
            Querier::start(file.global(endpoints, beneath), context.clone()).map_err(Failure::usage)?;
        listeners.serve(&context, querier.router(), querier).await?;
        Ok(())
    })
}

/// Every cluster of the file at `path`, for `parallax doctor`.
pub fn patients(path: &str, context: &Context) -> anyhow::Result<Vec<Patient>> {
    let file: ObserverFile = side_file::read(path)?;
    file.check().with_context(|| path.to_owned())?;
    let hub = file.tls.as_ref().map(|files| files.load(Purpose::Client { skip_verify: false }));
    let hub = hub.transpose().context("tls")?;
    // A cluster that is only history has nothing to be reached.
    let reached = file.clusters.iter().filter_map(|cluster| Some((cluster, cluster.address.as_ref()?)));
    let patient = |(cluster, address): (&ClusterSection, &String)| {
        let target = cluster.target(address, hub.as_ref(), context);
        let target = target.with_context(|| format!("cluster {}", cluster.name))?;
        Ok(Patient { name: cluster.name.clone(), clusters: cluster.expected(), target })
    };
    reached.map(patient).collect()
}

impl ObserverFile {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.clusters.is_empty(), "clusters: list at least one");
        ensure!(self.clusters.len() <= MAX_CLUSTERS, "clusters: at most {MAX_CLUSTERS}");
        self.caches()?;
        ensure!(
            self.partition_labels.is_empty() || self.query_mode == QueryMode::Distributed,
            "partition_labels: they are for query_mode: distributed"
        );
        for (index, cluster) in self.clusters.iter().enumerate() {
            let name = &cluster.name;
            ensure!(!name.is_empty(), "clusters: the name of number {} is empty", index + 1);
            ensure!(
                !name.contains(['/', '\\', '\0']) && name != "." && name != "..",
                "cluster {name:?}: no valid name"
            );
            let duplicate = self.clusters[..index].iter().any(|other| other.name == *name);
            ensure!(!duplicate, "cluster {name}: stands there twice");
            let buckets = usize::from(cluster.bucket.is_some()) + usize::from(cluster.bucket_file.is_some());
            ensure!(buckets < 2, "cluster {name}: give bucket or bucket_file, not both");
            ensure!(
                cluster.address.is_some() || buckets > 0,
                "cluster {name}: give its address, or its bucket if only its history is left"
            );
            if let Some(delegated) = &cluster.delegated {
                ensure!(
                    !delegated.is_empty(),
                    "cluster {name}: delegated is empty: list the clusters that it may answer for"
                );
                let mode = cluster.foreign_labels.unwrap_or(self.foreign_labels);
                if let Some(defect) = delegation_defect(delegated, mode) {
                    bail!("cluster {name}: {defect}");
                }
            }
            tls::expected_server(cluster.identity.as_deref(), None)
                .with_context(|| format!("cluster {name}"))?;
            ensure!(
                cluster.identity.is_none() || !cluster.plaintext,
                "cluster {name}: an identity is given, but plaintext: true has no certificate to find it in"
            );
            let secured = cluster.tls.is_some() || self.tls.is_some();
            ensure!(
                secured || cluster.plaintext || cluster.address.is_none(),
                "cluster {name}: no certificates; set tls (for all clusters, or this one), or plaintext: true"
            );
        }
        Ok(())
    }

    /// What all store gateways share.
    fn caches(&self) -> anyhow::Result<CacheFlags> {
        let text = |section: &Option<serde_json::Value>| section.as_ref().map(ToString::to_string);
        let has_bucket = self.clusters.iter().any(ClusterSection::has_bucket);
        let default_index_bytes = if has_bucket { INDEX_CACHE_BYTES } else { 0 };
        let (bucket, index) = (text(&self.caching_bucket), text(&self.index_cache));
        CacheFlags::parse(bucket.as_deref(), index.as_deref(), default_index_bytes)
            .context("caching_bucket, index_cache")
    }

    fn addresses(&self) -> anyhow::Result<Addresses> {
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
        Ok(Addresses { http: self.http_address.clone(), http_config: self.http_config_file.clone(), grpc })
    }

    fn endpoint_options(&self) -> EndpointOptions {
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

    /// The querier of one remote cluster: its own endpoint set, so that its trouble stays its own.
    fn leaf_querier(
        &self,
        cluster: &ClusterSection,
        address: &str,
        hub: Option<&CredentialSource>,
        context: &Context,
    ) -> anyhow::Result<Arc<Proxy>> {
        let scoped = context.scoped([("querier", cluster.name.as_str())]);
        let target =
            cluster.target(address, hub, &scoped).with_context(|| format!("cluster {}", cluster.name))?;
        let endpoint = cluster.declare(EndpointConfig::new(address, Connection::Remote(target)));
        let set = EndpointSet::start(
            vec![endpoint],
            self.endpoint_options(),
            &scoped.metrics,
            context.shutdown.clone(),
        )?;
        let silence = self.response_timeout.map_or(DEFAULT_RESPONSE_TIMEOUT, |timeout| timeout.0);
        let config = ProxyConfig { response_timeout: Some(silence), ..ProxyConfig::default() };
        Ok(Arc::new(Proxy::new(set, config, &scoped.metrics)))
    }

    async fn store_gateway(
        &self,
        cluster: &ClusterSection,
        caches: &Caches,
        context: &Context,
    ) -> anyhow::Result<Option<Arc<LateGateway>>> {
        let subject = || format!("bucket of cluster {}", cluster.name);
        let Some(yaml) = cluster.bucket_yaml().with_context(subject)? else { return Ok(None) };
        let bucket = BucketConfig::from_yaml(&yaml).with_context(subject)?;
        let defaults = StoreGatewayConfig::new(bucket, self.data_dir.join("store").join(&cluster.name));
        let mut caches = caches.clone();
        if matches!(defaults.bucket.provider, Provider::Filesystem { .. }) && self.index_cache.is_none() {
            caches.index = None;
        }
        let config = StoreGatewayConfig {
            caches,
            sync_interval: self.sync_interval.map_or(defaults.sync_interval, |interval| interval.0),
            // One cluster's trouble is not the others'.
            unready_after_failures: None,
            ..defaults
        };
        let scoped = context.scoped([("store_gateway", cluster.name.as_str())]);
        let gateway = LateGateway::new(config, scoped);
        if let Err(error) = gateway.open().await {
            // One cluster's trouble is not the others': its history is reported missing in each answer.
            let error = format!("{error:#}");
            tracing::warn!(cluster = cluster.name, error, "the bucket cannot be opened yet; trying again");
        }
        Ok(Some(Arc::new(gateway)))
    }

    fn global(&self, endpoints: Vec<EndpointConfig>, beneath: Vec<Arc<EndpointSet>>) -> QuerierConfig {
        let limits = QueryLimits::default();
        QuerierConfig {
            name: "global".to_owned(),
            endpoints,
            beneath,
            endpoint_options: self.endpoint_options(),
            limits: QueryLimits {
                timeout: self.query_timeout.map_or(limits.timeout, |timeout| timeout.0),
                max_held_bytes: self.max_held_bytes.map_or(limits.max_held_bytes, |size| size.0),
                ..limits
            },
            distribution: (self.query_mode == QueryMode::Distributed)
                .then(|| Distribution { partition_labels: self.partition_labels.clone() }),
            api: ApiOptions {
                replica_labels: self.replica_labels.clone(),
                partial_response: self.partial_response,
                whole_side: if self.partial_response { Vec::new() } else { SideService::ALL.to_vec() },
                ..ApiOptions::default()
            },
            ..QuerierConfig::default()
        }
    }
}

impl ClusterSection {
    /// The clusters whose labels it has to carry.
    fn expected(&self) -> Vec<String> {
        self.delegated.clone().unwrap_or_else(|| vec![self.name.clone()])
    }

    /// `endpoint` held to what this section says.
    fn declare(&self, endpoint: EndpointConfig) -> EndpointConfig {
        endpoint
            .with_cluster(self.name.as_str())
            .with_delegated(self.delegated.as_deref().unwrap_or_default())
            .with_foreign_labels(self.foreign_labels)
    }

    fn has_bucket(&self) -> bool {
        self.bucket.is_some() || self.bucket_file.is_some()
    }

    /// The objstore document, wherever it stands.
    fn bucket_yaml(&self) -> anyhow::Result<Option<String>> {
        match (&self.bucket, &self.bucket_file) {
            (Some(section), _) => Ok(Some(section.to_string())),
            (None, Some(path)) => {
                std::fs::read_to_string(path).with_context(|| path.display().to_string()).map(Some)
            }
            (None, None) => Ok(None),
        }
    }

    fn target(
        &self,
        address: &str,
        hub: Option<&CredentialSource>,
        context: &Context,
    ) -> anyhow::Result<GrpcTarget> {
        let own =
            self.tls.as_ref().map(|files| files.load(Purpose::Client { skip_verify: false })).transpose()?;
        if let Some(source) = &own {
            watch_credentials(&context.metrics, "grpc_client", source);
        }
        let source = if self.plaintext { None } else { own.or_else(|| hub.cloned()) };
        let expected = tls::expected_server(self.identity.as_deref(), Some(&self.name))?;
        Ok(GrpcTarget {
            tls: source.map(|source| ClientTls { source, server_name: self.server_name.clone(), expected }),
            authority: self.authority.clone(),
            compression: discovery::compression(self.compression.as_deref())?,
            ..GrpcTarget::plain(address)
        })
    }
}
