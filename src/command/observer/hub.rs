//! What runs for the clusters of the observer's file: a TLS querier for each, a store gateway for each bucket.
//!
//! Invariants:
//! - A file is taken in two steps. The plan does everything that may fail and changes nothing; what is planned then takes effect as a whole.
//! - What a file leaves as it was goes on as it was: connections, block lists, what is known of endpoints. What it changes or takes away is dropped by whoever asks
//!   next, and ends with the last question that had begun on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use parallax_bucket::{BucketConfig, Provider};
use parallax_net::{Context, Readiness, watch_credentials_in_use};
use parallax_pki::{CredentialSource, Purpose};
use parallax_querier::{Connection, EndpointConfig, EndpointSet, Proxy, ProxyConfig};
use parallax_store_gateway::{Caches, StoreGatewayConfig};
use parallax_storeapi::Store;

use super::cluster::ClusterSection;
use super::file::ObserverFile;
use crate::command::late_gateway::LateGateway;
use crate::command::tls::TlsFiles;

/// Between two looks at a gateway that reads its block list for the first time.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Index-headers of buckets that came while the observer ran: another gateway for the same cluster may still be answering.
const LATER_BUCKETS: &str = "store-reloaded";

/// See the module.
pub struct Hub {
    context: Context,
    caches: Caches,
    credentials: BTreeMap<Credential, Arc<CredentialSource>>,
    queriers: BTreeMap<String, Querier>,
    gateways: BTreeMap<String, Gateway>,
    /// Tells what was started for the same cluster at different times apart.
    next: u64,
}

/// Whose certificate it is (`None`: the hub's), and its files.
type Credential = (Option<String>, TlsFiles);

struct Querier {
    number: u64,
    proxy: Arc<Proxy>,
}

struct Gateway {
    number: u64,
    /// The document of its bucket.
    yaml: String,
    store: Arc<LateGateway>,
}

/// A file of which everything that could be wrong has been tried.
pub struct Plan {
    credentials: BTreeMap<Credential, Arc<CredentialSource>>,
    clusters: Vec<PlannedCluster>,
    response_timeout: Duration,
    options: parallax_querier::EndpointOptions,
}

struct PlannedCluster {
    section: ClusterSection,
    /// What its querier asks.
    remote: Option<EndpointConfig>,
    history: Option<History>,
}

struct History {
    yaml: String,
    config: StoreGatewayConfig,
}

/// What the global querier is over.
pub struct Endpoints {
    pub configs: Vec<EndpointConfig>,
    /// Of the clusters' queriers among them.
    pub beneath: Vec<Arc<EndpointSet>>,
}

impl Hub {
    /// Without clusters yet.
    pub fn new(context: Context, caches: Caches) -> Self {
        Self {
            context,
            caches,
            credentials: BTreeMap::new(),
            queriers: BTreeMap::new(),
            gateways: BTreeMap::new(),
            next: 0,
        }
    }

    /// # Errors
    /// Names the cluster whose certificates, endpoint or bucket cannot be used as configured. A bucket that cannot be reached is none of these.
    pub fn plan(&self, file: &ObserverFile) -> anyhow::Result<Plan> {
        let mut credentials = BTreeMap::new();
        if let Some(files) = &file.tls {
            self.credential((None, files.clone()), &mut credentials).context("tls")?;
        }
        let mut clusters = Vec::with_capacity(file.clusters.len());
        for section in &file.clusters {
            let subject = || format!("cluster {}", section.name);
            let own = section.tls.as_ref().map(|files| (Some(section.name.clone()), files.clone()));
            let key = own.or_else(|| Some((None, file.tls.clone()?)));
            let source = match &key {
                Some(key) if section.is_reached() => {
                    Some(self.credential(key.clone(), &mut credentials).with_context(subject)?)
                }
                _ => None,
            };
            let files = key.as_ref().map(|(_, files)| files);
            let remote = section.remote(file, source.as_deref(), files).with_context(subject)?;
            let history = self.history(file, section).with_context(|| format!("bucket of {}", subject()))?;
            clusters.push(PlannedCluster { section: section.clone(), remote, history });
        }
        let (response_timeout, options) = (file.response_timeout(), file.endpoint_options());
        Ok(Plan { credentials, clusters, response_timeout, options })
    }

