//! Bytes of a block on disk: chunks, index, tombstones, index-header; readers and staged writers.

mod bits;
pub mod block;
pub mod chunk;
pub mod crc;
pub mod cursor;
pub mod error;
pub mod mapped;
pub mod index;
pub mod index_header;
pub mod postings;
pub mod segment;
pub mod tombstones;

pub use error::TsdbError;
