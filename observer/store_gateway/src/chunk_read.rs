//! Chunks of a batch of series: fetched by joined ranges of segments, checked, and passed on as the bytes they are.
//!
//! A chunk that cannot be read is reported and left out; the others go on. The data of a chunk shares the buffer it was fetched with,
//! unless most of that buffer is not wanted.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parallax_storeapi::chunks;
use parallax_storeapi::proto::thanos::{AggrChunk, Series};
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::ChunkEncoding;
use parallax_tsdb::index::ChunkMeta;
use parallax_tsdb::segment::{ChunkRef, ParsedEntry, parse_entry};

use crate::aggregate::{split, wire_encoding};
use crate::block::Block;
use crate::error::BlockFailure;
use crate::fetch::{Fetch, join, tail_from};
use crate::limits::{Data, Usage};
use crate::select::SelectRequest;
use crate::series_read::PendingSeries;

/// Ranges of one block's segments fetched at a time.
const PARTS_AT_A_TIME: usize = 8;

/// Series with their chunks, and what could not be read.
#[derive(Debug, Default)]
pub struct Loaded {
    pub series: Vec<Series>,
    pub damages: Vec<BlockFailure>,
}

/// Reads chunks of one block for one call.
pub struct ChunkReader {
    pub fetch: Fetch,
    pub usage: Arc<Usage>,
    pub block: Arc<Block>,
    pub request: Arc<SelectRequest>,
}

/// One chunk to be read, and its place in the answer.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    at: ChunkRef,
    meta: ChunkMeta,
    series: usize,
    slot: usize,
}

/// What came of one chunk.
enum Read {
    Chunk(AggrChunk),
    NeedMore { total_bytes: usize },
    Damaged(TsdbError),
}

/// A joined range of one segment, with the chunks in it.
struct SegmentPart {
    segment: u32,
    range: Range<u64>,
    wanted: Vec<Wanted>,
}

impl ChunkReader {
    pub async fn load(&self, batch: Vec<PendingSeries>) -> Result<Loaded, BlockFailure> {
        let mut wanted = Vec::new();
        let mut slots: Vec<Vec<Option<AggrChunk>>> = Vec::with_capacity(batch.len());
        for (series, pending) in batch.iter().enumerate() {
            let of_series = pending.chunks.iter().enumerate().map(|(slot, meta)| Wanted {
                at: meta.chunk_ref,
                meta: *meta,
                series,
                slot,
            });
            wanted.extend(of_series);
            slots.push(vec![None; pending.chunks.len()]);
        }
        self.usage.reserve_chunks(wanted.len())?;
        wanted.sort_unstable_by_key(|chunk| chunk.at);
        let mut loaded = Loaded::default();
        let parts: Vec<Vec<(Wanted, Result<AggrChunk, BlockFailure>)>> =
            futures::stream::iter(self.parts(&wanted))
                .map(|part| self.read_part(part))
                .buffer_unordered(PARTS_AT_A_TIME)
                .try_collect()
                .await?;
        for (chunk, outcome) in parts.into_iter().flatten() {
            match outcome {
                Ok(read) => {
                    let slot = slots.get_mut(chunk.series).and_then(|slots| slots.get_mut(chunk.slot));
                    if let Some(slot) = slot {
                        *slot = Some(read);
                    }
                }
                Err(damage) => loaded.damages.push(damage),
            }
        }
        loaded.series = batch
            .into_iter()
            .zip(slots)
            .map(|(pending, slots)| Series {
                labels: pending.labels,
                chunks: slots.into_iter().flatten().collect(),
            })
            .filter(|series| !series.chunks.is_empty())
            .collect();
        Ok(loaded)
    }

    /// The ranges to fetch. `wanted` is sorted.
    fn parts(&self, wanted: &[Wanted]) -> Vec<SegmentPart> {
        let guess = self.block.chunk_guess_bytes();
        let mut parts = Vec::new();
        for of_segment in wanted.chunk_by(|a, b| a.at.segment == b.at.segment) {
            let Some(segment) = of_segment.first().map(|chunk| chunk.at.segment) else { continue };
            let size_bytes = self.block.segment_size_bytes(segment);
            let offsets = of_segment.iter().map(|chunk| u64::from(chunk.at.offset));
            let next_offsets = offsets.clone().skip(1).map(Some).chain([None]);
            let ranges: Vec<Range<u64>> = offsets
                .zip(next_offsets)
                .map(|(start, next)| {
                    // A chunk ends where the next begins, and with the segment.
                    let guessed = start.saturating_add(guess);
                    let end = next.filter(|next| *next > start).map_or(guessed, |next| next.min(guessed));
                    let end = size_bytes.filter(|size| *size > start).map_or(end, |size| end.min(size));
                    start..end
                })
                .collect();
            parts.extend(join(&ranges, self.fetch.max_gap_bytes).into_iter().map(|part| SegmentPart {
                segment,
                range: part.range,
                wanted: of_segment.get(part.items).unwrap_or_default().to_vec(),
            }));
        }
        parts
    }

