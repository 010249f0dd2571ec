//! Chunks of a batch of series: fetched by joined ranges of segments, checked, and put into the form in which they leave the process.
//!
//! A chunk that cannot be read is reported and left out; the others go on. If a cache lies between, the bucket itself is asked before that. The data of a
//! chunk is copied once, behind the chunk before it, so that nothing is allocated for it and what is passed on keeps no buffer of what was fetched.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parallax_block::BlockId;
use parallax_bucket::BucketError;
use parallax_storeapi::encoded::Packed;
use parallax_tsdb::TsdbError;
use parallax_tsdb::segment::{ParsedEntry, parse_entry};

use crate::block::Block;
use crate::chunk_fields::{ChunkFields, Wanted};
use crate::error::BlockFailure;
use crate::fetch::{Fetch, join, tail_from};
use crate::limits::{Data, Usage};
use crate::select::SelectRequest;
use crate::series_read::PendingSeries;

/// Ranges of one block's segments fetched at a time.
const PARTS_AT_A_TIME: usize = 8;

/// How much of a chunk is read of a local file, at least.
const NEAR_GUESS_BYTES: u64 = 1 << 10;

/// A chunk of usual size is checked, hashed and copied in the time that so many bytes of postings take; of large ones eight bytes take the time of one.
const CHUNK_WORK_BYTES: usize = 128;

/// Series with their chunks, and what could not be read.
#[derive(Debug, Default)]
pub struct Loaded {
    pub series: Arc<Packed>,
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

/// The chunks that were read of a range, and what could not be.
#[derive(Default)]
struct Read {
    chunks: ChunkFields,
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
    wanted: Arc<[Wanted]>,
}

/// What was fetched of a segment from an offset on, and the chunks in it.
struct Fetched {
    at: u64,
    bytes: Bytes,
    wanted: Arc<[Wanted]>,
}

impl ChunkReader {
    pub async fn load(&self, batch: &[PendingSeries]) -> Result<Loaded, BlockFailure> {
        let metas = batch.iter().flat_map(PendingSeries::chunks);
        let mut wanted: Vec<Wanted> =
            metas.enumerate().map(|(slot, meta)| Wanted { slot, meta: *meta }).collect();
        self.usage.reserve_chunks(wanted.len())?;
        wanted.sort_unstable_by_key(|chunk| chunk.meta.chunk_ref);
        let (mut damages, mut not_found, mut found) = (Vec::new(), None, Vec::new());
        let mut reads = futures::stream::iter(self.groups(&wanted))
            .map(|group| self.read_group(group))
            .buffered(PARTS_AT_A_TIME);
        while let Some(mut read) = reads.try_next().await? {
            damages.append(&mut read.damages);
            not_found = not_found.or(read.not_found);
            found.push(read.chunks);
        }
        Ok(Loaded { series: ChunkFields::in_order(found).pack(batch), damages, not_found })
    }

    /// The ranges to fetch, and which of them at one go. `wanted` is sorted.
    fn groups(&self, wanted: &[Wanted]) -> Vec<Vec<SegmentPart>> {
        let parts = self.parts(wanted);
        let mut groups = Vec::new();
        let mut rest = parts.into_iter().peekable();
        while let Some(first) = rest.next() {
            let (segment, mut of_segment) = (first.segment, vec![first]);
            of_segment.extend(std::iter::from_fn(|| rest.next_if(|part| part.segment == segment)));
            let object = self.block.segment_object(segment);
            groups.extend(self.fetch.groups(&object, of_segment, |part| &part.range));
        }
        groups
    }

