//! The chunks of one block, read front to back.

use parallax_block::BlockId;
use parallax_block::meta::CHUNKS_DIRECTORY;
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, FloatHistogramReader, HistogramReader, XorReader};
use parallax_tsdb::index::ChunkMeta;
use parallax_tsdb::segment::{
    Chunk, ParsedEntry, SEGMENT_HEADER_SIZE_BYTES, Segment, parse_entry, segment_name,
};

use super::window::{Reading, Window};
use crate::CompactError;

/// A guess at the size of a chunk's entry.
const ENTRY_GUESS_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct SegmentsReader {
    reading: Reading,
    block: BlockId,
    current: Option<(u32, Window)>,
}

impl SegmentsReader {
    pub(super) fn new(reading: Reading, block: BlockId) -> Self {
        Self { reading, block, current: None }
    }

    /// The chunk that the index promises. Its checksum is compared, and the time of its first sample.
    pub(super) fn chunk(&mut self, meta: &ChunkMeta) -> Result<Chunk, CompactError> {
        let block = self.block;
        let damaged = |source| CompactError::Damaged { block, source };
        let window = self.segment(meta.chunk_ref.segment)?;
        let offset = u64::from(meta.chunk_ref.offset);
        let mut wanted = ENTRY_GUESS_BYTES;
        let chunk = loop {
            let bytes = window.at(offset, wanted)?;
            match parse_entry(window.object(), offset, &bytes).map_err(damaged)? {
                ParsedEntry::Whole { encoding, data, .. } => {
                    break Chunk { encoding, data: bytes.slice_ref(data) };
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
            Ok(Some(first)) if first == meta.min_time_ms => Ok(chunk),
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
    match chunk.encoding {
        ChunkEncoding::Xor => Ok(XorReader::new(&chunk.data)?.next().transpose()?.map(|(time, _)| time)),
        ChunkEncoding::Histogram => HistogramReader::new(&chunk.data)?.advance(),
        ChunkEncoding::FloatHistogram => FloatHistogramReader::new(&chunk.data)?.advance(),
        ChunkEncoding::Aggregate => match Parts::decode(&chunk.data)?.get(Aggregate::Count) {
            Some((ChunkEncoding::Xor, count)) => {
                Ok(XorReader::new(count)?.next().transpose()?.map(|(time, _)| time))
            }
            _ => Ok(None),
        },
        ChunkEncoding::None => Ok(None),
    }
}
