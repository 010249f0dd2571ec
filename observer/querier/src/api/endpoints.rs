//! What `/api/v1/stores` shows, as the fan-out knows it.

use std::collections::BTreeMap;

use parallax_model::{Labels, TimeRange};

use crate::endpoint::Declared;
use crate::shipping::Shipping;

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreStatus {
    /// Its address, or a name of its own.
    pub name: String,
    /// What it says it is: `sidecar`, `store`, `query`…; empty if it never said.
    pub component: String,
    pub last_check: Option<jiff::Timestamp>,
    pub last_error: Option<String>,
    pub label_sets: Vec<Labels>,
    pub range: TimeRange,
    /// How far the shipping of blocks is behind there; empty if it does not say.
    pub shipping: Vec<Shipping>,
    /// What is declared of its cluster; nothing for most.
    pub declared: Declared,
}

/// The endpoints of a querier, now.
pub trait StoreList: Send + Sync + 'static {
    fn stores(&self) -> Vec<StoreStatus>;

    /// Where clusters are, as far as it is declared.
    fn regions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Expected clusters that no healthy endpoint serves.
    fn missing_clusters(&self) -> Vec<String> {
        Vec::new()
    }
}
