//! Calls to endpoints, told apart by the cluster that an endpoint is of.
//!
//! Invariant: clusters may be named by peers, so there is a bound on how many are told apart; the others count together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderMap;
use parallax_telemetry::Metrics;

use super::{Call, Calls, Families, RpcMethods};

/// Clusters that are told apart, and the longest name of one.
const MAX_CLUSTERS: usize = 1000;
const MAX_NAME_BYTES: usize = 256;
const OTHERS: &str = "other";

/// The counters of all channels of a querier. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ClientCalls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    families: Families,
    methods: RpcMethods,
    clusters: Mutex<HashMap<Option<Arc<str>>, Arc<Calls>>>,
}

impl ClientCalls {
    pub fn register(metrics: &Metrics, methods: RpcMethods) -> Self {
        let families = Families::of_clients(metrics);
        Self { shared: Arc::new(Shared { families, methods, clusters: Mutex::default() }) }
    }

    /// For the channels of one endpoint. Without a cluster its series have exactly Thanos' labels.
    pub fn endpoint(&self, cluster: Option<&str>) -> EndpointCalls {
        let calls = self.of(cluster);
        EndpointCalls { all: self.clone(), current: Arc::new(ArcSwap::new(calls)) }
    }

    fn of(&self, cluster: Option<&str>) -> Arc<Calls> {
        let mut clusters = self.shared.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = cluster.filter(|name| !name.is_empty()).map(|name| {
            let key: Option<Arc<str>> = Some(name.into());
            let may_be_told = clusters.contains_key(&key) || clusters.len() < MAX_CLUSTERS;
            if name.len() <= MAX_NAME_BYTES && may_be_told { name } else { OTHERS }
        });
        let cluster: Option<Arc<str>> = cluster.map(Into::into);
        let make = || {
            let (families, methods) = (self.shared.families.clone(), self.shared.methods);
            Arc::new(Calls::new(families, methods, cluster.as_ref()))
        };
        Arc::clone(clusters.entry(cluster.clone()).or_insert_with(make))
    }
}

/// Counts the calls to one endpoint. Cloning shares the cluster.
#[derive(Clone, Debug)]
pub struct EndpointCalls {
    all: ClientCalls,
    current: Arc<ArcSwap<Calls>>,
}

impl EndpointCalls {
    /// Further calls are of this cluster; `None` if it is not known any more.
    pub fn belong_to(&self, cluster: Option<&str>) {
        let calls = self.all.of(cluster);
        if !Arc::ptr_eq(&calls, &self.current.load()) {
            self.current.store(calls);
        }
    }

    pub(crate) fn begin(&self, path: &str, headers: &HeaderMap) -> Call {
        self.current.load().begin(path, headers)
    }
}
