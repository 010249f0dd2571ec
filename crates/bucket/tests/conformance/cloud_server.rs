//! Object stores in memory, for tests, each as its cloud speaks. Faults are scripted.
//!
//! S3: path and host style, ListObjectsV2 in small pages, multipart uploads, conditional writes, and version 4 signatures, which it computes from the
//! specification by itself; it also plays STS. GCS: its XML API is S3's with bearer tokens and generations. Azure has a file of its own.
//!
//! Sources: Amazon's "Signature Version 4 signing process" and S3 API reference; Google's "XML API reference".

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

mod azure;
mod signature;

pub use azure::{ACCOUNT, ACCOUNT_KEY, CONTAINER};

pub const REGION: &str = "eu-test-1";
pub const BUCKET: &str = "blocks";
pub const ACCESS_KEY: &str = "AKIAEXAMPLE";
pub const SECRET_KEY: &str = "hunter2/secret+key";
/// What STS gives for a web identity token.
pub const STS_ACCESS_KEY: &str = "ASIAEXAMPLE";
pub const STS_SECRET_KEY: &str = "hunter2-from-sts";
pub const STS_SESSION_TOKEN: &str = "session/token==";
pub const WEB_IDENTITY_TOKEN: &str = "web-identity-token";
/// Few, so that every listing has several pages.
const PAGE: usize = 3;
const MODIFIED: &str = "2015-10-21T07:28:00.000Z";

type Answer = Response<Full<Bytes>>;

/// Whose protocol a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dialect {
    #[default]
    S3,
    Gcs,
    Azure,
}

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Status(StatusCode),
    /// What was asked for is done, and then denied.
    StatusAfter(StatusCode),
    /// The connection ends after the request was carried out, with no answer.
    BreakAfter,
    /// Half of the body, and then nothing more.
    Stalled,
    /// The connection ends in the middle of the body.
    HalfBody,
    /// No answer for this many milliseconds.
    Slow(u64),
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: http::HeaderMap,
}

#[derive(Default)]
pub struct State {
    dialect: Dialect,
    /// How many objects were ever written.
    generations: std::sync::atomic::AtomicU64,
    objects: Mutex<BTreeMap<String, Object>>,
    uploads: Mutex<HashMap<String, BTreeMap<u32, Bytes>>>,
    /// Azure's parts, by object and name.
    blocks: Mutex<HashMap<(String, String), Bytes>>,
    /// For the next requests for objects, first to last.
    pub faults: Mutex<VecDeque<Fault>>,
    pub seen: Mutex<Vec<Seen>>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    tag: String,
    generation: u64,
}

pub struct CloudServer {
    pub address: SocketAddr,
    pub state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for CloudServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CloudServer {
    pub async fn s3(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self::start(Dialect::S3, tls).await
    }

    pub async fn gcs() -> Self {
        Self::start(Dialect::Gcs, None).await
    }

    pub async fn azure() -> Self {
        Self::start(Dialect::Azure, None).await
    }

    async fn start(dialect: Dialect, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { dialect, ..State::default() });
        let shared = Arc::clone(&state);
        let acceptor = tls.map(TlsAcceptor::from);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, state).await,
                        // A client that does not trust us ends here.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// The YAML of a bucket on this server; `more` goes into `config`.
    pub fn yaml(&self, prefix: &str, more: &str) -> String {
        let keys = format!("access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}");
        self.yaml_without_keys(prefix, &format!("{keys}, {more}"))
    }

    pub fn yaml_without_keys(&self, prefix: &str, more: &str) -> String {
        let endpoint = format!("bucket: {BUCKET}, endpoint: \"{}\", region: {REGION}", self.address);
        format!("type: S3\nconfig: {{{endpoint}, {more}}}\nprefix: \"{prefix}\"\n")
    }

    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().unwrap().extend(faults);
    }

    /// Puts an object there past any client, whatever its name.
    pub fn plant(&self, key: &str) {
        let object = self.state.object(Bytes::new());
        self.state.objects.lock().unwrap().insert(key.to_owned(), object);
    }

    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = hyper::service::service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { state.answer(request).await }
    });
    // Connections break in these tests; the clients are what is looked at.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

