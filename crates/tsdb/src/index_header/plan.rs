//! Which ranges of an index in a bucket make its index-header, and how they are put together.
//!
//! The caller makes the requests, in this order: the object's size, [`IndexHeaderPlan::preamble_range`],
//! [`IndexHeaderPlan::toc_range`]; then, with a plan made from these, the symbols and the postings table.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{INDEX_HEADER_MAGIC, INDEX_HEADER_PREAMBLE_SIZE_BYTES, INDEX_HEADER_VERSION};
use crate::crc::crc32c;
use crate::error::TsdbError;
use crate::index::toc::TOC_SIZE_BYTES;
use crate::index::{INDEX_PREAMBLE_SIZE_BYTES, Toc, check_preamble};

/// Stands behind the name of a header that is being written.
const UNFINISHED_SUFFIX: &str = ".tmp";

/// What is to be read of one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHeaderPlan {
    index_version: u8,
    toc: Toc,
    index_size_bytes: u64,
}

impl IndexHeaderPlan {
    /// Magic and version.
    pub const fn preamble_range() -> Range<u64> {
        0..INDEX_PREAMBLE_SIZE_BYTES as u64
    }

    /// The table of contents of an index of this size.
    pub fn toc_range(what: &str, index_size_bytes: u64) -> Result<Range<u64>, TsdbError> {
        let shortest = (INDEX_PREAMBLE_SIZE_BYTES + TOC_SIZE_BYTES) as u64;
        if index_size_bytes < shortest {
            return Err(TsdbError::truncated(what, 0, shortest - index_size_bytes));
        }
        Ok(index_size_bytes - TOC_SIZE_BYTES as u64..index_size_bytes)
    }

    /// From the bytes of the first two ranges. `what` names the index in errors.
    pub fn new(what: &str, index_size_bytes: u64, preamble: &[u8], toc: &[u8]) -> Result<Self, TsdbError> {
        Self::toc_range(what, index_size_bytes)?;
        let index_version = check_preamble(what, preamble)?;
        let toc = Toc::decode(what, index_size_bytes, toc)?;
        Ok(Self { index_version, toc, index_size_bytes })
    }

    /// The table of contents of the index.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// The symbols of the index.
    pub fn symbols_range(&self) -> Range<u64> {
        self.toc.symbols..self.toc.series
    }

    /// The postings table and all that follows it.
    pub fn postings_table_range(&self) -> Range<u64> {
        self.toc.postings_table..self.index_size_bytes
    }

    /// How large the header becomes.
    pub fn header_size_bytes(&self) -> u64 {
        let length = |range: Range<u64>| range.end - range.start;
        (INDEX_HEADER_PREAMBLE_SIZE_BYTES + super::INDEX_HEADER_TOC_SIZE_BYTES) as u64
            + length(self.symbols_range())
            + length(self.postings_table_range())
    }

    /// What comes before the symbols: write it, then the bytes of both ranges, then [`Self::header_end`].
    pub fn header_start(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(INDEX_HEADER_PREAMBLE_SIZE_BYTES);
        out.extend(INDEX_HEADER_MAGIC.to_be_bytes());
        out.push(INDEX_HEADER_VERSION);
        out.push(self.index_version);
        out.extend(self.toc.postings_table.to_be_bytes());
        out
    }

    /// The header's own table of contents.
    pub fn header_end(&self) -> Vec<u8> {
        let symbols = INDEX_HEADER_PREAMBLE_SIZE_BYTES as u64;
        let postings_table = symbols + (self.toc.series - self.toc.symbols);
        let mut out = Vec::with_capacity(super::INDEX_HEADER_TOC_SIZE_BYTES);
        out.extend(symbols.to_be_bytes());
        out.extend(postings_table.to_be_bytes());
        let crc = crc32c(&out);
        out.extend(crc.to_be_bytes());
        out
    }

    /// The whole header in memory. The content is checked when it is opened.
    ///
    /// # Errors
    /// If a piece is not as long as its range.
    pub fn assemble(&self, what: &str, symbols: &[u8], postings_table: &[u8]) -> Result<Vec<u8>, TsdbError> {
        for (range, bytes) in [(self.symbols_range(), symbols), (self.postings_table_range(), postings_table)]
        {
            let expected = range.end - range.start;
            if bytes.len() as u64 != expected {
                let reason = format!("{} bytes were read where the index has {expected}", bytes.len());
                return Err(TsdbError::corrupt(what, range.start, reason));
            }
        }
        Ok([&self.header_start(), symbols, postings_table, &self.header_end()].concat())
    }

    /// Writes the whole header to `path`, which appears at once and complete, or not at all.
    ///
    /// # Errors
    /// As [`Self::assemble`], and failures to write.
    pub fn write_file(&self, path: &Path, symbols: &[u8], postings_table: &[u8]) -> Result<(), TsdbError> {
        let header = self.assemble(&path.to_string_lossy(), symbols, postings_table)?;
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(unfinished);
        let write = |bytes: &[u8]| {
            let mut file = File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write(&header).map_err(TsdbError::io(&unfinished))?;
        fs::rename(&unfinished, path).map_err(TsdbError::io(path))
    }
}
