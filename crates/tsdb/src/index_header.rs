//! Thanos' binary index-header: the parts of an index that a store gateway keeps on its own disk.
//!
//! It holds the symbols and the postings table of an index, copied verbatim, so that everything else of the index (series
//! entries, postings lists) can be read from the bucket by range. [`IndexHeaderPlan`] says which ranges make
//! a header and puts it together; [`IndexHeader`] reads it. The format: `FORMAT-index.md`.

pub mod plan;
pub mod reader;

pub use plan::IndexHeaderPlan;
pub use reader::IndexHeader;

use crate::crc::CRC_SIZE_BYTES;

/// The first four bytes of an index-header.
pub const INDEX_HEADER_MAGIC: u32 = 0xBAAA_D792;

/// The one version of the header itself.
pub const INDEX_HEADER_VERSION: u8 = 1;

/// Magic, version, the index's version, and the position of the postings table in the index.
pub const INDEX_HEADER_PREAMBLE_SIZE_BYTES: usize = 14;

/// Two positions and a checksum, at the end.
pub const INDEX_HEADER_TOC_SIZE_BYTES: usize = 2 * 8 + CRC_SIZE_BYTES;
