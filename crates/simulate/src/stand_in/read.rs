//! Remote read of the stand-in: frames of chunks where the caller accepts them, else one block of samples.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use parallax_model::{MatchOp, Matcher, TimeRange};
use parallax_storeapi::proto::prometheus::read_request::ResponseType;
use parallax_storeapi::proto::prometheus::{
    Chunk, ChunkedReadResponse, ChunkedSeries, Query, QueryResult, ReadRequest, ReadResponse, Sample,
    TimeSeries, chunk, label_matcher,
};
use parallax_storeapi::proto::thanos::Label;
use parallax_tsdb::chunk::XorAppender;
use prost::Message;

use super::{StandIn, bad_data, now_ms};
use crate::SimulatedSeries;

/// Samples of one chunk, as Prometheus cuts them.
const SAMPLES_PER_CHUNK: usize = 120;
/// A request is a few matchers; more than this decompressed is refused.
const MAX_REQUEST_BYTES: usize = 1 << 20;

pub(super) async fn read(State(stand_in): State<Arc<StandIn>>, body: Bytes) -> Response {
    let request = match decode(&body) {
        Ok(request) => request,
        Err(error) => return bad_data(error),
    };
    let streamed = request.accepted_response_types.first() == Some(&(ResponseType::StreamedXorChunks as i32));
    let answer = if streamed { stream(&stand_in, &request) } else { samples(&stand_in, &request) };
    answer.unwrap_or_else(bad_data)
}

/// For a server that cannot stream.
pub(super) async fn read_samples(State(stand_in): State<Arc<StandIn>>, body: Bytes) -> Response {
    decode(&body).and_then(|request| samples(&stand_in, &request)).unwrap_or_else(bad_data)
}

fn decode(body: &[u8]) -> Result<ReadRequest, String> {
    let length = snap::raw::decompress_len(body).map_err(|error| error.to_string())?;
    if length > MAX_REQUEST_BYTES {
        return Err(format!("a request of {length} bytes"));
    }
    let message = snap::raw::Decoder::new().decompress_vec(body).map_err(|error| error.to_string())?;
    ReadRequest::decode(Bytes::from(message)).map_err(|error| error.to_string())
}

/// One frame per series.
fn stream(stand_in: &StandIn, request: &ReadRequest) -> Result<Response, String> {
    let mut body = BytesMut::new();
    for (index, query) in request.queries.iter().enumerate() {
        for (series, range) in selected(stand_in, query)? {
            let chunks = chunks(stand_in, &series, range)?;
            if chunks.is_empty() {
                continue;
            }
            let response = ChunkedReadResponse {
                chunked_series: vec![ChunkedSeries { labels: wire_labels(stand_in, &series), chunks }],
                query_index: index as i64,
            };
            let message = response.encode_to_vec();
            prost::encoding::encode_varint(message.len() as u64, &mut body);
            body.put_u32(crc32c::crc32c(&message));
            body.put_slice(&message);
        }
    }
    let kind = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    Ok(([("content-type", kind)], Body::from(body.freeze())).into_response())
}

fn samples(stand_in: &StandIn, request: &ReadRequest) -> Result<Response, String> {
    let mut results = Vec::new();
    for query in &request.queries {
        let timeseries = selected(stand_in, query)?
            .map(|(series, range)| TimeSeries {
                labels: wire_labels(stand_in, &series),
                samples: stand_in
                    .fleet
                    .scrapes(range)
                    .map(|timestamp| Sample { value: series.value_at(timestamp), timestamp })
                    .collect(),
                ..TimeSeries::default()
            })
            .filter(|series| !series.samples.is_empty())
            .collect();
        results.push(QueryResult { timeseries });
    }
    let message = ReadResponse { results }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&message).map_err(|error| error.to_string())?;
    let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
    Ok((StatusCode::OK, headers, body).into_response())
}

/// The series a query selects, with the time of its data that was asked for.
fn selected<'a>(
    stand_in: &'a StandIn,
    query: &Query,
) -> Result<impl Iterator<Item = (SimulatedSeries, TimeRange)> + use<'a>, String> {
    let external = stand_in.fleet.external_labels();
    let mut matchers = Vec::new();
    for wire in &query.matchers {
        let op = match label_matcher::Type::try_from(wire.r#type) {
            Ok(label_matcher::Type::Eq) => MatchOp::Equal,
            Ok(label_matcher::Type::Neq) => MatchOp::NotEqual,
            Ok(label_matcher::Type::Re) => MatchOp::Regex,
            Ok(label_matcher::Type::Nre) => MatchOp::NotRegex,
            Err(_) => return Err(format!("matcher type {}", wire.r#type)),
        };
        matchers.push(Matcher::new(op, &wire.name, &wire.value).map_err(|error| error.to_string())?);
    }
    let range = TimeRange::new(query.start_timestamp_ms, query.end_timestamp_ms)
        .intersect(&TimeRange::new(stand_in.start_ms, now_ms()));
    let matches = move |series: &SimulatedSeries| {
        let labels = series.labels.overlaid_with(&external);
        matchers.iter().all(|matcher| matcher.matches_labels(&labels))
    };
    Ok(stand_in.fleet.series().into_iter().filter(matches).map(move |series| (series, range)))
}

/// As Prometheus does, external labels go onto every series.
fn wire_labels(stand_in: &StandIn, series: &SimulatedSeries) -> Vec<Label> {
    let labels = stand_in.fleet.external_labels().overlaid_with(&series.labels);
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    labels.iter().map(|(name, value)| Label { name: bytes(name), value: bytes(value) }).collect()
}

fn chunks(stand_in: &StandIn, series: &SimulatedSeries, range: TimeRange) -> Result<Vec<Chunk>, String> {
    let timestamps: Vec<i64> = stand_in.fleet.scrapes(range).collect();
    timestamps
        .chunks(SAMPLES_PER_CHUNK)
        .map(|part| {
            let mut appender = XorAppender::new();
            for timestamp_ms in part {
                appender
                    .append(*timestamp_ms, series.value_at(*timestamp_ms))
                    .map_err(|error| error.to_string())?;
            }
            Ok(Chunk {
                min_time_ms: part[0],
                max_time_ms: part[part.len() - 1],
                r#type: chunk::Encoding::Xor as i32,
                data: Bytes::from(appender.into_bytes()),
            })
        })
        .collect()
}
