//! [`Leases`]: which of several compactors of one bucket is at which group, kept in the bucket itself by conditional writes.
//!
//! A lease only saves work. It cannot keep a worker that slept for an hour from writing, and nothing rests on it: blocks have names of their own, what covers a block is
//! looked at before the block is marked, deletions wait, and sources are looked at again before a new block becomes visible.
//!
//! Each group has one small object, which is never deleted (a deletion cannot be conditional), only marked as free. It is taken by a write that demands that there
//! is none, or that it is as it was read. After any error of a write the object is read back: the token tells whose it is. It may be taken over once its end has passed, with
//! an allowance for clocks that differ; or once this worker has seen it unchanged for that long by its own clock, whatever it says.

mod record;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use parallax_block::BlockId;
use parallax_bucket::{Bucket, BucketError, Revision};
use xxhash_rust::xxh64::xxh64;

use crate::clock::Clock;
use crate::view::millis;
use record::Record;

/// Where leases are, in the root of the bucket; Thanos looks only at directories that are named by a ULID.
pub const LEASE_DIRECTORY: &str = "parallax/compact/leases";

/// No lease is larger.
const MAX_RECORD_BYTES: u64 = 16 << 10;

/// How leases are taken.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Who this worker is, for people.
    pub worker: String,
    /// How long a lease lasts unless it is renewed, which is done three times as often.
    pub lasts: Duration,
    /// By how much the clocks of workers may differ.
    pub clock_skew: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            worker: format!("pid {}", std::process::id()),
            lasts: Duration::from_secs(300),
            clock_skew: Duration::from_secs(60),
        }
    }
}

/// The leases of one worker.
#[derive(Debug)]
pub struct Leases {
    bucket: Bucket,
    config: LeaseConfig,
    clock: Clock,
    /// What the leases of others looked like (a checksum), and since when by our clock.
    seen: Mutex<BTreeMap<String, (u64, Duration)>>,
}

/// What came of an attempt to take a lease.
#[derive(Debug)]
pub enum Attempt {
    Taken(Lease),
    /// Somebody else has it.
    Busy {
        worker: String,
    },
}

/// A lease that this worker took; it may have lost it since.
#[derive(Clone, Debug)]
pub struct Lease {
    object: String,
    record: Record,
}

impl Leases {
    pub fn new(bucket: Bucket, config: LeaseConfig, clock: Clock) -> Self {
        Self { bucket, config, clock, seen: Mutex::default() }
    }

    /// Whether the bucket can be shared: whether it has conditional writes, and refuses those whose condition does not hold. (Some stores pass over conditions that they do
    /// not know, and write.)
    ///
    /// # Errors
    /// [`BucketError::Unconditional`] if not; others if the bucket did not let us find out.
    pub async fn probe(&self, now_ms: i64) -> Result<(), BucketError> {
        let token = token(now_ms);
        let object = format!("{LEASE_DIRECTORY}/probe-{token}.json");
        let outcome = self.write_on_condition(&object, &token).await;
        let deleted = self.bucket.delete(&object).await;
        outcome.and(deleted)
    }

    /// Writes what may be written, and what must be refused.
    async fn write_on_condition(&self, object: &str, token: &str) -> Result<(), BucketError> {
        // Some stores tell revisions by contents.
        let bytes = |version: u32| Bytes::from(format!("{token} {version}"));
        let first = match self.bucket.put_if_absent(object, bytes(1)).await {
            Ok(revision) => revision,
            // Ours, with an answer that was lost: nobody else knows the name.
            Err(error) if error.is_condition() || error.is_uncertain() => {
                self.bucket.get_with_revision(object, MAX_RECORD_BYTES).await?.1
            }
            Err(error) => return Err(error),
        };
        self.check_refused(self.bucket.put_if_absent(object, bytes(2)).await)?;
        self.bucket.put_if_unchanged(object, bytes(3), &first).await?;
        self.check_refused(self.bucket.put_if_unchanged(object, bytes(4), &first).await)
    }

