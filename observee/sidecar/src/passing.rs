//! Series of a streamed remote read on their way through, without being taken apart.
//!
//! Prometheus' and the StoreAPI's messages differ in the heads of chunks only. So of each series the bytes of its labels are looked at, the external ones put
//! between them, and the bytes of its chunks copied once, into the frame that goes out. What is not in the plain form in which Prometheus writes it is decoded and
//! checked as everywhere else, so that both ways have the same answers and the same errors.
//!
//! A frame goes out when it is full, or when what comes next has to be waited for.

use bytes::Bytes;
use futures::StreamExt as _;
use parallax_model::Labels;
use parallax_storeapi::encoded::{ChunkBytes, Outbox, Splice, WireFrame, WireStream};
use parallax_storeapi::proto::prometheus::{ChunkedReadResponse, ChunkedSeries};
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::wire::{delimited, varint};
use parallax_storeapi::{chunks, labels};
use prost::Message as _;
use tonic::Status;

use crate::SidecarError;
use crate::prometheus::remote_read::{Frames, encoding, read_series};
use crate::trouble::Troubles;

/// The keys of the fields of each message: the field's number and its wire type.
mod key {
    const VARINT: u64 = 0;
    const DELIMITED: u64 = 2;

    pub const RESPONSE_SERIES: u64 = 1 << 3 | DELIMITED;
    pub const RESPONSE_QUERY_INDEX: u64 = 2 << 3 | VARINT;
    pub const SERIES_LABEL: u64 = 1 << 3 | DELIMITED;
    pub const SERIES_CHUNK: u64 = 2 << 3 | DELIMITED;
    pub const LABEL_NAME: u64 = 1 << 3 | DELIMITED;
    pub const LABEL_VALUE: u64 = 2 << 3 | DELIMITED;
    pub const CHUNK_MIN_TIME: u64 = 1 << 3 | VARINT;
    pub const CHUNK_MAX_TIME: u64 = 2 << 3 | VARINT;
    pub const CHUNK_TYPE: u64 = 3 << 3 | VARINT;
    pub const CHUNK_DATA: u64 = 4 << 3 | DELIMITED;
}

/// Why a frame cannot go on.
#[derive(Debug)]
enum Refusal {
    Unreadable(String),
    Order(parallax_storeapi::Error),
}

/// The answer to `request` made of `frames`: without the labels `removed`, with `added`, whose names are among `removed`.
pub(crate) fn pass(
    frames: Box<Frames>,
    removed: Vec<String>,
    added: &Labels,
    request: &SeriesRequest,
    troubles: Troubles,
) -> WireStream {
    let passage = Passage::new(removed, added, request);
    let passing = Passing { frames, passage, troubles, ended: false, failure: None };
    let answer = futures::stream::unfold(passing, |mut passing| async move {
        let frame = passing.next().await?;
        Some((frame, passing))
    });
    answer.boxed()
}

struct Passing {
    frames: Box<Frames>,
    passage: Passage,
    troubles: Troubles,
    /// Nothing more is read.
    ended: bool,
    /// Comes last.
    failure: Option<Status>,
}

