//! Compressed gRPC messages, as a layer on the bodies of calls: snappy, as Thanos' `--grpc-compression=snappy` has it, and zstd between ours.
//!
//! tonic knows gzip, deflate and zstd, without a bound on what a message becomes. Here each message of a body is compressed or decompressed on its way, in the
//! framing of gRPC: a flag, four bytes of length, the message. Snappy is the framing format of streams, as Go's `snappy.NewBufferedWriter` writes it; a zstd
//! message is one frame. Above this layer nothing is compressed.
//!
//! Invariants: a server answers in the encoding of the request, and so nobody is answered in what it does not know. A message that comes never takes more memory,
//! compressed or not, than the limit, which is that of messages above.

use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header::HeaderName};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// How the messages of a call are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Known by Thanos, too.
    Snappy,
    /// Smaller, and known by our own servers only.
    Zstd,
}

impl Compression {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snappy => "snappy",
            Self::Zstd => "zstd",
        }
    }

    fn of(headers: &HeaderMap) -> Option<Self> {
        let name = headers.get(ENCODING)?.to_str().ok()?;
        [Self::Snappy, Self::Zstd].into_iter().find(|known| known.name() == name)
    }
}

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The flag and the length before each message.
const HEAD_BYTES: usize = 5;
/// Shorter messages are sent as they are.
const MIN_COMPRESSED_BYTES: usize = 256;
/// The level of zstd: its quickest one is about as fast as snappy.
const ZSTD_LEVEL: i32 = 1;
/// How far back a zstd message may refer, as a power of two: 8 MiB. Ours of that level refer half a megabyte back.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Compresses a request, and says which answers are understood.
pub(crate) fn compress_request(
    request: http::Request<Body>,
    compression: Compression,
) -> http::Request<Body> {
    let (mut parts, body) = request.into_parts();
    parts.headers.insert(ENCODING, HeaderValue::from_static(compression.name()));
    parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(compression.name()));
    http::Request::from_parts(parts, Body::new(Recoded::new(body, Direction::Compress(compression))))
}

/// Takes the encoding off an answer, if it has one that is known here. `limit_bytes`: of a message.
pub(crate) fn decompress_response(
    response: http::Response<Body>,
    limit_bytes: usize,
) -> http::Response<Body> {
    let (mut parts, body) = response.into_parts();
    match Compression::of(&parts.headers) {
        None => http::Response::from_parts(parts, body),
        Some(compression) => {
            parts.headers.remove(ENCODING);
            let body = Body::new(Recoded::new(body, Direction::Decompress { compression, limit_bytes }));
            http::Response::from_parts(parts, body)
        }
    }
}

/// For a server: takes the encoding off requests, and gives answers the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompressionLayer {
    /// Largest message of a request.
    pub(crate) limit_bytes: usize,
}

impl<S> Layer<S> for CompressionLayer {
    type Service = Compressing<S>;

