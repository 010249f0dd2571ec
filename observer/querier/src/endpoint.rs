//! The endpoints a querier asks: what is configured about each, what each last said of itself, and whether it is well.
//!
//! Invariant: an endpoint that was configured is never forgotten. While it is down, what it last said (or the cluster it is expected to
//! hold) decides whether a query could have needed it, and then its absence is reported. Polling is in `info_poll`, choosing in
//! `store_selection`.

mod metadata;
mod state;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use parallax_model::{Labels, TimeRange};
use parallax_net::GrpcTarget;
use parallax_storeapi::{MessageLimits, Store, StoreClient};
use parallax_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

pub use metadata::{Metadata, TsdbInfo};
pub use state::EndpointStatus;
use state::Shared;

use crate::Error;
use crate::api::{StoreList, StoreStatus};
use crate::coverage::{Gap, GapKind, bounded};
use crate::info_poll;

/// Most endpoints of one querier.
pub const MAX_ENDPOINTS: usize = 10_000;

/// How to reach an endpoint.
#[derive(Clone)]
pub enum Connection {
    /// A component of this process.
    Local(Arc<dyn Store>),
    Remote(GrpcTarget),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => f.write_str("Local"),
            Self::Remote(target) => f.debug_tuple("Remote").field(&target.address).finish(),
        }
    }
}

/// One endpoint as configured.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Its address, or a name of its own; unique, and in every warning about it.
    pub name: String,
    /// The cluster that it has to hold. Should it not advertise it, that is reported.
    pub cluster: Option<String>,
    /// Thanos' `--endpoint-strict`. Every endpoint is static here and kept when it is down, so this only shows in its status.
    pub strict: bool,
    /// Thanos' `--endpoint-group`: several servers behind one address.
    pub group: bool,
    /// A store of finished blocks, which holds nothing until there is a first one: while it is well, to advertise no label set at all is
    /// complete, not a missing cluster.
    pub may_be_empty: bool,
    pub connection: Connection,
}

impl EndpointConfig {
    pub fn new(name: impl Into<String>, connection: Connection) -> Self {
        Self {
            name: name.into(),
            cluster: None,
            strict: false,
            group: false,
            may_be_empty: false,
            connection,
        }
    }

    #[must_use]
    pub fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = Some(cluster.into());
        self
    }

    #[must_use]
    pub fn that_may_be_empty(mut self) -> Self {
        self.may_be_empty = true;
        self
    }
}

/// Bounds and times of polling, and when an endpoint is left alone.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    pub info_interval: Duration,
    /// Longest wait for one Info answer.
    pub info_timeout: Duration,
    pub max_concurrent_polls: usize,
    /// How long an endpoint that hung is not asked, unless an Info poll succeeds first.
    pub cool_down: Duration,
    /// An endpoint whose last Info poll failed after at least this long would cost every query as much, and is not asked.
    pub slow_failure: Duration,
    /// The external label that holds the name of a cluster.
    pub cluster_label: String,
    /// How large a message of a remote endpoint may be.
    pub message_limits: MessageLimits,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            info_interval: Duration::from_secs(5),
            info_timeout: Duration::from_secs(5),
            max_concurrent_polls: 32,
            cool_down: Duration::from_secs(30),
            slow_failure: Duration::from_secs(1),
            cluster_label: "cluster".to_owned(),
            message_limits: MessageLimits::default(),
        }
    }
}

/// One endpoint, and what is known of it now.
pub struct Endpoint {
    name: String,
    cluster: Option<String>,
    strict: bool,
    group: bool,
    is_local: bool,
    may_be_empty: bool,
    store: Arc<dyn Store>,
    options: Arc<EndpointOptions>,
    shared: Shared,
}