    /// Those that are in use, or new ones.
    fn credential(
        &self,
        key: Credential,
        planned: &mut BTreeMap<Credential, Arc<CredentialSource>>,
    ) -> anyhow::Result<Arc<CredentialSource>> {
        if let Some(known) = planned.get(&key).or_else(|| self.credentials.get(&key)).cloned() {
            planned.insert(key, Arc::clone(&known));
            return Ok(known);
        }
        let source = Arc::new(key.1.load(Purpose::Client { skip_verify: false })?);
        planned.insert(key, Arc::clone(&source));
        Ok(source)
    }

    fn history(&self, file: &ObserverFile, section: &ClusterSection) -> anyhow::Result<Option<History>> {
        let Some(yaml) = section.bucket_yaml()? else { return Ok(None) };
        let bucket = BucketConfig::from_yaml(&yaml)?;
        let defaults = StoreGatewayConfig::new(bucket, self.directory(file, &section.name));
        let mut caches = self.caches.clone();
        if matches!(defaults.bucket.provider, Provider::Filesystem { .. }) && file.index_cache.is_none() {
            caches.index = caches.index.map(|index| Arc::new(index.of_outcomes()));
        }
        let config = StoreGatewayConfig {
            caches,
            sync_interval: file.sync_interval.map_or(defaults.sync_interval, |interval| interval.0),
            // One cluster's trouble is not the others'.
            unready_after_failures: None,
            ..defaults
        };
        Ok(Some(History { yaml, config }))
    }

    /// Where the next gateway of `cluster` keeps index-headers.
    fn directory(&self, file: &ObserverFile, cluster: &str) -> PathBuf {
        match self.next {
            0 => file.data_dir.join("store").join(cluster),
            number => file.data_dir.join(LATER_BUCKETS).join(format!("{number}-{cluster}")),
        }
    }