    async fn read_part(
        &self,
        part: SegmentPart,
    ) -> Result<Vec<(Wanted, Result<AggrChunk, BlockFailure>)>, BlockFailure> {
        let id = self.block.id();
        let object = self.block.segment_object(part.segment);
        let at = part.range.start;
        let charge = Some((&*self.usage, Data::Chunks));
        let bytes = match self.fetch.range(id, &object, part.range, charge).await {
            Ok(bytes) => bytes,
            Err(BlockFailure::Bucket { source, .. }) => {
                // None of these chunks can be had: one report for all of them.
                let lost = part.wanted.into_iter().take(1);
                return Ok(lost
                    .map(|chunk| (chunk, Err(missing(&self.block, chunk, &object, &source))))
                    .collect());
            }
            Err(failure) => return Err(failure),
        };
        let (request, usage, what) = (Arc::clone(&self.request), Arc::clone(&self.usage), object.clone());
        let wanted = part.wanted;
        let size_bytes = bytes.len();
        let parse = move || parse_part(&what, at, &bytes, &wanted, &request, &usage);
        let read: Vec<(Wanted, Read)> = self.fetch.compute_over(id, size_bytes, parse).await?;
        let mut outcomes = Vec::with_capacity(read.len());
        for (chunk, outcome) in read {
            let outcome = match outcome {
                Read::NeedMore { total_bytes } => self.read_whole(&object, chunk, total_bytes).await?,
                outcome => outcome,
            };
            outcomes.push((
                chunk,
                match outcome {
                    Read::Chunk(read) => Ok(read),
                    Read::Damaged(source) => Err(BlockFailure::Damaged { block: id, source }),
                    Read::NeedMore { total_bytes } => {
                        let source =
                            TsdbError::truncated(&object, u64::from(chunk.at.offset), total_bytes as u64);
                        Err(BlockFailure::Damaged { block: id, source })
                    }
                },
            ));
        }
        Ok(outcomes)
    }

    /// A chunk that is longer than was guessed, now that its length is known.
    async fn read_whole(
        &self,
        object: &str,
        chunk: Wanted,
        total_bytes: usize,
    ) -> Result<Read, BlockFailure> {
        let start = u64::from(chunk.at.offset);
        let range = start..start.saturating_add(total_bytes as u64);
        let charge = Some((&*self.usage, Data::Chunks));
        let bytes = match self.fetch.range(self.block.id(), object, range, charge).await {
            Ok(bytes) => bytes,
            Err(BlockFailure::Bucket { source, .. }) => {
                return Ok(Read::Damaged(TsdbError::not_found(object, format!("byte {start}: {source}"))));
            }
            Err(failure) => return Err(failure),
        };
        if bytes.len() < total_bytes {
            let missing = (total_bytes - bytes.len()) as u64;
            return Ok(Read::Damaged(TsdbError::truncated(object, start, missing)));
        }
        let (request, usage, what) = (Arc::clone(&self.request), Arc::clone(&self.usage), object.to_owned());
        let parse = move || parse_part(&what, start, &bytes, &[chunk], &request, &usage).pop();
        let parsed = self.fetch.compute_over(self.block.id(), total_bytes, parse).await?;
        Ok(parsed.map_or(Read::NeedMore { total_bytes }, |(_, read)| read))
    }
}

/// The whole of a range is missing: its object, or all from an offset on.
fn missing(
    block: &Block,
    chunk: Wanted,
    object: &str,
    source: &parallax_bucket::BucketError,
) -> BlockFailure {
    let wanted = format!("chunks at byte {} and after: {source}", chunk.at.offset);
    BlockFailure::Damaged { block: block.id(), source: TsdbError::not_found(object, wanted) }
}

/// Takes the `wanted` chunks out of `bytes`, which begin at `at` in the segment `what`.
fn parse_part(
    what: &str,
    at: u64,
    bytes: &Bytes,
    wanted: &[Wanted],
    request: &SelectRequest,
    usage: &Usage,
) -> Vec<(Wanted, Read)> {
    let mut used_bytes = 0;
    let mut read: Vec<(Wanted, Read)> = wanted
        .iter()
        .map(|chunk| {
            let offset = u64::from(chunk.at.offset);
            let tail = tail_from(bytes, at, offset);
            let outcome = match parse_entry(what, offset, &tail) {
                Ok(ParsedEntry::NeedMore { total_bytes }) => Read::NeedMore { total_bytes },
                Ok(ParsedEntry::Whole { encoding, data, size_bytes }) => {
                    used_bytes += size_bytes;
                    on_the_wire(what, offset, encoding, &tail.slice_ref(data), chunk.meta, request)
                }
                Err(error) => Read::Damaged(error),
            };
            (*chunk, outcome)
        })
        .collect();
    usage.touched(Data::Chunks, wanted.len(), used_bytes);
    if used_bytes < bytes.len() / 2 {
        // A few small chunks must not keep a large buffer.
        for (_, outcome) in &mut read {
            if let Read::Chunk(chunk) = outcome {
                detach(chunk);
            }
        }
    }
    read
}

fn on_the_wire(
    what: &str,
    offset: u64,
    encoding: ChunkEncoding,
    data: &Bytes,
    meta: ChunkMeta,
    request: &SelectRequest,
) -> Read {
    let (min, max) = (meta.min_time_ms, meta.max_time_ms);
    if let Some(encoding) = wire_encoding(encoding) {
        return Read::Chunk(chunks::raw(min, max, chunks::chunk(encoding, data.clone())));
    }
    let mut chunk = AggrChunk { min_time: min, max_time: max, ..AggrChunk::default() };
    let outcome = match encoding {
        ChunkEncoding::Aggregate => split(what, offset, data, &request.aggregates, &mut chunk),
        other => Err(TsdbError::unsupported(what, offset, "chunk encoding", other.as_byte())),
    };
    outcome.map_or_else(Read::Damaged, |()| Read::Chunk(chunk))
}

fn detach(chunk: &mut AggrChunk) {
    let aggregates = [&mut chunk.count, &mut chunk.sum, &mut chunk.min, &mut chunk.max, &mut chunk.counter];
    for part in chunk.raw.iter_mut().chain(aggregates.into_iter().filter_map(|part| part.as_deref_mut())) {
        part.data = Bytes::copy_from_slice(&part.data);
    }
}
