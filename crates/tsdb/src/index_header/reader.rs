//! Reads an index-header, in memory or mapped.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    INDEX_HEADER_MAGIC, INDEX_HEADER_PREAMBLE_SIZE_BYTES, INDEX_HEADER_TOC_SIZE_BYTES, INDEX_HEADER_VERSION,
};
use crate::crc::CRC_SIZE_BYTES;
use crate::cursor::Cursor;
use crate::error::TsdbError;
use crate::index::toc::TOC_SIZE_BYTES;
use crate::index::{INDEX_VERSION, PostingsRange, PostingsTable, SAMPLE_EVERY, Symbols, Toc};
use crate::mapped;
use crate::postings::LabelValueIndex;

/// The symbols and the postings table of an index that lies elsewhere. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct IndexHeader {
    symbols: Symbols,
    table: PostingsTable,
    index_toc: Toc,
    index_size_bytes: u64,
    size_bytes: u64,
}

impl IndexHeader {
    /// `what` names the file in errors; `bytes` are all of it. Everything is checked here, at the cost of reading it once.
    pub fn open(what: impl Into<Arc<str>>, bytes: &Bytes) -> Result<Self, TsdbError> {
        let what = what.into();
        let table_in_index = check_preamble(&what, bytes)?;
        let (symbols_at, table_at, end) = own_toc(&what, bytes)?;
        let symbols = bytes.slice(symbols_at..table_at);
        let symbols = Symbols::open(what.clone(), symbols_at as u64, &symbols, SAMPLE_EVERY)?;

        // What was copied from the postings table on ends with the index's own table of contents.
        let copied = bytes.slice(table_at..end);
        let index_size_bytes = table_in_index.saturating_add(copied.len() as u64);
        let Some(index_toc_at) = copied.len().checked_sub(TOC_SIZE_BYTES) else {
            let missing = TOC_SIZE_BYTES - copied.len();
            return Err(TsdbError::truncated(&what, table_at as u64, missing as u64));
        };
        let index_toc = Toc::decode(&what, index_size_bytes, copied.get(index_toc_at..).unwrap_or_default())?;
        if index_toc.postings_table != table_in_index {
            let reason = "the header and the index in it disagree on where the postings table lies";
            return Err(TsdbError::corrupt(&what, 6, reason));
        }
        let lists = PostingsRange { start: index_toc.postings, end: table_in_index };
        let table = copied.slice(..index_toc_at);
        let table = PostingsTable::open(what, table_at as u64, &table, lists)?;
        Ok(Self { symbols, table, index_toc, index_size_bytes, size_bytes: bytes.len() as u64 })
    }

    /// Maps a file that [`super::IndexHeaderPlan::write_file`] wrote, or Thanos.
    pub fn open_file(path: &Path) -> Result<Self, TsdbError> {
        Self::open(path.to_string_lossy(), &mapped::open(path)?)
    }

    /// The symbols; a lookup reads up to [`SAMPLE_EVERY`] of them.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Label names, label values, and where the postings lists lie in the index.
    pub fn postings_table(&self) -> &PostingsTable {
        &self.table
    }

    /// The table of contents of the index: where series entries may lie.
    pub fn index_toc(&self) -> &Toc {
        &self.index_toc
    }

    pub fn index_size_bytes(&self) -> u64 {
        self.index_size_bytes
    }

    /// The size of the header itself.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl LabelValueIndex for IndexHeader {
    type Place = PostingsRange;
    type Error = TsdbError;

    fn all_series_place(&self) -> Result<Option<PostingsRange>, TsdbError> {
        self.table.all_series_place()
    }

    fn value_place(&self, name: &str, value: &str) -> Result<Option<PostingsRange>, TsdbError> {
        self.table.value_place(name, value)
    }

    fn visit_values(
        &self,
        name: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, PostingsRange),
    ) -> Result<(), TsdbError> {
        self.table.visit_values(name, prefix, visit)
    }
}

/// Gives the position of the postings table in the index.
fn check_preamble(what: &str, bytes: &[u8]) -> Result<u64, TsdbError> {
    let mut cursor = Cursor::new(what, bytes);
    let magic = cursor.be_u32()?;
    if magic != INDEX_HEADER_MAGIC {
        let reason = format!("{magic:08x} is not the magic number of an index-header");
        return Err(TsdbError::corrupt(what, 0, reason));
    }
    let version = cursor.u8()?;
    if version != INDEX_HEADER_VERSION {
        return Err(TsdbError::unsupported(what, 4, "index-header version", version));
    }
    let index_version = cursor.u8()?;
    if index_version != INDEX_VERSION {
        return Err(TsdbError::unsupported(what, 5, "index version", index_version));
    }
    cursor.be_u64()
}

/// Where the symbols begin, where the postings table begins, and where the header's own table of contents begins.
fn own_toc(what: &str, bytes: &[u8]) -> Result<(usize, usize, usize), TsdbError> {
    let end = bytes.len().saturating_sub(INDEX_HEADER_TOC_SIZE_BYTES);
    let tail = bytes.get(end..).unwrap_or_default();
    let covered =
        Cursor::at(what, end as u64, tail).checked_bytes(INDEX_HEADER_TOC_SIZE_BYTES - CRC_SIZE_BYTES)?;
    let mut cursor = Cursor::at(what, end as u64, covered);
    let (symbols, table) = (cursor.be_u64()?, cursor.be_u64()?);
    let in_order = [INDEX_HEADER_PREAMBLE_SIZE_BYTES as u64, symbols, table, end as u64].is_sorted();
    match (usize::try_from(symbols), usize::try_from(table)) {
        (Ok(symbols), Ok(table)) if in_order => Ok((symbols, table, end)),
        _ => Err(TsdbError::corrupt(what, end as u64, "the sections of an index-header are out of order")),
    }
}
