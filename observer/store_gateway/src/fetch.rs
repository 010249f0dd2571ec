//! Getting bytes: which ranges of an object to ask for, and how many requests and computations run at a time.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use parallax_block::BlockId;
use parallax_bucket::{Bucket, BucketError};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::IndexCache;
use crate::error::BlockFailure;
use crate::limits::{Data, Usage};

/// No request asks for more than this at once: longer stretches of wanted bytes are cut.
pub const MAX_RANGE_BYTES: u64 = 16 << 20;

/// Index-headers that are built at a time; each holds one piece of at most [`MAX_RANGE_BYTES`].
const HEADER_BUILDS: usize = 8;

/// Ranges of a local file that are read at one go: to open it and to count the read takes longer than to read so little.
const TOGETHER_BYTES: u64 = 128 << 10;

/// Decoding so much takes some ten microseconds.
const INLINE_BYTES: usize = 16 << 10;

/// Asks the bucket for ranges, and runs computations, a bounded number of each at a time. Clones share the bounds.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub bucket: Bucket,
    pub max_gap_bytes: u64,
    pub index_cache: Option<Arc<IndexCache>>,
    /// Rung when an object that was listed is gone.
    pub gone: Arc<Notify>,
    requests: Arc<Semaphore>,
    computations: Arc<Semaphore>,
    header_builds: Arc<Semaphore>,
}

impl Fetch {
    pub fn new(bucket: Bucket, max_gap_bytes: u64, requests: usize, computations: usize) -> Self {
        Self {
            bucket,
            max_gap_bytes,
            index_cache: None,
            gone: Arc::default(),
            requests: Arc::new(Semaphore::new(requests.max(1))),
            computations: Arc::new(Semaphore::new(computations.max(1))),
            header_builds: Arc::new(Semaphore::new(HEADER_BUILDS)),
        }
    }

    #[must_use]
    pub fn with_index_cache(mut self, cache: Option<Arc<IndexCache>>) -> Self {
        self.index_cache = cache;
        self
    }

    /// One range of one object of a block; fewer bytes if the object ends earlier.
    pub async fn range(
        &self,
        block: BlockId,
        object: &str,
        range: Range<u64>,
        charge: Option<(&Usage, Data)>,
    ) -> Result<Bytes, BlockFailure> {
        if let Some((usage, data)) = charge {
            usage.reserve_bytes(data, range.end.saturating_sub(range.start))?;
        }
        let permit = self.requests.acquire().await.map_err(|_| BlockFailure::Interrupted { block })?;
        let bytes = self.bucket.get_range(object, range).await;
        drop(permit);
        bytes.map_err(|source| self.failed(block, source))
    }

    /// All `parts` of one object, in order; so many requests at a time.
    pub async fn parts(
        &self,
        block: BlockId,
        object: &str,
        parts: Vec<Part>,
        charge: (&Usage, Data),
        at_a_time: usize,
    ) -> Result<Vec<(Part, Bytes)>, BlockFailure> {
        let groups = self.groups(object, parts, |part| &part.range);
        let fetched: Vec<Vec<(Part, Bytes)>> = futures::stream::iter(groups)
            .map(|group| async move {
                let ranges: Vec<Range<u64>> = group.iter().map(|part| part.range.clone()).collect();
                if let Some(bytes) = self.together(block, object, &ranges, charge).await? {
                    return Ok(group.into_iter().zip(bytes).collect());
                }
                let mut all = Vec::with_capacity(group.len());
                for part in group {
                    let bytes = self.range(block, object, part.range.clone(), Some(charge)).await?;
                    all.push((part, bytes));
                }
                Ok(all)
            })
            .buffered(at_a_time)
            .try_collect()
            .await?;
        Ok(fetched.into_iter().flatten().collect())
    }

    /// What is worth asking for at one go of what is wanted of one object: nothing is, but of local files.
    pub fn groups<T>(&self, object: &str, wanted: Vec<T>, range: impl Fn(&T) -> &Range<u64>) -> Vec<Vec<T>> {
        let is_local = self.bucket.is_directory() && !self.bucket.caches_ranges_of(object);
        let mut groups: Vec<Vec<T>> = Vec::new();
        let mut room_bytes = 0_u64;
        for one in wanted {
            let size_bytes = range(&one).end.saturating_sub(range(&one).start);
            match groups.last_mut() {
                Some(group) if is_local && size_bytes <= room_bytes => group.push(one),
                _ => {
                    groups.push(vec![one]);
                    room_bytes = TOGETHER_BYTES;
                }
            }
            room_bytes = room_bytes.saturating_sub(size_bytes);
        }
        groups
    }

