//! A whole index, in memory or mapped.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parallax_model::{Labels, Matcher};

use super::postings_list;
use super::postings_table::{PostingsRange, PostingsTable};
use super::series::{Piece, SeriesEntry};
use super::symbols::Symbols;
use super::toc::{TOC_SIZE_BYTES, Toc};
use super::{INDEX_PREAMBLE_SIZE_BYTES, SERIES_ALIGNMENT_BYTES, check_preamble};
use crate::error::TsdbError;
use crate::mapped;
use crate::postings::{LabelValueIndex, Postings, PostingsSource, SeriesRef, select};

/// Reads one index file. Clones share the bytes.
///
/// Opening checks the table of contents, the symbols and the postings table; each series entry and each postings list is
/// checked when it is read.
#[derive(Clone, Debug)]
pub struct IndexReader {
    what: Arc<str>,
    bytes: Bytes,
    toc: Toc,
    symbols: Symbols,
    table: PostingsTable,
}

impl IndexReader {
    /// `what` names the file in errors; `bytes` are all of it.
    pub fn open(what: impl Into<Arc<str>>, bytes: Bytes) -> Result<Self, TsdbError> {
        let what = what.into();
        check_preamble(&what, &bytes)?;
        let size_bytes = bytes.len() as u64;
        let tail_start = bytes.len().saturating_sub(TOC_SIZE_BYTES);
        let toc = Toc::decode(&what, size_bytes, bytes.get(tail_start..).unwrap_or_default())?;
        if toc.symbols < INDEX_PREAMBLE_SIZE_BYTES as u64 {
            return Err(TsdbError::corrupt(&what, tail_start as u64, "the symbols lie before their place"));
        }
        let section = |start, end| range_of(&what, &bytes, start, end);
        let symbols = Symbols::open(what.clone(), toc.symbols, &section(toc.symbols, toc.series)?, 1)?;
        let lists = PostingsRange { start: toc.postings, end: toc.postings_table };
        let table = section(toc.postings_table, tail_start as u64)?;
        let table = PostingsTable::open(what.clone(), toc.postings_table, &table, lists)?;
        Ok(Self { what, bytes, toc, symbols, table })
    }

    /// Maps a file of a finished block.
    pub fn open_file(path: &Path) -> Result<Self, TsdbError> {
        Self::open(path.to_string_lossy(), mapped::open(path)?)
    }

    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Label names, label values, and where the postings lists lie.
    pub fn postings_table(&self) -> &PostingsTable {
        &self.table
    }

    pub fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The refs of all series.
    pub fn all_series(&self) -> Result<Postings, TsdbError> {
        self.table.all_series_place()?.map_or(Ok(Postings::empty()), |place| self.postings_at(&place))
    }

    /// The refs of the series that have this label.
    pub fn postings(&self, name: &str, value: &str) -> Result<Postings, TsdbError> {
        self.table.value_place(name, value)?.map_or(Ok(Postings::empty()), |place| self.postings_at(&place))
    }

    /// The refs of the series that all `matchers` match; no matchers match nothing.
    pub fn select(&self, matchers: &[Matcher]) -> Result<Postings, TsdbError> {
        select(self, matchers)
    }

    /// Reads the entry of a series, replacing the content of `entry`; gives the entry's size in bytes.
    pub fn read_series(&self, series: SeriesRef, entry: &mut SeriesEntry) -> Result<usize, TsdbError> {
        let offset = u64::from(series) * SERIES_ALIGNMENT_BYTES;
        if offset < self.toc.series || offset >= self.toc.series_end() {
            return Err(TsdbError::not_found(&self.what, format!("series at byte {offset}")));
        }
        let bytes = range_of(&self.what, &self.bytes, offset, self.toc.series_end())?;
        match entry.decode(&self.what, offset, &bytes)? {
            Piece::Whole(size_bytes) => Ok(size_bytes),
            Piece::Cut { needed_bytes } => {
                Err(TsdbError::truncated(&self.what, offset, (needed_bytes - bytes.len()) as u64))
            }
        }
    }

    /// The labels of an entry that [`Self::read_series`] read.
    pub fn labels(&self, entry: &SeriesEntry) -> Result<Labels, TsdbError> {
        entry.labels(&self.symbols)
    }
}

impl LabelValueIndex for IndexReader {
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

impl PostingsSource for IndexReader {
    fn postings_at(&self, place: &PostingsRange) -> Result<Postings, TsdbError> {
        let bytes = range_of(&self.what, &self.bytes, place.start, place.end)?;
        postings_list::decode(&self.what, place.start, &bytes)
    }
}

fn range_of(what: &str, bytes: &Bytes, start: u64, end: u64) -> Result<Bytes, TsdbError> {
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(from), Ok(to)) if from <= to && to <= bytes.len() => Ok(bytes.slice(from..to)),
        _ => Err(TsdbError::truncated(what, start, end.saturating_sub(bytes.len() as u64))),
    }
}
