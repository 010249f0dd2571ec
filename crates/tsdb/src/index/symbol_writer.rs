//! Writes an index from symbol refs: what [`super::IndexWriter`] does from text, for whoever merges blocks and never needs the text.
//!
//! The bytes are the same. Memory is bounded, however many series and symbols there are: symbols are read where they lie ([`SymbolStore`]), uses of labels
//! (`label_uses`) and the table of postings leave for unnamed files when there are many.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::label_uses::{LabelUses, Piece};
use super::postings_list::ListInPieces;
use super::postings_table::put_entry;
use super::series::{ChunkMeta, MAX_SERIES_ENTRY_SIZE_BYTES, SeriesEntry};
use super::spool::Spool;
use super::symbol_store::SymbolStore;
use super::symbols::SymbolRef;
use super::toc::Toc;
use super::writer::{IndexStats, LIST_ALIGNMENT_BYTES, Positioned, WriteError};
use super::{INDEX_MAGIC, INDEX_VERSION, SERIES_ALIGNMENT_BYTES};
use crate::crc;
use crate::error::TsdbError;
use crate::postings::SeriesRef;
use crate::segment::ChunkRef;

const WHAT: &str = "index";

/// The list of all series stands under the empty name and value, and is collected as theirs: the empty text is the first symbol.
const ALL_SERIES: (SymbolRef, SymbolRef) = (0, 0);

/// An index that is being written to `sink`.
#[derive(Debug)]
pub struct SymbolIndexWriter<W: Write> {
    sink: Positioned<W>,
    toc: Toc,
    symbols: Arc<SymbolStore>,
    uses: LabelUses,
    spill_dir: PathBuf,
    last_chunk_ref: ChunkRef,
    /// The last series.
    entry: SeriesEntry,
    buffer: Vec<u8>,
    limit_bytes: u64,
    stats: IndexStats,
}

impl<W: Write> SymbolIndexWriter<W> {
    /// Begins an index with its symbols ([`super::SymbolSection`]). `spill_dir` takes unnamed temporary files.
    ///
    /// # Errors
    /// Symbols that do not begin with the empty text; failures to read and to write.
    pub fn new(sink: W, symbols: &Arc<SymbolStore>, spill_dir: &Path) -> Result<Self, WriteError> {
        let mut sink = Positioned::new(sink);
        sink.write(&INDEX_MAGIC.to_be_bytes())?;
        sink.write(&[INDEX_VERSION])?;
        let toc = Toc { symbols: sink.position(), ..Toc::default() };
        if !symbols.text(ALL_SERIES.0)?.is_empty() {
            return Err(TsdbError::invalid(WHAT, "its symbols do not begin with the empty text").into());
        }
        symbols.visit(|piece| sink.write(piece))?;
        let toc = Toc { series: sink.position(), ..toc };
        Ok(Self {
            sink,
            toc,
            symbols: Arc::clone(symbols),
            uses: LabelUses::new(spill_dir),
            spill_dir: spill_dir.to_owned(),
            last_chunk_ref: ChunkRef::from_u64(0),
            entry: SeriesEntry::default(),
            buffer: Vec::new(),
            limit_bytes: u64::MAX,
            stats: IndexStats::default(),
        })
    }

    /// The size in bytes that the index must not exceed, besides what the format allows.
    pub fn limit(&mut self, limit_bytes: u64) {
        self.limit_bytes = limit_bytes;
    }

    /// Whether [`Self::add_series`] would take these labels and the times of these chunks.
    ///
    /// # Errors
    /// Labels that are empty, without a name, not in order of name or not behind the last series', a symbol that does not exist; chunks that overlap
    /// or are not in order of time.
    pub fn check(&self, labels: &[(SymbolRef, SymbolRef)], chunks: &[ChunkMeta]) -> Result<(), TsdbError> {
        let refuse = |reason: String| Err(TsdbError::out_of_order(WHAT, reason));
        if labels <= self.entry.labels.as_slice() {
            return refuse(format!("series {} after {}", self.show(labels), self.show(&self.entry.labels)));
        }
        if labels.windows(2).any(|pair| matches!(pair, [a, b] if a.0 >= b.0)) {
            return refuse(format!("labels of series {}", self.show(labels)));
        }
        if labels.iter().any(|(name, _)| *name == ALL_SERIES.0) {
            return Err(TsdbError::invalid(WHAT, "a label has no name"));
        }
        if labels.iter().any(|(name, value)| (*name).max(*value) >= self.symbols.len()) {
            return Err(TsdbError::invalid(WHAT, "a label is not among the symbols"));
        }
        let out_of_time = |pair: &[ChunkMeta]| matches!(pair, [a, b] if b.min_time_ms <= a.max_time_ms);
        if chunks.windows(2).any(out_of_time)
            || chunks.iter().any(|chunk| chunk.max_time_ms < chunk.min_time_ms)
        {
            return refuse(format!("chunks of series {} are not one after the other", self.show(labels)));
        }
        Ok(())
    }

