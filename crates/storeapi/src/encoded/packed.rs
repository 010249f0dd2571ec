//! Encoded series of several sources on their way into one answer: many lie in two buffers, so that nothing is allocated for a series, a label or a chunk.
//!
//! A source packs its series ([`Packer`]); those with the same labels are joined ([`Joined`]) and written into the frame that goes out ([`JoinedFrame`]).
//!
//! Invariant: the chunks of a settled series are in the order of [`chunks::compare`], equal ones once, as if the decoded series had been joined. Only
//! for a caller that follows one of two replicas do chunks of the other one lack their data, and keep their times and hash.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::Status;

use super::BATCH_KEY;
use super::field::{append_aggregates, body};
use super::splice::{ChunkBytes, display};
use crate::chunks::{self, has_aggregates};
use crate::codec::read_fields;
use crate::codec::write::{delimited, write_label};
use crate::frames;
use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{AggrChunk, Series, SeriesBatch, SeriesResponse, chunk};
use crate::withhold::{Span, kept_back, span};

/// Key of a series in `SeriesResponse` and in `SeriesBatch`.
const SERIES_KEY: u8 = 1 << 3 | 2;

/// A chunk among those of a [`Packed`], and what is known of it without decoding it.
#[derive(Clone, Copy, Debug)]
pub struct PackedChunk {
    /// Where its field ends among all fields.
    end: usize,
    min_time_ms: i64,
    max_time_ms: i64,
    /// Of all aggregates together.
    data_bytes: u64,
    /// Of floats that are raw and nothing else: the hash, which is zero for any other chunk, and how many there are.
    hash: u64,
    samples: i64,
}

impl PackedChunk {
    /// A raw chunk whose field ends there.
    pub fn raw(end: usize, chunk: &ChunkBytes<'_>) -> Self {
        let ChunkBytes { min_time_ms, max_time_ms, encoding, hash, data } = *chunk;
        let found = span(min_time_ms, max_time_ms, encoding, hash, data);
        let (hash, samples) = found.map_or((0, 0), |(_, _, samples)| (hash, samples));
        Self { end, min_time_ms, max_time_ms, data_bytes: data.len() as u64, hash, samples }
    }

    /// Any chunk whose field ends there.
    pub fn any(end: usize, chunk: &AggrChunk) -> Self {
        let (min_time_ms, max_time_ms) = (chunk.min_time, chunk.max_time);
        match &chunk.raw {
            Some(raw) if !has_aggregates(chunk) => {
                let (encoding, hash, data) = (raw.r#type, raw.hash, &raw.data);
                Self::raw(end, &ChunkBytes { min_time_ms, max_time_ms, encoding, hash, data })
            }
            _ => {
                let data_bytes = chunks::parts(chunk).map(|(_, part)| part.data.len() as u64).sum();
                Self { end, min_time_ms, max_time_ms, data_bytes, hash: 0, samples: 0 }
            }
        }
    }

    /// The same, whose field ends elsewhere.
    #[must_use]
    pub fn ending_at(self, end: usize) -> Self {
        Self { end, ..self }
    }

    pub fn end(&self) -> usize {
        self.end
    }

    fn times(&self) -> (i64, i64) {
        (self.min_time_ms, self.max_time_ms)
    }

    fn span(&self) -> Option<Span> {
        (self.hash != 0).then_some((self.min_time_ms, self.max_time_ms, self.samples))
    }

    /// The chunk without its data, of one that has a span.
    fn without_data(&self) -> ChunkBytes<'static> {
        let Self { min_time_ms, max_time_ms, hash, .. } = *self;
        ChunkBytes { min_time_ms, max_time_ms, encoding: chunk::Encoding::Xor.into(), hash, data: &[] }
    }
}

/// What is known of the chunks of one series together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    chunks: usize,
    /// Of the data of all of them.
    data_bytes: u64,
    /// The times (first and last sample) of the first chunk and of the last one.
    first: (i64, i64),
    last: (i64, i64),
    /// Whether the times of each chunk sort above those of the one before it.
    is_increasing: bool,
}

impl Extent {
    fn of(chunks: &[PackedChunk]) -> Self {
        let times = |chunk: Option<&PackedChunk>| chunk.map(PackedChunk::times).unwrap_or_default();
        Self {
            chunks: chunks.len(),
            data_bytes: chunks.iter().fold(0, |sum: u64, chunk| sum.saturating_add(chunk.data_bytes)),
            first: times(chunks.first()),
            last: times(chunks.last()),
            is_increasing: chunks.is_sorted_by(|one, next| one.times() < next.times()),
        }
    }
}

/// Series of one source, in its order.
#[derive(Debug, Default)]
pub struct Packed {
    /// The fields of the labels of all series.
    labels: Bytes,
    /// The fields of the chunks of all series.
    fields: Bytes,
    chunks: Vec<PackedChunk>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    labels_end: usize,
    /// How many chunks this series and those before it have.
    chunks_end: usize,
    extent: Extent,
}

