//! [`Server`]: the connections to one server, and whether it is worth asking.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::breaker::Breaker;
use super::connection::Connection;
use super::{envelope, memcached, redis};
use crate::config::RemoteLimits;

/// What it speaks, and how to sign in.
pub(super) enum Kind {
    Memcached,
    Redis { username: String, password: String, database: u32 },
}

/// Why a server gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// It failed before and is left alone.
    Resting,
    Timeout,
    Io(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resting => f.write_str("it is left alone after failures"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

pub(super) struct Server {
    address: String,
    kind: Kind,
    limits: RemoteLimits,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    breaker: Breaker,
}

impl Server {
    pub(super) fn new(address: String, kind: Kind, limits: RemoteLimits) -> Self {
        let permits = Semaphore::new(limits.get_concurrency.saturating_add(limits.set_concurrency));
        Self { address, kind, limits, idle: Mutex::default(), permits, breaker: Breaker::default() }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn get(&self, names: &[&str]) -> Result<Vec<Option<Bytes>>, Failure> {
        let max_bytes = self.limits.max_item_size_bytes.saturating_add(envelope::OVERHEAD_BYTES);
        self.within_limits(|mut connection| async move {
            let values = match self.kind {
                Kind::Memcached => memcached::get(&mut connection, names, max_bytes).await?,
                Kind::Redis { .. } => redis::get(&mut connection, names, max_bytes).await?,
            };
            Ok((connection, values))
        })
        .await
    }

    pub(super) async fn set(&self, name: &str, value: &[u8], ttl: Duration) -> Result<(), Failure> {
        self.within_limits(|mut connection| async move {
            match self.kind {
                Kind::Memcached => memcached::set(&mut connection, name, value, ttl).await?,
                Kind::Redis { .. } => redis::set(&mut connection, name, value, ttl).await?,
            }
            Ok((connection, ()))
        })
        .await
    }

    /// Runs `request` on a connection, in time. A connection on which anything went wrong, or that was given up on, is not used again: what
    /// it would say next belongs to another request.
    async fn within_limits<T, F>(&self, request: impl FnOnce(Connection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = io::Result<(Connection, T)>>,
    {
        if !self.breaker.lets_through(Instant::now()) {
            return Err(Failure::Resting);
        }
        let work = async {
            // Never closed.
            let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            request(connection).await
        };
        let failure = match tokio::time::timeout(self.limits.timeout, work).await {
            Ok(Ok((connection, value))) => {
                self.breaker.succeeded();
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                return Ok(value);
            }
            Ok(Err(error)) => {
                // After a restart of the server all of them are dead.
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Failure::Io(error)
            }
            Err(_) => Failure::Timeout,
        };
        if self.breaker.failed(Instant::now()) {
            tracing::warn!(address = %self.address, error = %failure, "cache server is left alone for a while; reads go to the bucket");
        }
        Err(failure)
    }

    async fn connect(&self) -> io::Result<Connection> {
        let mut connection = Connection::open(&self.address).await?;
        if let Kind::Redis { username, password, database } = &self.kind {
            redis::login(&mut connection, username, password, *database).await?;
        }
        Ok(connection)
    }
}
