//! An endpoint that a querier asks: what is configured about it, what it last said of itself, and whether it is well.
//!
//! Invariant: an endpoint that is configured is never forgotten. While it is down, what it last said (or the cluster it is expected to
//! hold) decides whether a query could have needed it, and then its absence is reported. All of them together are in `endpoint/set.rs`, polling is in
//! `info_poll`, choosing in `store_selection`.

mod declared;
mod group;
mod lately;
mod metadata;
mod set;
mod sets;
mod state;
mod unusable;

use std::collections::BTreeSet;
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

pub use declared::Declared;
pub use group::Hedge;
use group::{Choice, Group, GroupCounters};
pub use metadata::{Metadata, TsdbInfo};
pub use set::{EndpointSet, Problem};
pub use sets::EndpointSets;
pub use state::EndpointStatus;
use state::Shared;
use unusable::Unusable;

use crate::Error;
use crate::claim::{Claim, ForeignLabels, delegation_defect};
use crate::coverage::{Gap, GapKind, bounded};
use crate::shipping::Shipping;

/// Counts what an endpoint claimed that is not its own.
pub(crate) type ForeignCounter = Counter<u64, AtomicU64>;

/// Most endpoints of one querier.
pub const MAX_ENDPOINTS: usize = 10_000;

/// How to reach an endpoint.
#[derive(Clone)]
pub enum Connection {
    /// A component of this process.
    Local(Arc<dyn Store>),
    Remote(GrpcTarget),
    /// Several servers that hold the same; each call goes to the next of them.
    Group(Vec<GrpcTarget>),
    /// Several servers that hold the same, in the order of preference.
    Alternatives(Alternatives),
    /// An entry that cannot be used, and why: it is missing from every answer that could have needed it.
    Unusable(String),
}

/// Named servers, each reached by itself, and when one that is asked too late is not waited for alone.
#[derive(Clone, Debug)]
pub struct Alternatives {
    pub members: Vec<(String, Connection)>,
    pub hedge: Hedge,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => f.write_str("Local"),
            Self::Remote(target) => f.debug_tuple("Remote").field(&target.address).finish(),
            Self::Group(targets) => {
                f.debug_list().entries(targets.iter().map(|target| &target.address)).finish()
            }
            Self::Alternatives(alternatives) => {
                f.debug_list().entries(alternatives.members.iter().map(|(name, _)| name)).finish()
            }
            Self::Unusable(reason) => f.debug_tuple("Unusable").field(reason).finish(),
        }
    }
}

impl Connection {
    /// The servers that it has to reach, but for those of groups, which come and go.
    fn targets(&self) -> Vec<&GrpcTarget> {
        match self {
            Self::Remote(target) => vec![target],
            Self::Alternatives(all) => {
                all.members.iter().flat_map(|(_, connection)| connection.targets()).collect()
            }
            Self::Local(_) | Self::Group(_) | Self::Unusable(_) => Vec::new(),
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
    /// Of a hub over several clusters, which `cluster` then is the name of: those it may answer for, each of which it has to hold. Empty: `cluster` alone.
    pub delegated: Vec<String>,
    /// What becomes of labels by which it claims to be another cluster; `None`: what [`EndpointOptions::foreign_labels`] says.
    pub foreign_labels: Option<ForeignLabels>,
    /// Thanos' `--endpoint-strict`. Every endpoint is static here and kept when it is down, so this only shows in its status.
    pub strict: bool,
    /// Thanos' `--endpoint-group`: several servers behind one address.
    pub group: bool,
    /// A store of finished blocks, which holds nothing until there is a first one: while it is well, to advertise no label set at all is
    /// complete, not a missing cluster.
    pub may_be_empty: bool,
    /// What is known of its cluster beside the name.
    pub declared: Declared,
    /// Tells how it is reached: an endpoint of the same name and revision keeps its connection when endpoints are replaced.
    pub revision: String,
    pub connection: Connection,
}

impl EndpointConfig {
    pub fn new(name: impl Into<String>, connection: Connection) -> Self {
        Self {
            name: name.into(),
            cluster: None,
            delegated: Vec::new(),
            foreign_labels: None,
            strict: false,
            group: false,
            may_be_empty: false,
            declared: Declared::default(),
            revision: String::new(),
            connection,
        }
    }

    #[must_use]
    pub fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = Some(cluster.into());
        self
    }

    /// The clusters that a hub may answer for; none: only the one it is declared as.
    #[must_use]
    pub fn with_delegated(mut self, delegated: &[String]) -> Self {
        self.delegated = delegated.to_vec();
        self
    }

    #[must_use]
    pub fn with_foreign_labels(mut self, foreign_labels: Option<ForeignLabels>) -> Self {
        self.foreign_labels = foreign_labels;
        self
    }

    #[must_use]
    pub fn with_declared(mut self, declared: Declared) -> Self {
        self.declared = declared;
        self
    }

    /// How it is reached, in words that change when that does.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = revision.into();
        self
    }

    #[must_use]
    pub fn that_may_be_empty(mut self) -> Self {
        self.may_be_empty = true;
        self
    }