    fn layer(&self, inner: S) -> Compressing<S> {
        Compressing { inner, limit_bytes: self.limit_bytes }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Compressing<S> {
    inner: S,
    limit_bytes: usize,
}

impl<S> Service<http::Request<Body>> for Compressing<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Send,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut parts, mut body) = request.into_parts();
        let compression = Compression::of(&parts.headers);
        if let Some(compression) = compression {
            parts.headers.remove(ENCODING);
            let limit_bytes = self.limit_bytes;
            body = Body::new(Recoded::new(body, Direction::Decompress { compression, limit_bytes }));
        }
        let answering = self.inner.call(http::Request::from_parts(parts, body));
        Box::pin(async move {
            let response = answering.await?;
            let Some(compression) = compression else { return Ok(response) };
            // An answer that fails at once has no messages.
            if response.headers().contains_key("grpc-status") || response.headers().contains_key(ENCODING) {
                return Ok(response);
            }
            let (mut parts, body) = response.into_parts();
            parts.headers.insert(ENCODING, HeaderValue::from_static(compression.name()));
            let body = Body::new(Recoded::new(body, Direction::Compress(compression)));
            Ok(http::Response::from_parts(parts, body))
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Compress(Compression),
    Decompress {
        compression: Compression,
        /// Of a message, compressed and not.
        limit_bytes: usize,
    },
}

/// A body whose messages are recoded one by one.
struct Recoded {
    body: Body,
    direction: Direction,
    /// What has come and is no whole message yet.
    pending: BytesMut,
    /// Held back until the messages before them are out.
    trailers: Option<HeaderMap>,
    has_ended: bool,
    /// Kept from message to message, for it is large.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Recoded {
    fn new(body: Body, direction: Direction) -> Self {
        Self { body, direction, pending: BytesMut::new(), trailers: None, has_ended: false, compressor: None }
    }

    /// The next whole message, recoded.
    fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((head, _)) = self.pending.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [flag, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if let Direction::Decompress { limit_bytes, .. } = self.direction {
            check_size(length, limit_bytes)?;
        }
        if self.pending.len() - HEAD_BYTES < length {
            self.pending.reserve(length + HEAD_BYTES - self.pending.len());
            return Ok(None);
        }
        let whole = self.pending.split_to(HEAD_BYTES + length).freeze();
        let message = whole.slice(HEAD_BYTES..);
        match (self.direction, flag) {
            (Direction::Compress(compression), 0) if length >= MIN_COMPRESSED_BYTES => {
                let packed = match compression {
                    Compression::Snappy => snappy(&message),
                    Compression::Zstd => self.zstd(&message),
                };
                packed.map(Some)
            }
            (Direction::Decompress { compression, limit_bytes }, 1) => {
                let unpacked = match compression {
                    Compression::Snappy => {
                        unpack(compression, snap::read::FrameDecoder::new(&*message), limit_bytes)
                    }
                    Compression::Zstd => unpack(compression, zstd_decoder(&message)?, limit_bytes),
                };
                unpacked.map(Some)
            }
            _ => Ok(Some(whole)),
        }
    }

    /// With its head.
    fn zstd(&mut self, message: &[u8]) -> Result<Bytes, Status> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|error| not_packed(&error))?),
        };
        let mut out = vec![0; HEAD_BYTES + zstd::zstd_safe::compress_bound(message.len())];
        let (head, room) = out.split_at_mut(HEAD_BYTES);
        head.copy_from_slice(&[1, 0, 0, 0, 0]);
        let length = compressor.compress_to_buffer(message, room).map_err(|error| not_packed(&error))?;
        out.truncate(HEAD_BYTES + length);
        out.shrink_to_fit();
        write_length(&mut out)?;
        Ok(out.into())
    }
}

fn check_size(size_bytes: usize, limit_bytes: usize) -> Result<(), Status> {
    if size_bytes > limit_bytes {
        return Err(Status::resource_exhausted(format!(
            "a compressed message of {size_bytes} bytes or more: at most {limit_bytes} are taken"
        )));
    }
    Ok(())
}

fn not_packed(error: &std::io::Error) -> Status {
    Status::internal(format!("compressing a message: {error}"))
}

/// With its head.
fn snappy(message: &[u8]) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(HEAD_BYTES + message.len() / 2);
    out.extend_from_slice(&[1, 0, 0, 0, 0]);
    let mut encoder = snap::write::FrameEncoder::new(out);
    encoder.write_all(message).map_err(|error| not_packed(&error))?;
    let mut out = encoder.into_inner().map_err(|error| not_packed(error.error()))?;
    write_length(&mut out)?;
    Ok(out.into())
}

fn zstd_decoder(message: &[u8]) -> Result<impl std::io::Read, Status> {
    let opened = zstd::stream::read::Decoder::with_buffer(message).and_then(|mut decoder| {
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Ok(decoder)
    });
    opened.map_err(|error| Status::internal(format!("a message cannot be decompressed: {error}")))
}

/// With its head.
fn unpack(compression: Compression, reader: impl std::io::Read, limit_bytes: usize) -> Result<Bytes, Status> {
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
    let mut out = vec![0; HEAD_BYTES];
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|error| Status::internal(format!("a message is no {}: {error}", compression.name())))?;
    check_size(out.len() - HEAD_BYTES, limit_bytes)?;
    write_length(&mut out)?;
    Ok(out.into())
}

