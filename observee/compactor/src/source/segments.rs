//! The chunks of one block, read front to back.

use parallax_block::BlockId;
use parallax_block::meta::CHUNKS_DIRECTORY;
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, FloatHistogramReader, HistogramReader, XorReader, sample_count};
use parallax_tsdb::index::ChunkMeta;
use parallax_tsdb::segment::{
    Chunk, ParsedEntry, SEGMENT_HEADER_SIZE_BYTES, Segment, parse_entry, segment_name,
};

use super::window::{Reading, Window};
use crate::CompactError;

/// A guess at the size of a chunk's entry.
const ENTRY_GUESS_BYTES: usize = 64;

/// So many chunks share a count of references.
const CHUNKS_OF_ONE_COUNT: u32 = 64;

#[derive(Debug)]
pub(super) struct SegmentsReader {
    reading: Reading,
    block: BlockId,
    /// Whether chunks without samples are passed over: downsampled blocks of old versions of Thanos have some.
    passes_over_empty: bool,
    current: Option<(u32, Window)>,
    /// Chunks handed out since references were counted anew.
    counted: u32,
}

impl SegmentsReader {
    pub(super) fn new(reading: Reading, block: BlockId, passes_over_empty: bool) -> Self {
        Self { reading, block, passes_over_empty, current: None, counted: 0 }
    }

    /// The chunk that the index promises. Its checksum is compared, and the time of its first sample. `None` for one that is passed over.
    pub(super) fn chunk(&mut self, meta: &ChunkMeta) -> Result<Option<Chunk>, CompactError> {
        let (block, passes_over_empty) = (self.block, self.passes_over_empty);
        let damaged = |source| CompactError::Damaged { block, source };
        self.counted = (self.counted + 1) % CHUNKS_OF_ONE_COUNT;
        let counts_anew = self.counted == 0;
        let window = self.segment(meta.chunk_ref.segment)?;
        if counts_anew {
            window.count_anew();
        }
        let offset = u64::from(meta.chunk_ref.offset);
        let mut wanted = ENTRY_GUESS_BYTES;
        let chunk = loop {
            let bytes = window.at(offset, wanted)?;
            match parse_entry(window.object(), offset, &bytes).map_err(damaged)? {
                ParsedEntry::Whole { encoding, data, .. } => {
                    break Chunk { encoding, data: window.keep(&bytes, data) };
                }
                ParsedEntry::NeedMore { total_bytes }
                    if total_bytes > bytes.len() && bytes.len() >= wanted =>
                {
                    wanted = total_bytes;
                }
                ParsedEntry::NeedMore { total_bytes } => {
                    let missing = total_bytes.saturating_sub(bytes.len()) as u64;
                    return Err(damaged(TsdbError::truncated(window.object(), offset, missing)));
                }
            }
        };
        match first_time_ms(&chunk) {
            Ok(Some(first)) if first == meta.min_time_ms => Ok(Some(chunk)),
            Ok(None) if passes_over_empty => Ok(None),
            Ok(first) => {
                let found =
                    first.map_or("it has no samples".to_owned(), |first| format!("it begins at {first} ms"));
                let reason =
                    format!("the index says that this chunk begins at {} ms, {found}", meta.min_time_ms);
                Err(damaged(TsdbError::corrupt(window.object(), offset, reason)))
            }
            Err(error) => {
                let reason = error.to_string();
                Err(damaged(TsdbError::corrupt(window.object(), offset, reason)))
            }
        }
    }

    fn segment(&mut self, segment: u32) -> Result<&mut Window, CompactError> {
        let is_current = self.current.as_ref().is_some_and(|(current, _)| *current == segment);
        if !is_current {
            let rel_path = format!("{CHUNKS_DIRECTORY}/{}", segment_name(segment));
            let step = self.reading.chunk_window_bytes;
            let mut window = Window::open(&self.reading, self.block, &rel_path, step)?;
            let header = window.at(0, SEGMENT_HEADER_SIZE_BYTES)?;
            let header = header.slice(..header.len().min(SEGMENT_HEADER_SIZE_BYTES));
            Segment::from_bytes(window.object(), header)
                .map_err(|source| CompactError::Damaged { block: self.block, source })?;
            self.current = Some((segment, window));
        }
        match &mut self.current {
            Some((_, window)) => Ok(window),
            None => Err(CompactError::Interrupted),
        }
    }
}

/// The time of a chunk's first sample, or of an aggregate chunk's first window; `None` if it has none.
fn first_time_ms(chunk: &Chunk) -> Result<Option<i64>, TsdbError> {
    if chunk.encoding != ChunkEncoding::Aggregate {
        return first_sample_ms(chunk.encoding, &chunk.data);
    }
    let parts = Parts::decode(&chunk.data)?;
    // Which of them have samples is not the same in all versions of Thanos. A counter begins with a raw sample, before its first window ends.
    for aggregate in [Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max] {
        if let Some((encoding, data)) = parts.get(aggregate)
            && let Some(first) = first_sample_ms(encoding, data)?
        {
            return Ok(Some(first));
        }
    }
    match parts.get(Aggregate::Counter) {
        Some((_, data)) if sample_count(data)? > 0 => {
            Err(TsdbError::invalid("aggregate chunk", "it has a counter and nothing else"))
        }
        _ => Ok(None),
    }
}

fn first_sample_ms(encoding: ChunkEncoding, data: &[u8]) -> Result<Option<i64>, TsdbError> {
    if sample_count(data)? == 0 {
        return Ok(None);
    }
    match encoding {
        ChunkEncoding::Xor => Ok(XorReader::new(data)?.next().transpose()?.map(|(time, _)| time)),
        ChunkEncoding::Histogram => HistogramReader::new(data)?.advance(),
        ChunkEncoding::FloatHistogram => FloatHistogramReader::new(data)?.advance(),
        ChunkEncoding::Aggregate | ChunkEncoding::None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
