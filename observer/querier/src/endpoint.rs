//! An endpoint that a querier asks: what is configured about it, what it last said of itself, and whether it is well.
//!
//! Invariant: an endpoint that is configured is never forgotten. While it is down, what it last said (or the cluster it is expected to
//! hold) decides whether a query could have needed it, and then its absence is reported. All of them together are in `endpoint/set.rs`, polling is in
//! `info_poll`, choosing in `store_selection`.

mod configured;
mod declared;
mod group;
mod lately;
mod metadata;
mod set;
mod sets;
mod snapshot;
mod state;
mod unusable;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures::FutureExt;
use parallax_model::{Labels, TimeRange};
use parallax_net::{EndpointCalls, GrpcTarget};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::{MessageLimits, Store, StoreClient};
use prometheus_client::metrics::counter::Counter;

pub use configured::{Alternatives, Connection, EndpointConfig, EndpointLimits};
pub use declared::Declared;
pub use group::Hedge;
use group::{Choice, Group, GroupCounters};
pub use metadata::{Metadata, TsdbInfo};
pub use set::{EndpointSet, Problem};
pub use sets::EndpointSets;
pub(crate) use snapshot::Snapshot;
pub use state::EndpointStatus;
use state::Shared;
use unusable::Unusable;

use crate::Error;
use crate::chosen::LabelSetRules;
use crate::claim::{Claim, ForeignLabels};
use crate::coverage::{Gap, GapKind, bounded};
use crate::shipping::Shipping;

/// Counts what an endpoint claimed that is not its own.
pub(crate) type ForeignCounter = Counter<u64, AtomicU64>;

/// Most endpoints of one querier.
pub const MAX_ENDPOINTS: usize = 10_000;

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
    /// What becomes of labels by which an endpoint claims to be another cluster than it is declared as.
    pub foreign_labels: ForeignLabels,
    /// How large a message of a remote endpoint may be.
    pub message_limits: MessageLimits,
    /// Which of the label sets that endpoints advertise are chosen; `None`: all.
    pub label_sets: Option<LabelSetRules>,
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
            foreign_labels: ForeignLabels::default(),
            message_limits: MessageLimits::default(),
            label_sets: None,
        }
    }
}

/// One endpoint, and what is known of it now.
pub struct Endpoint {
    name: String,
    cluster: Option<String>,
    /// Sorted.
    expected: Arc<[String]>,
    foreign_labels: Option<ForeignLabels>,
    strict: bool,
    group: bool,
    is_local: bool,
    may_be_empty: bool,
    declared: Declared,
    limits: EndpointLimits,
    revision: String,
    store: Arc<dyn Store>,
    options: Arc<EndpointOptions>,
    foreign: ForeignCounter,
    calls: EndpointCalls,
    shared: Shared,
}

/// What is counted of an endpoint.
struct Counters {
    foreign: ForeignCounter,
    calls: EndpointCalls,
    group: GroupCounters,
}

impl Endpoint {
    fn new(config: EndpointConfig, options: Arc<EndpointOptions>, counters: Counters) -> Result<Self, Error> {
        config.check(&options)?;
        let expected = config.expected();
        let is_local = matches!(config.connection, Connection::Local(_));
        let message_limits = MessageLimits {
            frame_bytes: config.limits.frame_bytes.unwrap_or(options.message_limits.frame_bytes),
            ..options.message_limits
        };
        let store = store_of(&config.name, &config.connection, message_limits, &counters)?;
        Ok(Self {
            name: config.name,
            cluster: config.cluster,
            expected,
            foreign_labels: config.foreign_labels,
            strict: config.strict,
            group: config.group,
            is_local,
            may_be_empty: config.may_be_empty,
            declared: config.declared,
            limits: config.limits,
            revision: config.revision,
            store,
            options,
            foreign: counters.foreign,
            calls: counters.calls,
            shared: Shared::default(),
        })
    }

    /// For a configuration of which nothing else can be made.
    fn unusable(
        config: EndpointConfig,
        options: Arc<EndpointOptions>,
        counters: Counters,
        reason: &str,
    ) -> Self {
        Self {
            expected: config.expected(),
            name: config.name,
            cluster: config.cluster,
            foreign_labels: config.foreign_labels,
            strict: config.strict,
            group: config.group,
            is_local: false,
            may_be_empty: config.may_be_empty,
            declared: config.declared,
            limits: config.limits,
            revision: config.revision,
            store: Arc::new(Unusable::new(reason)),
            options,
            foreign: counters.foreign,
            calls: counters.calls,
            shared: Shared::default(),
        }
    }

