//! A block's `index` file, version 2: which series there are, their labels, and where their chunks lie.
//!
//! Two shapes of reading: [`IndexReader`] over a whole file, and the decoders of single pieces (a symbols section, a series
//! entry, a postings list) for whoever fetches ranges of an object. [`IndexWriter`] writes files identical to
//! Prometheus'. The format, byte by byte: `FORMAT-index.md`.

mod label_uses;
pub mod postings_list;
pub mod postings_table;
pub mod reader;
pub mod series;
mod spool;
mod symbol_section;
pub mod symbol_store;
pub mod symbol_writer;
pub mod symbols;
pub mod toc;
pub mod writer;

use crate::cursor::Cursor;
use crate::error::TsdbError;

pub use postings_table::{PostingsRange, PostingsTable, Values};
pub use reader::IndexReader;
pub use series::{ChunkMeta, Piece, SeriesEntry};
pub use symbol_section::SymbolSection;
pub use symbol_store::{SymbolCursor, SymbolStore};
pub use symbol_writer::SymbolIndexWriter;
pub use symbols::{SymbolRef, Symbols};
pub use toc::Toc;
pub use writer::IndexWriter;

/// The first four bytes of an index.
pub const INDEX_MAGIC: u32 = 0xBAAA_D700;

/// The one version that we read and write. (Version 1, before Prometheus 2.2, refers to symbols by offset.)
pub const INDEX_VERSION: u8 = 2;

/// Magic and version: the first range to read of an index in a bucket.
pub const INDEX_PREAMBLE_SIZE_BYTES: usize = 5;

/// Series entries begin at multiples of this, so that a 32-bit ref reaches 64 GiB.
pub const SERIES_ALIGNMENT_BYTES: u64 = 16;

/// Of symbols and of label values, one in this many is found without reading its neighbours.
pub const SAMPLE_EVERY: usize = 32;

/// Checks the first bytes of an index and gives its version, so far always [`INDEX_VERSION`].
pub fn check_preamble(what: &str, bytes: &[u8]) -> Result<u8, TsdbError> {
    let mut cursor = Cursor::new(what, bytes);
    let magic = cursor.be_u32()?;
    if magic != INDEX_MAGIC {
        return Err(TsdbError::corrupt(what, 0, format!("{magic:08x} is not the magic number of an index")));
    }
    match cursor.u8()? {
        INDEX_VERSION => Ok(INDEX_VERSION),
        other => Err(TsdbError::unsupported(what, 4, "index version", other)),
    }
}

/// The content of a section that begins with its length as a u32 and ends with a checksum of the content.
///
/// `bytes` may go on behind the section. `offset` is where in `what` they begin.
pub(crate) fn checked_section<'a>(what: &str, offset: u64, bytes: &'a [u8]) -> Result<&'a [u8], TsdbError> {
    let mut cursor = Cursor::at(what, offset, bytes);
    let len = cursor.be_u32()? as usize;
    cursor.checked_bytes(len)?;
    // The cursor lends its bytes only for as long as `what` lives.
    Ok(bytes.get(4..4 + len).unwrap_or_default())
}
