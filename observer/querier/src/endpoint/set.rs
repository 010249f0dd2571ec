//! All endpoints of a querier, polled in the background; discovery replaces them while queries run.
//!
//! Invariant: an endpoint whose name and revision stay keeps its connection, and a query that has begun keeps the endpoints it was given. One whose connection
//! changes keeps what it last said of itself, so that it is missed as before until it speaks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use parallax_model::TimeRange;
use parallax_net::ClientCalls;
use parallax_storeapi::METHODS;
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Connection, Counters, Declared, Endpoint, EndpointConfig, EndpointOptions, EndpointStatus,
    ForeignCounter, GroupCounters, MAX_ENDPOINTS,
};
use crate::Error;
use crate::api::{StoreList, StoreStatus};
use crate::info_poll::Poll;

/// Something that is wrong with where endpoints come from, and is not an endpoint itself: a file that cannot be read, a name that does not resolve while
/// what was known before is still in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or the name.
    pub source: String,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: String,
}

/// See the module.
#[derive(Debug)]
pub struct EndpointSet {
    current: RwLock<Current>,
    /// Held while endpoints are replaced.
    replacing: Mutex<()>,
    options: Arc<EndpointOptions>,
    poll: Poll,
    foreign: Family<EndpointLabel, ForeignCounter>,
    problems: Gauge,
    calls: ClientCalls,
    group: GroupCounters,
    /// Ends all polls with the set.
    shutdown: CancellationToken,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct Current {
    endpoints: Arc<[Arc<Endpoint>]>,
    /// Ends the polls of the endpoint at the same place.
    polls: Vec<CancellationToken>,
    problems: Vec<Problem>,
    /// Entries of which no endpoint could be made.
    unusable: usize,
}

/// Endpoints that are polled already and not asked yet.
struct Prepared {
    current: Current,
    names: BTreeSet<String>,
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
        let set = Self::empty(options, metrics, shutdown);
        if configs.len() > MAX_ENDPOINTS {
            return Err(Error::TooManyEndpoints { count: configs.len(), limit: MAX_ENDPOINTS });
        }
        let mut names = BTreeSet::new();
        for config in &configs {
            if !names.insert(config.name.as_str()) {
                return Err(Error::DuplicateEndpoint { endpoint: config.name.clone() });
            }
            config.check(&set.options)?;
            // A target that is none is an error here, and an endpoint that cannot be used later.
            for target in config.connection.targets() {
                parallax_net::connect(target)
                    .map_err(|source| Error::Endpoint { endpoint: config.name.clone(), source })?;
            }
        }
        set.replace(configs, Vec::new());
        Ok(set)
    }

    /// Without endpoints yet.
    pub fn empty(options: EndpointOptions, metrics: &Metrics, shutdown: CancellationToken) -> Arc<Self> {
        let shutdown = shutdown.child_token();
        let foreign = metrics.register(
            "parallax_querier_foreign_labels",
            "Series, label sets and values, rules, targets and exemplars that claimed to be another cluster than their endpoint is declared as",
            Family::default(),
        );
        let problems = metrics.register(
            "parallax_querier_discovery_problems",
            "Entries, files and names of endpoints that cannot be used now",
            Gauge::default(),
        );
        Arc::new(Self {
            current: RwLock::default(),
            replacing: Mutex::default(),
            poll: Poll::new(&options, metrics),
            options: Arc::new(options),
            foreign,
            problems,
            calls: ClientCalls::register(metrics, METHODS),
            group: GroupCounters::register(metrics),
            _stop: shutdown.clone().drop_guard(),
            shutdown,
        })
    }

    /// Puts these endpoints in the place of those that there are. What cannot be used is an endpoint that is down and says why.
    pub fn replace(&self, configs: Vec<EndpointConfig>, problems: Vec<Problem>) {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit(self.prepare(configs, problems));
    }

    /// The same, once the new ones were polled or `patience` is over: until then, those that there are go on to answer. Whoever replaces endpoints this way has to
    /// be the only one who does.
    pub async fn replace_when_polled(
        &self,
        configs: Vec<EndpointConfig>,
        problems: Vec<Problem>,
        patience: Duration,
    ) {
        let prepared = {
            let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
            self.prepare(configs, problems)
        };
        let polled = async {
            for endpoint in &prepared.current.endpoints[..] {
                endpoint.shared.polled_once().await;
            }
        };
        // Those that do not answer are missing after this as before.
        let _ = tokio::time::timeout(patience, polled).await;
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit(prepared);
    }

    /// What is wrong with where the endpoints come from, while they stay as they are.
    pub fn report(&self, problems: Vec<Problem>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.problems = problems;
        self.count_problems(&current);
    }

