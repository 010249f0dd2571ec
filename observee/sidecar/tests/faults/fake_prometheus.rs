//! A Prometheus made of given series that misbehaves on demand, for what neither the real one nor the stand-in can be made to do.
//!
//! As the real one it sorts series by their own labels, then puts external labels onto those that lack them; a series with more
//! than one chunk comes in several frames. Matchers and time are not looked at: every read has everything.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use parallax_model::Labels;
use parallax_net::{Context, HttpServer};
use parallax_sidecar::{Sidecar, SidecarConfig};
use parallax_storeapi::labels;
use parallax_storeapi::proto::prometheus::{
    Chunk, ChunkedReadResponse, ChunkedSeries, QueryResult, ReadRequest, ReadResponse, Sample, TimeSeries,
};
use parallax_tsdb::chunk::XorAppender;
use prost::Message;
use serde_json::json;

pub const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
pub const SAMPLES_PER_CHUNK: usize = 2;
/// How the body of an answer is cut on its way.
const PIECE_BYTES: usize = 7;

/// What goes wrong with a remote read.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    Status(u16),
    HangBeforeHeaders,
    /// After so many bytes of the body.
    HangAfter(usize),
    /// The body ends early, but as if it were whole.
    CutAfter(usize),
    /// The connection breaks.
    BreakAfter(usize),
    /// One bit of this byte is wrong.
    FlipBit(usize),
    Answer {
        kind: &'static str,
        body: Vec<u8>,
    },
}

#[derive(Default)]
pub struct Fake {
    pub external: Labels,
    /// Own labels, and the number of samples: at 1000, 2000 and so on, each with its time as value.
    pub series: Vec<(Labels, usize)>,
    pub samples_only: bool,
    pub fault: Mutex<Fault>,
    /// Reads whose answers are neither complete nor dropped.
    pub open_reads: Arc<AtomicUsize>,
    pub last_read: Mutex<Option<ReadRequest>>,
}

/// A fake with a sidecar before it.
pub struct Beside {
    pub fake: Arc<Fake>,
    pub sidecar: Arc<Sidecar>,
    pub context: Context,
    pub url: String,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

/// Starts both and waits until the sidecar is ready. `change` alters its configuration.
pub async fn start(fake: Fake, change: impl FnOnce(SidecarConfig) -> SidecarConfig) -> Beside {
    let beside = start_unready(fake, change).await;
    beside.context.readiness.subscribe().wait_for(|ready| *ready).await.unwrap();
    beside
}

pub async fn start_unready(fake: Fake, change: impl FnOnce(SidecarConfig) -> SidecarConfig) -> Beside {
    let (fake, context) = (Arc::new(fake), Context::for_test());
    let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    tokio::spawn(server.serve(router(Arc::clone(&fake)), context.shutdown.clone()));
    let config = SidecarConfig { heartbeat_interval: Duration::from_millis(20), ..SidecarConfig::new(&url) };
    let (sidecar, _) = Sidecar::start(change(config), &context).unwrap();
    Beside { fake, sidecar, context, url }
}

impl Fake {
    pub fn new<'a>(external: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { external: Labels::from_pairs(external), ..Self::default() }
    }

    pub fn with(mut self, own: Labels, samples: usize) -> Self {
        self.series.push((own, samples));
        self.series.sort();
        self
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The frames of a streamed answer.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let frame = |own: &Labels, chunk: Chunk| {
            let series = ChunkedSeries { labels: self.wire(own), chunks: vec![chunk] };
            let message =
                ChunkedReadResponse { chunked_series: vec![series], query_index: 0 }.encode_to_vec();
            let mut bytes = BytesMut::new();
            prost::encoding::encode_varint(message.len() as u64, &mut bytes);
            bytes.put_u32(crc32c::crc32c(&message));
            bytes.put_slice(&message);
            bytes.to_vec()
        };
        let chunks = |samples: usize| times(samples).chunks(SAMPLES_PER_CHUNK).map(chunk).collect::<Vec<_>>();
        self.series
            .iter()
            .flat_map(|(own, n)| chunks(*n).into_iter().map(|chunk| frame(own, chunk)))
            .collect()
    }