    /// Several ranges at one go. `None` for a single one, and if they cannot be had: then each is to be asked for, and says for itself what is wrong.
    pub async fn together(
        &self,
        block: BlockId,
        object: &str,
        ranges: &[Range<u64>],
        charge: (&Usage, Data),
    ) -> Result<Option<Vec<Bytes>>, BlockFailure> {
        if ranges.len() < 2 {
            return Ok(None);
        }
        let permit = self.requests.acquire().await.map_err(|_| BlockFailure::Interrupted { block })?;
        let bytes = self.bucket.get_ranges(object, ranges).await;
        drop(permit);
        let Ok(bytes) = bytes else { return Ok(None) };
        let (usage, data) = charge;
        for range in ranges {
            usage.reserve_bytes(data, range.end.saturating_sub(range.start))?;
        }
        Ok(Some(bytes))
    }

    /// As [`Self::range`], from the bucket itself: for who has found that what a cache gave cannot be right. `None` if there is no cache between.
    pub async fn range_again(
        &self,
        block: BlockId,
        object: &str,
        range: Range<u64>,
        charge: (&Usage, Data),
    ) -> Result<Option<Bytes>, BlockFailure> {
        if !self.bucket.caches_ranges_of(object) {
            return Ok(None);
        }
        let (usage, data) = charge;
        usage.reserve_bytes(data, range.end.saturating_sub(range.start))?;
        let permit = self.requests.acquire().await.map_err(|_| BlockFailure::Interrupted { block })?;
        let bytes = self.bucket.get_range_again(object, range).await;
        drop(permit);
        bytes.map(Some).map_err(|source| self.failed(block, source))
    }

    /// Waits until another index-header may be built.
    pub async fn header_turn(&self, block: BlockId) -> Result<SemaphorePermit<'_>, BlockFailure> {
        self.header_builds.acquire().await.map_err(|_| BlockFailure::Interrupted { block })
    }

    /// That an object of a listed block is not there says that the list is old.
    pub fn failed(&self, block: BlockId, source: BucketError) -> BlockFailure {
        if source.is_not_found() {
            self.gone.notify_one();
        }
        BlockFailure::Bucket { block, source }
    }

    /// Runs `compute`, whose work is to read `size_bytes`: off the I/O threads, unless handing it over would take longer than doing it.
    pub async fn compute_over<T: Send + 'static>(
        &self,
        block: BlockId,
        size_bytes: usize,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockFailure> {
        if size_bytes <= INLINE_BYTES { Ok(compute()) } else { self.compute(block, compute).await }
    }

    /// Runs `compute` off the I/O threads.
    pub async fn compute<T: Send + 'static>(
        &self,
        block: BlockId,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockFailure> {
        let permit = Arc::clone(&self.computations)
            .acquire_owned()
            .await
            .map_err(|_| BlockFailure::Interrupted { block })?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            compute()
        })
        .await
        .map_err(|_| BlockFailure::Interrupted { block })
    }
}

/// A stretch to be fetched at once, and which of the wanted ranges lie in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub range: Range<u64>,
    /// Indices into the wanted ranges.
    pub items: Range<usize>,
}

/// Joins ranges that are sorted by their start and at most `max_gap_bytes` apart.
pub fn join(wanted: &[Range<u64>], max_gap_bytes: u64) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (index, range) in wanted.iter().enumerate() {
        if let Some(last) = parts.last_mut() {
            let joined_bytes = range.end.max(last.range.end).saturating_sub(last.range.start);
            let near = range.start <= last.range.end.saturating_add(max_gap_bytes);
            if near && joined_bytes <= MAX_RANGE_BYTES {
                last.range.end = last.range.end.max(range.end);
                last.items.end = index + 1;
                continue;
            }
        }
        parts.push(Part { range: range.clone(), items: index..index + 1 });
    }
    parts
}

/// What `bytes`, which begin at `at` in their object, have from `offset` on; empty if nothing.
pub fn tail_from(bytes: &[u8], at: u64, offset: u64) -> &[u8] {
    let start = offset.checked_sub(at).and_then(|start| usize::try_from(start).ok());
    start.and_then(|start| bytes.get(start..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_joined_and_far_or_long_ones_are_not() {
        let part = |start, end, items| Part { range: start..end, items };
        assert_eq!(join(&[], 10), []);
        assert_eq!(join(&[0..5, 15..20, 16..18, 31..40], 10), [part(0, 20, 0..3), part(31, 40, 3..4)]);
        let half = MAX_RANGE_BYTES / 2;
        assert_eq!(
            join(&[0..half, half..2 * half, 2 * half..3 * half], 0),
            [part(0, 2 * half, 0..2), part(2 * half, 3 * half, 2..3)]
        );
    }

    #[test]
    fn a_tail_never_reaches_outside() {
        assert_eq!(tail_from(b"0123", 10, 12), b"23");
        assert_eq!(tail_from(b"0123", 10, 10), b"0123");
        assert_eq!(tail_from(b"0123", 10, 14), b"");
        assert_eq!(tail_from(b"0123", 10, 9), b"");
    }
}