impl Passing {
    /// The next frame; `None` at the end, or after an error.
    async fn next(&mut self) -> Option<Result<WireFrame, Status>> {
        loop {
            let is_over = self.ended || self.passage.outbox.is_full();
            if let Some(frame) = self.passage.outbox.frame(is_over) {
                return Some(Ok(frame));
            }
            if is_over {
                return self.failure.take().map(Err);
            }
            match self.frames.first() {
                Ok(Some(place)) => {
                    let taken = self.passage.take(self.frames.message(&place));
                    self.frames.skip(place);
                    match taken {
                        Ok(()) => {}
                        Err(Refusal::Unreadable(reason)) => self.fail(&self.frames.unreadable(reason)),
                        Err(Refusal::Order(error)) => self.end_with(Some(error.into())),
                    }
                }
                Ok(None) => {
                    if let Some(frame) = self.passage.outbox.frame(true) {
                        return Some(Ok(frame));
                    }
                    match self.frames.more().await {
                        Ok(true) => {}
                        Ok(false) => self.finish(None),
                        Err(error) => self.fail(&error),
                    }
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    /// What was read before the error is in order and stays.
    fn fail(&mut self, error: &SidecarError) {
        let status = self.troubles.report(error);
        self.finish(Some(status));
    }

    fn finish(&mut self, failure: Option<Status>) {
        let failure = self.passage.outbox.finish().err().map(Status::from).or(failure);
        self.end_with(failure);
    }

    fn end_with(&mut self, failure: Option<Status>) {
        (self.ended, self.failure) = (true, failure);
    }
}

/// What is done to each series.
struct Passage {
    removed: Vec<String>,
    splice: Splice,
    outbox: Outbox,
}

impl Passage {
    fn new(removed: Vec<String>, added: &Labels, request: &SeriesRequest) -> Self {
        let splice = Splice::new(&labels::to_wire(added));
        Self { removed, splice, outbox: Outbox::new(request.response_batch_size, request.limit) }
    }

    /// Takes the message of a frame.
    fn take(&mut self, message: &[u8]) -> Result<(), Refusal> {
        let Some(all) = series_of(message) else {
            let response = ChunkedReadResponse::decode(Bytes::copy_from_slice(message))
                .map_err(|error| Refusal::Unreadable(format!("a frame: {error}")))?;
            return response.chunked_series.into_iter().try_for_each(|series| self.take_decoded(series));
        };
        for series in all {
            let mut chunks = Vec::new();
            if self.plain(series, &mut chunks).is_some() {
                self.send(&chunks)?;
            } else {
                let series = ChunkedSeries::decode(Bytes::copy_from_slice(series))
                    .map_err(|error| Refusal::Unreadable(format!("a frame: {error}")))?;
                self.take_decoded(series)?;
            }
        }
        Ok(())
    }

    fn take_decoded(&mut self, series: ChunkedSeries) -> Result<(), Refusal> {
        let series = read_series(series, &self.removed).map_err(Refusal::Unreadable)?;
        self.splice.begin();
        series.labels.iter().for_each(|label| self.splice.label(&label.name, &label.value));
        let chunks: Vec<ChunkBytes<'_>> = series
            .chunks
            .iter()
            .map(|chunk| chunk_bytes(chunk.min_time_ms, chunk.max_time_ms, chunk.encoding, &chunk.data))
            .collect();
        self.send(&chunks)
    }

    fn send(&mut self, chunks: &[ChunkBytes<'_>]) -> Result<(), Refusal> {
        let (labels, bound) = self.splice.end();
        self.outbox.push(labels, bound, chunks).map_err(Refusal::Order)
    }

    /// Writes the labels of a series and finds its chunks; `None` if something about it is not plain.
    fn plain<'a>(&mut self, series: &'a [u8], chunks: &mut Vec<ChunkBytes<'a>>) -> Option<()> {
        self.splice.begin();
        let (mut last_name, mut rest) = (&[][..], series);
        while !rest.is_empty() {
            let (key, after_key) = varint(rest)?;
            let (part, after) = delimited(after_key)?;
            match key {
                key::SERIES_LABEL => {
                    let label = PlainLabel::read(part)?;
                    // Sorted, each name once, none empty.
                    if label.name <= last_name {
                        return None;
                    }
                    last_name = label.name;
                    if !self.removed.iter().any(|removed| removed.as_bytes() == label.name) {
                        let field = rest.get(..rest.len() - after.len())?;
                        match label.is_field(part, field) {
                            true => self.splice.label_field(label.name, field),
                            false => self.splice.label(label.name, label.value),
                        }
                    }
                }
                key::SERIES_CHUNK => chunks.push(plain_chunk(part)?),
                _ => return None,
            }
            rest = after;
        }
        Some(())
    }
}

/// The series of a message that has nothing else in it that matters.
fn series_of(message: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut all, mut rest) = (Vec::with_capacity(1), message);
    while !rest.is_empty() {
        let (key, after) = varint(rest)?;
        rest = match key {
            key::RESPONSE_SERIES => {
                let (series, after) = delimited(after)?;
                all.push(series);
                after
            }
            key::RESPONSE_QUERY_INDEX => varint(after)?.1,
            _ => return None,
        };
    }
    Some(all)
}

struct PlainLabel<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> PlainLabel<'a> {
    /// A name and a value, in this order, both there, both text.
    fn read(message: &'a [u8]) -> Option<Self> {
        let (key, rest) = varint(message)?;
        let (name, rest) = delimited(rest).filter(|_| key == key::LABEL_NAME)?;
        let (key, rest) = varint(rest)?;
        let (value, rest) = delimited(rest).filter(|_| key == key::LABEL_VALUE)?;
        let is_text = || {
            message.is_ascii() || (std::str::from_utf8(name).is_ok() && std::str::from_utf8(value).is_ok())
        };
        (rest.is_empty() && !value.is_empty() && is_text()).then_some(Self { name, value })
    }

    /// Whether its field is encoded as we would write it: each key and each length in one byte.
    fn is_field(&self, message: &[u8], field: &[u8]) -> bool {
        message.len() == 4 + self.name.len() + self.value.len() && field.len() == 2 + message.len()
    }
}

fn plain_chunk(message: &[u8]) -> Option<ChunkBytes<'_>> {
    let (mut min_time, mut max_time, mut kind, mut data) = (0, 0, 0, &[][..]);
    let mut rest = message;
    while !rest.is_empty() {
        let (key, after_key) = varint(rest)?;
        rest = if key == key::CHUNK_DATA {
            let (bytes, after) = delimited(after_key)?;
            data = bytes;
            after
        } else {
            let (number, after) = varint(after_key)?;
            *match key {
                key::CHUNK_MIN_TIME => &mut min_time,
                key::CHUNK_MAX_TIME => &mut max_time,
                key::CHUNK_TYPE => &mut kind,
                _ => return None,
            } = number;
            after
        };
    }
    let (min_time_ms, max_time_ms) = (min_time as i64, max_time as i64);
    let kind = u8::try_from(kind).ok().filter(|kind| (1..=3).contains(kind))?;
    (min_time_ms <= max_time_ms).then(|| chunk_bytes(min_time_ms, max_time_ms, kind, data))
}

fn chunk_bytes(min_time_ms: i64, max_time_ms: i64, kind: u8, data: &[u8]) -> ChunkBytes<'_> {
    ChunkBytes { min_time_ms, max_time_ms, encoding: encoding(kind) as i32, hash: chunks::hash(data), data }
}

#[cfg(test)]
mod tests;