    fn whole(&self) -> Vec<u8> {
        let series = |(own, samples): &(Labels, usize)| TimeSeries {
            labels: self.wire(own),
            samples: times(*samples).iter().map(|t| Sample { value: *t as f64, timestamp: *t }).collect(),
            ..TimeSeries::default()
        };
        // A server may send them in any order.
        let timeseries = self.series.iter().rev().map(series).collect();
        let message = ReadResponse { results: vec![QueryResult { timeseries }] }.encode_to_vec();
        snap::raw::Encoder::new().compress_vec(&message).unwrap()
    }

    fn wire(&self, own: &Labels) -> Vec<parallax_storeapi::proto::thanos::Label> {
        labels::to_wire(&self.external.overlaid_with(own))
    }
}

pub fn times(samples: usize) -> Vec<i64> {
    (1..=samples as i64).map(|i| 1_000 * i).collect()
}

fn chunk(times: &[i64]) -> Chunk {
    let mut appender = XorAppender::new();
    for time in times {
        appender.append(*time, *time as f64).unwrap();
    }
    let (min_time_ms, max_time_ms) = (times[0], times[times.len() - 1]);
    Chunk { min_time_ms, max_time_ms, r#type: 1, data: Bytes::from(appender.into_bytes()) }
}

fn router(fake: Arc<Fake>) -> Router {
    let success = |data: serde_json::Value| axum::Json(json!({"status": "success", "data": data}));
    Router::new()
        .route("/metrics", get(|| async { "prometheus_tsdb_lowest_timestamp_seconds 1\n" }))
        .route("/api/v1/status/buildinfo", get(move || async move { success(json!({"version": "fake"})) }))
        .route("/api/v1/status/config", get(config))
        .route("/api/v1/labels", get(label_names))
        .route("/api/v1/series", get(series))
        .route("/api/v1/read", post(read))
        .with_state(fake)
}

async fn config(State(fake): State<Arc<Fake>>) -> Response {
    let labels: std::collections::BTreeMap<_, _> = fake.external.iter().collect();
    let yaml = json!({"global": {"external_labels": labels}}).to_string();
    axum::Json(json!({"status": "success", "data": {"yaml": yaml}})).into_response()
}

async fn label_names(State(fake): State<Arc<Fake>>) -> Response {
    let names: BTreeSet<&str> =
        fake.series.iter().flat_map(|(own, _)| own.iter().map(|(name, _)| name)).collect();
    axum::Json(json!({"status": "success", "data": names})).into_response()
}

async fn series(State(fake): State<Arc<Fake>>) -> Response {
    let own: Vec<&Labels> = fake.series.iter().map(|(own, _)| own).rev().collect();
    axum::Json(json!({"status": "success", "data": own})).into_response()
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn read(State(fake): State<Arc<Fake>>, body: Bytes) -> Response {
    let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    *fake.last_read.lock().unwrap() = Some(ReadRequest::decode(Bytes::from(message)).unwrap());
    fake.open_reads.fetch_add(1, Ordering::SeqCst);
    let open = Open(Arc::clone(&fake.open_reads));
    let fault = fake.fault.lock().unwrap().clone();
    let (mut kind, mut bytes) = match fake.samples_only {
        true => ("application/x-protobuf", fake.whole()),
        false => (STREAMED, fake.frames().concat()),
    };
    let (mut hang, mut broken) = (false, false);
    match fault {
        Fault::None => {}
        Fault::Status(status) => return (StatusCode::from_u16(status).unwrap(), "because").into_response(),
        Fault::HangBeforeHeaders => {
            let _open = open;
            return std::future::pending().await;
        }
        Fault::HangAfter(length) => (hang, _) = (true, bytes.truncate(length)),
        Fault::CutAfter(length) => bytes.truncate(length),
        Fault::BreakAfter(length) => (broken, _) = (true, bytes.truncate(length)),
        Fault::FlipBit(at) => bytes[at] ^= 1 << (at % 8),
        Fault::Answer { kind: other, body } => (kind, bytes) = (other, body),
    }
    let pieces: Vec<_> = bytes.chunks(PIECE_BYTES).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let end = broken.then(|| Err(std::io::Error::other("broken on purpose")));
    let pieces = futures::stream::iter(pieces.into_iter().chain(end));
    let body =
        if hang { pieces.chain(futures::stream::pending()).left_stream() } else { pieces.right_stream() };
    let body = Body::from_stream(body.inspect(move |_: &Result<Bytes, std::io::Error>| {
        let _until_the_body_is_dropped = &open;
    }));
    ([("content-type", kind)], body).into_response()
}
