//! Writing frames of series. prost writes them byte by byte and asks for the length of every chunk once per message around it; here each length
//! is computed once more at most, and data is copied in one go.

use prost::Message;
use prost::encoding::encoded_len_varint;

use crate::chunks::has_aggregates;
use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{AggrChunk, Chunk, Label, Series, SeriesResponse};

/// The wire types that there are in these frames.
const VARINT: u8 = 0;
const DELIMITED: u8 = 2;

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

fn write_series(tag: u8, series: &Series, output: &mut Vec<u8>) {
    write_head(tag, series_length(series), output);
    write_series_body(series, output);
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

fn write_series_body(series: &Series, output: &mut Vec<u8>) {
    for label in &series.labels {
        write_label(&label.name, &label.value, output);
    }
    for chunk in &series.chunks {
        write_head(2, aggregates_length(chunk), output);
        write_number(1, chunk.min_time as u64, output);
        write_number(2, chunk.max_time as u64, output);
        if let Some(raw) = &chunk.raw {
            write_chunk(3, raw, output);
        }
        for (tag, part) in aggregates(chunk) {
            write_chunk(tag, part, output);
        }
    }
}

/// A label as a field of a series.
pub(crate) fn write_label(name: &[u8], value: &[u8], output: &mut Vec<u8>) {
    write_head(1, bytes_length(name) + bytes_length(value), output);
    write_bytes(1, name, output);
    write_bytes(2, value, output);
}

fn write_chunk(tag: u8, chunk: &Chunk, output: &mut Vec<u8>) {
    write_head(tag, chunk_length(chunk), output);
    write_number(1, chunk.r#type as i64 as u64, output);
    write_bytes(2, &chunk.data, output);
    write_number(3, chunk.hash, output);
}

fn label_length(label: &Label) -> usize {
    bytes_length(&label.name) + bytes_length(&label.value)
}

fn aggregates_length(chunk: &AggrChunk) -> usize {
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