/// Puts series together.
#[derive(Debug, Default)]
pub struct Packer {
    labels: Vec<u8>,
    chunks: Vec<PackedChunk>,
    places: Vec<Place>,
}

impl Packer {
    pub fn with_capacity(series: usize, labels_bytes: usize, chunks: usize) -> Self {
        Self {
            labels: Vec::with_capacity(labels_bytes),
            chunks: Vec::with_capacity(chunks),
            places: Vec::with_capacity(series),
        }
    }

    /// The next chunk of the series that is pushed next.
    pub fn chunk(&mut self, chunk: PackedChunk) {
        self.chunks.push(chunk);
    }

    /// Whether the series that is pushed next has chunks.
    pub fn has_chunks(&self) -> bool {
        self.chunks.len() > self.chunks_end()
    }

    fn chunks_end(&self) -> usize {
        self.places.last().map_or(0, |last| last.chunks_end)
    }

    /// The next series: its labels as fields of a series.
    pub fn push(&mut self, labels: &[u8]) {
        self.labels.extend_from_slice(labels);
        let extent = Extent::of(self.chunks.get(self.chunks_end()..).unwrap_or_default());
        let (labels_end, chunks_end) = (self.labels.len(), self.chunks.len());
        self.places.push(Place { labels_end, chunks_end, extent });
    }

    /// All series: the fields of their chunks, one after the other, as those of a series.
    pub fn finish(self, fields: Vec<u8>) -> Arc<Packed> {
        let Self { labels, chunks, places } = self;
        Arc::new(Packed { labels: labels.into(), fields: fields.into(), chunks, places })
    }
}

impl Packed {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn before(&self, index: usize) -> Option<&Place> {
        self.places.get(index.checked_sub(1)?)
    }

    /// The labels of the series of that number.
    pub fn labels(&self, index: usize) -> Option<&[u8]> {
        let start = self.before(index).map_or(0, |before| before.labels_end);
        self.labels.get(start..self.places.get(index)?.labels_end)
    }

    /// The chunks of the series of that number, and where their fields begin.
    fn chunks(&self, index: usize) -> Option<(&[PackedChunk], usize)> {
        let first = self.before(index).map_or(0, |before| before.chunks_end);
        let chunks = self.chunks.get(first..self.places.get(index)?.chunks_end)?;
        let before = first.checked_sub(1).and_then(|before| self.chunks.get(before));
        Some((chunks, before.map_or(0, |before| before.end)))
    }
}

