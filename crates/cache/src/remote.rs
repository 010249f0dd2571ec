//! [`RemoteCache`]: memcached or Redis, asked in batches, written in the background.
//!
//! A request waits at most the configured timeout, a call at most twice that. A server that fails several times in a row is left alone for a
//! while. Every value carries its length and a checksum over key and value, so that what a server makes up, cuts or mixes up is a miss.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use parallax_telemetry::Metrics;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::Cache;
use crate::config::{MemcachedConfig, RedisConfig, RemoteLimits};

mod breaker;
mod connection;
mod envelope;
mod memcached;
mod metrics;
mod redis;
mod server;

use metrics::{RemoteMetrics, Why};
use server::{Kind, Server};

/// Keys longer than this, or with letters that a protocol could stumble over, go by their hash.
const MAX_KEY_BYTES: usize = 200;

/// A cache in other processes, shared by all who use it.
pub struct RemoteCache {
    shared: Arc<Shared>,
    sets: mpsc::Sender<Set>,
}

struct Shared {
    servers: Vec<Server>,
    limits: RemoteLimits,
    metrics: RemoteMetrics,
}

struct Set {
    key: String,
    value: Bytes,
    ttl: Duration,
}

impl fmt::Debug for RemoteCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shared.servers.iter().map(Server::address)).finish()
    }
}

impl RemoteCache {
    pub fn memcached(config: &MemcachedConfig, name: &str, metrics: &Metrics) -> Self {
        let servers = config
            .addresses
            .iter()
            .map(|address| Server::new(address.clone(), Kind::Memcached, config.limits))
            .collect();
        Self::start(servers, config.limits, RemoteMetrics::register(metrics, "memcached", name))
    }

    pub fn redis(config: &RedisConfig, name: &str, metrics: &Metrics) -> Self {
        let kind = Kind::Redis {
            username: config.username.clone(),
            password: config.password.clone(),
            database: config.database,
        };
        let servers = vec![Server::new(config.address.clone(), kind, config.limits)];
        Self::start(servers, config.limits, RemoteMetrics::register(metrics, "redis", name))
    }

    fn start(servers: Vec<Server>, limits: RemoteLimits, metrics: RemoteMetrics) -> Self {
        let shared = Arc::new(Shared { servers, limits, metrics });
        let (sets, queue) = mpsc::channel(limits.set_queue);
        let writer = Arc::clone(&shared);
        // Ends when the cache is dropped: the queue closes.
        tokio::spawn(async move {
            let queue = futures::stream::unfold(queue, |mut queue| async move {
                let set: Set = queue.recv().await?;
                Some((set, queue))
            });
            let write = |set| {
                let shared = Arc::clone(&writer);
                async move { shared.set(set).await }
            };
            queue.for_each_concurrent(writer.limits.set_concurrency, write).await;
        });
        Self { shared, sets }
    }
}

#[async_trait]
impl Cache for RemoteCache {
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let shared = &self.shared;
        shared.metrics.requested(keys.len());
        let mut found = vec![None; keys.len()];
        let batches = shared.batches(keys);
        let asked = futures::stream::iter(batches)
            .map(|batch| async move {
                let values = shared.get(&batch).await;
                (batch, values)
            })
            .buffer_unordered(shared.limits.get_concurrency);
        let mut asked = std::pin::pin!(asked);
        let deadline = tokio::time::Instant::now() + shared.limits.timeout * 2;
        // What has not come by the deadline is not waited for.
        while let Ok(Some((batch, values))) = tokio::time::timeout_at(deadline, asked.next()).await {
            for (wanted, value) in batch.wanted.iter().zip(values) {
                if let (Some(place), Some(value)) = (found.get_mut(wanted.place), value) {
                    *place = Some(value);
                }
            }
        }
        shared.metrics.hit(found.iter().flatten().count());
        found
    }

    fn set(&self, key: &str, value: &Bytes, ttl: Duration) {
        if value.len() as u64 > self.shared.limits.max_item_size_bytes {
            self.shared.metrics.skipped(Why::TooLarge);
            return;
        }
        if ttl.is_zero() {
            return;
        }
        let set = Set { key: key.to_owned(), value: value.clone(), ttl };
        if self.sets.try_send(set).is_err() {
            self.shared.metrics.skipped(Why::QueueFull);
        }
    }
}

/// Keys for one server in one request.
struct Batch {
    server: usize,
    wanted: Vec<Wanted>,
}

struct Wanted {
    /// In the caller's keys.
    place: usize,
    key: String,
    /// As the server knows it.
    name: String,
}

impl Shared {
    fn batches(&self, keys: &[String]) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        let mut open: Vec<Option<usize>> = vec![None; self.servers.len()];
        for (place, key) in keys.iter().enumerate() {
            let server = self.server_of(key);
            let wanted = Wanted { place, key: key.clone(), name: name_of(key) };
            let Some(last) = open.get_mut(server) else { continue };
            match last.and_then(|index| batches.get_mut(index)) {
                Some(batch) if batch.wanted.len() < self.limits.batch_keys => batch.wanted.push(wanted),
                _ => {
                    *last = Some(batches.len());
                    batches.push(Batch { server, wanted: vec![wanted] });
                }
            }
        }
        batches
    }

    /// Rendezvous hashing: when a server comes or goes, only its own keys move.
    fn server_of(&self, key: &str) -> usize {
        let weight = |server: &Server| {
            let hash = crc32c::crc32c_append(crc32c::crc32c(server.address().as_bytes()), key.as_bytes());
            // CRCs of near texts are near; this spreads them.
            u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let weights = self.servers.iter().map(weight).enumerate();
        weights.max_by_key(|(_, weight)| *weight).map_or(0, |(index, _)| index)
    }

    /// The values of a batch, in its order; nothing if the server does not give them in time.
    async fn get(&self, batch: &Batch) -> Vec<Option<Bytes>> {
        let Some(server) = self.servers.get(batch.server) else { return Vec::new() };
        let names: Vec<&str> = batch.wanted.iter().map(|wanted| wanted.name.as_str()).collect();
        let started = Instant::now();
        let result = server.get(&names).await;
        self.metrics.finished("getmulti", started.elapsed(), result.as_ref().err());
        let Ok(values) = result else { return Vec::new() };
        let open = |(wanted, value): (&Wanted, Option<Bytes>)| {
            let value = value?;
            let opened = envelope::open(&wanted.key, &value);
            if opened.is_none() {
                self.metrics.failed("getmulti", Why::Corrupt);
            }
            opened
        };
        batch.wanted.iter().zip(values).map(open).collect()
    }

    async fn set(&self, set: Set) {
        let Some(server) = self.servers.get(self.server_of(&set.key)) else { return };
        let started = Instant::now();
        let sealed = envelope::seal(&set.key, &set.value);
        let result = server.set(&name_of(&set.key), &sealed, set.ttl).await;
        self.metrics.finished("set", started.elapsed(), result.as_ref().err());
    }
}

/// A key as servers know it.
fn name_of(key: &str) -> String {
    if !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return key.to_owned();
    }
    let hash: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("h:{hash}")
}
