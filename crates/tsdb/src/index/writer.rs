//! Writes an index, stage by stage, byte for byte as Prometheus does.
//!
//! The stages are: all symbols (when the writer is made), then every series in the order of its labels, then
//! [`IndexWriter::finish`] adds the postings lists, their table and the table of contents. What comes out of order is refused
//! and leaves the writer as it was. In memory are the symbols and 12 bytes per label of each series.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use parallax_model::Labels;

use super::postings_list;
use super::postings_table::put_entry;
use super::series::{ChunkMeta, MAX_SERIES_ENTRY_SIZE_BYTES, SeriesEntry};
use super::symbols::{SymbolRef, encode_section};
use super::toc::Toc;
use super::{INDEX_MAGIC, INDEX_VERSION, SERIES_ALIGNMENT_BYTES};
use crate::crc;
use crate::error::TsdbError;
use crate::postings::SeriesRef;
use crate::segment::ChunkRef;

/// Postings lists begin at multiples of this.
pub(super) const LIST_ALIGNMENT_BYTES: u64 = 4;

/// The name of what is written, in errors.
const WHAT: &str = "index";

/// Why an index could not be written on.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What was handed in is out of order or does not fit the format.
    #[error(transparent)]
    Refused(#[from] TsdbError),
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] io::Error),
}

/// What an index that was written holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    pub series_count: u64,
    pub chunk_count: u64,
    /// The largest distance between the starts of neighbouring series: how many bytes to fetch in order to get an entry whole.
    pub series_max_size_bytes: u64,
    pub size_bytes: u64,
}

/// An index that is being written to `sink`.
#[derive(Debug)]
pub struct IndexWriter<W: Write> {
    sink: Positioned<W>,
    toc: Toc,
    symbols: HashMap<Arc<str>, SymbolRef>,
    /// Symbols by their refs, for the postings table.
    texts: Vec<Arc<str>>,
    /// (name, value, series) of every label of every series.
    uses: Vec<(SymbolRef, SymbolRef, SeriesRef)>,
    series: Vec<SeriesRef>,
    last_labels: Labels,
    last_chunk_ref: ChunkRef,
    entry: SeriesEntry,
    buffer: Vec<u8>,
    stats: IndexStats,
}

