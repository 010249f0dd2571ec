//! What one call uses: its limits, and the numbers for the metrics and the query stats.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use parallax_block::BlockId;
use parallax_model::{Budget, OverQuota, Quota};
use tonic::Status;

use crate::blocks::Chosen;
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
    budget: Budget,
    postings: Used,
    series: Used,
    chunks: Used,
    pub merged_series: AtomicU64,
    pub merged_chunks: AtomicU64,
    /// Blocks that had left the bucket, each with the one that was read instead.
    replaced: Mutex<Vec<(BlockId, BlockId)>>,
}

impl Usage {
    pub fn new(limits: Limits) -> Self {
        let budget = Budget {
            series: Quota::new("series", limits.request_series),
            // A limit below one chunk's worth of samples still is one.
            samples: Quota::new("chunks", limits.request_samples.div_ceil(SAMPLES_PER_CHUNK)),
            bytes: Arc::new(Quota::new("bytes", limits.downloaded_bytes)),
        };
        Self { budget, ..Self::default() }
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

    /// Notes that one block was read instead of another.
    pub fn replaced(&self, gone: BlockId, successor: BlockId) {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push((gone, successor));
    }

    /// The blocks that were read in the end, each once.
    pub fn queried(&self, chosen: &[Chosen]) -> Vec<String> {
        let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let instead = |id: BlockId| replaced.iter().find(|(gone, _)| *gone == id).map_or(id, |pair| pair.1);
        let mut queried: Vec<BlockId> = Vec::with_capacity(chosen.len());
        for id in chosen.iter().map(|chosen| instead(chosen.block.id())) {
            // Only one that stands for others may be there twice.
            if replaced.is_empty() || !queried.contains(&id) {
                queried.push(id);
            }
        }
        queried.iter().map(BlockId::to_string).collect()
    }

    pub fn downloaded_bytes(&self) -> u64 {
        self.budget.bytes.used()
    }

    /// Counts a range that is about to be fetched.
    pub fn reserve_bytes(&self, data: Data, bytes: u64) -> Result<(), BlockFailure> {
        let used = self.of(data);
        used.fetched.fetch_add(1, Ordering::Relaxed);
        used.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.bytes.take(bytes).map_err(|over| refused(&over))
    }

    pub fn reserve_series(&self, count: usize) -> Result<(), BlockFailure> {
        self.budget.series.take(count as u64).map_err(|over| refused(&over))
    }

    pub fn reserve_chunks(&self, count: usize) -> Result<(), BlockFailure> {
        self.budget.samples.take(count as u64).map_err(|over| refused(&over))
    }
}

fn refused(over: &OverQuota) -> BlockFailure {
    BlockFailure::Limit(Status::resource_exhausted(over.to_string()))
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
