//! Caches behind one trait: in memory with a bound in bytes, memcached, Redis; configured by Thanos' YAML.
//!
//! The rule all of them keep: a cache is never needed. One that is down, slow or wrong costs a bounded wait, is counted, and is then asked
//! nothing for a while; whoever uses it goes to the source instead. [`config`] reads the YAML, [`memory`] and [`remote`] are the kinds,
//! [`Cache`] is what they have in common. What is cached, and for how long, is the user's.

#![forbid(unsafe_code)]

pub mod cache;
pub mod config;
pub mod error;
pub mod memory;
pub mod remote;

pub use cache::Cache;
pub use config::{Backend, MemcachedConfig, MemoryConfig, RedisConfig};
pub use error::CacheError;
pub use memory::MemoryCache;
pub use remote::RemoteCache;

use std::sync::Arc;

use parallax_telemetry::Metrics;

/// Opens the cache that a configuration describes. `name` is the label of its metrics. A remote cache is not asked anything yet.
///
/// # Panics
/// Outside a tokio runtime, for a remote cache: it writes in the background.
pub fn open(backend: &Backend, name: &str, metrics: &Metrics) -> Arc<dyn Cache> {
    match backend {
        Backend::Memory(config) => Arc::new(MemoryCache::new(*config, name, metrics)),
        Backend::Memcached(config) => Arc::new(RemoteCache::memcached(config, name, metrics)),
        Backend::Redis(config) => Arc::new(RemoteCache::redis(config, name, metrics)),
    }
}
