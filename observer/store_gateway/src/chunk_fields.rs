//! Chunks of a block in the form in which they leave the process: fields of series, one after the other.
//!
//! What was fetched comes in the order of segments; it is packed in the order of the series that it belongs to.

use std::sync::Arc;

use bytes::Bytes;
use parallax_storeapi::chunks;
use parallax_storeapi::encoded::{ChunkBytes, Extent, Packed, Packer, append_aggregates};
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
    /// Where its field ends.
    end: usize,
    data_bytes: u64,
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
        let data_bytes = if let Some(encoding) = wire_encoding(encoding) {
            let (encoding, hash) = (encoding.into(), chunks::hash(data));
            ChunkBytes { min_time_ms, max_time_ms, encoding, hash, data }.append(&mut self.fields);
            data.len() as u64
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
            chunks::parts(&chunk).map(|(_, part)| part.data.len() as u64).sum()
        };
        self.chunks.push(Found { slot: *slot, end: self.fields.len(), data_bytes });
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
        self.chunks.extend(other.chunks.iter().map(|found| Found { end: before + found.end, ..*found }));
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
            sorted.chunks.push(Found { end: sorted.fields.len(), ..found });
        }
        sorted
    }

    /// Each chunk with its field.
    fn fields(&self) -> impl Iterator<Item = (Found, &[u8])> {
        let mut start = 0;
        self.chunks.iter().map(move |found| {
            let field = self.fields.get(start..found.end).unwrap_or_default();
            start = found.end;
            (*found, field)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The series of a batch that have chunks, with those that were found of theirs.
    pub fn pack(self, batch: &[PendingSeries]) -> Arc<Packed> {
        let labels_bytes = batch.iter().map(|pending| pending.labels().len()).sum();
        let mut packer = Packer::with_capacity(batch.len(), labels_bytes);
        let mut found = self.chunks.iter().peekable();
        let (mut slots, mut end) = (0.., 0);
        for pending in batch {
            let mut extent = Extent::default();
            for (meta, slot) in pending.chunks().iter().zip(&mut slots) {
                if let Some(chunk) = found.next_if(|found| found.slot == slot) {
                    extent.add(meta.min_time_ms, meta.max_time_ms, chunk.data_bytes);
                    end = chunk.end;
                }
            }
            if extent.chunks > 0 {
                packer.push(pending.labels(), end, extent);
            }
        }
        packer.finish(self.fields)
    }
}