    /// Adds a series behind the last one; gives its ref.
    ///
    /// # Errors
    /// What [`Self::check`] refuses, and refs of chunks that are lower than one before.
    pub fn add_series(
        &mut self,
        labels: &[(SymbolRef, SymbolRef)],
        chunks: &[ChunkMeta],
    ) -> Result<SeriesRef, WriteError> {
        self.check(labels, chunks)?;
        let first = chunks.first().map_or(self.last_chunk_ref, |chunk| chunk.chunk_ref);
        if first < self.last_chunk_ref || !chunks.is_sorted_by_key(|chunk| chunk.chunk_ref) {
            return Err(TsdbError::out_of_order(WHAT, "a chunk lies before one that was written").into());
        }
        self.entry.labels.clear();
        self.entry.labels.extend_from_slice(labels);
        self.entry.chunks.clear();
        self.entry.chunks.extend_from_slice(chunks);
        let start = self.sink.position().next_multiple_of(SERIES_ALIGNMENT_BYTES);
        let Ok(series) = SeriesRef::try_from(start / SERIES_ALIGNMENT_BYTES) else {
            return Err(TsdbError::too_large(WHAT, "series lie beyond 64 GiB").into());
        };
        self.buffer.clear();
        self.entry.encode(&mut self.buffer);
        let size_bytes = self.buffer.len() as u64;
        if size_bytes > MAX_SERIES_ENTRY_SIZE_BYTES {
            let reason = format!("the entry of series {} is too long", self.show(labels));
            return Err(TsdbError::invalid(WHAT, reason).into());
        }
        self.sink.pad_to(SERIES_ALIGNMENT_BYTES)?;
        self.sink.write(&self.buffer)?;
        check_limit(&self.sink, self.limit_bytes)?;
        self.uses.push(series, &[ALL_SERIES])?;
        self.uses.push(series, labels)?;
        self.last_chunk_ref = chunks.last().map_or(self.last_chunk_ref, |last| last.chunk_ref);
        self.stats.series_count += 1;
        self.stats.chunk_count += chunks.len() as u64;
        let stride_bytes = size_bytes.next_multiple_of(SERIES_ALIGNMENT_BYTES);
        self.stats.series_max_size_bytes = self.stats.series_max_size_bytes.max(stride_bytes);
        Ok(series)
    }

    /// Writes what remains and gives the sink back, flushed.
    pub fn finish(mut self) -> Result<(W, IndexStats), WriteError> {
        self.toc.label_indices = self.sink.position();
        self.toc.postings = self.sink.position();
        self.sink.pad_to(LIST_ALIGNMENT_BYTES)?;
        let mut table = Table::new(&self.spill_dir);
        let (sink, buffer, limit_bytes) = (&mut self.sink, &mut self.buffer, self.limit_bytes);
        let mut list = ListInPieces::default();
        if self.stats.series_count == 0 {
            // The list of all series is there, however few they are.
            table.push("", "", sink.position())?;
            buffer.clear();
            list.begin(0, buffer)?;
            list.end(buffer);
            sink.write(buffer)?;
        }
        let (mut names, mut values) = (self.symbols.cursor(), self.symbols.cursor());
        self.uses.visit(|piece| -> Result<(), WriteError> {
            buffer.clear();
            match piece {
                Piece::Begin { name, value, count } => {
                    table.push(names.text(name)?, values.text(value)?, sink.position())?;
                    list.begin(count, buffer)?;
                }
                Piece::Series(series) => list.push(series, buffer),
                Piece::End => list.end(buffer),
            }
            sink.write(buffer)?;
            check_limit(sink, limit_bytes)
        })?;
        self.toc.label_indices_table = self.sink.position();
        self.toc.postings_table = self.sink.position();
        table.write(&mut self.sink)?;
        self.sink.write(&self.toc.encode())?;
        check_limit(&self.sink, limit_bytes)?;
        self.stats.size_bytes = self.sink.position();
        Ok((self.sink.into_flushed()?, self.stats))
    }

    /// As PromQL writes a series, as far as the symbols exist.
    fn show(&self, labels: &[(SymbolRef, SymbolRef)]) -> String {
        self.symbols.show(labels)
    }
}

/// The table of postings in the making.
struct Table {
    entries: Spool,
    entry: Vec<u8>,
    count: u32,
    /// Of the entries, without the count in front of them.
    crc: u32,
}

impl Table {
    fn new(spill_dir: &Path) -> Self {
        Self { entries: Spool::new(spill_dir), entry: Vec::new(), count: 0, crc: crc::crc32c(&[]) }
    }

