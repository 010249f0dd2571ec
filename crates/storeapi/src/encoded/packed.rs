//! Encoded series of several sources on their way into one answer: many lie in two buffers, so that nothing is allocated for a series, a label or a chunk.
//!
//! A source packs its series ([`Packer`]); those with the same labels are joined ([`Joined`]) and written into the frame that goes out ([`JoinedFrame`]).
//!
//! Invariant: the chunks of a settled series are in the order of [`chunks::compare`], equal ones once, as if the decoded series had been joined. Only
//! for a caller that follows one of two replicas do chunks of the other one lack their data, and keep their times and hash.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::Status;

use super::BATCH_KEY;
use super::field::{Fields, append_aggregates, data_bytes, raw, times};
use super::splice::{ChunkBytes, display};
use crate::chunks;
use crate::codec::read_fields;
use crate::codec::write::{delimited, write_label};
use crate::frames;
use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{AggrChunk, Series, SeriesBatch, SeriesResponse};
use crate::withhold::{Span, kept_back, span};

/// Key of a series in `SeriesResponse` and in `SeriesBatch`.
const SERIES_KEY: u8 = 1 << 3 | 2;

/// What is known of the chunks of one series without decoding them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub chunks: usize,
    /// Of the data of all of them.
    pub data_bytes: u64,
    /// The times (first and last sample) of the first chunk and of the last one.
    first: (i64, i64),
    last: (i64, i64),
    /// Whether the times of each chunk sort above those of the one before it.
    is_increasing: bool,
}

impl Extent {
    /// Counts the next chunk of the series.
    pub fn add(&mut self, min_time_ms: i64, max_time_ms: i64, data_bytes: u64) {
        let times = (min_time_ms, max_time_ms);
        if self.chunks == 0 {
            (self.first, self.is_increasing) = (times, true);
        } else {
            self.is_increasing &= self.last < times;
        }
        self.last = times;
        self.chunks += 1;
        self.data_bytes = self.data_bytes.saturating_add(data_bytes);
    }
}

/// Series of one source, in its order.
#[derive(Debug, Default)]
pub struct Packed {
    /// The fields of the labels of all series.
    labels: Bytes,
    /// The fields of the chunks of all series.
    chunks: Bytes,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    labels_end: usize,
    chunks_end: usize,
    extent: Extent,
}

/// Puts series together.
#[derive(Debug, Default)]
pub struct Packer {
    labels: Vec<u8>,
    places: Vec<Place>,
}

impl Packer {
    pub fn with_capacity(series: usize, labels_bytes: usize) -> Self {
        Self { labels: Vec::with_capacity(labels_bytes), places: Vec::with_capacity(series) }
    }

    /// The next series: its labels as fields of a series, and where its chunks end among those that [`Self::finish`] is given.
    pub fn push(&mut self, labels: &[u8], chunks_end: usize, extent: Extent) {
        self.labels.extend_from_slice(labels);
        self.places.push(Place { labels_end: self.labels.len(), chunks_end, extent });
    }

    /// All series: their chunks, one after the other, as fields of a series.
    pub fn finish(self, chunks: Vec<u8>) -> Arc<Packed> {
        Arc::new(Packed { labels: self.labels.into(), chunks: chunks.into(), places: self.places })
    }
}

impl Packed {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The labels of the series of that number.
    pub fn labels(&self, index: usize) -> Option<&[u8]> {
        let start =
            index.checked_sub(1).and_then(|before| self.places.get(before)).map_or(0, |p| p.labels_end);
        self.labels.get(start..self.places.get(index)?.labels_end)
    }

    fn chunks(&self, index: usize) -> Option<&[u8]> {
        let start =
            index.checked_sub(1).and_then(|before| self.places.get(before)).map_or(0, |p| p.chunks_end);
        self.chunks.get(start..self.places.get(index)?.chunks_end)
    }
}

/// From decoded series; for tests, and for what is decoded anyway.
impl FromIterator<Series> for Packed {
    fn from_iter<I: IntoIterator<Item = Series>>(all: I) -> Self {
        let (mut labels, mut chunks, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for series in all {
            let mut extent = Extent::default();
            series.labels.iter().for_each(|label| write_label(&label.name, &label.value, &mut labels));
            for chunk in &series.chunks {
                append_aggregates(chunk, &mut chunks);
                let size_bytes = chunks::parts(chunk).map(|(_, part)| part.data.len() as u64).sum();
                extent.add(chunk.min_time, chunk.max_time, size_bytes);
            }
            places.push(Place { labels_end: labels.len(), chunks_end: chunks.len(), extent });
        }
        Self { labels: labels.into(), chunks: chunks.into(), places }
    }
}

/// The series of a [`Packed`], one by one.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    packed: Arc<Packed>,
    next: usize,
}