impl<W: Write> IndexWriter<W> {
    /// Begins an index with its symbols: every text that any label of a later series has, in strict order.
    ///
    /// Prometheus also lists the empty text, though no label has it.
    pub fn new<'a>(sink: W, symbols: impl IntoIterator<Item = &'a str>) -> Result<Self, WriteError> {
        let texts: Vec<&str> = symbols.into_iter().collect();
        if let Some(pair) = texts.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(TsdbError::out_of_order(WHAT, format!("symbol {:?}", pair[1])).into());
        }
        let mut sink = Positioned { sink, position: 0 };
        sink.write(&INDEX_MAGIC.to_be_bytes())?;
        sink.write(&[INDEX_VERSION])?;
        let toc = Toc { symbols: sink.position, ..Toc::default() };
        sink.write(&encode_section(&texts)?)?;
        let toc = Toc { series: sink.position, ..toc };
        let texts: Vec<Arc<str>> = texts.into_iter().map(Arc::from).collect();
        Ok(Self {
            sink,
            toc,
            symbols: texts.iter().cloned().zip(0..).collect(),
            texts,
            uses: Vec::new(),
            series: Vec::new(),
            last_labels: Labels::empty(),
            last_chunk_ref: ChunkRef::from_u64(0),
            entry: SeriesEntry::default(),
            buffer: Vec::new(),
            stats: IndexStats::default(),
        })
    }

    /// Adds a series behind the last one; gives its ref.
    ///
    /// # Errors
    /// Labels that do not sort behind the last series', or are not among the symbols; chunks that are not in order of
    /// time without overlap, or not in order of their refs over the whole index.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[ChunkMeta]) -> Result<SeriesRef, WriteError> {
        self.check(labels, chunks)?;
        self.entry.labels.clear();
        for (name, value) in labels {
            self.entry.labels.push((self.symbol(name)?, self.symbol(value)?));
        }
        self.entry.chunks.clear();
        self.entry.chunks.extend_from_slice(chunks);
        let start = self.sink.position.next_multiple_of(SERIES_ALIGNMENT_BYTES);
        let Ok(series) = SeriesRef::try_from(start / SERIES_ALIGNMENT_BYTES) else {
            return Err(TsdbError::invalid(WHAT, "an index takes no more than 64 GiB").into());
        };
        self.buffer.clear();
        self.entry.encode(&mut self.buffer);
        let size_bytes = self.buffer.len() as u64;
        if size_bytes > MAX_SERIES_ENTRY_SIZE_BYTES {
            return Err(TsdbError::invalid(WHAT, format!("the entry of series {labels} is too long")).into());
        }
        self.sink.pad_to(SERIES_ALIGNMENT_BYTES)?;
        self.sink.write(&self.buffer)?;
        self.uses.extend(self.entry.labels.iter().map(|(name, value)| (*name, *value, series)));
        self.series.push(series);
        self.last_labels = labels.clone();
        self.last_chunk_ref = chunks.last().map_or(self.last_chunk_ref, |last| last.chunk_ref);
        self.stats.series_count += 1;
        self.stats.chunk_count += chunks.len() as u64;
        let stride_bytes = size_bytes.next_multiple_of(SERIES_ALIGNMENT_BYTES);
        self.stats.series_max_size_bytes = self.stats.series_max_size_bytes.max(stride_bytes);
        Ok(series)
    }

    /// Writes what remains and gives the sink back, flushed.
    pub fn finish(mut self) -> Result<(W, IndexStats), WriteError> {
        self.toc.label_indices = self.sink.position;
        self.toc.postings = self.sink.position;
        self.sink.pad_to(LIST_ALIGNMENT_BYTES)?;
        let table = self.write_lists()?;
        self.toc.label_indices_table = self.sink.position;
        self.toc.postings_table = self.sink.position;
        let len = u32::try_from(table.len())
            .map_err(|_| TsdbError::invalid(WHAT, "the postings table takes more than 4 GiB"))?;
        self.sink.write(&len.to_be_bytes())?;
        self.sink.write(&table)?;
        self.sink.write(&crc::crc32c(&table).to_be_bytes())?;
        self.sink.write(&self.toc.encode())?;
        self.sink.sink.flush()?;
        self.stats.size_bytes = self.sink.position;
        Ok((self.sink.sink, self.stats))
    }

    /// Writes the list of all series, then one per name and value; gives the content of the table.
    fn write_lists(&mut self) -> Result<Vec<u8>, WriteError> {
        let mut uses = std::mem::take(&mut self.uses);
        uses.sort_unstable();
        let mut table = vec![0; 4];
        let series = std::mem::take(&mut self.series);
        put_entry(&mut table, "", "", self.sink.position);
        self.write_list(&series)?;
        let mut list_count: u32 = 1;
        let mut refs = Vec::new();
        for of_pair in uses.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let Some((name, value, _)) = of_pair.first() else { continue };
            put_entry(&mut table, self.text(*name), self.text(*value), self.sink.position);
            refs.clear();
            refs.extend(of_pair.iter().map(|(_, _, series)| *series));
            self.write_list(&refs)?;
            list_count = list_count
                .checked_add(1)
                .ok_or_else(|| TsdbError::invalid(WHAT, "an index has too many postings lists"))?;
        }
        table[..4].copy_from_slice(&list_count.to_be_bytes());
        Ok(table)
    }

    fn write_list(&mut self, refs: &[SeriesRef]) -> Result<(), WriteError> {
        self.buffer.clear();
        postings_list::encode(refs, &mut self.buffer)?;
        self.sink.write(&self.buffer)?;
        Ok(())
    }

    /// Whether [`Self::add_series`] would take this series, without adding it.
    pub fn check(&self, labels: &Labels, chunks: &[ChunkMeta]) -> Result<(), TsdbError> {
        if *labels <= self.last_labels {
            let reason = format!("series {labels} after {}", self.last_labels);
            return Err(TsdbError::out_of_order(WHAT, reason));
        }
        for (name, value) in labels {
            self.symbol(name)?;
            self.symbol(value)?;
        }
        self.check_chunks(labels, chunks)
    }

    fn check_chunks(&self, labels: &Labels, chunks: &[ChunkMeta]) -> Result<(), TsdbError> {
        let refuse =
            |reason: &str| Err(TsdbError::out_of_order(WHAT, format!("chunks of series {labels}: {reason}")));
        if chunks.first().is_some_and(|first| first.chunk_ref < self.last_chunk_ref)
            || chunks.windows(2).any(|pair| pair[1].chunk_ref < pair[0].chunk_ref)
        {
            return refuse("a ref is lower than one before");
        }
        if chunks.windows(2).any(|pair| pair[1].min_time_ms <= pair[0].max_time_ms) {
            return refuse("a chunk begins before the end of the one before");
        }
        if chunks.iter().any(|chunk| chunk.max_time_ms < chunk.min_time_ms) {
            return refuse("a chunk ends before it begins");
        }
        Ok(())
    }

    fn symbol(&self, text: &str) -> Result<SymbolRef, TsdbError> {
        let found = self.symbols.get(text).copied();
        found.ok_or_else(|| TsdbError::invalid(WHAT, format!("{text:?} is not among the symbols")))
    }

    fn text(&self, symbol: SymbolRef) -> &str {
        self.texts.get(symbol as usize).map_or("", |text| text)
    }
}