    fn push(&mut self, name: &str, value: &str, list_offset: u64) -> Result<(), WriteError> {
        let count = self.count.checked_add(1);
        self.count =
            count.ok_or_else(|| TsdbError::too_large(WHAT, "it has more than 2^32 postings lists"))?;
        self.entry.clear();
        put_entry(&mut self.entry, name, value, list_offset);
        self.crc = crc::append(self.crc, &self.entry);
        self.entries.write(&self.entry)?;
        Ok(())
    }

    /// From its length to its checksum.
    fn write<W: Write>(self, sink: &mut Positioned<W>) -> Result<(), WriteError> {
        let count = self.count.to_be_bytes();
        let size_bytes = self.entries.size_bytes();
        let len = u32::try_from(size_bytes + count.len() as u64)
            .map_err(|_| TsdbError::too_large(WHAT, "its postings table takes more than 4 GiB"))?;
        sink.write(&len.to_be_bytes())?;
        sink.write(&count)?;
        self.entries.finish()?.visit(|piece| sink.write(piece))?;
        sink.write(&crc::combine(crc::crc32c(&count), self.crc, size_bytes).to_be_bytes())?;
        Ok(())
    }
}

fn check_limit<W: Write>(sink: &Positioned<W>, limit_bytes: u64) -> Result<(), WriteError> {
    if sink.position() <= limit_bytes {
        return Ok(());
    }
    Err(TsdbError::too_large(WHAT, format!("it takes more than the limit of {limit_bytes} bytes")).into())
}

#[cfg(test)]
mod tests {
    use parallax_model::Labels;
    use proptest::prelude::*;

    use super::*;
    use crate::index::{IndexWriter, SymbolSection};

    /// An index of one series, written under a limit; gives its size.
    fn limited(limit_bytes: u64) -> Result<u64, WriteError> {
        let dir = tempfile::tempdir()?;
        let mut section = SymbolSection::new(dir.path());
        for text in ["", "a", "b"] {
            section.push(text)?;
        }
        let mut writer = SymbolIndexWriter::new(Vec::new(), &Arc::new(section.finish()?), dir.path())?;
        writer.limit(limit_bytes);
        let chunk = ChunkMeta { chunk_ref: ChunkRef::from_u64(8), min_time_ms: 1, max_time_ms: 2 };
        writer.add_series(&[(1, 2)], &[chunk])?;
        Ok(writer.finish()?.1.size_bytes)
    }

    #[test]
    fn an_index_beyond_its_limit_is_refused_wherever_it_grows() {
        let size_bytes = limited(u64::MAX).unwrap();
        assert_eq!(limited(size_bytes).unwrap(), size_bytes);
        for limit_bytes in 0..size_bytes {
            let error = limited(limit_bytes).unwrap_err();
            assert!(
                matches!(error, WriteError::Refused(TsdbError::TooLarge { .. })),
                "{limit_bytes}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_writer_from_text(
            series in prop::collection::btree_map(
                prop::collection::btree_map("[a-c]|é", "[a-d]{1,3}", 1..4).prop_map(Labels::from_pairs),
                prop::collection::vec(1i64..100, 0..4),
                0..40,
            ),
        ) {
            let symbols = crate::block::symbols_of(series.keys());
            let mut from_text = IndexWriter::new(Vec::new(), symbols.iter().copied()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let mut section = SymbolSection::new(dir.path());
            symbols.iter().for_each(|text| { section.push(text).unwrap(); });
            let section = Arc::new(section.finish().unwrap());
            let mut from_refs = SymbolIndexWriter::new(Vec::new(), &section, dir.path()).unwrap();
            let symbols: Vec<&str> = symbols.into_iter().collect();
            let symbol = |text: &str| u32::try_from(symbols.binary_search(&text).unwrap()).unwrap();
            let mut next_ref = 8;
            for (labels, distances) in &series {
                let mut end = 0;
                let chunks: Vec<ChunkMeta> = distances.iter().map(|distance| {
                    next_ref += 10;
                    let min_time_ms = end + distance;
                    end = min_time_ms + 5;
                    ChunkMeta { chunk_ref: ChunkRef::from_u64(next_ref), min_time_ms, max_time_ms: end }
                }).collect();
                from_text.add_series(labels, &chunks).unwrap();
                let refs: Vec<_> = labels.iter().map(|(name, value)| (symbol(name), symbol(value))).collect();
                from_refs.add_series(&refs, &chunks).unwrap();
                prop_assert!(from_refs.add_series(&refs, &chunks).is_err(), "the same series twice");
            }
            let (expected, expected_stats) = from_text.finish().unwrap();
            let (bytes, stats) = from_refs.finish().unwrap();
            prop_assert_eq!(stats, expected_stats);
            prop_assert!(bytes == expected);
        }
    }
}
