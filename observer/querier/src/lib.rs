//! StoreAPIs to one deduplicated answer: fan-out, merge, dedup, PromQL, the Prometheus HTTP API, and StoreAPI again.

#![forbid(unsafe_code)]

mod active;
pub mod api;
mod chosen;
pub mod claim;
mod config;
mod cost;
pub mod coverage;
pub mod endpoint;
mod error;
mod gate;
mod info_poll;
mod merge;
pub mod proxy;
pub mod pushdown;
mod querier;
pub mod query;
mod query_api;
mod received;
mod resolution;
pub mod select;
mod shipping;
mod side;
mod stop;
pub mod store_selection;
pub mod tenancy;

pub use chosen::LabelSetRules;
pub use claim::{Claim, ForeignLabels, delegation_defect};
pub use config::QuerierConfig;
pub use cost::{EndpointCost, EndpointKey};
pub use coverage::{Coverage, CoverageLog, Gap, GapKind, Part, State};
pub use endpoint::{
    Alternatives, Connection, Declared, Endpoint, EndpointConfig, EndpointLimits, EndpointOptions,
    EndpointSet, EndpointSets, EndpointStatus, Hedge, Problem,
};
pub use error::Error;
pub use proxy::{Proxy, ProxyConfig, SideLimits};
pub use pushdown::Distribution;
pub use querier::Querier;
pub use received::{ReceivedBytes, ReceivedLog};
pub use shipping::Shipping;
