//! Samples from Prometheus by remote read: streamed chunks, or whole samples from servers that cannot stream.
//!
//! Formats: Prometheus' remote read API. A streamed answer is a row of frames, each a uvarint length, the CRC-32C
//! of the message (4 bytes, big endian) and a `ChunkedReadResponse`; a plain one is a `ReadResponse` in one snappy
//! block. Both become [`ReadSeries`]. A stream keeps Prometheus' order and holds one frame at a time; a plain answer is
//! held whole and sorted here, for Prometheus does not say that it is. An error that Prometheus meets in the middle
//! of a stream is text among the frames: it fails as a frame, so a cut answer never looks like a whole one.

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use parallax_model::{MatchOp, Matcher};
use parallax_storeapi::labels;
use parallax_storeapi::proto::prometheus::read_request::ResponseType;
use parallax_storeapi::proto::prometheus::{
    ChunkedReadResponse, ChunkedSeries, LabelMatcher, Query, ReadHints, ReadRequest, ReadResponse,
    label_matcher,
};
use parallax_storeapi::proto::thanos::Label;
use prost::Message;

use super::Prometheus;
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

impl Prometheus {
    /// Starts a remote read; an error of the stream is its last item.
    pub async fn remote_read(
        &self,
        call: &ReadCall<'_>,
    ) -> Result<impl Stream<Item = Result<ReadSeries, SidecarError>> + Send + use<>, SidecarError> {
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
            .post_bytes(PATH, &headers, Bytes::from(body))
            .await
            .map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(PATH, response).await);
        }
        let kind =
            response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        if kind == STREAMED {
            return Ok(self.clone().frames(response.into_stream(), call.removed.to_vec()).left_stream());
        }
        let body = response.bytes(MAX_WHOLE_ANSWER_BYTES).await.map_err(|error| self.unreachable(&error))?;
        let removed = call.removed.to_vec();
        let decoded = tokio::task::spawn_blocking(move || whole_answer(&body, &removed)).await;
        let series = decoded
            .map_err(|error| error.to_string())
            .and_then(|series| series)
            .map_err(|reason| self.unreadable(PATH, reason))?;
        Ok(futures::stream::iter(series.into_iter().map(Ok)).right_stream())
    }

    /// Cuts the body into frames and the frames into series.
    fn frames<E>(
        self,
        body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        removed: Vec<String>,
    ) -> impl Stream<Item = Result<ReadSeries, SidecarError>> + Send
    where
        E: std::fmt::Display + Send + 'static,
    {
        let reader = FrameReader { prometheus: self, body, removed, buffer: BytesMut::new(), failed: false };
        futures::stream::unfold(reader, |mut reader| async move {
            let frame = reader.next().await?;
            Some((frame, reader))
        })
        .flat_map(|frame| match frame {
            Ok(series) => futures::stream::iter(series.into_iter().map(Ok)).left_stream(),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).right_stream(),
        })
    }
}

struct FrameReader<S> {
    prometheus: Prometheus,
    body: S,
    removed: Vec<String>,
    buffer: BytesMut,
    failed: bool,
}

impl<S, E> FrameReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    /// The series of the next frame; `None` at a clean end or after an error.
    async fn next(&mut self) -> Option<Result<Vec<ReadSeries>, SidecarError>> {
        if self.failed {
            return None;
        }
        let result = self.read_frame().await;
        self.failed = matches!(result, Some(Err(_)));
        result
    }

    async fn read_frame(&mut self) -> Option<Result<Vec<ReadSeries>, SidecarError>> {
        loop {
            match take_frame(&mut self.buffer) {
                Ok(Some(message)) => {
                    return Some(
                        decode_frame(message, &self.removed)
                            .map_err(|reason| self.prometheus.unreadable(PATH, reason)),
                    );
                }
                Ok(None) => {}
                Err(reason) => return Some(Err(self.prometheus.unreadable(PATH, reason))),
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => {
                    let (url, reason) = (self.prometheus.url.clone(), error.to_string());
                    return Some(Err(SidecarError::Unreachable { url, reason }));
                }
                None if self.buffer.is_empty() => return None,
                None => return Some(Err(self.prometheus.unreadable(PATH, "the answer ends inside a frame"))),
            }
        }
    }
}

/// Takes one whole frame off the buffer, checks its CRC, and gives its message; `None` if more bytes are needed.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, String> {
    const CRC_BYTES: usize = 4;
    let Some((length, header_bytes)) = uvarint(buffer)? else { return Ok(None) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(format!("a frame of {length} bytes; at most {MAX_FRAME_BYTES} are read"));
    }
    if buffer.len() < header_bytes + CRC_BYTES + length {
        return Ok(None);
    }
    buffer.advance(header_bytes);
    let expected = buffer.get_u32();
    let message = buffer.split_to(length).freeze();
    let found = crc32c::crc32c(&message);
    if found != expected {
        return Err(format!("a frame's checksum is {found:08x}, it should be {expected:08x}"));
    }
    Ok(Some(message))
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

fn decode_frame(message: Bytes, removed: &[String]) -> Result<Vec<ReadSeries>, String> {
    let response = ChunkedReadResponse::decode(message).map_err(|error| format!("a frame: {error}"))?;
    response.chunked_series.into_iter().map(|series| read_series(series, removed)).collect()
}

fn read_series(series: ChunkedSeries, removed: &[String]) -> Result<ReadSeries, String> {
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
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for byte in whole {
            buffer.extend_from_slice(&[byte]);
            found.extend(take_frame(&mut buffer).unwrap());
        }
        assert_eq!(found, ["first".as_bytes(), b"second"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn damaged_frames_are_refused() {
        let mut flipped = BytesMut::from(&frame(b"first")[..]);
        flipped[6] ^= 1;
        assert!(take_frame(&mut flipped).unwrap_err().contains("checksum"));
        assert!(take_frame(&mut BytesMut::from(&[0xff; 10][..])).unwrap_err().contains("64 bits"));
        assert!(
            take_frame(&mut BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0x7f][..]))
                .unwrap_err()
                .contains("at most")
        );
    }

    proptest::proptest! {
        #[test]
        fn bytes_of_any_kind_are_an_answer_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(message)) = take_frame(&mut buffer) {
                let _ = decode_frame(message, &[]);
            }
            let _ = decode_frame(Bytes::from(bytes.clone()), &[]);
            let _ = whole_answer(&bytes, &[]);
            // Past decompression.
            let _ = whole_answer(&snap::raw::Encoder::new().compress_vec(&bytes).unwrap(), &[]);
        }
    }
}