impl From<Arc<Packed>> for Pieces {
    fn from(packed: Arc<Packed>) -> Self {
        Self { packed, next: 0 }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let index = self.next;
        (index < self.packed.len()).then(|| {
            self.next += 1;
            Piece { packed: Arc::clone(&self.packed), index }
        })
    }
}

/// One series of one source.
#[derive(Clone, Debug)]
pub struct Piece {
    packed: Arc<Packed>,
    index: usize,
}

impl Piece {
    /// As fields of a series.
    pub fn labels(&self) -> &[u8] {
        self.packed.labels(self.index).unwrap_or_default()
    }

    fn chunks(&self) -> &[u8] {
        self.packed.chunks(self.index).unwrap_or_default()
    }

    fn extent(&self) -> Extent {
        self.packed.places.get(self.index).map(|place| place.extent).unwrap_or_default()
    }
}

/// A series with what several sources have of it.
#[derive(Clone, Debug)]
pub struct Joined {
    first: Piece,
    more: Vec<Piece>,
}

impl From<Piece> for Joined {
    fn from(first: Piece) -> Self {
        Self { first, more: Vec::new() }
    }
}

impl Joined {
    pub fn labels(&self) -> &[u8] {
        self.first.labels()
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.pieces().map(|piece| piece.extent().chunks).sum()
    }

    /// Bytes of the data of all chunks.
    pub fn data_bytes(&self) -> u64 {
        self.pieces().fold(0, |sum, piece| piece.extent().data_bytes.saturating_add(sum))
    }

    /// Adds what another source has of the series.
    pub fn push(&mut self, piece: Piece) {
        if piece.extent().chunks > 0 {
            self.more.push(piece);
        }
    }

    /// Adds all that `other` has of it.
    pub fn append(&mut self, other: Self) {
        self.push(other.first);
        self.more.extend(other.more);
    }

    /// Brings the chunks of several pieces into their order. From `withholds_from_ms` on, if given, the data of what a caller does not look at that follows one
    /// replica is left out ([`crate::withhold`]).
    pub fn settle(&mut self, withholds_from_ms: Option<i64>) {
        if self.more.is_empty() {
            return;
        }
        if !self.is_in_order() {
            let mut pieces: Vec<Piece> = self.pieces().cloned().collect();
            pieces.sort_by_key(|piece| piece.extent().first);
            let mut pieces = pieces.into_iter();
            if let Some(first) = pieces.next() {
                *self = Self { first, more: pieces.collect() };
            }
            if !self.is_in_order() {
                *self = Self::from(self.interleaved(withholds_from_ms));
            }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Whether the times of the chunks increase from one to the next. So they do where sources are of different times.
    fn is_in_order(&self) -> bool {
        let mut last = None;
        self.pieces().map(Piece::extent).filter(|extent| extent.chunks > 0).all(|extent| {
            let is_above = last.is_none_or(|last| last < extent.first);
            last = Some(extent.last);
            is_above && extent.is_increasing
        })
    }

    /// The chunks sorted, each once.
    fn interleaved(&self, withholds_from_ms: Option<i64>) -> Piece {
        let mut all: Vec<ChunkField<'_>> =
            self.pieces().flat_map(|piece| Fields::of(piece.chunks())).map(ChunkField::of).collect();
        all.sort_by(ChunkField::compare);
        all.dedup_by(|a, b| a.compare(b) == Ordering::Equal);
        let mut extent = Extent::default();
        let mut chunks = Vec::with_capacity(all.iter().map(|chunk| chunk.field.len()).sum());
        let kept_back =
            withholds_from_ms.and_then(|from_ms| kept_back(all.iter().map(ChunkField::span), from_ms));
        let mut kept_back = kept_back.unwrap_or_default().into_iter();
        for chunk in &all {
            let (min_ms, max_ms) = chunk.times;
            let is_kept_back = kept_back.next() == Some(true);
            match raw(chunk.body).filter(|_| is_kept_back) {
                Some(raw) => {
                    ChunkBytes { data: &[], ..raw }.append(&mut chunks);
                    extent.add(min_ms, max_ms, 0);
                }
                None => {
                    chunks.extend_from_slice(chunk.field);
                    extent.add(min_ms, max_ms, data_bytes(chunk.body));
                }
            }
        }
        let mut packer = Packer::with_capacity(1, self.labels().len());
        packer.push(self.labels(), chunks.len(), extent);
        Piece { packed: packer.finish(chunks), index: 0 }
    }

    /// Bytes of labels and chunks, encoded.
    pub fn size_bytes(&self) -> usize {
        self.pieces().fold(self.labels().len(), |sum, piece| sum + piece.chunks().len())
    }

    fn write(&self, size_bytes: usize, output: &mut impl BufMut) {
        output.put_u8(SERIES_KEY);
        encode_varint(size_bytes as u64, output);
        output.put_slice(self.labels());
        self.pieces().for_each(|piece| output.put_slice(piece.chunks()));
    }

    /// As whoever receives it sees it; its text and data share the buffers it lies in.
    fn decoded(&self) -> Option<Series> {
        let mut series = Series { labels: Vec::new(), chunks: Vec::with_capacity(self.chunks()) };
        read_fields(&self.first.packed.labels, self.labels(), &mut series)?;
        for piece in self.pieces() {
            read_fields(&piece.packed.chunks, piece.chunks(), &mut series)?;
        }
        Some(series)
    }
}

/// A chunk as a field of a series.
struct ChunkField<'a> {
    times: (i64, i64),
    field: &'a [u8],
    body: &'a [u8],
}

impl<'a> ChunkField<'a> {
    fn of((field, body): (&'a [u8], &'a [u8])) -> Self {
        Self { times: times(body), field, body }
    }

