//! Bytes of a block on disk: chunks, index, tombstones, index-header; readers and staged writers.

#![deny(unsafe_code)] // But for `mapped`, which maps files, and `chunk::{xor, xor_splice}`, which ask the processor what it can do.

mod bits;
pub mod block;
pub mod chunk;
pub mod crc;
pub mod cursor;
pub mod error;
pub mod index;
pub mod index_header;
pub mod mapped;
pub mod postings;
pub mod segment;
pub mod tombstones;

pub use error::TsdbError;
