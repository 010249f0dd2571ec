//! [`SourceBlock`]: one block's series, in order, with what the index must not get wrong checked on the way.
//!
//! Series are read as they lie, not by the list of all series: what a damaged list leaves out is still there. Their number must be the one of
//! `meta.json`, their labels must increase, and the chunks of each must be in order of time within the block's. In downsampled blocks, chunks without samples are
//! passed over, whatever times they are said to have: old versions of Thanos wrote some.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use parallax_block::meta::INDEX_FILE_NAME;
use parallax_block::{BlockId, BlockMeta};
use parallax_model::TimeRange;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::index::toc::TOC_SIZE_BYTES;
use parallax_tsdb::index::{
    INDEX_PREAMBLE_SIZE_BYTES, Piece, SERIES_ALIGNMENT_BYTES, SeriesEntry, SymbolStore, Toc, check_preamble,
};
use parallax_tsdb::postings::SeriesRef;
use parallax_tsdb::tombstones::{TOMBSTONES_FILE_NAME, Tombstones};

use super::deletion::{Deletion, Deletions};
use super::segments::SegmentsReader;
use super::symbol_map::SymbolMap;
use super::symbols::{MergedSymbols, SymbolStream, merge};
use super::window::{Reading, Window};
use super::{Origin, SymbolLabels, deleted};
use crate::CompactError;
use crate::merge::ReadTotals;

/// A guess at the size of a series entry.
const SERIES_GUESS_BYTES: usize = 256;

/// No file of tombstones is larger.
const MAX_TOMBSTONES_BYTES: u64 = 256 << 20;

/// An open block whose series are read once, in order.
#[derive(Debug)]
pub struct SourceBlock {
    meta: Arc<BlockMeta>,
    index: Window,
    segments: SegmentsReader,
    toc: Toc,
    tombstones: Tombstones,
    /// What is deleted besides.
    deletions: Option<Deletions>,
    map: Arc<SymbolMap>,
    /// Where the next series begins.
    position: u64,
    /// Where another part of the block begins, if not all of it is read.
    stops_at: Option<u64>,
    /// Whether a part in front is read by another.
    is_rest: bool,
    /// Where the present one begins.
    series_at: u64,
    series_count: u64,
    entry: SeriesEntry,
    labels: SymbolLabels,
    spare: SymbolLabels,
    totals: ReadTotals,
}

impl SourceBlock {
    /// Opens the index, and the tombstones if there are any.
    pub fn open(reading: &Reading, meta: Arc<BlockMeta>) -> Result<Self, CompactError> {
        let block = meta.ulid;
        let damaged = |source| CompactError::Damaged { block, source };
        let mut index = Window::open(reading, block, INDEX_FILE_NAME, reading.index_window_bytes)?;
        let size_bytes = index.size_bytes();
        let tail_at = size_bytes.saturating_sub(TOC_SIZE_BYTES as u64);
        let tail = index.at(tail_at, TOC_SIZE_BYTES)?;
        let toc = Toc::decode(index.object(), size_bytes, &tail).map_err(damaged)?;
        let head = index.at(0, INDEX_PREAMBLE_SIZE_BYTES)?;
        check_preamble(index.object(), &head).map_err(damaged)?;
        Ok(Self {
            tombstones: read_tombstones(reading, block)?,
            segments: SegmentsReader::new(reading.clone(), block, meta.resolution_ms() != 0),
            deletions: None,
            index,
            toc,
            map: Arc::new(SymbolMap::Same(0)),
            position: toc.series.next_multiple_of(SERIES_ALIGNMENT_BYTES),
            stops_at: None,
            is_rest: false,
            series_at: toc.series,
            series_count: 0,
            entry: SeriesEntry::default(),
            labels: Vec::new(),
            spare: Vec::new(),
            totals: ReadTotals::default(),
            meta,
        })
    }

    /// Opens blocks and merges their symbols; gives the blocks, in the same order, and the merged symbols. `spill_dir` takes an unnamed file if these are many.
    pub fn open_all(
        reading: &Reading,
        metas: &[Arc<BlockMeta>],
        spill_dir: &Path,
    ) -> Result<(Vec<Self>, Arc<SymbolStore>), CompactError> {
        let mut blocks = Vec::with_capacity(metas.len());
        for meta in metas {
            blocks.push(Self::open(reading, Arc::clone(meta))?);
        }
        let mut streams = Vec::with_capacity(blocks.len());
        for block in &mut blocks {
            streams.push(block.symbols()?);
        }
        let MergedSymbols { symbols, maps } = merge(streams, spill_dir)?;
        for (block, map) in blocks.iter_mut().zip(maps) {
            block.map = Arc::new(map);
        }
        Ok((blocks, symbols))
    }

