//! Chunks of a block in the form in which they leave the process: fields of series, one after the other.
//!
//! What was fetched comes in the order of segments; it is packed in the order of the series that it belongs to.

use std::sync::Arc;

use bytes::Bytes;
use parallax_storeapi::chunks;
use parallax_storeapi::encoded::{ChunkBytes, Packed, PackedChunk, Packer, append_aggregates};
use parallax_storeapi::proto::thanos::AggrChunk;
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::ChunkEncoding;
use parallax_tsdb::index::ChunkMeta;

use crate::aggregate::{split, wire_encoding};
use crate::select::SelectRequest;
use crate::series_read::PendingSeries;

/// What a chunk takes on the wire more than in its segment, at most and nearly always.
const CHUNK_HEAD_BYTES: usize = 40;

/// One chunk to be read, and its place among all of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub slot: usize,
    pub meta: ChunkMeta,
}

impl Wanted {
    pub fn offset(&self) -> u64 {
        u64::from(self.meta.chunk_ref.offset)
    }
}

/// Chunks as fields of series, one after the other.
#[derive(Default)]
pub struct ChunkFields {
    fields: Vec<u8>,
    chunks: Vec<Found>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Found {
    slot: usize,
    chunk: PackedChunk,
}

impl ChunkFields {
    /// For so many chunks out of so many bytes of segments.
    pub fn with_room(chunks: usize, size_bytes: usize) -> Self {
        let room_bytes = size_bytes.saturating_add(chunks.saturating_mul(CHUNK_HEAD_BYTES));
        Self { fields: Vec::with_capacity(room_bytes), chunks: Vec::with_capacity(chunks) }
    }

    /// Appends a chunk, whose `data` lies within the buffer beside it.
    pub fn push(
        &mut self,
        what: &str,
        encoding: ChunkEncoding,
        (data, buffer): (&[u8], &Bytes),
        Wanted { slot, meta }: &Wanted,
        request: &SelectRequest,
    ) -> Result<(), TsdbError> {
        let (min_time_ms, max_time_ms) = (meta.min_time_ms, meta.max_time_ms);
        let chunk = if let Some(encoding) = wire_encoding(encoding) {
            let (encoding, hash) = (encoding.into(), chunks::hash(data));
            let chunk = ChunkBytes { min_time_ms, max_time_ms, encoding, hash, data };
            chunk.append(&mut self.fields);
            PackedChunk::raw(self.fields.len(), &chunk)
        } else {
            let offset = u64::from(meta.chunk_ref.offset);
            let mut chunk =
                AggrChunk { min_time: min_time_ms, max_time: max_time_ms, ..AggrChunk::default() };
            match encoding {
                ChunkEncoding::Aggregate => {
                    split(what, offset, &buffer.slice_ref(data), &request.aggregates, &mut chunk)?;
                }
                other => {
                    return Err(TsdbError::unsupported(what, offset, "chunk encoding", other.as_byte()));
                }
            }
            append_aggregates(&chunk, &mut self.fields);
            PackedChunk::any(self.fields.len(), &chunk)
        };
        self.chunks.push(Found { slot: *slot, chunk });
        Ok(())
    }

    /// A few small chunks must not keep a large buffer.
    pub fn shrink(&mut self) {
        if self.fields.len() < self.fields.capacity() / 2 {
            self.fields.shrink_to_fit();
        }
    }

    pub fn append(&mut self, other: &Self) {
        let before = self.fields.len();
        self.fields.extend_from_slice(&other.fields);
        let behind =
            |found: &Found| Found { chunk: found.chunk.ending_at(before + found.chunk.end()), ..*found };
        self.chunks.extend(other.chunks.iter().map(behind));
    }

    /// One after the other by their slots, as most often they are: the chunks of a block lie in the order of its series.
    pub fn in_order(mut all: Vec<Self>) -> Self {
        if all.len() <= 1 {
            let only = all.pop().unwrap_or_default();
            if only.chunks.is_sorted_by_key(|found| found.slot) {
                return only;
            }
            all.push(only);
        }
        let mut fields: Vec<(Found, &[u8])> = all.iter().flat_map(Self::fields).collect();
        fields.sort_unstable_by_key(|(found, _)| found.slot);
        let mut sorted = Self::with_room(fields.len(), all.iter().map(|one| one.fields.len()).sum());
        for (found, field) in fields {
            sorted.fields.extend_from_slice(field);
            let chunk = found.chunk.ending_at(sorted.fields.len());
            sorted.chunks.push(Found { chunk, ..found });
        }
        sorted
    }

    /// Each chunk with its field.
    fn fields(&self) -> impl Iterator<Item = (Found, &[u8])> {
        let mut start = 0;
        self.chunks.iter().map(move |found| {
            let end = found.chunk.end();
            let field = self.fields.get(start..end).unwrap_or_default();
            start = end;
            (*found, field)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The series of a batch that have chunks, with those that were found of theirs.
    pub fn pack(self, batch: &[PendingSeries]) -> Arc<Packed> {
        let labels_bytes = batch.iter().map(|pending| pending.labels().len()).sum();
        let mut packer = Packer::with_capacity(batch.len(), labels_bytes, self.chunks.len());
        let mut found = self.chunks.iter().peekable();
        let mut slots = 0..;
        for pending in batch {
            for (_, slot) in pending.chunks().iter().zip(&mut slots) {
                if let Some(found) = found.next_if(|found| found.slot == slot) {
                    packer.chunk(found.chunk);
                }
            }
            if packer.has_chunks() {
                packer.push(pending.labels());
            }
        }
        packer.finish(self.fields)
    }
}