    fn prepare(&self, configs: Vec<EndpointConfig>, mut problems: Vec<Problem>) -> Prepared {
        let before = self.endpoints();
        let mut names = BTreeSet::new();
        let (mut endpoints, mut polls) = (Vec::with_capacity(configs.len()), Vec::new());
        let mut unusable = 0_usize;
        for config in configs {
            if endpoints.len() >= MAX_ENDPOINTS {
                let error =
                    format!("more than {MAX_ENDPOINTS} endpoints; this one and those after it are left out");
                problems.push(Problem { source: config.name, error });
                break;
            }
            if !names.insert(config.name.clone()) {
                let error = "this endpoint is given twice; the first entry is used".to_owned();
                problems.push(Problem { source: config.name, error });
                continue;
            }
            let former = before.iter().position(|one| one.name == config.name);
            let kept = former.and_then(|index| Some((before.get(index)?, self.poll_of(index)?)));
            unusable += usize::from(matches!(config.connection, Connection::Unusable(_)));
            match kept {
                Some((endpoint, poll)) if endpoint.is_still(&config) => {
                    endpoints.push(Arc::clone(endpoint));
                    polls.push(poll);
                }
                _ => {
                    let endpoint = Arc::new(self.connect(config));
                    if let Some((former, _)) = kept {
                        endpoint.shared.inherit(&former.shared);
                    }
                    let stop = self.shutdown.child_token();
                    self.poll.start(&endpoint, stop.clone());
                    endpoints.push(endpoint);
                    polls.push(stop);
                }
            }
        }
        Prepared { current: Current { endpoints: endpoints.into(), polls, problems, unusable }, names }
    }

    fn commit(&self, prepared: Prepared) {
        let Prepared { current: after, names } = prepared;
        let endpoints = Arc::clone(&after.endpoints);
        self.count_problems(&after);
        let former =
            std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), after);
        for (endpoint, poll) in former.endpoints.iter().zip(former.polls) {
            if !endpoints.iter().any(|one| Arc::ptr_eq(one, endpoint)) {
                poll.cancel();
                if !names.contains(&endpoint.name) {
                    self.forget(&endpoint.name);
                }
            }
        }
    }

    fn count_problems(&self, current: &Current) {
        let count = current.problems.len().saturating_add(current.unusable);
        self.problems.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Takes what metrics say of an endpoint away.
    fn forget(&self, endpoint: &str) {
        self.poll.forget(endpoint);
        self.foreign.remove(&EndpointLabel { endpoint: endpoint.to_owned() });
        self.group.forget(endpoint);
    }

    fn poll_of(&self, index: usize) -> Option<CancellationToken> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).polls.get(index).cloned()
    }

    fn connect(&self, config: EndpointConfig) -> Endpoint {
        let label = EndpointLabel { endpoint: config.name.clone() };
        let calls = self.calls.endpoint(config.cluster.as_deref());
        let counters = || Counters {
            foreign: self.foreign.get_or_create(&label).clone(),
            calls: calls.clone(),
            group: self.group.clone(),
        };
        match Endpoint::new(config.clone(), Arc::clone(&self.options), counters()) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let connection = Connection::Unusable(error.to_string());
                let config = EndpointConfig { connection, ..config };
                Endpoint::unusable(config, Arc::clone(&self.options), counters(), &error.to_string())
            }
        }
    }

    /// Those that there are now.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).endpoints)
    }

    pub fn problems(&self) -> Vec<Problem> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).problems.clone()
    }

    pub fn options(&self) -> &EndpointOptions {
        &self.options
    }

    pub fn status(&self) -> Vec<EndpointStatus> {
        self.endpoints().iter().map(|endpoint| endpoint.status()).collect()
    }

    /// Expected clusters that no healthy endpoint advertises and has series of, sorted.
    pub fn missing_clusters(&self) -> Vec<String> {
        let (endpoints, now) = (self.endpoints(), Instant::now());
        let (mut expected, mut present) = (BTreeSet::new(), BTreeSet::new());
        for endpoint in endpoints.iter() {
            let snapshot = endpoint.snapshot(now);
            let missing = snapshot.absent();
            for cluster in snapshot.expected() {
                expected.insert(cluster);
                if snapshot.is_healthy && !missing.contains(&cluster) {
                    present.insert(cluster);
                }
            }
        }
        expected.difference(&present).map(|cluster| (*cluster).to_owned()).collect()
    }

    /// Waits until every endpoint was polled once, successfully or not: at most the Info timeout, times the rounds that
    /// [`EndpointOptions::max_concurrent_polls`] makes of them if none answers.
    pub async fn polled_once(&self) {
        for endpoint in self.endpoints().iter() {
            endpoint.shared.polled_once().await;
        }
    }
}

/// What is gone has nothing to be measured.
impl Drop for EndpointSet {
    fn drop(&mut self) {
        self.shutdown.cancel();
        for endpoint in self.endpoints().iter() {
            self.forget(&endpoint.name);
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
            shipping: status.shipping,
            declared: status.declared,
        };
        let problem = |problem: Problem| StoreStatus {
            name: problem.source,
            component: "discovery".to_owned(),
            last_check: None,
            last_error: Some(problem.error),
            label_sets: Vec::new(),
            range: TimeRange::ALL,
            shipping: Vec::new(),
            declared: Declared::default(),
        };
        let endpoints = self.endpoints();
        let chosen =
            endpoints.iter().filter(|endpoint| !endpoint.metadata().is_some_and(|known| known.is_left_out()));
        chosen
            .map(|endpoint| shown(endpoint.status()))
            .chain(self.problems().into_iter().map(problem))
            .collect()
    }

    fn regions(&self) -> BTreeMap<String, String> {
        let (mut regions, now) = (BTreeMap::new(), Instant::now());
        for endpoint in self.endpoints().iter() {
            if let Some(region) = &endpoint.declared().region {
                regions.extend(
                    endpoint.snapshot(now).clusters().into_iter().map(|cluster| (cluster, region.clone())),
                );
            }
        }
        regions
    }

    fn missing_clusters(&self) -> Vec<String> {
        Self::missing_clusters(self)
    }
}