    /// Opens a block whose symbols keep their numbers; `each` is shown them, in order.
    pub fn open_alone(
        reading: &Reading,
        meta: Arc<BlockMeta>,
        mut each: impl FnMut(&str) -> Result<(), CompactError>,
    ) -> Result<Self, CompactError> {
        let mut block = Self::open(reading, meta)?;
        let mut symbols = block.symbols()?;
        let mut count = 0;
        symbols.advance()?;
        while let Some(text) = symbols.current() {
            each(text)?;
            count += 1;
            symbols.advance()?;
        }
        block.map = Arc::new(SymbolMap::Same(count));
        Ok(block)
    }

    fn symbols(&mut self) -> Result<SymbolStream<'_>, CompactError> {
        SymbolStream::open(&mut self.index, self.meta.ulid, self.toc.symbols, self.toc.series)
    }

    /// Opens the block of `whole` once more, for the series from `series` on; `whole`, of which nothing was read, stops in front of it. Neither knows how many series there are in all.
    pub fn split(reading: &Reading, whole: &mut Self, series: SeriesRef) -> Result<Self, CompactError> {
        let mut rest = Self::open(reading, Arc::clone(&whole.meta))?;
        rest.map = Arc::clone(&whole.map);
        rest.position = u64::from(series) * SERIES_ALIGNMENT_BYTES;
        rest.is_rest = true;
        whole.stops_at = Some(rest.position);
        Ok(rest)
    }

    /// Where the lists of postings begin.
    pub fn postings_at(&self) -> u64 {
        self.toc.postings
    }

    /// Leaves out what is asked for; `symbols` are the merged ones.
    pub fn delete(&mut self, deletions: &[Deletion], symbols: &SymbolStore) -> Result<(), CompactError> {
        self.deletions = Some(Deletions::new(deletions, symbols).map_err(CompactError::Staging)?);
        Ok(())
    }

    /// The labels of the present series.
    pub fn labels(&self) -> &SymbolLabels {
        &self.labels
    }

    /// Moves to the next series; false after the last one.
    pub fn advance(&mut self) -> Result<bool, CompactError> {
        let end = self.toc.series_end();
        if let Some(stop) = self.stops_at
            && self.position >= stop
        {
            if self.position == stop {
                return Ok(false);
            }
            return Err(self.corrupt("a series reaches into the next one"));
        }
        if self.position >= end {
            let expected = self.meta.stats.num_series;
            if expected != 0 && expected != self.series_count && !self.is_rest {
                let reason =
                    format!("meta.json counts {expected} series, the index has {}", self.series_count);
                return Err(CompactError::Contradicts { block: self.meta.ulid, reason });
            }
            return Ok(false);
        }
        let mut wanted = SERIES_GUESS_BYTES;
        self.series_at = self.position;
        loop {
            let bytes = self.index.at(self.position, wanted)?;
            let limit = usize::try_from(end - self.position).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.get(..limit).unwrap_or_default();
            let decoded = self.entry.decode(self.index.object(), self.position, piece);
            match decoded.map_err(|source| CompactError::Damaged { block: self.meta.ulid, source })? {
                Piece::Whole(size_bytes) => {
                    self.position =
                        (self.position + size_bytes as u64).next_multiple_of(SERIES_ALIGNMENT_BYTES);
                    break;
                }
                Piece::Cut { needed_bytes } if limit == bytes.len() && needed_bytes > wanted => {
                    wanted = needed_bytes
                }
                Piece::Cut { needed_bytes } => {
                    let missing = needed_bytes.saturating_sub(limit) as u64;
                    let source = TsdbError::truncated(self.index.object(), self.position, missing);
                    return Err(CompactError::Damaged { block: self.meta.ulid, source });
                }
            }
        }
        self.series_count += 1;
        self.map_labels()?;
        if self.meta.resolution_ms() == 0 {
            self.check_chunks()?;
        }
        Ok(true)
    }

    /// The chunks of the present series without what is deleted; may be empty.
    pub fn chunks(&mut self) -> Result<Vec<BlockChunk>, CompactError> {
        let tombstones = self.tombstones.ranges(self.series_at / SERIES_ALIGNMENT_BYTES);
        let mut deleted = Cow::Borrowed(tombstones);
        if let Some(deletions) = &self.deletions {
            deleted = Cow::Owned(deletions.ranges(&self.labels, tombstones));
        }
        self.totals.chunks += self.entry.chunks.len() as u64;
        let mut chunks: Vec<BlockChunk> = Vec::with_capacity(self.entry.chunks.len());
        for meta in &self.entry.chunks {
            if deleted.iter().any(|range| covers(range, &meta.time_range())) {
                continue;
            }
            let (min_time_ms, max_time_ms) = (meta.min_time_ms, meta.max_time_ms);
            let Some(chunk) = self.segments.chunk(meta)? else { continue };
            if !covers(&self.meta.time_range(), &meta.time_range()) || meta.time_range().is_empty() {
                return Err(self.corrupt("a chunk lies outside its block's time"));
            }
            let chunk = BlockChunk { min_time_ms, max_time_ms, chunk };
            if let Some(last) = chunks.last()
                && chunk.min_time_ms <= last.max_time_ms
            {
                // The same chunk twice says nothing new.
                if chunk == *last {
                    continue;
                }
                return Err(self.out_of_order(format!(
                    "the chunk from {min_time_ms} ms on begins before the end of the one before, {} ms",
                    last.max_time_ms
                )));
            }
            chunks.push(chunk);
        }
        if !deleted.is_empty() {
            deleted::remove(&mut chunks, &deleted)
                .map_err(|source| CompactError::Damaged { block: self.meta.ulid, source })?;
            self.totals.series_deleted += u64::from(chunks.is_empty());
        }
        self.totals.chunks_kept += chunks.len() as u64;
        Ok(chunks)
    }

    /// Makes errors of a format errors of this block.
    pub fn damaged(&self) -> impl Fn(TsdbError) -> CompactError + use<> {
        let block = self.meta.ulid;
        move |source| CompactError::Damaged { block, source }
    }

    /// The block has no samples from this time on.
    pub fn end_ms(&self) -> i64 {
        self.meta.max_time_ms
    }

    /// What was read so far.
    pub fn totals(&self) -> ReadTotals {
        self.totals
    }

    /// The ref of the present series.
    pub fn series_ref(&self) -> Result<SeriesRef, CompactError> {
        let series = SeriesRef::try_from(self.series_at / SERIES_ALIGNMENT_BYTES);
        series.map_err(|_| self.corrupt("a series lies beyond 64 GiB"))
    }

    /// Where the chunks of the present series lie.
    pub fn origin(&self) -> Origin {
        Origin { block: self.meta.ulid, chunks: self.entry.chunks.clone() }
    }

    fn map_labels(&mut self) -> Result<(), CompactError> {
        self.spare.clear();
        for (name, value) in &self.entry.labels {
            match (self.map.get(*name), self.map.get(*value)) {
                (Some(name), Some(value)) => self.spare.push((name, value)),
                _ => return Err(self.corrupt("a series refers to a symbol that does not exist")),
            }
        }
        if self.spare <= self.labels {
            return Err(self.corrupt("series are not in the order of their labels"));
        }
        std::mem::swap(&mut self.spare, &mut self.labels);
        Ok(())
    }

    /// Order is checked here, but for chunks of the same times, which may turn out to be the same.
    fn check_chunks(&self) -> Result<(), CompactError> {
        let of_block = self.meta.time_range();
        let mut last: Option<TimeRange> = None;
        for chunk in &self.entry.chunks {
            let range = chunk.time_range();
            if !covers(&of_block, &range) || range.is_empty() {
                return Err(self.corrupt("a chunk lies outside its block's time"));
            }
            if last.is_some_and(|last| range.min_ms <= last.max_ms && range != last) {
                let reason =
                    format!("the chunk from {} ms on begins before the end of the one before", range.min_ms);
                return Err(self.out_of_order(reason));
            }
            last = Some(range);
        }
        Ok(())
    }

    fn corrupt(&self, reason: &'static str) -> CompactError {
        let source = TsdbError::corrupt(self.index.object(), self.series_at, reason);
        CompactError::Damaged { block: self.meta.ulid, source }
    }

    fn out_of_order(&self, reason: String) -> CompactError {
        CompactError::OutOfOrderChunks {
            block: self.meta.ulid,
            object: self.index.object().to_owned(),
            offset: self.series_at,
            reason,
        }
    }
}

fn covers(outer: &TimeRange, inner: &TimeRange) -> bool {
    outer.min_ms <= inner.min_ms && inner.max_ms <= outer.max_ms
}

fn read_tombstones(reading: &Reading, block: BlockId) -> Result<Tombstones, CompactError> {
    let object = block.object(TOMBSTONES_FILE_NAME);
    match reading.runtime.block_on(reading.bucket.get(&object, MAX_TOMBSTONES_BYTES)) {
        Ok(bytes) => {
            Tombstones::decode(&object, &bytes).map_err(|source| CompactError::Damaged { block, source })
        }
        Err(error) if error.is_not_found() => Ok(Tombstones::default()),
        Err(source) => Err(CompactError::Bucket { block, source }),
    }
}
