//! Segment files of a block: `chunks/000001`, `chunks/000002` and so on, each a header and chunks one after the other.
//!
//! A chunk is found by its [`ChunkRef`], as the index has it, or by walking a segment from its start. Every read checks the
//! chunk's checksum. Source: Prometheus `tsdb/docs/format/chunks.md` and `tsdb/chunks/chunks.go`; byte boxes stand in
//! `FORMAT-chunks.md`.

mod entry;
mod reader;
mod writer;

use std::fmt;

pub use entry::{Chunk, ParsedEntry, parse_entry};
pub use reader::{Segment, SegmentChunks, Segments};
pub use writer::{SegmentConfig, SegmentWriter};

/// The first four bytes of a segment.
pub const SEGMENT_MAGIC: u32 = 0x85BD_40DD;

/// The one version of segments.
pub const SEGMENT_VERSION: u8 = 1;

/// Magic, version and three bytes of padding.
pub const SEGMENT_HEADER_SIZE_BYTES: usize = 8;

/// The most bytes of data that a chunk may have. Prometheus writes about a kilobyte; a length beyond this is damage, and must
/// not make anyone fetch or allocate it.
pub const MAX_CHUNK_DATA_SIZE_BYTES: usize = 64 << 20;

/// Where a chunk stands in its block: the segment, counted from 0 (`chunks/000001`), and the offset of its entry there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef {
    pub segment: u32,
    pub offset: u32,
}

impl ChunkRef {
    /// From the number in the index: the segment in the upper 32 bits.
    pub const fn from_u64(number: u64) -> Self {
        Self { segment: (number >> 32) as u32, offset: (number & 0xffff_ffff) as u32 }
    }

    pub const fn as_u64(self) -> u64 {
        (self.segment as u64) << 32 | self.offset as u64
    }

    /// The name of the segment's file.
    pub fn segment_name(self) -> String {
        segment_name(self.segment)
    }
}

impl fmt::Display for ChunkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.segment_name(), self.offset)
    }
}

/// The file name of the segment with this index: the first is `000001`.
pub fn segment_name(index: u32) -> String {
    format!("{:06}", u64::from(index) + 1)
}
