//! StoreAPIs to one deduplicated answer: fan-out, merge, dedup, PromQL, the Prometheus HTTP API, and StoreAPI again.

#![forbid(unsafe_code)]

pub mod api;
pub mod query;
pub mod select;
