//! Writing frames of series. prost writes them byte by byte and asks for the length of every chunk once per message around it; here each length
//! is computed once more at most, what stands before data is put together beside the output, and data is copied once, to where it is sent from.

use bytes::BufMut;
use prost::Message;
use prost::encoding::encoded_len_varint;
use tonic::codec::EncodeBuf;

use crate::chunks::has_aggregates;
use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{AggrChunk, Chunk, Label, Series, SeriesResponse};

/// The wire types that there are in these frames.
const VARINT: u8 = 0;
const DELIMITED: u8 = 2;

/// Where a frame goes.
pub(crate) trait Output: BufMut {
    /// Makes room for so many bytes more.
    fn make_room(&mut self, size_bytes: usize);
}

impl Output for Vec<u8> {
    fn make_room(&mut self, size_bytes: usize) {
        self.reserve(size_bytes);
    }
}

impl Output for EncodeBuf<'_> {
    fn make_room(&mut self, size_bytes: usize) {
        self.reserve(size_bytes);
    }
}

/// Appends what prost would for this frame.
pub fn write_response(response: &SeriesResponse, output: &mut Vec<u8>) {
    write_frame(response, output);
}

/// The same, to any output.
pub(crate) fn write_frame(response: &SeriesResponse, output: &mut impl Output) {
    match &response.result {
        Some(Frame::Series(series)) => {
            let length = series_length(series);
            output.make_room(1 + delimited(length));
            write_series(length, series, output);
        }
        Some(Frame::Batch(batch)) => {
            let lengths: Vec<usize> = batch.series.iter().map(series_length).collect();
            let length = lengths.iter().map(|length| 1 + delimited(*length)).sum();
            output.make_room(1 + delimited(length));
            Head::default().field(4, length).put(output);
            for (series, length) in batch.series.iter().zip(lengths) {
                write_series(length, series, output);
            }
        }
        _ => {
            output.make_room(response.encoded_len());
            response.encode_raw(output);
        }
    }
}

/// A series as the field of number 1; its length is known.
fn write_series(length: usize, series: &Series, output: &mut impl Output) {
    Head::default().field(1, length).put(output);
    for Label { name, value } in &series.labels {
        let mut head = Head::default();
        head.field(1, bytes_length(name) + bytes_length(value));
        head.data(1, name, output);
        head.data(2, value, output);
        head.put(output);
    }
    let mut head = Head::default();
    for chunk in &series.chunks {
        head.ease(output);
        head.field(2, aggregates_length(chunk));
        head.aggregates(chunk, output);
    }
    head.put(output);
}

/// What is in a chunk, without the key and the length of its field.
pub(crate) fn write_chunk(chunk: &AggrChunk, output: &mut Vec<u8>) {
    let mut head = Head::default();
    head.aggregates(chunk, output);
    head.put(output);
}

/// What stands before some data, gathered, for it is put into the output at once.
struct Head {
    bytes: [u8; Self::MAX_BYTES],
    size: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; Self::MAX_BYTES], size: 0 }
    }
}

impl Head {
    /// Eight fields, each a key and a number of at most ten bytes; no more than four are added between two calls of [`Self::ease`].
    const MAX_BYTES: usize = 8 * 11;

    fn byte(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.size) {
            *slot = byte;
            self.size += 1;
        }
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// The key and the length of a field that is a message or bytes.
    fn field(&mut self, tag: u8, length: usize) -> &mut Self {
        self.byte(tag << 3 | DELIMITED);
        self.varint(length as u64);
        self
    }

    /// A field that is a number, left out if it is zero.
    fn number(&mut self, tag: u8, number: u64) -> &mut Self {
        if number != 0 {
            self.byte(tag << 3 | VARINT);
            self.varint(number);
        }
        self
    }

    /// A field of bytes, left out if there are none.
    fn data(&mut self, tag: u8, bytes: &[u8], output: &mut impl Output) {
        if !bytes.is_empty() {
            self.field(tag, bytes.len()).put(output);
            output.put_slice(bytes);
        }
    }

