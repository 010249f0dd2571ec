//! The gRPC codec of all services here: protobuf as prost reads and writes it, with a faster way to write the frames of Series answers.
//!
//! Those frames are nearly all that travels. prost writes them byte by byte and asks for the length of every chunk once per message around it; here
//! each length is computed once more at most, and data is copied in one go. The bytes are the same (`tests/codec.rs`).

use std::any::Any;
use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec as TonicCodec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::decoded;
use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{AggrChunk, Chunk, Label, Series, SeriesResponse};

/// Writes `T` and reads `U`.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> TonicCodec for Codec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Writer<T> {
        Writer { frame: Vec::new(), _of: PhantomData }
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(PhantomData)
    }
}

/// Writes messages, each into one buffer that is used again.
#[derive(Debug)]
pub struct Writer<T> {
    frame: Vec<u8>,
    _of: PhantomData<T>,
}

/// A buffer that a larger frame needed is not kept.
const MAX_KEPT_BYTES: usize = 1 << 20;

impl<T: Message + 'static> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, output: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.frame.clear();
        match (&item as &dyn Any).downcast_ref::<SeriesResponse>() {
            Some(response) => write_response(response, &mut self.frame),
            None => item.encode_raw(&mut self.frame),
        }
        output.reserve(self.frame.len());
        output.put_slice(&self.frame);
        if self.frame.capacity() > MAX_KEPT_BYTES {
            self.frame = Vec::new();
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Reads messages, whose text and data share the frame's buffer. One that would take far more memory than its bytes is refused before.
#[derive(Debug)]
pub struct Reader<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let frame = input.copy_to_bytes(input.remaining());
        decoded::check::<U>(&frame)?;
        // As tonic's own codec has it: what cannot be read is an internal error.
        U::decode(frame).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Appends what prost would for this frame.
pub fn write_response(response: &SeriesResponse, output: &mut Vec<u8>) {
    match &response.result {
        Some(Frame::Series(series)) => write_series(1, series, output),
        Some(Frame::Batch(batch)) => {
            let lengths: Vec<usize> = batch.series.iter().map(series_length).collect();
            write_head(4, lengths.iter().map(|length| 1 + delimited(*length)).sum(), output);
            for (series, length) in batch.series.iter().zip(lengths) {
                write_head(1, length, output);
                write_series_body(series, output);
            }
        }
        _ => response.encode_raw(output),
    }
}

fn write_series(tag: u32, series: &Series, output: &mut Vec<u8>) {
    write_head(tag, series_length(series), output);
    write_series_body(series, output);
}

/// The key and the length of a field that is a message or bytes.
fn write_head(tag: u32, length: usize, output: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, output);
    encode_varint(length as u64, output);
}

/// Of a field's value: its length, and the bytes.
fn delimited(length: usize) -> usize {
    encoded_len_varint(length as u64) + length
}

/// A field of bytes, left out if there are none.
fn bytes_length(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + delimited(bytes.len()) }
}

fn write_bytes(tag: u32, bytes: &[u8], output: &mut Vec<u8>) {
    if !bytes.is_empty() {
        write_head(tag, bytes.len(), output);
        output.extend_from_slice(bytes);
    }
}

/// A field that is a number, left out if it is zero.
fn number_length(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number) }
}

fn write_number(tag: u32, number: u64, output: &mut Vec<u8>) {
    if number != 0 {
        encode_key(tag, WireType::Varint, output);
        encode_varint(number, output);
    }
}

fn series_length(series: &Series) -> usize {
    let labels: usize = series.labels.iter().map(|label| 1 + delimited(label_length(label))).sum();
    let chunks: usize = series.chunks.iter().map(|chunk| 1 + delimited(aggregates_length(chunk))).sum();
    labels + chunks
}

fn write_series_body(series: &Series, output: &mut Vec<u8>) {
    for label in &series.labels {
        write_head(1, label_length(label), output);
        write_bytes(1, &label.name, output);
        write_bytes(2, &label.value, output);
    }
    for chunk in &series.chunks {
        write_head(2, aggregates_length(chunk), output);
        write_number(1, chunk.min_time as u64, output);
        write_number(2, chunk.max_time as u64, output);
        for (tag, part) in parts(chunk) {
            write_head(tag, chunk_length(part), output);
            write_number(1, part.r#type as i64 as u64, output);
            write_bytes(2, &part.data, output);
            write_number(3, part.hash, output);
        }
    }
}

fn label_length(label: &Label) -> usize {
    bytes_length(&label.name) + bytes_length(&label.value)
}

fn aggregates_length(chunk: &AggrChunk) -> usize {
    let parts: usize = parts(chunk).map(|(_, part)| 1 + delimited(chunk_length(part))).sum();
    number_length(chunk.min_time as u64) + number_length(chunk.max_time as u64) + parts
}

fn chunk_length(chunk: &Chunk) -> usize {
    number_length(chunk.r#type as i64 as u64) + bytes_length(&chunk.data) + number_length(chunk.hash)
}

/// The chunks that there are, with their tags.
fn parts(chunk: &AggrChunk) -> impl Iterator<Item = (u32, &Chunk)> {
    let aggregates = [&chunk.count, &chunk.sum, &chunk.min, &chunk.max, &chunk.counter];
    let aggregates = (4..).zip(aggregates).filter_map(|(tag, part)| Some((tag, part.as_deref()?)));
    chunk.raw.as_ref().map(|raw| (3, raw)).into_iter().chain(aggregates)
}