/// Puts the length of what follows into the head of a message.
fn write_length(message: &mut [u8]) -> Result<(), Status> {
    let length = u32::try_from(message.len().saturating_sub(HEAD_BYTES))
        .map_err(|_| Status::internal("a message is longer than gRPC allows"))?;
    if let Some(place) = message.get_mut(1..HEAD_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

impl HttpBody for Recoded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            match this.next_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(status) => {
                    (this.has_ended, this.trailers) = (true, None);
                    this.pending.clear();
                    return Poll::Ready(Some(Err(status)));
                }
            }
            if this.has_ended {
                if this.pending.has_remaining() {
                    this.pending.clear();
                    let status = Status::internal("the stream ended in the middle of a message");
                    return Poll::Ready(Some(Err(status)));
                }
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            match futures::ready!(Pin::new(&mut this.body).poll_frame(context)) {
                None => this.has_ended = true,
                Some(Err(status)) => {
                    this.has_ended = true;
                    this.pending.clear();
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.pending.extend_from_slice(&data),
                    Err(frame) => {
                        this.trailers = frame.into_trailers().ok();
                        this.has_ended = true;
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended && self.pending.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn message(data: &[u8]) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        message.extend_from_slice(data);
        message
    }

    /// A body that comes in pieces of `size` bytes, and trailers.
    fn body(bytes: &[u8], size: usize) -> Body {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut frames: Vec<Result<Frame<Bytes>, Status>> =
            bytes.chunks(size).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        frames.push(Ok(Frame::trailers(trailers)));
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    }

    async fn recoded(body: Body, direction: Direction) -> Result<(Vec<u8>, bool), Status> {
        let collected = Recoded::new(body, direction).collect().await?;
        let has_trailers = collected.trailers().is_some_and(|trailers| trailers.contains_key("grpc-status"));
        Ok((collected.to_bytes().to_vec(), has_trailers))
    }

    const LIMIT_BYTES: usize = 1 << 20;
    const BOTH: [Compression; 2] = [Compression::Snappy, Compression::Zstd];

    fn pack(compression: Compression) -> Direction {
        Direction::Compress(compression)
    }

    fn unpack(compression: Compression) -> Direction {
        Direction::Decompress { compression, limit_bytes: LIMIT_BYTES }
    }

    #[tokio::test]
    async fn messages_survive_however_they_are_cut_into_pieces() {
        let all = [message(&[7; 100_000]), message(b""), message(b"short"), message(&[1; 300])].concat();
        for (compression, size) in
            BOTH.iter().flat_map(|one| [1, 4, 5, 1000, 1 << 20].map(|size| (*one, size)))
        {
            let (packed, has_trailers) = recoded(body(&all, size), pack(compression)).await.unwrap();
            assert!(has_trailers && packed.len() < all.len() / 5, "{} of {}", packed.len(), all.len());
            assert_eq!(packed[0], 1, "the first one is compressed");
            let (unpacked, has_trailers) = recoded(body(&packed, size), unpack(compression)).await.unwrap();
            assert!(has_trailers && unpacked == all, "{compression:?}, pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_go_writes_is_read() {
        // `snappy.NewBufferedWriter` over "parallax": stream identifier, then one uncompressed chunk with its masked CRC-32C.
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        encoder.write_all(b"parallax").unwrap();
        let framed = encoder.into_inner().unwrap();
        assert_eq!(&framed[..10], b"\xff\x06\x00\x00sNaPpY", "the identifier of the framing format");
        let mut packed = message(&framed);
        packed[0] = 1;
        let unpacked = recoded(body(&packed, 3), unpack(Compression::Snappy)).await.unwrap().0;
        assert_eq!(unpacked, message(b"parallax"));
    }

    #[tokio::test]
    async fn garbage_and_messages_that_break_off_are_errors() {
        for compression in BOTH {
            let mut garbage = message(b"nothing that was compressed");
            garbage[0] = 1;
            let status = recoded(body(&garbage, 7), unpack(compression)).await.unwrap_err();
            assert!(status.message().contains(&format!("no {}", compression.name())), "{status}");
            let mut broken = message(&[3; 50]);
            broken.truncate(20);
            let status = recoded(body(&broken, 7), unpack(compression)).await.unwrap_err();
            assert!(status.message().contains("in the middle of a message"), "{status}");
            let status =
                recoded(body(&[1, 0xff, 0xff, 0xff, 0xff], 5), unpack(compression)).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        }
    }

    #[tokio::test]
    async fn a_small_message_that_would_become_a_large_one_is_refused_at_the_limit() {
        for compression in BOTH {
            for (size, is_taken) in [(LIMIT_BYTES, true), (LIMIT_BYTES + 1, false), (20 * LIMIT_BYTES, false)]
            {
                let all = message(&vec![0; size]);
                let packed = recoded(body(&all, 1 << 20), pack(compression)).await.unwrap().0;
                // What comes has to be within the limit already, as it is here.
                assert!(packed.len() < 2 * LIMIT_BYTES, "{}", packed.len());
                let unpacked = recoded(body(&packed, 1 << 20), unpack(compression)).await;
                assert_eq!(unpacked.is_ok(), is_taken, "{compression:?} of {size}");
                if let Err(status) = unpacked {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_zstd_message_may_not_ask_for_a_large_window() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&vec![5; 1000]).unwrap();
        let mut packed = message(&encoder.finish().unwrap());
        packed[0] = 1;
        let status = recoded(body(&packed, 7), unpack(Compression::Zstd)).await.unwrap_err();
        assert!(status.message().contains("no zstd"), "{status}");
    }
}