type Body = http_body_util::combinators::BoxBody<Bytes, Broken>;

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        self.seen
            .lock()
            .unwrap()
            .push(Seen { path: head.uri.path().to_owned(), headers: head.headers.clone() });
        let query = signature::query_pairs(head.uri.query().unwrap_or_default());
        let whole = |answer: Answer| answer.map(|body| body.map_err(|never| match never {}).boxed());
        if query.iter().any(|(name, _)| name == "Action") {
            return Ok(whole(sts(&query)));
        }
        let checked = match self.dialect {
            Dialect::S3 => signature::check(&head, &body),
            Dialect::Gcs => Ok(()),
            Dialect::Azure => azure::check(&head, &query),
        };
        if let Err((status, code)) = checked {
            return Ok(whole(error(status, code)));
        }
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Status(status)) => return Ok(whole(error(status, "InternalError"))),
            Some(Fault::Slow(ms)) => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
            _ => {}
        }
        let answer = match self.dialect {
            Dialect::Azure => self.dispatch_azure(&head, &query, body),
            _ => self.dispatch(&head, &query, body),
        };
        match fault {
            Some(Fault::HalfBody) => Ok(halved(answer, vec![Err(Broken)]).await),
            Some(Fault::Stalled) => Ok(stalled(answer).await),
            Some(Fault::StatusAfter(status)) => Ok(whole(error(status, "InternalError"))),
            Some(Fault::BreakAfter) => Err(Broken),
            _ => Ok(whole(answer)),
        }
    }

    fn object(&self, bytes: Bytes) -> Object {
        let generation = 1 + self.generations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Object { tag: tag_of(&bytes), bytes, generation }
    }

    fn dispatch(&self, head: &http::request::Parts, query: &[(String, String)], body: Bytes) -> Answer {
        let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let host = head.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = head.uri.path().trim_start_matches('/');
        let (bucket, key) = match host.strip_prefix(&format!("{BUCKET}.")) {
            Some(_) => (BUCKET, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        if bucket != BUCKET {
            return error(StatusCode::NOT_FOUND, "NoSuchBucket");
        }
        let key = signature::decode(key);
        match (head.method.as_str(), key.is_empty(), get("uploadId")) {
            ("GET", true, _) => self.list(
                get("prefix").unwrap_or_default(),
                get("delimiter"),
                get("continuation-token").or(get("start-after")),
            ),
            ("GET" | "HEAD", false, _) => self.get(&key, head),
            ("POST", false, None) => {
                let id = format!("upload-{}", self.uploads.lock().unwrap().len());
                self.uploads.lock().unwrap().insert(id.clone(), BTreeMap::new());
                let xml = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                answer(StatusCode::OK, xml)
            }
            ("POST", false, Some(id)) => self.complete(&key, id, &body),
            ("PUT", false, Some(id)) => {
                let number = get("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
                let tag = tag_of(&body);
                self.uploads.lock().unwrap().entry(id.to_owned()).or_default().insert(number, body);
                let mut answer = answer(StatusCode::OK, "");
                answer.headers_mut().insert("etag", tag.parse().unwrap());
                answer
            }
            ("PUT", false, None) => self.put(key, head, body),
            ("DELETE", false, Some(id)) => {
                self.uploads.lock().unwrap().remove(id);
                answer(StatusCode::NO_CONTENT, "")
            }
            ("DELETE", false, None) => {
                self.objects.lock().unwrap().remove(&key);
                answer(StatusCode::NO_CONTENT, "")
            }
            _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn get(&self, key: &str, head: &http::request::Parts) -> Answer {
        let Some(object) = self.objects.lock().unwrap().get(key).cloned() else {
            return error(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let size = object.bytes.len() as u64;
        let range = head.headers.get("x-ms-range").or_else(|| head.headers.get("range"));
        let range = range.and_then(|range| range.to_str().ok()).and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?))
        });
        let Some((start, end)) = range else {
            return described(answer(StatusCode::OK, object.bytes.clone()), &object);
        };
        if start >= size {
            return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let end = end.min(size - 1);
        let part = object.bytes.slice(start as usize..=end as usize);
        let mut found = described(answer(StatusCode::PARTIAL_CONTENT, part), &object);
        let range = format!("bytes {start}-{end}/{size}").parse().unwrap();
        found.headers_mut().insert("content-range", range);
        found
    }

    fn put(&self, key: String, head: &http::request::Parts, bytes: Bytes) -> Answer {
        let mut objects = self.objects.lock().unwrap();
        let wanted = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let current = objects.get(&key).map(|object| object.tag.clone());
        let generation = objects.get(&key).map_or(0, |object| object.generation).to_string();
        if wanted("x-goog-if-generation-match").is_some_and(|wanted| wanted != generation) {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        if wanted("if-none-match") == Some("*") && current.is_some() {
            return match self.dialect {
                Dialect::Azure => error(StatusCode::CONFLICT, "BlobAlreadyExists"),
                _ => error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
            };
        }
        if let Some(tag) = wanted("if-match")
            && current.as_deref() != Some(tag)
        {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let object = self.object(bytes);
        objects.insert(key, object.clone());
        described(answer(StatusCode::CREATED, ""), &object)
    }

    fn complete(&self, key: &str, id: &str, body: &Bytes) -> Answer {
        let Some(parts) = self.uploads.lock().unwrap().remove(id) else {
            return error(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let named = String::from_utf8_lossy(body).matches("<PartNumber>").count();
        let too_small = parts.values().rev().skip(1).any(|part| part.len() < 5 << 20);
        if named != parts.len() || !parts.keys().copied().eq(1..=named as u32) || too_small {
            return error(StatusCode::BAD_REQUEST, "InvalidPart");
        }
        let bytes = Bytes::from(parts.into_values().collect::<Vec<_>>().concat());
        let object = self.object(bytes);
        self.objects.lock().unwrap().insert(key.to_owned(), object.clone());
        let xml = format!(
            "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
            escape(&object.tag)
        );
        described(answer(StatusCode::OK, xml), &object)
    }

    fn list(&self, prefix: &str, delimiter: Option<&str>, after: Option<&str>) -> Answer {
        let (page, next) = self.page(prefix, delimiter, |name| after.is_none_or(|after| name > after));
        let items = page.into_iter().map(|(name, object)| match object {
            None => format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(&name)),
            Some(object) => format!(
                "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{MODIFIED}</LastModified><ETag>{}</ETag></Contents>",
                escape(&name),
                object.bytes.len(),
                escape(&object.tag)
            ),
        });
        let token = next.map_or_else(String::new, |next| {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escape(&next))
        });
        answer(
            StatusCode::OK,
            format!("<ListBucketResult>{}{token}</ListBucketResult>", items.collect::<String>()),
        )
    }

    /// A page of objects, and of directories where there is a delimiter; and the last name of it if there are more.
    fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> (Vec<(String, Option<Object>)>, Option<String>) {
        let objects = self.objects.lock().unwrap();
        let mut page: Vec<(String, Option<Object>)> = Vec::new();
        for (key, object) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            let cut = delimiter
                .and_then(|delimiter| key[prefix.len()..].find(delimiter))
                .map(|at| key[..prefix.len() + at + 1].to_owned());
            let name = cut.clone().unwrap_or_else(|| key.clone());
            if !is_wanted(&name) || page.last().is_some_and(|(last, _)| *last == name) {
                continue;
            }
            if page.len() == PAGE {
                let last = page.last().map(|(last, _)| last.clone());
                return (page, last);
            }
            page.push((name, cut.is_none().then(|| object.clone())));
        }
        (page, None)
    }
}

fn sts(query: &[(String, String)]) -> Answer {
    let is = |name: &str, value: &str| query.iter().any(|(key, got)| key == name && got == value);
    if !is("Action", "AssumeRoleWithWebIdentity") || !is("WebIdentityToken", WEB_IDENTITY_TOKEN) {
        return error(StatusCode::BAD_REQUEST, "InvalidIdentityToken");
    }
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{STS_ACCESS_KEY}</AccessKeyId>\
         <SecretAccessKey>{STS_SECRET_KEY}</SecretAccessKey><SessionToken>{STS_SESSION_TOKEN}</SessionToken>\
         <Expiration>2199-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    );
    answer(StatusCode::OK, xml)
}

/// Announces all of a body, sends half of it, and then what follows.
async fn halved(answer: Answer, then: Vec<Result<http_body::Frame<Bytes>, Broken>>) -> Response<Body> {
    let (head, first) = half(answer).await;
    let frames = futures::stream::iter(std::iter::once(Ok(first)).chain(then));
    Response::from_parts(head, http_body_util::StreamBody::new(frames).boxed())
}

async fn stalled(answer: Answer) -> Response<Body> {
    let (head, first) = half(answer).await;
    let frames = futures::stream::once(async { Ok(first) });
    let frames = futures::StreamExt::chain(frames, futures::stream::pending());
    Response::from_parts(head, http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(frames)))
}

async fn half(answer: Answer) -> (http::response::Parts, http_body::Frame<Bytes>) {
    let (mut head, body) = answer.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes);
    head.headers.insert("content-length", body.len().into());
    (head, http_body::Frame::data(body.slice(..body.len() / 2)))
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    Response::builder()
        .status(status)
        // Also for HEAD, whose answer has no body to count.
        .header("content-length", body.len())
        .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        .body(Full::new(body))
        .unwrap()
}

fn described(mut answer: Answer, object: &Object) -> Answer {
    answer.headers_mut().insert("etag", object.tag.parse().unwrap());
    answer.headers_mut().insert("x-goog-generation", object.generation.into());
    answer
}

fn error(status: StatusCode, code: &str) -> Answer {
    let region = if code == "AuthorizationHeaderMalformed" {
        format!("<Region>{REGION}</Region>")
    } else {
        String::new()
    };
    let xml = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>for a test</Message>{region}</Error>"
    );
    answer(status, xml)
}

fn tag_of(bytes: &[u8]) -> String {
    format!("\"{}\"", &signature::hex_sha256(bytes)[..32])
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
