//! Samples from Prometheus by remote read: streamed chunks, or whole samples from servers that cannot stream.
//!
//! Formats: Prometheus' remote read API. A streamed answer is a row of frames, each a uvarint length, the CRC-32C
//! of the message (4 bytes, big endian) and a `ChunkedReadResponse`; a plain one is a `ReadResponse` in one snappy
//! block. Both become [`ReadSeries`]. A stream keeps Prometheus' order and holds one frame at a time; a plain answer is
//! held whole and sorted here, for Prometheus does not say that it is. An error that Prometheus meets in the middle
//! of a stream is text among the frames: it fails as a frame, so a cut answer never looks like a whole one.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use parallax_model::{MatchOp, Matcher};
use parallax_net::BulkBody;
use parallax_storeapi::labels;
use parallax_storeapi::proto::prometheus::read_request::ResponseType;
use parallax_storeapi::proto::prometheus::{
    ChunkedReadResponse, ChunkedSeries, LabelMatcher, Query, ReadHints, ReadRequest, ReadResponse,
    label_matcher,
};
use parallax_storeapi::proto::thanos::{Label, chunk};
use prost::Message;

use super::{MAX_ERROR_BYTES, Prometheus};
use crate::SidecarError;
use crate::samples;

const PATH: &str = "/api/v1/read";
/// A frame is about 1 MiB unless one series is larger; this is far above and stops nonsense lengths.
const MAX_FRAME_BYTES: usize = 128 << 20;
/// The largest answer of a server that cannot stream, before and after decompression.
const MAX_WHOLE_ANSWER_BYTES: usize = 512 << 20;
const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";

/// What to read.
pub struct ReadCall<'a> {
    pub matchers: &'a [Matcher],
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    pub step_ms: i64,
    pub range_ms: i64,
    pub function: &'a str,
    /// Labels that are taken off every series that comes.
    pub removed: &'a [String],
}

/// A series, or a further part of the series before it.
#[derive(Debug, PartialEq)]
pub struct ReadSeries {
    /// Sorted by name; Prometheus' external labels included, where they are not removed.
    pub labels: Vec<Label>,
    pub chunks: Vec<ReadChunk>,
}

/// A chunk in Prometheus' encoding; `encoding` is 1 for XOR, 2 for histograms, 3 for float histograms.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadChunk {
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    pub encoding: u8,
    pub data: Bytes,
}

/// What Prometheus answers with.
pub enum Answer {
    Streamed(Box<Frames>),
    /// All of it, in order.
    Whole(Vec<ReadSeries>),
}

impl Answer {
    /// The series, without the labels `removed`; an error of the stream is its last item.
    pub fn into_series(
        self,
        removed: Vec<String>,
    ) -> impl Stream<Item = Result<ReadSeries, SidecarError>> + Send {
        match self {
            Self::Streamed(frames) => frames.into_series(removed).left_stream(),
            Self::Whole(series) => futures::stream::iter(series.into_iter().map(Ok)).right_stream(),
        }
    }
}

impl Prometheus {
    /// Starts a remote read.
    pub async fn remote_read(&self, call: &ReadCall<'_>) -> Result<Answer, SidecarError> {
        let body = snap::raw::Encoder::new()
            .compress_vec(&request(call).encode_to_vec())
            .map_err(|error| self.unreadable(PATH, format!("compressing the request: {error}")))?;
        let headers = [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-read-version", "0.1.0"),
        ];
        let response = self
            .http
            .post_for_bulk(PATH, &headers, Bytes::from(body))
            .await
            .map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(self.refused(PATH, status, response.text_prefix(MAX_ERROR_BYTES).await));
        }
        let kind =
            response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        if kind == STREAMED {
            let (prometheus, body) = (self.clone(), response.into_body());
            return Ok(Answer::Streamed(Box::new(Frames { prometheus, body, buffer: BytesMut::new() })));
        }
        let body = response.bytes(MAX_WHOLE_ANSWER_BYTES).await.map_err(|error| self.unreachable(&error))?;
        let removed = call.removed.to_vec();
        let decoded = tokio::task::spawn_blocking(move || whole_answer(&body, &removed)).await;
        let series = decoded
            .map_err(|error| error.to_string())
            .and_then(|series| series)
            .map_err(|reason| self.unreadable(PATH, reason))?;
        Ok(Answer::Whole(series))
    }
}

/// The frames of a streamed answer, of which nothing is held but what has come and was not taken yet.
pub struct Frames {
    prometheus: Prometheus,
    body: BulkBody,
    buffer: BytesMut,
}

impl Frames {
    /// Where the message of the first frame lies, if the frame has come whole.
    ///
    /// # Errors
    /// If the frame is damaged.
    pub fn first(&self) -> Result<Option<Range<usize>>, SidecarError> {
        first_frame(&self.buffer).map_err(|reason| self.unreadable(reason))
    }

