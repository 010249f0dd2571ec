//! Reading frames of series, whose text and data share the frame's buffer.
//!
//! Lists are allocated once, for what is in them, and no field is looked for in a table. Only what senders write is read here: one field that is a series
//! or a batch of them, known fields, no part of a message twice. Everything else, damage too, is left to prost.

use bytes::Bytes;

use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{AggrChunk, Chunk, Label, Series, SeriesBatch, SeriesResponse};
use crate::wire::{delimited, varint};

/// The keys of the fields of each message: the field's number and its wire type.
mod key {
    const VARINT: u64 = 0;
    const DELIMITED: u64 = 2;

    pub const RESPONSE_SERIES: u64 = 1 << 3 | DELIMITED;
    pub const RESPONSE_BATCH: u64 = 4 << 3 | DELIMITED;
    pub const BATCH_SERIES: u64 = 1 << 3 | DELIMITED;
    pub const SERIES_LABEL: u64 = 1 << 3 | DELIMITED;
    pub const SERIES_CHUNK: u64 = 2 << 3 | DELIMITED;
    pub const LABEL_NAME: u64 = 1 << 3 | DELIMITED;
    pub const LABEL_VALUE: u64 = 2 << 3 | DELIMITED;
    pub const TIMES_MIN: u64 = 1 << 3 | VARINT;
    pub const TIMES_MAX: u64 = 2 << 3 | VARINT;
    pub const RAW: u64 = 3 << 3 | DELIMITED;
    pub const COUNT: u64 = 4 << 3 | DELIMITED;
    pub const SUM: u64 = 5 << 3 | DELIMITED;
    pub const MIN: u64 = 6 << 3 | DELIMITED;
    pub const MAX: u64 = 7 << 3 | DELIMITED;
    pub const COUNTER: u64 = 8 << 3 | DELIMITED;
    pub const CHUNK_TYPE: u64 = 1 << 3 | VARINT;
    pub const CHUNK_DATA: u64 = 2 << 3 | DELIMITED;
    pub const CHUNK_HASH: u64 = 3 << 3 | VARINT;
}

/// What prost would make of this frame, if it is one of series; `None` is no verdict.
pub fn read_response(frame: &Bytes) -> Option<SeriesResponse> {
    let (key, rest) = varint(frame)?;
    let (body, rest) = delimited(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let result = match key {
        key::RESPONSE_SERIES => Frame::Series(read_series(frame, body)?),
        key::RESPONSE_BATCH => Frame::Batch(read_batch(frame, body)?),
        _ => return None,
    };
    Some(SeriesResponse { result: Some(result) })
}

fn read_batch(frame: &Bytes, body: &[u8]) -> Option<SeriesBatch> {
    let (count, others) = count_fields(body, key::BATCH_SERIES, key::BATCH_SERIES)?;
    let mut series = Vec::with_capacity(count + others);
    let mut rest = body;
    while !rest.is_empty() {
        let (_, after_key) = varint(rest)?;
        let (one, after) = delimited(after_key)?;
        series.push(read_series(frame, one)?);
        rest = after;
    }
    Some(SeriesBatch { series })
}

fn read_series(frame: &Bytes, body: &[u8]) -> Option<Series> {
    let (labels, chunks) = count_fields(body, key::SERIES_LABEL, key::SERIES_CHUNK)?;
    let mut series = Series { labels: Vec::with_capacity(labels), chunks: Vec::with_capacity(chunks) };
    read_fields(frame, body, &mut series)?;
    Some(series)
}

/// Adds the labels and chunks in `body`, a part of `frame`, to a series.
pub(crate) fn read_fields(frame: &Bytes, body: &[u8], series: &mut Series) -> Option<()> {
    let mut rest = body;
    while !rest.is_empty() {
        let (key, after_key) = varint(rest)?;
        let (part, after) = delimited(after_key)?;
        if key == key::SERIES_LABEL {
            series.labels.push(read_label(frame, part)?);
        } else {
            series.chunks.push(read_aggregates(frame, part)?);
        }
        rest = after;
    }
    Some(())
}

/// How many fields of either key there are; `None` if there is any other.
fn count_fields(mut rest: &[u8], one: u64, other: u64) -> Option<(usize, usize)> {
    let (mut ones, mut others) = (0, 0);
    while !rest.is_empty() {
        let (key, after_key) = varint(rest)?;
        if key == one {
            ones += 1;
        } else if key == other {
            others += 1;
        } else {
            return None;
        }
        rest = delimited(after_key)?.1;
    }
    Some((ones, others))
}

fn read_label(frame: &Bytes, body: &[u8]) -> Option<Label> {
    let mut label = Label::default();
    let mut rest = body;
    while !rest.is_empty() {
        let (key, after_key) = varint(rest)?;
        let (text, after) = delimited(after_key)?;
        match key {
            key::LABEL_NAME => label.name = frame.slice_ref(text),
            key::LABEL_VALUE => label.value = frame.slice_ref(text),
            _ => return None,
        }
        rest = after;
    }
    Some(label)
}

fn read_aggregates(frame: &Bytes, body: &[u8]) -> Option<AggrChunk> {
    let mut chunk = AggrChunk::default();
    let mut rest = body;
    while !rest.is_empty() {
        let (key, after_key) = varint(rest)?;
        if key == key::TIMES_MIN || key == key::TIMES_MAX {
            let (number, after) = varint(after_key)?;
            *(if key == key::TIMES_MIN { &mut chunk.min_time } else { &mut chunk.max_time }) = number as i64;
            rest = after;
            continue;
        }
        let (part, after) = delimited(after_key)?;
        rest = after;
        if key == key::RAW {
            if chunk.raw.replace(read_chunk(frame, part)?).is_some() {
                return None;
            }
            continue;
        }
        let place = match key {
            key::COUNT => &mut chunk.count,
            key::SUM => &mut chunk.sum,
            key::MIN => &mut chunk.min,
            key::MAX => &mut chunk.max,
            key::COUNTER => &mut chunk.counter,
            _ => return None,
        };
        if place.replace(Box::new(read_chunk(frame, part)?)).is_some() {
            return None;
        }
    }
    Some(chunk)
}

fn read_chunk(frame: &Bytes, body: &[u8]) -> Option<Chunk> {
    let mut chunk = Chunk::default();
    let mut rest = body;
    while !rest.is_empty() {
        let (key, after_key) = varint(rest)?;
        rest = if key == key::CHUNK_DATA {
            let (data, after) = delimited(after_key)?;
            chunk.data = frame.slice_ref(data);
            after
        } else {
            let (number, after) = varint(after_key)?;
            match key {
                key::CHUNK_TYPE => chunk.r#type = number as i32,
                key::CHUNK_HASH => chunk.hash = number,
                _ => return None,
            }
            after
        };
    }
    Some(chunk)
}