    /// The ranges to fetch. `wanted` is sorted.
    fn parts(&self, wanted: &[Wanted]) -> Vec<SegmentPart> {
        let mut parts = Vec::new();
        for of_segment in wanted.chunk_by(|a, b| a.meta.chunk_ref.segment == b.meta.chunk_ref.segment) {
            let Some(segment) = of_segment.first().map(|chunk| chunk.meta.chunk_ref.segment) else {
                continue;
            };
            let guess = self.guess_bytes(of_segment);
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
                wanted: of_segment.get(part.items).unwrap_or_default().into(),
            }));
        }
        parts
    }

    /// How much is fetched of a chunk whose end nothing tells.
    fn guess_bytes(&self, of_segment: &[Wanted]) -> u64 {
        let most = self.block.chunk_guess_bytes();
        if !self.fetch.bucket.is_directory() || self.block.knows_sizes() {
            return most;
        }
        // To read a local file again costs less than to read for nothing. What lies beside it says what a chunk takes here.
        let pairs = of_segment.iter().zip(of_segment.iter().skip(1));
        let apart = pairs.map(|(one, next)| next.offset().saturating_sub(one.offset()));
        let largest = apart.filter(|apart| *apart <= most).max().unwrap_or(0);
        largest.saturating_mul(2).max(NEAR_GUESS_BYTES).min(most)
    }

    async fn read_group(&self, group: Vec<SegmentPart>) -> Result<Read, BlockFailure> {
        if let Some(read) = self.read_together(&group).await? {
            return Ok(read);
        }
        let mut all = Read::default();
        for part in group {
            all.append(self.read_part(part).await?);
        }
        Ok(all)
    }

    /// Reads parts of one segment at one go; `None` if there is but one, or if that fails.
    async fn read_together(&self, group: &[SegmentPart]) -> Result<Option<Read>, BlockFailure> {
        let Some(first) = group.first() else { return Ok(None) };
        let object = self.block.segment_object(first.segment);
        let ranges: Vec<Range<u64>> = group.iter().map(|part| part.range.clone()).collect();
        let charge = (&*self.usage, Data::Chunks);
        let Some(all) = self.fetch.together(self.block.id(), &object, &ranges, charge).await? else {
            return Ok(None);
        };
        let fetched = |(part, bytes): (&SegmentPart, Bytes)| Fetched {
            at: part.range.start,
            bytes,
            wanted: Arc::clone(&part.wanted),
        };
        let fetched = group.iter().zip(all).map(fetched).collect();
        let mut read = self.parse(&object, fetched).await?;
        self.complete(Origin::Any, &object, &mut read).await?;
        Ok(Some(read))
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
        let fetched = Fetched { at: part.range.start, bytes, wanted: Arc::clone(&part.wanted) };
        let mut read = self.parse(object, vec![fetched]).await?;
        self.complete(from, object, &mut read).await?;
        Ok(read)
    }

    /// Adds the chunks that were longer than what was fetched.
    async fn complete(&self, from: Origin, object: &str, read: &mut Read) -> Result<(), BlockFailure> {
        for (chunk, total_bytes) in std::mem::take(&mut read.cut) {
            self.read_whole(from, object, chunk, total_bytes, read).await?;
        }
        Ok(())
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

    async fn parse(&self, object: &str, all: Vec<Fetched>) -> Result<Read, BlockFailure> {
        let id = self.block.id();
        let size_bytes: usize = all.iter().map(|fetched| fetched.bytes.len()).sum();
        let chunks: usize = all.iter().map(|fetched| fetched.wanted.len()).sum();
        let (request, usage, what) = (Arc::clone(&self.request), Arc::clone(&self.usage), object.to_owned());
        let parse = move || {
            let mut read = Read { chunks: ChunkFields::with_room(chunks, size_bytes), ..Read::default() };
            for fetched in &all {
                let used_bytes = read.parse(id, &what, fetched, &request);
                usage.touched(Data::Chunks, fetched.wanted.len(), used_bytes);
            }
            read.chunks.shrink();
            read
        };
        let work_bytes = chunks.saturating_mul(CHUNK_WORK_BYTES).max(size_bytes / 8);
        self.fetch.compute_over(id, work_bytes, parse).await
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
                let fetched = Fetched { at: start, bytes, wanted: [chunk].into() };
                let mut parsed = self.parse(object, vec![fetched]).await?;
                let cut = parsed.cut.pop();
                read.append(parsed);
                let Some((_, total_bytes)) = cut else { return Ok(()) };
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

impl Read {
    /// Takes the wanted chunks out of what was fetched of the segment `what`; gives the bytes they take there.
    fn parse(&mut self, block: BlockId, what: &str, fetched: &Fetched, request: &SelectRequest) -> usize {
        let mut used_bytes = 0;
        for chunk in fetched.wanted.iter() {
            let offset = chunk.offset();
            let damage = match parse_entry(what, offset, tail_from(&fetched.bytes, fetched.at, offset)) {
                Ok(ParsedEntry::NeedMore { total_bytes }) => {
                    self.cut.push((*chunk, total_bytes));
                    continue;
                }
                Ok(ParsedEntry::Whole { encoding, data, size_bytes }) => {
                    used_bytes += size_bytes;
                    match self.chunks.push(what, encoding, (data, &fetched.bytes), chunk, request) {
                        Ok(()) => continue,
                        Err(damage) => damage,
                    }
                }
                Err(damage) => damage,
            };
            self.damages.push(BlockFailure::Damaged { block, source: damage });
        }
        used_bytes
    }

    fn append(&mut self, mut other: Self) {
        if self.chunks.is_empty() {
            self.chunks = other.chunks;
        } else {
            self.chunks.append(&other.chunks);
        }
        self.cut.append(&mut other.cut);
        self.damages.append(&mut other.damages);
        self.not_found = self.not_found.take().or(other.not_found);
    }
}