    /// Whether a write was refused because of its condition, which does not hold.
    fn check_refused(&self, written: Result<Revision, BucketError>) -> Result<(), BucketError> {
        match written {
            Ok(_) => Err(BucketError::Unconditional {
                bucket: self.bucket.name().to_owned(),
                what: "refuse a write whose condition does not hold",
            }),
            Err(error) if error.is_condition() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How often a lease is to be renewed.
    pub fn renew_every(&self) -> Duration {
        self.config.lasts / 3
    }

    /// Takes the lease of a group, if nobody has it.
    ///
    /// # Errors
    /// If the bucket did not say who has it.
    pub async fn acquire(&self, key: &str, now_ms: i64) -> Result<Attempt, BucketError> {
        let object = object(key);
        let record = Record {
            version: record::VERSION,
            group: key.to_owned(),
            owner: token(now_ms),
            worker: self.config.worker.clone(),
            taken_ms: now_ms,
            expires_ms: now_ms.saturating_add(millis(self.config.lasts)),
        };
        let written = match self.bucket.get_with_revision(&object, MAX_RECORD_BYTES).await {
            Err(error) if error.is_not_found() => self.bucket.put_if_absent(&object, record.to_bytes()).await,
            Err(error) => return Err(error),
            Ok((found, revision)) => {
                let other = Record::parse(&found);
                if !self.is_over(&object, &found, other.as_ref(), now_ms) {
                    let worker = other.map_or_else(|| "unknown".to_owned(), |other| other.worker);
                    return Ok(Attempt::Busy { worker });
                }
                self.bucket.put_if_unchanged(&object, record.to_bytes(), &revision).await
            }
        };
        let lease = Lease { object, record };
        match written {
            Ok(_) => Ok(Attempt::Taken(lease)),
            Err(error @ BucketError::Unconditional { .. }) => Err(error),
            // The write may have taken effect all the same.
            Err(_) => self.settle(lease).await,
        }
    }

    /// Who has a lease of which our write had an error.
    async fn settle(&self, lease: Lease) -> Result<Attempt, BucketError> {
        match self.bucket.get_with_revision(&lease.object, MAX_RECORD_BYTES).await {
            Ok((found, _)) => Ok(match Record::parse(&found) {
                Some(found) if found.owner == lease.record.owner => Attempt::Taken(lease),
                Some(other) => Attempt::Busy { worker: other.worker },
                None => Attempt::Busy { worker: "unknown".to_owned() },
            }),
            Err(error) if error.is_not_found() => Ok(Attempt::Busy { worker: "nobody yet".to_owned() }),
            Err(error) => Err(error),
        }
    }

    /// Whether a lease may be taken over.
    fn is_over(&self, object: &str, found: &[u8], record: Option<&Record>, now_ms: i64) -> bool {
        let patience = self.config.lasts.saturating_add(self.config.clock_skew);
        let ended = record.is_some_and(|record| {
            record.owner.is_empty()
                || record.expires_ms.saturating_add(millis(self.config.clock_skew)) < now_ms
        });
        let now = self.clock.now();
        let looks = xxh64(found, 0);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = seen.entry(object.to_owned()).or_insert((looks, now));
        if entry.0 != looks {
            *entry = (looks, now);
        }
        ended || now.saturating_sub(entry.1) > patience
    }

    /// Whether a lease is still this worker's.
    ///
    /// # Errors
    /// If the bucket did not say.
    pub async fn holds(&self, lease: &Lease) -> Result<bool, BucketError> {
        match self.bucket.get_with_revision(&lease.object, MAX_RECORD_BYTES).await {
            Ok((found, _)) => {
                Ok(Record::parse(&found).is_some_and(|found| found.owner == lease.record.owner))
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a lease last longer; false if somebody else has it.
    ///
    /// # Errors
    /// If the bucket did not say; the lease may still be ours.
    pub async fn renew(&self, lease: &Lease, now_ms: i64) -> Result<bool, BucketError> {
        let expires_ms = now_ms.saturating_add(millis(self.config.lasts));
        self.rewrite(lease, Record { expires_ms, ..lease.record.clone() }).await
    }

    /// Gives a lease back, if it is still this worker's. One that is not given back ends by itself.
    pub async fn release(&self, lease: &Lease) {
        let free = Record { owner: String::new(), expires_ms: 0, ..lease.record.clone() };
        if let Err(error) = self.rewrite(lease, free).await {
            tracing::debug!(object = lease.object, %error, "a lease was not given back; it ends by itself");
        }
    }

    async fn rewrite(&self, lease: &Lease, record: Record) -> Result<bool, BucketError> {
        let (found, revision) = match self.bucket.get_with_revision(&lease.object, MAX_RECORD_BYTES).await {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        };
        if Record::parse(&found).is_none_or(|found| found.owner != lease.record.owner) {
            return Ok(false);
        }
        match self.bucket.put_if_unchanged(&lease.object, record.to_bytes(), &revision).await {
            Ok(_) => Ok(true),
            // By somebody else, or by this write, whose first answer was lost.
            Err(error) if error.is_condition() => self.holds(lease).await,
            Err(error) => Err(error),
        }
    }
}

fn object(key: &str) -> String {
    // Resolution and hash, with nothing that a store would have to escape.
    format!("{LEASE_DIRECTORY}/{}.json", key.replace('@', "-"))
}

/// Different for every attempt of every worker.
fn token(now_ms: i64) -> String {
    BlockId::generate(now_ms, &mut rand::rng()).to_string()
}

#[cfg(test)]
mod tests;
