//! One module per command: configuration in, a served component out.

pub mod callers;
pub mod compact;
pub mod demo;
pub mod discovery;
pub mod doctor;
pub mod late_gateway;
pub mod objstore;
pub mod observee;
pub mod observer;
pub mod pki;
pub mod query;
pub mod retention_policy;
pub mod side_file;
pub mod sidecar;
pub mod store;
pub mod tls;
pub mod tools;
pub mod web_config;
