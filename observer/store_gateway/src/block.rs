//! One block that is served: what is kept of its meta, and its lazy index-header. There are tens of thousands of these, so nothing is held that can be derived.

use std::path::Path;
use std::sync::Arc;

use parallax_block::meta::{CHUNKS_DIRECTORY, INDEX_FILE_NAME};
use parallax_block::{BlockId, BlockSummary};
use parallax_model::{Labels, TimeRange};
use parallax_tsdb::segment::segment_name;

use crate::header::LazyHeader;

/// How much of a series entry is fetched at first, where meta.json does not tell the largest.
const SERIES_GUESS_BYTES: u64 = 4 << 10;

/// How much of a chunk is fetched at first, where meta.json does not tell the largest: Thanos' estimate.
const CHUNK_GUESS_BYTES: u64 = 16_000;

/// A guess from meta.json counts up to this.
const MAX_GUESS_BYTES: u64 = 1 << 20;

/// A block as the gateway serves it.
#[derive(Debug)]
pub struct Block {
    pub meta: Arc<BlockSummary>,
    pub header: LazyHeader,
}

impl Block {
    pub fn new(meta: Arc<BlockSummary>, data_dir: &Arc<Path>) -> Self {
        Self { header: LazyHeader::new(meta.ulid, data_dir), meta }
    }

    /// The labels that every series of the block carries besides its own.
    pub fn external(&self) -> &Labels {
        &self.meta.external_labels
    }

    /// The name of the index in the bucket.
    pub fn index_object(&self) -> String {
        self.id().object(INDEX_FILE_NAME)
    }

    pub fn id(&self) -> BlockId {
        self.meta.ulid
    }

    /// Whether a sample of the block may lie in the (closed) range.
    pub fn overlaps(&self, range: &TimeRange) -> bool {
        self.meta.min_time_ms <= range.max_ms && range.min_ms < self.meta.max_time_ms
    }

    pub fn series_guess_bytes(&self) -> u64 {
        self.guess(self.meta.series_max_size_bytes).unwrap_or(SERIES_GUESS_BYTES)
    }

    pub fn chunk_guess_bytes(&self) -> u64 {
        // The stored size is of the chunk without its frame.
        self.guess(self.meta.chunk_max_size_bytes.saturating_add(16)).unwrap_or(CHUNK_GUESS_BYTES)
    }

    /// Whether meta.json tells how large the largest are.
    pub fn knows_sizes(&self) -> bool {
        self.meta.series_max_size_bytes > 0 && self.meta.chunk_max_size_bytes > 0
    }

    fn guess(&self, size_bytes: u32) -> Option<u64> {
        self.knows_sizes().then(|| u64::from(size_bytes).min(MAX_GUESS_BYTES))
    }

    /// The name of a segment in the bucket.
    pub fn segment_object(&self, segment: u32) -> String {
        self.id().object(&format!("{CHUNKS_DIRECTORY}/{}", segment_name(segment)))
    }

    /// The size of a segment, if meta.json tells.
    pub fn segment_size_bytes(&self, segment: u32) -> Option<u64> {
        self.meta.segment_size_bytes(segment)
    }
}