    /// Whether it is what `config` says. Components of this process are not replaced.
    fn is_still(&self, config: &EndpointConfig) -> bool {
        let known = (&self.revision, &self.cluster, self.strict, self.group, self.may_be_empty);
        known == (&config.revision, &config.cluster, config.strict, config.group, config.may_be_empty)
            && self.foreign_labels == config.foreign_labels
            && self.declared == config.declared
            && self.limits == config.limits
            && self.expected == config.expected()
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

    /// Whether it is a component of ours, as far as it has shown that.
    pub(crate) fn is_peer(&self) -> bool {
        self.is_local || self.shared.read().is_peer
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
            && let Ok(metadata) = self.read_info(info)
        {
            self.shared.write().learned(metadata);
        }
    }

    /// What `info` says, as far as the endpoint may say it.
    ///
    /// # Errors
    /// If a label is not UTF-8.
    pub(crate) fn read_info(&self, info: InfoResponse) -> Result<Metadata, parallax_storeapi::Error> {
        let metadata = Metadata::from_info(info)?;
        let metadata = match self.claim() {
            None => metadata,
            Some(claim) => claim.apply(metadata),
        };
        Ok(match &self.options.label_sets {
            None => metadata,
            Some(rules) => rules.apply(metadata),
        })
    }

    /// The clusters that everything it sends has to be of; `None` if it is not declared as any.
    pub fn claim(&self) -> Option<Claim> {
        let mode = self.foreign_labels.unwrap_or(self.options.foreign_labels);
        Claim::delegated(self.options.cluster_label.as_str(), &self.expected, mode)
    }

    pub(crate) fn foreign_counter(&self) -> &ForeignCounter {
        &self.foreign
    }

    /// The clusters that it is expected to hold, sorted: the one it is declared as, or those that are delegated to it.
    pub fn expected(&self) -> &[String] {
        &self.expected
    }

    /// What it may send.
    pub(crate) fn limits(&self) -> EndpointLimits {
        self.limits
    }

    /// What is declared of its cluster.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// The external labels of a cluster, as far as they are declared.
    pub(crate) fn labels_of(&self, cluster: &str) -> Labels {
        let own = Labels::from_pairs([(self.options.cluster_label.as_str(), cluster)]);
        self.declared.labels.overlaid_with(&own)
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
        self.gap_of(self.cluster_name(), kind, reason)
    }

    /// The same, of one of its clusters.
    pub(crate) fn gap_of(&self, cluster: String, kind: GapKind, reason: impl Into<String>) -> Gap {
        Gap { cluster, kind, endpoint: self.name.clone(), reason: bounded(reason.into()) }
    }

    /// The one cluster it stands for, or its own name.
    pub(crate) fn cluster_name(&self) -> String {
        self.cluster.clone().unwrap_or_else(|| self.snapshot(Instant::now()).cluster_name())
    }

    /// Counts further calls under the one cluster that it advertises, if it is declared as none.
    pub(crate) fn count_by_cluster(&self) {
        if self.cluster.is_none() {
            self.calls.belong_to(self.snapshot(Instant::now()).advertises_only().as_deref());
        }
    }

    /// How far the shipping of blocks is behind there, as far as it has said so.
    pub(crate) fn shipping(&self) -> Vec<Shipping> {
        let state = self.shared.read();
        state.shipping.as_ref().map(|heard| heard.now(Instant::now())).unwrap_or_default()
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
            declared: self.declared.clone(),
            healthy: state.is_healthy(),
            last_check: state.last_check,
            last_error: state
                .last_error
                .clone()
                .or_else(|| known.and_then(|known| known.foreign.clone()))
                .or_else(|| known.and_then(|known| self.declared.contradiction(&known.label_sets))),
            label_sets: known.map(|known| known.label_sets.clone()).unwrap_or_default(),
            range: known.map_or(TimeRange::ALL, |known| known.range),
            shipping: state.shipping.as_ref().map(|heard| heard.now(Instant::now())).unwrap_or_default(),
        }
    }
}

/// What answers for a connection of the endpoint `name`.
fn store_of(
    name: &str,
    connection: &Connection,
    limits: MessageLimits,
    counters: &Counters,
) -> Result<Arc<dyn Store>, Error> {
    let remote = |target: &GrpcTarget| -> Result<Arc<dyn Store>, Error> {
        let max_message_bytes = limits.frame_bytes.max(limits.info_bytes).max(limits.labels_bytes);
        let calls = Some(counters.calls.clone());
        let channel = parallax_net::connect(&GrpcTarget { max_message_bytes, calls, ..target.clone() })
            .map_err(|source| Error::Endpoint { endpoint: name.to_owned(), source })?;
        Ok(Arc::new(StoreClient::new(channel).with_limits(limits)))
    };
    let group = |members, choice| -> Arc<dyn Store> {
        Arc::new(Group::new(name, members, choice, counters.group.clone()))
    };
    Ok(match connection {
        Connection::Local(store) => Arc::clone(store),
        Connection::Remote(target) => remote(target)?,
        Connection::Group(targets) => {
            let member = |target: &GrpcTarget| Ok((target.address.clone(), remote(target)?));
            group(targets.iter().map(member).collect::<Result<_, Error>>()?, Choice::Rotate)
        }
        Connection::Alternatives(alternatives) => {
            let member = |(member, connection): &(String, Connection)| {
                Ok((member.clone(), store_of(name, connection, limits, counters)?))
            };
            let members = alternatives.members.iter().map(member).collect::<Result<_, Error>>()?;
            group(members, Choice::Prefer(alternatives.hedge))
        }
        Connection::Unusable(reason) => Arc::new(Unusable::new(reason)),
    })
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}