    /// Errors: what is delegated to it cannot be.
    fn check(&self, options: &EndpointOptions) -> Result<(), Error> {
        match delegation_defect(&self.delegated, self.foreign_labels.unwrap_or(options.foreign_labels)) {
            None => Ok(()),
            Some(reason) => Err(Error::Delegation { endpoint: self.name.clone(), reason }),
        }
    }

    /// The clusters it has to hold, sorted.
    fn expected(&self) -> Arc<[String]> {
        let names =
            if self.delegated.is_empty() { self.cluster.as_slice() } else { self.delegated.as_slice() };
        names.iter().cloned().collect::<BTreeSet<String>>().into_iter().collect()
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
    /// What becomes of labels by which an endpoint claims to be another cluster than it is declared as.
    pub foreign_labels: ForeignLabels,
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
            foreign_labels: ForeignLabels::default(),
            message_limits: MessageLimits::default(),
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
        let store = store_of(&config.name, &config.connection, &options, &counters)?;
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
        Ok(match self.claim() {
            None => metadata,
            Some(claim) => claim.apply(metadata),
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

    /// How long it has been since it last said what it holds, if its last Info poll failed; nothing while it is well.
    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        self.shared.read().silent_for(now)
    }

    /// The time that it said it holds, at any poll of the last while; `None` if it never had the Store API.
    pub(crate) fn held_lately(&self) -> Option<TimeRange> {
        self.shared.read().lately.range()
    }

    /// The clusters that it is expected to hold, sorted: the one it is declared as, or those that are delegated to it.
    pub fn expected(&self) -> &[String] {
        &self.expected
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

    /// Those of the expected clusters that it did not advertise last: none if it holds nothing yet and may.
    pub fn not_advertised(&self) -> Vec<&str> {
        if self.expected.is_empty() {
            return Vec::new();
        }
        let label = &self.options.cluster_label;
        let (known, is_healthy) = {
            let state = self.shared.read();
            (state.metadata.clone(), state.is_healthy())
        };
        let sets = known.as_deref().map_or(&[][..], |known| &known.label_sets);
        let is_empty = known.as_deref().is_some_and(|known| known.has_store && known.range.is_empty())
            && sets.is_empty();
        if self.may_be_empty && is_healthy && is_empty {
            return Vec::new();
        }
        let advertised: BTreeSet<&str> = sets.iter().filter_map(|set| set.get(label)).collect();
        self.expected.iter().map(String::as_str).filter(|cluster| !advertised.contains(cluster)).collect()
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
        if let Some(cluster) = &self.cluster {
            return cluster.clone();
        }
        let advertised = self.advertised();
        match advertised.first() {
            Some(only) if advertised.len() == 1 => only.clone(),
            _ => self.name.clone(),
        }
    }

    /// The clusters it is expected to hold, or last advertised.
    pub(crate) fn clusters(&self) -> BTreeSet<String> {
        if self.expected.is_empty() { self.advertised() } else { self.expected.iter().cloned().collect() }
    }

    /// Those of its clusters that are wanted: of the ones that it is expected to hold, or else of those that it last advertised.
    pub(crate) fn clusters_where(&self, is_wanted: impl Fn(&Labels) -> bool) -> BTreeSet<String> {
        if !self.expected.is_empty() {
            let expected = self.expected.iter().filter(|cluster| is_wanted(&self.labels_of(cluster)));
            return expected.cloned().collect();
        }
        let known = self.metadata();
        let sets = known.iter().flat_map(|known| &known.label_sets).filter(|set| is_wanted(set));
        sets.filter_map(|set| set.get(&self.options.cluster_label).map(str::to_owned)).collect()
    }

    /// Counts further calls under the one cluster that it advertises, if it is declared as none.
    pub(crate) fn count_by_cluster(&self) {
        if self.cluster.is_none() {
            let advertised = self.advertised();
            let only = advertised.first().filter(|_| advertised.len() == 1);
            self.calls.belong_to(only.map(String::as_str));
        }
    }

    fn advertised(&self) -> BTreeSet<String> {
        let known = self.metadata();
        let sets = known.iter().flat_map(|known| &known.label_sets);
        sets.filter_map(|set| set.get(&self.options.cluster_label).map(str::to_owned)).collect()
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
    options: &EndpointOptions,
    counters: &Counters,
) -> Result<Arc<dyn Store>, Error> {
    let remote = |target: &GrpcTarget| -> Result<Arc<dyn Store>, Error> {
        let limits = &options.message_limits;
        let max_message_bytes = limits.frame_bytes.max(limits.info_bytes).max(limits.labels_bytes);
        let calls = Some(counters.calls.clone());
        let channel = parallax_net::connect(&GrpcTarget { max_message_bytes, calls, ..target.clone() })
            .map_err(|source| Error::Endpoint { endpoint: name.to_owned(), source })?;
        Ok(Arc::new(StoreClient::new(channel).with_limits(options.message_limits)))
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
                Ok((member.clone(), store_of(name, connection, options, counters)?))
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
