//! One block that is served: its meta, its labels on the wire, its lazy index-header.

use std::path::Path;
use std::sync::Arc;

use parallax_block::meta::{CHUNKS_DIRECTORY, INDEX_FILE_NAME};
use parallax_block::{BlockId, BlockMeta};
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
    pub meta: Arc<BlockMeta>,
    pub external: Labels,
    pub header: LazyHeader,
    pub index_object: String,
}

impl Block {
    pub fn new(meta: Arc<BlockMeta>, data_dir: &Arc<Path>) -> Self {
        let id = meta.ulid;
        Self {
            external: meta.external_labels(),
            header: LazyHeader::new(id, data_dir),
            index_object: id.object(INDEX_FILE_NAME),
            meta,
        }
    }

    pub fn id(&self) -> BlockId {
        self.meta.ulid
    }

    /// Whether a sample of the block may lie in the (closed) range.
    pub fn overlaps(&self, range: &TimeRange) -> bool {
        self.meta.min_time_ms <= range.max_ms && range.min_ms < self.meta.max_time_ms
    }

    pub fn series_guess_bytes(&self) -> u64 {
        self.guess(|stats| stats.series_max_size_bytes).unwrap_or(SERIES_GUESS_BYTES)
    }

    pub fn chunk_guess_bytes(&self) -> u64 {
        // The stored size is of the chunk without its frame.
        self.guess(|stats| stats.chunk_max_size_bytes + 16).unwrap_or(CHUNK_GUESS_BYTES)
    }

    fn guess(&self, size: impl Fn(&parallax_block::meta::IndexStats) -> u64) -> Option<u64> {
        let stats = self.meta.thanos.as_ref()?.index_stats.as_ref()?;
        let known = stats.series_max_size_bytes > 0 && stats.chunk_max_size_bytes > 0;
        known.then(|| size(stats).min(MAX_GUESS_BYTES))
    }

    /// The name of a segment in the bucket.
    pub fn segment_object(&self, segment: u32) -> String {
        self.id().object(&format!("{CHUNKS_DIRECTORY}/{}", segment_name(segment)))
    }

    /// The size of a segment, if meta.json tells.
    pub fn segment_size_bytes(&self, segment: u32) -> Option<u64> {
        self.meta.file_size_bytes(&format!("{CHUNKS_DIRECTORY}/{}", segment_name(segment)))
    }
}
