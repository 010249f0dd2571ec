//! Requests whose answers are long rows of small chunks, read in large pieces.
//!
//! Prometheus flushes each series that it streams, so that an answer has a chunk of about a kilobyte per series. hyper hands every chunk from the task of the
//! connection to that of the reader; for a hundred thousand of them this costs more than all that is done with them. Here one task reads the
//! connection, and what lies in its buffer is taken out of its chunks in one go.
//!
//! Invariants: as in the parent. One connection carries one request at a time; it is used again only when its answer was read to the end. A request that
//! met a connection which the server had closed meanwhile is sent once more, on a new one. Dropping a body ends its connection.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use parallax_dial::ClientStream;
use parallax_pki::explain::chain_text;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connector::HttpConnector;
use super::{IDLE_CONNECTIONS, IDLE_LIFETIME};
use crate::Error;

mod framing;

use framing::{Framing, keeps_alive};

/// Most headers of an answer, and the bytes that they may take together.
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 << 10;
/// What one read of the connection may bring.
const READ_BYTES: usize = 256 << 10;
/// Reads of a body that are done as soon as there is anything to read ...
const PROMPT_READS: usize = 16;
/// ... before those that find little are put off, so that bytes gather: a read per kilobyte costs more than what is done with it.
const LITTLE_BYTES: usize = 32 << 10;
const GATHERING: Duration = Duration::from_millis(1);

/// Connections that wait for their next request.
#[derive(Clone, Default)]
pub(super) struct IdleConnections(Arc<Mutex<Vec<(ClientStream, Instant)>>>);

impl std::fmt::Debug for IdleConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdleConnections")
    }
}

impl IdleConnections {
    /// One that says nothing: what came unasked would be taken for the next answer.
    fn take(&self) -> Option<ClientStream> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE_LIFETIME);
        while let Some((mut connection, _)) = idle.pop() {
            if connection.read(&mut [0]).now_or_never().is_none() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: ClientStream) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE_LIFETIME);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((connection, Instant::now()));
        }
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct BulkResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: BulkBody,
}

/// The body of an answer.
pub struct BulkBody {
    url: String,
    connection: Option<ClientStream>,
    /// Read, and not taken out of its chunks yet.
    raw: BytesMut,
    framing: Framing,
    keeps_alive: bool,
    idle_timeout: Duration,
    idle: IdleConnections,
    reads: usize,
    last_read_bytes: usize,
}

impl std::fmt::Debug for BulkBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkBody")
            .field("url", &self.url)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl BulkResponse {
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub fn into_body(self) -> BulkBody {
        self.body
    }

    /// The whole body. Errors: it is larger than `max_bytes`; it stops arriving.
    pub async fn bytes(self, max_bytes: usize) -> Result<Bytes, Error> {
        let (mut body, mut all) = (self.body, BytesMut::new());
        while body.read(&mut all).await? {
            if all.len() > max_bytes {
                return Err(Error::TooLarge { url: body.url, limit_bytes: max_bytes });
            }
        }
        Ok(all.freeze())
    }

    /// At most `max_bytes` of the body as text, for error messages. Never fails.
    pub async fn text_prefix(self, max_bytes: usize) -> String {
        let (mut body, mut all) = (self.body, BytesMut::new());
        while all.len() < max_bytes && matches!(body.read(&mut all).await, Ok(true)) {}
        all.truncate(max_bytes);
        String::from_utf8_lossy(&all).into_owned()
    }
}

