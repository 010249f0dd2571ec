//! Thanos' gRPC protocol in our own words: generated code, the Store trait, client, server.
#![forbid(unsafe_code)]

pub mod deadline;
pub mod proto;
mod store;

pub use deadline::{deadline_of, set_deadline, with_deadline};
pub use store::{SeriesStream, Store};
