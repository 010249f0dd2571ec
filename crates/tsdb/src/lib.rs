//! Bytes of a block on disk: chunks, index, tombstones, index-header; readers and staged writers.

pub mod chunk;
pub mod crc;
pub mod cursor;
pub mod error;
pub mod segment;