/// A sink that knows how much went into it.
#[derive(Debug)]
pub(super) struct Positioned<W> {
    sink: W,
    position: u64,
}

impl<W: Write> Positioned<W> {
    pub(super) fn new(sink: W) -> Self {
        Self { sink, position: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn into_flushed(mut self) -> io::Result<W> {
        self.sink.flush()?;
        Ok(self.sink)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn pad_to(&mut self, alignment_bytes: u64) -> io::Result<()> {
        const ZEROS: [u8; SERIES_ALIGNMENT_BYTES as usize] = [0; SERIES_ALIGNMENT_BYTES as usize];
        let missing = self.position.next_multiple_of(alignment_bytes) - self.position;
        self.write(&ZEROS[..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use parallax_model::{MatchOp, Matcher};
    use proptest::prelude::*;

    use super::*;
    use crate::index::IndexReader;

    fn series() -> impl Strategy<Value = BTreeMap<Labels, Vec<(u16, u16)>>> {
        let labels = prop::collection::btree_map("[a-c]|é", "[a-d]{1,3}", 1..4).prop_map(Labels::from_pairs);
        prop::collection::btree_map(labels, prop::collection::vec((1u16.., 0u16..), 0..5), 0..60)
    }

    /// Chunks one behind the other in time and in the file, by their distances and lengths.
    fn chunks(of: &[(u16, u16)], next_ref: &mut u64) -> Vec<ChunkMeta> {
        let mut end = -100_000;
        let chunk = |(distance, length): &(u16, u16)| {
            let min_time_ms = end + i64::from(*distance);
            end = min_time_ms + i64::from(*length);
            *next_ref += u64::from(*distance);
            ChunkMeta { chunk_ref: ChunkRef::from_u64(*next_ref), min_time_ms, max_time_ms: end }
        };
        of.iter().map(chunk).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_found(series in series()) {
            let mut symbols = BTreeSet::from([""]);
            symbols.extend(series.keys().flat_map(|labels| labels.iter().flat_map(|(name, value)| [name, value])));
            let mut writer = IndexWriter::new(Vec::new(), symbols.iter().copied()).unwrap();
            let mut next_ref = 8 << 32;
            let mut written = Vec::new();
            for (labels, of) in &series {
                let metas = chunks(of, &mut next_ref);
                written.push((writer.add_series(labels, &metas).unwrap(), labels, metas));
            }
            let (bytes, stats) = writer.finish().unwrap();
            prop_assert_eq!(stats.series_count as usize, series.len());
            let index = IndexReader::open("index", bytes.into()).unwrap();
            let refs: Vec<_> = index.all_series().unwrap().collect();
            prop_assert_eq!(refs, written.iter().map(|(series, ..)| *series).collect::<Vec<_>>());
            let mut entry = SeriesEntry::default();
            for (series, labels, metas) in &written {
                let size = index.read_series(*series, &mut entry).unwrap();
                prop_assert!(size as u64 <= stats.series_max_size_bytes);
                prop_assert_eq!(&index.labels(&entry).unwrap(), *labels);
                prop_assert_eq!(&entry.chunks, metas);
            }
            for matcher in [Matcher::equal("a", "b"), Matcher::new(MatchOp::NotRegex, "é", "a.*|").unwrap()] {
                let expected = written.iter().filter(|(_, labels, _)| matcher.matches_labels(labels));
                let expected: Vec<_> = expected.map(|(series, ..)| *series).collect();
                prop_assert_eq!(index.select(&[matcher]).unwrap().collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn symbols_and_chunk_refs_out_of_order_are_refused() {
        let refused =
            |symbols: [&'static str; 2]| IndexWriter::new(Vec::new(), symbols).unwrap_err().to_string();
        assert_eq!(refused(["b", "a"]), "index is written out of order: symbol \"a\"");
        assert_eq!(refused(["a", "a"]), "index is written out of order: symbol \"a\"");

        let mut writer = IndexWriter::new(Vec::new(), ["a", "b", "c"]).unwrap();
        let chunk = |chunk_ref| ChunkMeta {
            chunk_ref: ChunkRef::from_u64(chunk_ref),
            min_time_ms: 0,
            max_time_ms: 1,
        };
        writer.add_series(&Labels::from_pairs([("a", "b")]), &[chunk(50)]).unwrap();
        let error = writer.add_series(&Labels::from_pairs([("a", "c")]), &[chunk(49)]).unwrap_err();
        assert!(matches!(error, WriteError::Refused(TsdbError::OutOfOrder { .. })), "{error}");
        assert!(writer.add_series(&Labels::empty(), &[]).is_err(), "a series without labels is none");
    }
}