impl BulkBody {
    /// Waits for more of the body, and appends all that is there to `buffer`; false at the body's end. Reading slower slows the server down.
    ///
    /// Errors: the answer is malformed, breaks off, or stops arriving. After one, and after the end, there is nothing more.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> Result<bool, Error> {
        let before = buffer.len();
        loop {
            let decoded = self.framing.decode(&mut self.raw, buffer);
            decoded.map_err(|reason| self.broken(&reason))?;
            if self.framing == Framing::Done {
                self.end();
            }
            if buffer.len() > before {
                return Ok(true);
            }
            if self.framing == Framing::Done {
                return Ok(false);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        let Some(connection) = &mut self.connection else {
            return Err(self.broken("it has ended"));
        };
        if self.reads >= PROMPT_READS && self.last_read_bytes < LITTLE_BYTES {
            tokio::time::sleep(GATHERING).await;
        }
        self.raw.reserve(READ_BYTES);
        let before = self.raw.len();
        match tokio::time::timeout(self.idle_timeout, connection.read_buf(&mut self.raw)).await {
            Ok(Ok(0)) => self.framing.close().map_err(|reason| self.broken(reason)),
            Ok(Ok(_)) => {
                // TLS gives one record at a time.
                while self.raw.len() < self.raw.capacity()
                    && let Some(Ok(1..)) = connection.read_buf(&mut self.raw).now_or_never()
                {}
                self.reads = self.reads.saturating_add(1);
                self.last_read_bytes = self.raw.len() - before;
                Ok(())
            }
            Ok(Err(error)) => Err(self.broken(&chain_text(&error))),
            Err(_) => {
                self.connection = None;
                let seconds = self.idle_timeout.as_secs_f64();
                Err(Error::Timeout { url: self.url.clone(), what: "further part of the answer", seconds })
            }
        }
    }

    /// Gives the connection back, if it can serve another request.
    fn end(&mut self) {
        let connection = self.connection.take();
        if let Some(connection) = connection.filter(|_| self.keeps_alive && self.raw.is_empty()) {
            self.idle.put(connection);
        }
    }

    fn broken(&mut self, reason: &str) -> Error {
        self.connection = None;
        Error::Unreachable { url: self.url.clone(), reason: format!("the answer broke off: {reason}") }
    }
}

/// Why there is no answer.
enum Failure {
    /// The connection had been closed before anything of the answer came.
    Closed(String),
    Other(String),
}

impl Failure {
    fn into_reason(self) -> String {
        let (Self::Closed(reason) | Self::Other(reason)) = self;
        reason
    }
}

/// Sends `request` to where its URI says, and waits for the head of the answer. Errors: a text that says why there is none.
pub(super) async fn exchange(
    request: &Request<Bytes>,
    connector: &HttpConnector,
    idle: &IdleConnections,
    idle_timeout: Duration,
) -> Result<BulkResponse, String> {
    let head = head_of(request)?;
    let url = request.uri().to_string();
    let mut sent = match idle.take() {
        Some(connection) => send(connection, &head, request.body()).await,
        None => Err(Failure::Closed(String::new())),
    };
    if matches!(sent, Err(Failure::Closed(_))) {
        let connection = connector.clone().open(request.uri().clone()).await;
        let connection = connection.map_err(|error| error.to_string())?;
        sent = send(connection, &head, request.body()).await;
    }
    let (connection, head, raw) = sent.map_err(Failure::into_reason)?;
    let framing = Framing::of(head.status, head.version, &head.headers)?;
    let keeps_alive = keeps_alive(head.version, &head.headers);
    let mut body = BulkBody {
        url,
        connection: Some(connection),
        raw,
        framing,
        keeps_alive,
        idle_timeout,
        idle: idle.clone(),
        reads: 0,
        last_read_bytes: 0,
    };
    if framing == Framing::Done {
        body.end();
    }
    Ok(BulkResponse { status: head.status, headers: head.headers, body })
}

/// The first line and the headers.
fn head_of(request: &Request<Bytes>) -> Result<Vec<u8>, String> {
    let uri = request.uri();
    let authority = uri.authority().ok_or("the URL has no host")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = format!("{} {path} HTTP/1.1\r\nhost: {authority}\r\n", request.method()).into_bytes();
    for (name, value) in request.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(format!("content-length: {}\r\n\r\n", request.body().len()).as_bytes());
    Ok(head)
}

struct Head {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
}

async fn send(
    mut connection: ClientStream,
    head: &[u8],
    body: &[u8],
) -> Result<(ClientStream, Head, BytesMut), Failure> {
    let closed = |error: io::Error| Failure::Closed(chain_text(&error));
    connection.write_all(&[head, body].concat()).await.map_err(closed)?;
    connection.flush().await.map_err(closed)?;
    let mut raw = BytesMut::new();
    loop {
        raw.reserve(READ_BYTES);
        let read = connection.read_buf(&mut raw).await;
        match read {
            Ok(0) if raw.is_empty() => {
                return Err(Failure::Closed("the connection closed without an answer".to_owned()));
            }
            Ok(0) => return Err(Failure::Other("the answer broke off within its headers".to_owned())),
            Ok(_) => {}
            Err(error) if raw.is_empty() => return Err(closed(error)),
            Err(error) => return Err(Failure::Other(chain_text(&error))),
        }
        while let Some((head, size)) = parse_head(&raw).map_err(Failure::Other)? {
            raw.advance(size);
            // An interim answer is followed by the one that counts.
            if !head.status.is_informational() {
                return Ok((connection, head, raw));
            }
        }
        if raw.len() > MAX_HEAD_BYTES {
            return Err(Failure::Other(format!(
                "the answer's headers are larger than {MAX_HEAD_BYTES} bytes"
            )));
        }
    }
}

/// The head at the start of `raw` and its size; `None` if it is not complete yet.
fn parse_head(raw: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut space);
    let size = match parsed.parse(raw) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the answer is not HTTP: {error}")),
    };
    let malformed = || "the answer is not HTTP: its head is malformed".to_owned();
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(malformed)?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| malformed())?;
        headers.append(name, HeaderValue::from_bytes(header.value).map_err(|_| malformed())?);
    }
    Ok(Some((Head { status, version, headers }, size)))
}