    /// What lies at a place that [`Self::first`] gave.
    pub fn message(&self, place: &Range<usize>) -> &[u8] {
        self.buffer.get(place.clone()).unwrap_or_default()
    }

    /// Drops the first frame, whose message ends where `place` does.
    pub fn skip(&mut self, place: Range<usize>) {
        self.buffer.advance(place.end.min(self.buffer.len()));
    }

    /// Waits for more bytes; false at the end of the answer.
    ///
    /// # Errors
    /// If the answer breaks off, or ends inside a frame.
    pub async fn more(&mut self) -> Result<bool, SidecarError> {
        let came = self.body.read(&mut self.buffer).await;
        if came.map_err(|error| self.prometheus.unreachable(&error))? {
            return Ok(true);
        }
        if self.buffer.is_empty() {
            Ok(false)
        } else {
            Err(self.unreadable("the answer ends inside a frame"))
        }
    }

    pub fn unreadable(&self, reason: impl Into<String>) -> SidecarError {
        self.prometheus.unreadable(PATH, reason)
    }

    fn into_series(
        self: Box<Self>,
        removed: Vec<String>,
    ) -> impl Stream<Item = Result<ReadSeries, SidecarError>> + Send {
        futures::stream::unfold(Some(self), move |frames| {
            let removed = removed.clone();
            async move {
                let mut frames = frames?;
                match frames.next_series(&removed).await.transpose()? {
                    Ok(series) => Some((Ok(series), Some(frames))),
                    Err(error) => Some((Err(error), None)),
                }
            }
        })
        .flat_map(|frame| match frame {
            Ok(series) => futures::stream::iter(series.into_iter().map(Ok)).left_stream(),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).right_stream(),
        })
    }

    /// The series of the next frame; `None` at the end.
    async fn next_series(&mut self, removed: &[String]) -> Result<Option<Vec<ReadSeries>>, SidecarError> {
        loop {
            if let Some(place) = self.first()? {
                self.buffer.advance(place.start);
                let message = self.buffer.split_to(place.len()).freeze();
                return decode_frame(message, removed).map(Some).map_err(|reason| self.unreadable(reason));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }
}

/// Where the message of the first frame lies, after a look at its checksum; `None` if more bytes are needed.
fn first_frame(buffer: &[u8]) -> Result<Option<Range<usize>>, String> {
    const CRC_BYTES: usize = 4;
    let Some((length, header_bytes)) = uvarint(buffer)? else { return Ok(None) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(format!("a frame of {length} bytes; at most {MAX_FRAME_BYTES} are read"));
    }
    let rest = buffer.get(header_bytes..).unwrap_or_default();
    let Some((checksum, rest)) = rest.split_first_chunk::<CRC_BYTES>() else { return Ok(None) };
    let Some(message) = rest.get(..length) else { return Ok(None) };
    let (expected, found) = (u32::from_be_bytes(*checksum), crc32c::crc32c(message));
    if found != expected {
        return Err(format!("a frame's checksum is {found:08x}, it should be {expected:08x}"));
    }
    let start = header_bytes + CRC_BYTES;
    Ok(Some(start..start + length))
}

/// The uvarint at the start of `bytes` and how long it is; `None` if it is cut off.
fn uvarint(bytes: &[u8]) -> Result<Option<(u64, usize)>, String> {
    const MAX_BYTES: usize = 10;
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= MAX_BYTES { Err("a frame's length has more than 64 bits".to_owned()) } else { Ok(None) }
}

/// # Errors
/// A text that says what is wrong with the frame.
pub(crate) fn decode_frame(message: Bytes, removed: &[String]) -> Result<Vec<ReadSeries>, String> {
    let response = ChunkedReadResponse::decode(message).map_err(|error| format!("a frame: {error}"))?;
    response.chunked_series.into_iter().map(|series| read_series(series, removed)).collect()
}

/// # Errors
/// A text that says what is wrong with the series.
pub(crate) fn read_series(series: ChunkedSeries, removed: &[String]) -> Result<ReadSeries, String> {
    let found = checked_labels(series.labels, removed)?;
    let chunk = |chunk: parallax_storeapi::proto::prometheus::Chunk| {
        let encoding = u8::try_from(chunk.r#type).ok().filter(|encoding| (1..=3).contains(encoding));
        let encoding = encoding
            .ok_or_else(|| format!("series {}: chunk encoding {}", labels::display(&found), chunk.r#type))?;
        if chunk.min_time_ms > chunk.max_time_ms {
            let (min, max) = (chunk.min_time_ms, chunk.max_time_ms);
            return Err(format!("series {}: a chunk from {min} to {max}", labels::display(&found)));
        }
        Ok(ReadChunk {
            min_time_ms: chunk.min_time_ms,
            max_time_ms: chunk.max_time_ms,
            encoding,
            data: chunk.data,
        })
    };
    let chunks = series.chunks.into_iter().map(chunk).collect::<Result<_, String>>()?;
    Ok(ReadSeries { labels: found, chunks })
}

/// The StoreAPI counts encodings from zero, Prometheus from one.
pub(crate) fn encoding(kind: u8) -> chunk::Encoding {
    match kind {
        2 => chunk::Encoding::Histogram,
        3 => chunk::Encoding::FloatHistogram,
        _ => chunk::Encoding::Xor,
    }
}

/// Labels as everything behind here expects them: UTF-8, sorted, each name once, none empty, none of `removed`.
fn checked_labels(mut wire: Vec<Label>, removed: &[String]) -> Result<Vec<Label>, String> {
    if let Some(bad) =
        wire.iter().flat_map(|l| [&l.name, &l.value]).find(|text| std::str::from_utf8(text).is_err())
    {
        return Err(format!("a label is not UTF-8: {bad:?}"));
    }
    wire.retain(|label| !label.value.is_empty());
    if !wire.is_sorted_by(|a, b| a.name <= b.name) {
        wire.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if wire.windows(2).any(|pair| matches!(pair, [a, b] if a.name == b.name)) {
        return Err(format!("a label stands twice in {}", labels::display(&wire)));
    }
    labels::remove(&mut wire, removed);
    Ok(wire)
}

fn whole_answer(body: &[u8], removed: &[String]) -> Result<Vec<ReadSeries>, String> {
    let length = snap::raw::decompress_len(body).map_err(|error| format!("not snappy: {error}"))?;
    if length > MAX_WHOLE_ANSWER_BYTES {
        return Err(format!("an answer of {length} bytes; at most {MAX_WHOLE_ANSWER_BYTES} are read"));
    }
    let message =
        snap::raw::Decoder::new().decompress_vec(body).map_err(|error| format!("not snappy: {error}"))?;
    let response = ReadResponse::decode(Bytes::from(message)).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for mut series in response.results.into_iter().flat_map(|result| result.timeseries) {
        let own = checked_labels(std::mem::take(&mut series.labels), removed)?;
        let chunks = samples::encode(&series)
            .map_err(|reason| format!("series {}: {reason}", labels::display(&own)))?;
        found.push(ReadSeries { labels: own, chunks });
    }
    found.sort_by(|a, b| labels::compare(&a.labels, &b.labels));
    Ok(found)
}

fn request(call: &ReadCall<'_>) -> ReadRequest {
    let matchers = call.matchers.iter().map(|matcher| LabelMatcher {
        r#type: match matcher.op() {
            MatchOp::Equal => label_matcher::Type::Eq,
            MatchOp::NotEqual => label_matcher::Type::Neq,
            MatchOp::Regex => label_matcher::Type::Re,
            MatchOp::NotRegex => label_matcher::Type::Nre,
        } as i32,
        name: matcher.name().to_owned(),
        value: matcher.value().to_owned(),
    });
    let hints = ReadHints {
        step_ms: call.step_ms,
        func: call.function.to_owned(),
        start_ms: call.min_time_ms,
        end_ms: call.max_time_ms,
        range_ms: call.range_ms,
        ..ReadHints::default()
    };
    ReadRequest {
        queries: vec![Query {
            start_timestamp_ms: call.min_time_ms,
            end_timestamp_ms: call.max_time_ms,
            matchers: matchers.collect(),
            hints: Some(hints),
        }],
        accepted_response_types: vec![ResponseType::StreamedXorChunks as i32, ResponseType::Samples as i32],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![message.len() as u8];
        bytes.extend(crc32c::crc32c(message).to_be_bytes());
        bytes.extend(message);
        bytes
    }

    #[test]
    fn frames_are_cut_wherever_the_bytes_arrive() {
        let whole = [frame(b"first"), frame(b"second")].concat();
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for byte in whole {
            buffer.push(byte);
            if let Some(place) = first_frame(&buffer).unwrap() {
                found.push(buffer[place.clone()].to_vec());
                buffer.drain(..place.end);
            }
        }
        assert_eq!(found, ["first".as_bytes(), b"second"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn damaged_frames_are_refused() {
        let mut flipped = frame(b"first");
        flipped[6] ^= 1;
        assert!(first_frame(&flipped).unwrap_err().contains("checksum"));
        assert!(first_frame(&[0xff; 10]).unwrap_err().contains("64 bits"));
        assert!(first_frame(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err().contains("at most"));
    }

    proptest::proptest! {
        #[test]
        fn bytes_of_any_kind_are_an_answer_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut rest = &bytes[..];
            while let Ok(Some(place)) = first_frame(rest) {
                let _ = decode_frame(Bytes::copy_from_slice(&rest[place.clone()]), &[]);
                rest = &rest[place.end..];
            }
            let _ = decode_frame(Bytes::from(bytes.clone()), &[]);
            let _ = whole_answer(&bytes, &[]);
            // Past decompression.
            let _ = whole_answer(&snap::raw::Encoder::new().compress_vec(&bytes).unwrap(), &[]);
        }
    }
}