/// From decoded series; for tests, and for what is decoded anyway.
impl FromIterator<Series> for Packed {
    fn from_iter<I: IntoIterator<Item = Series>>(all: I) -> Self {
        let (mut packer, mut labels, mut fields) = (Packer::default(), Vec::new(), Vec::new());
        for series in all {
            labels.clear();
            series.labels.iter().for_each(|label| write_label(&label.name, &label.value, &mut labels));
            for chunk in &series.chunks {
                append_aggregates(chunk, &mut fields);
                packer.chunk(PackedChunk::any(fields.len(), chunk));
            }
            packer.push(&labels);
        }
        let Packer { labels, chunks, places } = packer;
        Self { labels: labels.into(), fields: fields.into(), chunks, places }
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

    fn chunks(&self) -> (&[PackedChunk], usize) {
        self.packed.chunks(self.index).unwrap_or_default()
    }

    /// Where the fields of its chunks lie.
    fn place(&self) -> Range<usize> {
        let (chunks, start) = self.chunks();
        start..chunks.last().map_or(start, |last| last.end)
    }

    fn fields(&self, place: Range<usize>) -> &[u8] {
        self.packed.fields.get(place).unwrap_or_default()
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
    /// `None` while the chunks are those of the pieces, one piece after the other.
    woven: Option<Woven>,
}

/// Chunks of several pieces in an order of their own.
#[derive(Clone, Debug)]
struct Woven {
    /// Their fields, where they lie: in the piece of that number, or among those that lack their data.
    parts: Vec<(Option<usize>, Range<usize>)>,
    without_data: Bytes,
    size_bytes: usize,
    chunks: usize,
    data_bytes: u64,
}

impl From<Piece> for Joined {
    fn from(first: Piece) -> Self {
        Self { first, more: Vec::new(), woven: None }
    }
}

impl Joined {
    pub fn labels(&self) -> &[u8] {
        self.first.labels()
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        match &self.woven {
            Some(woven) => woven.chunks,
            None => self.pieces().map(|piece| piece.extent().chunks).sum(),
        }
    }

    /// Bytes of the data of all chunks.
    pub fn data_bytes(&self) -> u64 {
        match &self.woven {
            Some(woven) => woven.data_bytes,
            None => self.pieces().fold(0, |sum, piece| piece.extent().data_bytes.saturating_add(sum)),
        }
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

    /// Brings the chunks of several pieces into their order, once all are there. From `withholds_from_ms` on, if given, the data of what a caller does not look at
    /// that follows one replica is left out ([`crate::withhold`]).
    pub fn settle(&mut self, withholds_from_ms: Option<i64>) {
        if self.more.is_empty() || self.is_in_order() {
            return;
        }
        let mut pieces: Vec<Piece> = self.pieces().cloned().collect();
        pieces.sort_by_key(|piece| piece.extent().first);
        let mut pieces = pieces.into_iter();
        if let Some(first) = pieces.next() {
            *self = Self { first, more: pieces.collect(), woven: None };
        }
        if !self.is_in_order() {
            self.woven = Some(self.weave(withholds_from_ms));
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The piece of that number, counted from the first.
    fn piece(&self, number: usize) -> Option<&Piece> {
        number.checked_sub(1).map_or(Some(&self.first), |number| self.more.get(number))
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
    fn weave(&self, withholds_from_ms: Option<i64>) -> Woven {
        let mut all = Vec::with_capacity(self.chunks());
        for (piece, number) in self.pieces().zip(0..) {
            let (chunks, mut start) = piece.chunks();
            for chunk in chunks {
                let place = std::mem::replace(&mut start, chunk.end)..chunk.end;
                all.push(Strand { chunk, piece: number, field: piece.fields(place.clone()), place });
            }
        }
        all.sort_by(Strand::compare);
        all.dedup_by(|a, b| a.compare(b) == Ordering::Equal);
        let kept_back = withholds_from_ms
            .and_then(|from_ms| kept_back(all.iter().map(|strand| strand.chunk.span()), from_ms));
        let mut kept_back = kept_back.unwrap_or_default().into_iter();
        let mut without_data = Vec::new();
        let (mut parts, mut data_bytes, mut size_bytes) = (Vec::with_capacity(all.len()), 0_u64, 0);
        for strand in &all {
            let part = if kept_back.next() == Some(true) {
                let start = without_data.len();
                strand.chunk.without_data().append(&mut without_data);
                (None, start..without_data.len())
            } else {
                data_bytes = data_bytes.saturating_add(strand.chunk.data_bytes);
                (Some(strand.piece), strand.place.clone())
            };
            size_bytes += part.1.len();
            parts.push(part);
        }
        Woven { chunks: parts.len(), parts, without_data: without_data.into(), size_bytes, data_bytes }
    }

    /// Bytes of labels and chunks, encoded.
    pub fn size_bytes(&self) -> usize {
        let fields = match &self.woven {
            Some(woven) => woven.size_bytes,
            None => self.pieces().map(|piece| piece.place().len()).sum(),
        };
        self.labels().len() + fields
    }

    /// The fields of all chunks, and what they are parts of.
    fn each_field<'a>(&'a self, mut each: impl FnMut(&'a Bytes, &'a [u8]) -> Option<()>) -> Option<()> {
        let Some(woven) = &self.woven else {
            return self
                .pieces()
                .try_for_each(|piece| each(&piece.packed.fields, piece.fields(piece.place())));
        };
        woven.parts.iter().try_for_each(|(number, place)| {
            let of = match number {
                Some(number) => &self.piece(*number)?.packed.fields,
                None => &woven.without_data,
            };
            each(of, of.get(place.clone())?)
        })
    }

    fn write(&self, size_bytes: usize, output: &mut impl BufMut) {
        output.put_u8(SERIES_KEY);
        encode_varint(size_bytes as u64, output);
        output.put_slice(self.labels());
        self.each_field(|_, fields| {
            output.put_slice(fields);
            Some(())
        });
    }

    /// As whoever receives it sees it; its text and data share the buffers it lies in.
    fn decoded(&self) -> Option<Series> {
        let mut series = Series { labels: Vec::new(), chunks: Vec::with_capacity(self.chunks()) };
        read_fields(&self.first.packed.labels, self.labels(), &mut series)?;
        self.each_field(|of, fields| read_fields(of, fields, &mut series))?;
        Some(series)
    }
}

/// A chunk that is to be sorted.
struct Strand<'a> {
    chunk: &'a PackedChunk,
    piece: usize,
    place: Range<usize>,
    field: &'a [u8],
}

impl Strand<'_> {
    fn compare(&self, other: &Self) -> Ordering {
        self.chunk.times().cmp(&other.chunk.times()).then_with(|| {
            if self.field == other.field {
                return Ordering::Equal;
            }
            match (AggrChunk::decode(body(self.field)), AggrChunk::decode(body(other.field))) {
                (Ok(a), Ok(b)) => chunks::compare(&a, &b),
                // Not of what is written here.
                _ => self.field.cmp(other.field),
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