    /// At most three fields of it stay.
    fn aggregates(&mut self, chunk: &AggrChunk, output: &mut impl Output) {
        self.number(1, chunk.min_time as u64).number(2, chunk.max_time as u64);
        if let Some(raw) = &chunk.raw {
            self.chunk(3, raw, output);
        }
        for (tag, part) in aggregates(chunk) {
            self.chunk(tag, part, output);
        }
    }

    fn chunk(&mut self, tag: u8, chunk: &Chunk, output: &mut impl Output) {
        self.ease(output);
        self.field(tag, chunk_length(chunk)).number(1, chunk.r#type as i64 as u64);
        self.data(2, &chunk.data, output);
        self.number(3, chunk.hash);
    }

    /// Leaves room for four fields.
    fn ease(&mut self, output: &mut impl Output) {
        if self.size > Self::MAX_BYTES / 2 {
            self.put(output);
        }
    }

    /// Moves what was gathered to the output.
    fn put(&mut self, output: &mut impl Output) {
        output.put_slice(self.bytes.get(..self.size).unwrap_or_default());
        self.size = 0;
    }
}

pub(crate) fn write_varint(mut number: u64, output: &mut Vec<u8>) {
    while number >= 0x80 {
        output.push(number as u8 | 0x80);
        number >>= 7;
    }
    output.push(number as u8);
}

/// The key and the length of a field that is a message or bytes. All tags here are below 16, so that a key is a byte.
pub(crate) fn write_head(tag: u8, length: usize, output: &mut Vec<u8>) {
    output.push(tag << 3 | DELIMITED);
    write_varint(length as u64, output);
}

/// Of a field's value: its length, and the bytes.
pub(crate) fn delimited(length: usize) -> usize {
    encoded_len_varint(length as u64) + length
}

/// A field of bytes, left out if there are none.
pub(crate) fn bytes_length(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + delimited(bytes.len()) }
}

pub(crate) fn write_bytes(tag: u8, bytes: &[u8], output: &mut Vec<u8>) {
    if !bytes.is_empty() {
        write_head(tag, bytes.len(), output);
        output.extend_from_slice(bytes);
    }
}

/// A field that is a number, left out if it is zero.
pub(crate) fn number_length(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number) }
}

pub(crate) fn write_number(tag: u8, number: u64, output: &mut Vec<u8>) {
    if number != 0 {
        output.push(tag << 3 | VARINT);
        write_varint(number, output);
    }
}

fn series_length(series: &Series) -> usize {
    let labels: usize = series.labels.iter().map(|label| 1 + delimited(label_length(label))).sum();
    let chunks: usize = series.chunks.iter().map(|chunk| 1 + delimited(aggregates_length(chunk))).sum();
    labels + chunks
}

/// Appends a label as a field of a series.
pub fn write_label(name: &[u8], value: &[u8], output: &mut Vec<u8>) {
    write_head(1, bytes_length(name) + bytes_length(value), output);
    write_bytes(1, name, output);
    write_bytes(2, value, output);
}

fn label_length(label: &Label) -> usize {
    bytes_length(&label.name) + bytes_length(&label.value)
}

pub(crate) fn aggregates_length(chunk: &AggrChunk) -> usize {
    let part_length = |part: &Chunk| 1 + delimited(chunk_length(part));
    let aggregates: usize = aggregates(chunk).map(|(_, part)| part_length(part)).sum();
    let raw = chunk.raw.as_ref().map_or(0, part_length);
    number_length(chunk.min_time as u64) + number_length(chunk.max_time as u64) + raw + aggregates
}

fn chunk_length(chunk: &Chunk) -> usize {
    number_length(chunk.r#type as i64 as u64) + bytes_length(&chunk.data) + number_length(chunk.hash)
}

/// The chunks of aggregates that there are, with their tags.
fn aggregates(chunk: &AggrChunk) -> impl Iterator<Item = (u8, &Chunk)> {
    // Raw data has none of them, and is nearly all that travels.
    let all =
        has_aggregates(chunk).then_some([&chunk.count, &chunk.sum, &chunk.min, &chunk.max, &chunk.counter]);
    all.into_iter().flat_map(|all| (4..).zip(all)).filter_map(|(tag, part)| Some((tag, part.as_deref()?)))
}