    /// Starts the clusters of a file at the start of the process, which is ready once their block lists were read.
    pub async fn start(&mut self, file: &ObserverFile) -> anyhow::Result<Endpoints> {
        let plan = self.plan(file)?;
        // What another process left.
        let left_over = file.data_dir.join(LATER_BUCKETS);
        if let Err(error) = tokio::fs::remove_dir_all(&left_over).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %left_over.display(), %error, "old index-headers cannot be removed");
        }
        Ok(self.take(plan, None).await)
    }

    /// Puts a plan into effect. What is new in it is waited for, at most as long as `patience`, so that it can answer when it is asked.
    pub async fn take(&mut self, plan: Plan, patience: Option<Duration>) -> Endpoints {
        self.adopt(plan.credentials);
        let number = self.next;
        self.next += 1;
        let (mut queriers, mut gateways) = (BTreeMap::new(), BTreeMap::new());
        let (mut endpoints, mut waits) = (Endpoints { configs: Vec::new(), beneath: Vec::new() }, Vec::new());
        let mut fresh = Vec::new();
        for PlannedCluster { section, remote, history } in plan.clusters {
            let name = section.name.clone();
            if let Some(remote) = remote {
                let querier = self.queriers.remove(&name).unwrap_or_else(|| Querier {
                    number,
                    proxy: self.querier(&name, plan.response_timeout, &plan.options),
                });
                let set = Arc::clone(querier.proxy.endpoints());
                endpoints.beneath.push(Arc::clone(&set));
                waits.push(async move {
                    match patience {
                        None => set.replace(vec![remote], Vec::new()),
                        Some(patience) => set.replace_when_polled(vec![remote], Vec::new(), patience).await,
                    }
                });
                let local = Connection::Local(Arc::clone(&querier.proxy) as Arc<dyn Store>);
                let config = EndpointConfig::new(format!("querier {name}"), local);
                endpoints
                    .configs
                    .push(section.declare_querier(config).with_revision(querier.number.to_string()));
                queriers.insert(name.clone(), querier);
            }
            if let Some(history) = history {
                let known = self.gateways.remove(&name).filter(|known| known.yaml == history.yaml);
                let gateway = known.unwrap_or_else(|| {
                    let gateway = self.gateway(&name, history, number, patience.is_none());
                    fresh.push((name.clone(), Arc::clone(&gateway.store)));
                    gateway
                });
                let local = Connection::Local(Arc::clone(&gateway.store) as Arc<dyn Store>);
                let config = EndpointConfig::new(format!("store gateway {name}"), local);
                let config = section.declare(config).that_may_be_empty();
                endpoints.configs.push(config.with_revision(gateway.number.to_string()));
                gateways.insert(name, gateway);
            }
        }
        let opening = fresh.iter().map(|(name, gateway)| opened(name, gateway, patience));
        tokio::join!(join_all(waits), join_all(opening));
        // What is left in the old maps is no part of the file any more.
        (self.queriers, self.gateways) = (queriers, gateways);
        endpoints
    }

    /// Uses these from now on, and shows them in metrics; what is used no longer is shown no longer.
    fn adopt(&mut self, credentials: BTreeMap<Credential, Arc<CredentialSource>>) {
        for ((cluster, files), source) in &credentials {
            if self.credentials.contains_key(&(cluster.clone(), files.clone())) {
                continue;
            }
            let metrics = match cluster {
                None => self.context.metrics.clone(),
                Some(cluster) => self.context.metrics.scoped([("querier", cluster.as_str())]),
            };
            watch_credentials_in_use(&metrics, "grpc_client", source);
        }
        self.credentials = credentials;
    }

    /// The querier of one remote cluster: its own endpoint set, so that its trouble stays its own.
    fn querier(
        &self,
        cluster: &str,
        response_timeout: Duration,
        options: &parallax_querier::EndpointOptions,
    ) -> Arc<Proxy> {
        let scoped = self.context.scoped([("querier", cluster)]);
        let set = EndpointSet::empty(options.clone(), &scoped.metrics, scoped.shutdown.clone());
        let config = ProxyConfig { response_timeout: Some(response_timeout), ..ProxyConfig::default() };
        Arc::new(Proxy::new(set, config, &scoped.metrics))
    }

    fn gateway(&self, cluster: &str, history: History, number: u64, is_start: bool) -> Gateway {
        let mut scoped = self.context.scoped([("store_gateway", cluster)]);
        if !is_start {
            // A process that answers does not stop to be ready because one more bucket is read.
            scoped.readiness = Readiness::new();
        }
        let History { yaml, config } = history;
        let gateway = LateGateway::new(config, scoped);
        // The first one's index-headers are for the next start.
        let gateway = if is_start { gateway } else { gateway.that_leaves_nothing() };
        Gateway { number, yaml, store: Arc::new(gateway) }
    }
}

/// Opens a gateway's bucket; waits until its block list was read, if there is patience for that.
async fn opened(cluster: &str, gateway: &LateGateway, patience: Option<Duration>) {
    if let Err(error) = gateway.open().await {
        // One cluster's trouble is not the others': its history is reported missing in each answer.
        let error = format!("{error:#}");
        tracing::warn!(cluster, error, "the bucket cannot be opened yet; trying again");
        return;
    }
    let Some(patience) = patience else { return };
    let listed = async {
        while gateway.info().await.is_err() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    if tokio::time::timeout(patience, listed).await.is_err() {
        tracing::warn!(
            cluster,
            "the bucket's block list is not read yet; its history is missing until it is"
        );
    }
}
