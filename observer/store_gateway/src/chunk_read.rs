//! Chunks of a batch of series: fetched by joined ranges of segments, checked, and passed on as the bytes they are.
//!
//! A chunk that cannot be read is reported and left out; the others go on. If a cache lies between, the bucket itself is asked before that. The data of a
//! chunk shares the buffer it was fetched with, unless most of that buffer is not wanted.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parallax_block::BlockId;
use parallax_bucket::BucketError;
use parallax_storeapi::chunks;
use parallax_storeapi::proto::thanos::{AggrChunk, Series};
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::ChunkEncoding;
use parallax_tsdb::index::ChunkMeta;
use parallax_tsdb::segment::{ParsedEntry, parse_entry};

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
    /// That an object does not exist, if that is so: it is among the damages, too.
    pub not_found: Option<BucketError>,
}

/// Reads chunks of one block for one call.
pub struct ChunkReader {
    pub fetch: Fetch,
    pub usage: Arc<Usage>,
    pub block: Arc<Block>,
    pub request: Arc<SelectRequest>,
}

/// One chunk to be read, and its place among all of the batch.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    slot: usize,
    meta: ChunkMeta,
}

/// The chunks that were read of a range, with their places, and what could not be.
#[derive(Default)]
struct Read {
    chunks: Vec<(usize, AggrChunk)>,
    /// Chunks that are longer than what was fetched, and how long they are.
    cut: Vec<(Wanted, usize)>,
    damages: Vec<BlockFailure>,
    not_found: Option<BucketError>,
}

/// Where bytes may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Any,
    /// Not from a cache.
    Bucket,
}

/// A joined range of one segment, with the chunks in it.
struct SegmentPart {
    segment: u32,
    range: Range<u64>,
    wanted: Vec<Wanted>,
}

impl ChunkReader {
    pub async fn load(&self, batch: Vec<PendingSeries>) -> Result<Loaded, BlockFailure> {
        let metas = batch.iter().flat_map(|pending| &pending.chunks);
        let mut wanted: Vec<Wanted> =
            metas.enumerate().map(|(slot, meta)| Wanted { slot, meta: *meta }).collect();
        self.usage.reserve_chunks(wanted.len())?;
        wanted.sort_unstable_by_key(|chunk| chunk.meta.chunk_ref);
        let mut loaded = Loaded::default();
        let mut found = Vec::new();
        let mut parts = futures::stream::iter(self.parts(&wanted))
            .map(|part| self.read_part(part))
            .buffered(PARTS_AT_A_TIME);
        while let Some(mut part) = parts.try_next().await? {
            loaded.damages.append(&mut part.damages);
            loaded.not_found = loaded.not_found.or(part.not_found);
            if found.is_empty() { found = part.chunks } else { found.append(&mut part.chunks) }
        }
        // Most often the chunks of a block lie in the order of its series.
        if !found.is_sorted_by_key(|(slot, _)| *slot) {
            found.sort_unstable_by_key(|(slot, _)| *slot);
        }
        let mut found = found.into_iter().peekable();
        let mut end = 0;
        loaded.series.reserve_exact(batch.len());
        for pending in batch {
            end += pending.chunks.len();
            let mut chunks = Vec::with_capacity(pending.chunks.len());
            while let Some((_, chunk)) = found.next_if(|(slot, _)| *slot < end) {
                chunks.push(chunk);
            }
            if !chunks.is_empty() {
                loaded.series.push(Series { labels: pending.labels, chunks });
            }
        }
        Ok(loaded)
    }