impl Endpoint {
    fn new(config: EndpointConfig, options: Arc<EndpointOptions>) -> Result<Self, Error> {
        let is_local = matches!(config.connection, Connection::Local(_));
        let store: Arc<dyn Store> = match config.connection {
            Connection::Local(store) => store,
            Connection::Remote(target) => {
                let channel = parallax_net::connect(&target)
                    .map_err(|source| Error::Endpoint { endpoint: config.name.clone(), source })?;
                Arc::new(StoreClient::new(channel).with_limits(options.message_limits))
            }
        };
        Ok(Self {
            name: config.name,
            cluster: config.cluster,
            strict: config.strict,
            group: config.group,
            is_local,
            may_be_empty: config.may_be_empty,
            store,
            options,
            shared: Shared::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether it is a component of this process.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// What it last said of itself, or `None` if it never did.
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.shared.read().metadata.clone()
    }

    pub fn is_healthy(&self) -> bool {
        self.shared.read().is_healthy()
    }

    /// Asks a component of this process what it holds now, so that blocks it has just found count at once. One that cannot tell without a
    /// wait keeps what it last said.
    pub(crate) fn refresh_if_local(&self) {
        if !self.is_local {
            return;
        }
        if let Some(Ok(info)) = self.store.info().now_or_never()
            && let Ok(metadata) = Metadata::from_info(info)
        {
            self.shared.write().learned(metadata);
        }
    }

    /// How long it has been since it last said what it holds, if its last Info poll failed; nothing while it is well.
    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        self.shared.read().silent_for(now)
    }

    /// The external labels of the cluster that it is expected to hold.
    pub fn expected_labels(&self) -> Option<Labels> {
        let cluster = self.cluster.as_deref()?;
        Some(Labels::from_pairs([(self.options.cluster_label.as_str(), cluster)]))
    }

    /// Whether it last advertised the cluster that it is expected to hold (or none is expected, or it holds nothing yet and may).
    pub fn advertises_expected(&self) -> bool {
        let Some(cluster) = self.cluster.as_deref() else { return true };
        let label = &self.options.cluster_label;
        let (known, is_healthy) = {
            let state = self.shared.read();
            (state.metadata.clone(), state.is_healthy())
        };
        known.is_some_and(|known| {
            let is_empty = known.has_store && known.label_sets.is_empty() && known.range.is_empty();
            known.label_sets.iter().any(|set| set.get(label) == Some(cluster))
                || (self.may_be_empty && is_healthy && is_empty)
        })
    }

    /// Why it would be no use to ask now, or `None` to ask it.
    pub fn why_not_now(&self, now: Instant) -> Option<(GapKind, String)> {
        self.shared.read().why_not_now(now, &self.options)
    }

    /// A call that fails only after this long ran into a timeout on the way, and would again.
    pub fn slow_failure(&self) -> Duration {
        self.options.slow_failure
    }

    /// Records that a call hung; it is left alone for a while.
    pub fn hung(&self, reason: &str) {
        self.shared.write().hung(Instant::now(), &self.options, reason);
    }

    /// A gap in an answer because of this endpoint.
    pub fn gap(&self, kind: GapKind, reason: impl Into<String>) -> Gap {
        let reason = bounded(reason.into());
        Gap { cluster: self.cluster_name(), kind, endpoint: self.name.clone(), reason }
    }

    fn cluster_name(&self) -> String {
        if let Some(cluster) = &self.cluster {
            return cluster.clone();
        }
        let known = self.metadata();
        let advertised: BTreeSet<&str> = known
            .iter()
            .flat_map(|known| &known.label_sets)
            .filter_map(|set| set.get(&self.options.cluster_label))
            .collect();
        match advertised.first() {
            Some(only) if advertised.len() == 1 => (*only).to_owned(),
            _ => self.name.clone(),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn status(&self) -> EndpointStatus {
        let state = self.shared.read();
        let known = state.metadata.as_deref();
        EndpointStatus {
            name: self.name.clone(),
            component: known.map(|known| known.component.clone()).unwrap_or_default(),
            cluster: self.cluster.clone(),
            strict: self.strict,
            group: self.group,
            healthy: state.is_healthy(),
            last_check: state.last_check,
            last_error: state.last_error.clone(),
            label_sets: known.map(|known| known.label_sets.clone()).unwrap_or_default(),
            range: known.map_or(TimeRange::ALL, |known| known.range),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All endpoints of a querier, polled in the background.
#[derive(Debug)]
pub struct EndpointSet {
    endpoints: Vec<Arc<Endpoint>>,
    options: Arc<EndpointOptions>,
}

impl EndpointSet {
    /// Connects lazily to every endpoint and begins polling at once, until `shutdown`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Names the endpoint that is configured twice or whose target is no target.
    pub fn start(
        configs: Vec<EndpointConfig>,
        options: EndpointOptions,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        if configs.len() > MAX_ENDPOINTS {
            return Err(Error::TooManyEndpoints { count: configs.len(), limit: MAX_ENDPOINTS });
        }
        let options = Arc::new(options);
        let mut names = BTreeSet::new();
        let mut endpoints = Vec::with_capacity(configs.len());
        for config in configs {
            if !names.insert(config.name.clone()) {
                return Err(Error::DuplicateEndpoint { endpoint: config.name });
            }
            endpoints.push(Arc::new(Endpoint::new(config, Arc::clone(&options))?));
        }
        let set = Arc::new(Self { endpoints, options });
        info_poll::start(&set, metrics, shutdown);
        Ok(set)
    }

    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    pub fn options(&self) -> &EndpointOptions {
        &self.options
    }

    pub fn status(&self) -> Vec<EndpointStatus> {
        self.endpoints.iter().map(|endpoint| endpoint.status()).collect()
    }

    /// Expected clusters that no healthy endpoint advertises, sorted.
    pub fn missing_clusters(&self) -> Vec<String> {
        let expected = |present: bool| -> BTreeSet<&str> {
            self.endpoints
                .iter()
                .filter(|endpoint| (endpoint.is_healthy() && endpoint.advertises_expected()) == present)
                .filter_map(|endpoint| endpoint.cluster.as_deref())
                .collect()
        };
        expected(false).difference(&expected(true)).map(|cluster| (*cluster).to_owned()).collect()
    }

    /// Waits until every endpoint was polled once, successfully or not: at most the Info timeout, times the rounds that
    /// [`EndpointOptions::max_concurrent_polls`] makes of them if none answers.
    pub async fn polled_once(&self) {
        for endpoint in &self.endpoints {
            endpoint.shared.polled_once().await;
        }
    }
}

impl StoreList for EndpointSet {
    fn stores(&self) -> Vec<StoreStatus> {
        let shown = |status: EndpointStatus| StoreStatus {
            name: status.name,
            component: status.component,
            last_check: status.last_check,
            last_error: status.last_error,
            label_sets: status.label_sets,
            range: status.range,
        };
        self.status().into_iter().map(shown).collect()
    }

    fn missing_clusters(&self) -> Vec<String> {
        Self::missing_clusters(self)
    }
}
