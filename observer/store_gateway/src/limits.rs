//! What one call uses: its limits, and the numbers for the metrics and the query stats.

use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Status;

use crate::config::Limits;
use crate::error::BlockFailure;

/// Thanos' number: a limit of samples is applied as one of chunks.
const SAMPLES_PER_CHUNK: u64 = 120;

/// What is touched or fetched; the label value `data_type` of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Postings,
    Series,
    Chunks,
}

impl Data {
    pub const ALL: [Self; 3] = [Self::Postings, Self::Series, Self::Chunks];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Postings => "postings",
            Self::Series => "series",
            Self::Chunks => "chunks",
        }
    }
}

/// Counters of one kind of data.
#[derive(Debug, Default)]
pub struct Used {
    pub touched: AtomicU64,
    pub touched_bytes: AtomicU64,
    pub fetched: AtomicU64,
    pub fetched_bytes: AtomicU64,
}

/// What one call has used so far, shared by all its blocks.
#[derive(Debug, Default)]
pub struct Usage {
    limits: Limits,
    postings: Used,
    series: Used,
    chunks: Used,
    reserved_series: AtomicU64,
    reserved_chunks: AtomicU64,
    downloaded_bytes: AtomicU64,
    pub merged_series: AtomicU64,
    pub merged_chunks: AtomicU64,
}

impl Usage {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub fn of(&self, data: Data) -> &Used {
        match data {
            Data::Postings => &self.postings,
            Data::Series => &self.series,
            Data::Chunks => &self.chunks,
        }
    }

    pub fn touched(&self, data: Data, count: usize, bytes: usize) {
        let used = self.of(data);
        used.touched.fetch_add(count as u64, Ordering::Relaxed);
        used.touched_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn downloaded_bytes(&self) -> u64 {
        self.downloaded_bytes.load(Ordering::Relaxed)
    }

    /// Counts a range that is about to be fetched.
    pub fn reserve_bytes(&self, data: Data, bytes: u64) -> Result<(), BlockFailure> {
        let used = self.of(data);
        used.fetched.fetch_add(1, Ordering::Relaxed);
        used.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        reserve(&self.downloaded_bytes, bytes, self.limits.downloaded_bytes, "bytes")
    }

    pub fn reserve_series(&self, count: usize) -> Result<(), BlockFailure> {
        reserve(&self.reserved_series, count as u64, self.limits.request_series, "series")
    }

    pub fn reserve_chunks(&self, count: usize) -> Result<(), BlockFailure> {
        // A limit below one chunk's worth of samples still is one.
        let limit = self.limits.request_samples.div_ceil(SAMPLES_PER_CHUNK);
        reserve(&self.reserved_chunks, count as u64, limit, "chunks")
    }
}

fn reserve(counter: &AtomicU64, more: u64, limit: u64, what: &str) -> Result<(), BlockFailure> {
    let total = counter.fetch_add(more, Ordering::Relaxed).saturating_add(more);
    if limit == 0 || total <= limit {
        return Ok(());
    }
    let message = format!("exceeded {what} limit: limit {limit} violated (got {total})");
    Err(BlockFailure::Limit(Status::resource_exhausted(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_the_most_that_is_allowed_and_zero_is_none() {
        let usage = Usage::new(Limits { request_series: 3, request_samples: 121, downloaded_bytes: 0 });
        usage.reserve_series(3).unwrap();
        let failure = usage.reserve_series(1).unwrap_err();
        assert!(
            matches!(&failure, BlockFailure::Limit(status) if status.code() == tonic::Code::ResourceExhausted)
        );
        assert_eq!(failure.to_string(), "exceeded series limit: limit 3 violated (got 4)");
        usage.reserve_chunks(2).unwrap();
        assert!(usage.reserve_chunks(1).is_err());
        usage.reserve_bytes(Data::Chunks, u64::MAX / 2).unwrap();
        assert_eq!(usage.downloaded_bytes(), u64::MAX / 2);
    }
}