    /// The ranges to fetch. `wanted` is sorted.
    fn parts(&self, wanted: &[Wanted]) -> Vec<SegmentPart> {
        let guess = self.block.chunk_guess_bytes();
        let mut parts = Vec::new();
        for of_segment in wanted.chunk_by(|a, b| a.meta.chunk_ref.segment == b.meta.chunk_ref.segment) {
            let Some(segment) = of_segment.first().map(|chunk| chunk.meta.chunk_ref.segment) else {
                continue;
            };
            let size_bytes = self.block.segment_size_bytes(segment);
            let offsets = of_segment.iter().map(Wanted::offset);
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

    async fn read_part(&self, part: SegmentPart) -> Result<Read, BlockFailure> {
        let object = self.block.segment_object(part.segment);
        let read = self.read_part_from(Origin::Any, &object, &part).await?;
        let may_be_cached = read.not_found.is_none() && self.fetch.bucket.caches_ranges_of(&object);
        if read.damages.is_empty() || !may_be_cached {
            return Ok(read);
        }
        self.read_part_from(Origin::Bucket, &object, &part).await
    }

    async fn read_part_from(
        &self,
        from: Origin,
        object: &str,
        part: &SegmentPart,
    ) -> Result<Read, BlockFailure> {
        let bytes = match self.fetch_range(from, object, part.range.clone()).await {
            Ok(bytes) => bytes,
            Err(BlockFailure::Bucket { source, .. }) => {
                // None of these chunks can be had: one report for all of them.
                let lost = part.wanted.first().map(|chunk| missing(&self.block, *chunk, object, &source));
                let not_found = Some(source).filter(BucketError::is_not_found);
                return Ok(Read { damages: lost.into_iter().collect(), not_found, ..Read::default() });
            }
            Err(failure) => return Err(failure),
        };
        let mut read = self.parse(object, part.range.start, bytes, part.wanted.clone()).await?;
        for (chunk, total_bytes) in std::mem::take(&mut read.cut) {
            self.read_whole(from, object, chunk, total_bytes, &mut read).await?;
        }
        Ok(read)
    }

    async fn fetch_range(
        &self,
        from: Origin,
        object: &str,
        range: Range<u64>,
    ) -> Result<Bytes, BlockFailure> {
        let (id, charge) = (self.block.id(), (&*self.usage, Data::Chunks));
        if from == Origin::Bucket
            && let Some(bytes) = self.fetch.range_again(id, object, range.clone(), charge).await?
        {
            return Ok(bytes);
        }
        self.fetch.range(id, object, range, Some(charge)).await
    }

    async fn parse(
        &self,
        object: &str,
        at: u64,
        bytes: Bytes,
        wanted: Vec<Wanted>,
    ) -> Result<Read, BlockFailure> {
        let (id, size_bytes) = (self.block.id(), bytes.len());
        let (request, usage, what) = (Arc::clone(&self.request), Arc::clone(&self.usage), object.to_owned());
        let parse = move || parse_part(id, &what, at, &bytes, &wanted, &request, &usage);
        self.fetch.compute_over(id, size_bytes, parse).await
    }

    /// Adds a chunk that is longer than was guessed, now that its length is known.
    async fn read_whole(
        &self,
        from: Origin,
        object: &str,
        chunk: Wanted,
        total_bytes: usize,
        read: &mut Read,
    ) -> Result<(), BlockFailure> {
        let block = self.block.id();
        let start = chunk.offset();
        let range = start..start.saturating_add(total_bytes as u64);
        let damage = match self.fetch_range(from, object, range).await {
            Ok(bytes) if bytes.len() < total_bytes => {
                TsdbError::truncated(object, start, (total_bytes - bytes.len()) as u64)
            }
            Ok(bytes) => {
                let mut parsed = self.parse(object, start, bytes, vec![chunk]).await?;
                read.chunks.append(&mut parsed.chunks);
                read.damages.append(&mut parsed.damages);
                let Some((_, total_bytes)) = parsed.cut.pop() else { return Ok(()) };
                TsdbError::truncated(object, start, total_bytes as u64)
            }
            Err(BlockFailure::Bucket { source, .. }) => {
                let damage = TsdbError::not_found(object, format!("byte {start}: {source}"));
                read.not_found = read.not_found.take().or(Some(source).filter(BucketError::is_not_found));
                damage
            }
            Err(failure) => return Err(failure),
        };
        read.damages.push(BlockFailure::Damaged { block, source: damage });
        Ok(())
    }
}

impl Wanted {
    fn offset(&self) -> u64 {
        u64::from(self.meta.chunk_ref.offset)
    }
}

/// The whole of a range is missing: its object, or all from an offset on.
fn missing(
    block: &Block,
    chunk: Wanted,
    object: &str,
    source: &parallax_bucket::BucketError,
) -> BlockFailure {
    let wanted = format!("chunks at byte {} and after: {source}", chunk.offset());
    BlockFailure::Damaged { block: block.id(), source: TsdbError::not_found(object, wanted) }
}

/// Takes the `wanted` chunks out of `bytes`, which begin at `at` in the segment `what`.
fn parse_part(
    block: BlockId,
    what: &str,
    at: u64,
    bytes: &Bytes,
    wanted: &[Wanted],
    request: &SelectRequest,
    usage: &Usage,
) -> Read {
    let mut used_bytes = 0;
    let mut read = Read { chunks: Vec::with_capacity(wanted.len()), ..Read::default() };
    for chunk in wanted {
        let offset = chunk.offset();
        let damage = match parse_entry(what, offset, tail_from(bytes, at, offset)) {
            Ok(ParsedEntry::NeedMore { total_bytes }) => {
                read.cut.push((*chunk, total_bytes));
                continue;
            }
            Ok(ParsedEntry::Whole { encoding, data, size_bytes }) => {
                used_bytes += size_bytes;
                match on_the_wire(what, encoding, bytes.slice_ref(data), chunk.meta, request) {
                    Ok(parsed) => {
                        read.chunks.push((chunk.slot, parsed));
                        continue;
                    }
                    Err(damage) => damage,
                }
            }
            Err(damage) => damage,
        };
        read.damages.push(BlockFailure::Damaged { block, source: damage });
    }
    usage.touched(Data::Chunks, wanted.len(), used_bytes);
    if used_bytes < bytes.len() / 2 {
        // A few small chunks must not keep a large buffer.
        read.chunks.iter_mut().for_each(|(_, chunk)| detach(chunk));
    }
    read
}

fn on_the_wire(
    what: &str,
    encoding: ChunkEncoding,
    data: Bytes,
    meta: ChunkMeta,
    request: &SelectRequest,
) -> Result<AggrChunk, TsdbError> {
    let (min, max) = (meta.min_time_ms, meta.max_time_ms);
    if let Some(encoding) = wire_encoding(encoding) {
        return Ok(chunks::raw(min, max, chunks::chunk(encoding, data)));
    }
    let offset = u64::from(meta.chunk_ref.offset);
    let mut chunk = AggrChunk { min_time: min, max_time: max, ..AggrChunk::default() };
    match encoding {
        ChunkEncoding::Aggregate => split(what, offset, &data, &request.aggregates, &mut chunk)?,
        other => return Err(TsdbError::unsupported(what, offset, "chunk encoding", other.as_byte())),
    }
    Ok(chunk)
}

fn detach(chunk: &mut AggrChunk) {
    let aggregates = [&mut chunk.count, &mut chunk.sum, &mut chunk.min, &mut chunk.max, &mut chunk.counter];
    for part in chunk.raw.iter_mut().chain(aggregates.into_iter().filter_map(|part| part.as_deref_mut())) {
        part.data = Bytes::copy_from_slice(&part.data);
    }
}
