//! What an endpoint says of itself in Info, read once.

use parallax_model::{Labels, TimeRange};
use parallax_storeapi::proto::thanos::info::{InfoResponse, TsdbInfo as WireTsdbInfo};
use parallax_storeapi::{Error, SideService, labels};

/// A readable Info answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// `sidecar`, `store`, `query`…
    pub component: String,
    /// Sets of external labels held; none means that anything may be held.
    pub label_sets: Vec<Labels>,
    /// The time held; all of it for an endpoint without the Store API.
    pub range: TimeRange,
    /// Whether it serves the Store API at all.
    pub has_store: bool,
    pub supports_sharding: bool,
    pub supports_without_replica_labels: bool,
    pub tsdb_infos: Vec<TsdbInfo>,
    /// The services it offers beside the Store API.
    pub side: Vec<SideService>,
    /// Whether it evaluates PromQL for others.
    pub has_query: bool,
    /// The time of its exemplars; all of it where it does not say.
    pub exemplars_range: TimeRange,
    /// By which words it claims to be another cluster than it is declared as, see [`crate::Claim`]; those label sets are not in `label_sets`.
    pub foreign: Option<String>,
}

/// A TSDB or group of blocks behind an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TsdbInfo {
    pub labels: Labels,
    pub range: TimeRange,
}

impl Metadata {
    /// # Errors
    /// If a label is not UTF-8.
    pub fn from_info(info: InfoResponse) -> Result<Self, Error> {
        let label_sets = info.label_sets.iter().map(labels::set_from_wire).collect::<Result<Vec<_>, _>>()?;
        let has_store = info.store.is_some();
        let range = info
            .store
            .as_ref()
            .map_or(TimeRange::ALL, |store| TimeRange::new(store.min_time, store.max_time));
        let side = SideService::ALL.into_iter().filter(|service| service.is_offered(&info)).collect();
        let has_query = info.query.is_some();
        let exemplars = info.exemplars.as_ref().map(|held| TimeRange::new(held.min_time, held.max_time));
        let store = info.store.unwrap_or_default();
        Ok(Self {
            component: info.component_type,
            label_sets,
            range,
            has_store,
            supports_sharding: store.supports_sharding,
            supports_without_replica_labels: store.supports_without_replica_labels,
            tsdb_infos: store.tsdb_infos.iter().map(tsdb_info).collect::<Result<_, _>>()?,
            side,
            has_query,
            // Thanos' components leave both ends at 0.
            exemplars_range: exemplars.filter(|held| *held != TimeRange::new(0, 0)).unwrap_or(TimeRange::ALL),
            foreign: None,
        })
    }

    /// Whether all that it advertises is another cluster's.
    pub fn is_all_foreign(&self) -> bool {
        self.foreign.is_some() && self.label_sets.is_empty()
    }
}

fn tsdb_info(info: &WireTsdbInfo) -> Result<TsdbInfo, Error> {
    let labels = info.labels.as_ref().map(labels::set_from_wire).transpose()?.unwrap_or_default();
    Ok(TsdbInfo { labels, range: TimeRange::new(info.min_time, info.max_time) })
}