    fn span(&self) -> Option<Span> {
        let raw = raw(self.body)?;
        span(raw.min_time_ms, raw.max_time_ms, raw.encoding, raw.hash, raw.data)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.times.cmp(&other.times).then_with(|| {
            if self.body == other.body {
                return Ordering::Equal;
            }
            match (AggrChunk::decode(self.body), AggrChunk::decode(other.body)) {
                (Ok(a), Ok(b)) => chunks::compare(&a, &b),
                // Not of what is written here.
                _ => self.body.cmp(other.body),
            }
        })
    }
}

/// A frame of joined series: a batch of them, or a single one.
#[derive(Clone, Debug, Default)]
pub struct JoinedFrame {
    series: Vec<Joined>,
    size_bytes: usize,
    is_batch: bool,
}

impl JoinedFrame {
    /// An empty batch, or a frame for a single series.
    pub fn new(is_batch: bool) -> Self {
        Self { is_batch, ..Self::default() }
    }

    pub fn push(&mut self, series: Joined) {
        let size_bytes = series.size_bytes();
        self.size_bytes += 1 + delimited(size_bytes);
        self.series.push(series);
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Whether it holds as much as a frame may.
    pub fn is_large(&self) -> bool {
        self.size_bytes >= frames::MAX_BATCH_BYTES
    }

    /// Bytes of the message.
    pub(crate) fn encoded_len(&self) -> usize {
        match self.is_batch {
            true => 1 + encoded_len_varint(self.size_bytes as u64) + self.size_bytes,
            false => self.size_bytes,
        }
    }

    pub(crate) fn write(&self, output: &mut impl BufMut) {
        if self.is_batch {
            output.put_u8(BATCH_KEY);
            encode_varint(self.size_bytes as u64, output);
        }
        self.series.iter().for_each(|series| series.write(series.size_bytes(), output));
    }

    /// The message, decoded.
    pub(super) fn message(&self) -> Result<SeriesResponse, Status> {
        let decoded = |series: &Joined| {
            series.decoded().ok_or_else(|| {
                let labels = display(series.labels());
                Status::internal(format!("the series {labels} was written wrong"))
            })
        };
        let mut all = self.series.iter().map(decoded).collect::<Result<Vec<Series>, Status>>()?;
        let result = match self.is_batch {
            true => Some(Frame::Batch(SeriesBatch { series: all })),
            false => all.pop().map(Frame::Series),
        };
        Ok(SeriesResponse { result })
    }
}
