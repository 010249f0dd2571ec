//! An HTTP client for Prometheus' API: GET and POST, answers streamed or read up to a bound.
//!
//! Invariants: each wait has a limit (connection, headers, each piece of the body); no answer is held beyond the caller's bound; errors name the URL
//! without its query and never the credentials. Redirects are not followed; nothing is repeated. Secrets in files follow the files.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parallax_pki::CredentialSource;
use parallax_pki::explain::{chain_text, find};

use crate::Error;

mod auth;
mod bulk;
mod connector;
mod url;

use auth::Authorization;
pub use auth::{HttpAuth, Secret};
use bulk::IdleConnections;
pub use bulk::{BulkBody, BulkResponse};
use connector::{ConnectFailure, HttpConnector};
use url::BaseUrl;

/// Idle connections kept per host.
const IDLE_CONNECTIONS: usize = 16;
const IDLE_LIFETIME: Duration = Duration::from_secs(60);

/// Whom to ask, and how. [`HttpClientConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct HttpClientConfig {
    /// `http://host:port/prefix` or `https://…`.
    pub base_url: String,
    /// For `https`: the credentials, loaded for a client.
    pub tls: Option<CredentialSource>,
    /// Looked for in the server's certificate instead of the host of the URL.
    pub server_name: Option<String>,
    pub auth: HttpAuth,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From sending a request to the headers of its answer.
    pub response_timeout: Duration,
    /// For each next piece of a body.
    pub idle_timeout: Duration,
}

impl HttpClientConfig {
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            tls: None,
            server_name: None,
            auth: HttpAuth::None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// A client of one base URL. Cloning is cheap; clones share connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    connector: HttpConnector,
    bulk: IdleConnections,
    base: BaseUrl,
    authorization: Authorization,
    response_timeout: Duration,
    idle_timeout: Duration,
}

impl HttpClient {
    /// Errors: the URL is not one; `https` without credentials; an authorization that cannot be a header.
    pub fn new(config: HttpClientConfig) -> Result<Self, Error> {
        let base = BaseUrl::parse(&config.base_url)?;
        let connector = HttpConnector::new(&config, &base)?;
        let authorization = Authorization::new(config.auth)
            .map_err(|reason| Error::Request { url: base.to_string(), reason })?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIFETIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector.clone());
        Ok(Self {
            client,
            connector,
            bulk: IdleConnections::default(),
            base,
            authorization,
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
        })
    }

    /// The base URL, for texts.
    pub fn base_url(&self) -> String {
        self.base.to_string()
    }

    /// `GET base/path?query`. `path` begins with `/`.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<HttpResponse, Error> {
        self.send(Method::GET, path, query, &[], Bytes::new()).await
    }

    /// `POST base/path` with a form in the body, for queries that are too long for a URL.
    pub async fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Result<HttpResponse, Error> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send(Method::POST, path, &[], &headers, Bytes::from(url::encode_pairs(form))).await
    }

    /// `POST base/path` with `body` as it is.
    pub async fn post_bytes(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<HttpResponse, Error> {
        self.send(Method::POST, path, &[], headers, body).await
    }

    /// As [`Self::post_bytes`], for an answer of very many small pieces, which are read together. Each such request at a time has its own connection, and
    /// may be sent twice (see `bulk`): it has to be a question.
    pub async fn post_for_bulk(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<BulkResponse, Error> {
        let url = self.base.join(path);
        let request = self.request(Method::POST, &url, url.clone(), headers, body).await?;
        let exchange = bulk::exchange(&request, &self.connector, &self.bulk, self.idle_timeout);
        let answered = tokio::time::timeout(self.response_timeout, exchange).await;
        let response = answered.map_err(|_| self.late(&url))?;
        let response = response.map_err(|reason| Error::Unreachable { url, reason })?;
        self.note_refusal(response.status());
        Ok(response)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<HttpResponse, Error> {
        let url = self.base.join(path);
        let mut target = url.clone();
        if !query.is_empty() {
            target.push('?');
            target.push_str(&url::encode_pairs(query));
        }
        let request = self.request(method, &url, target, headers, body).await?.map(Full::new);
        match tokio::time::timeout(self.response_timeout, self.client.request(request)).await {
            Ok(Ok(response)) => {
                self.note_refusal(response.status());
                Ok(HttpResponse::new(url, response, self.idle_timeout))
            }
            Ok(Err(error)) => {
                let reason = match find::<ConnectFailure>(&error) {
                    Some(failure) => failure.to_string(),
                    None => chain_text(&error),
                };
                Err(Error::Unreachable { url, reason })
            }
            Err(_) => Err(self.late(&url)),
        }
    }

    async fn request(
        &self,
        method: Method,
        url: &str,
        target: String,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Bytes>, Error> {
        let mut request =
            Request::builder().method(method).uri(target).header(header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = self.authorization.header().await {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let refuse = |error: http::Error| Error::Request { url: url.to_owned(), reason: error.to_string() };
        request.body(body).map_err(refuse)
    }

    fn note_refusal(&self, status: StatusCode) {
        if status == StatusCode::UNAUTHORIZED {
            self.authorization.refused();
        }
    }

    fn late(&self, url: &str) -> Error {
        Error::Timeout { url: url.to_owned(), what: "answer", seconds: self.response_timeout.as_secs_f64() }
    }
}

const USER_AGENT: &str = concat!("parallax/", env!("CARGO_PKG_VERSION"));

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct HttpResponse {
    url: String,
    head: http::response::Parts,
    body: Incoming,
    idle_timeout: Duration,
}

impl HttpResponse {
    fn new(url: String, response: http::Response<Incoming>, idle_timeout: Duration) -> Self {
        let (head, body) = response.into_parts();
        Self { url, head, body, idle_timeout }
    }

    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The URL that was asked, without its query.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The whole body. Errors: it is larger than `max_bytes`; it stops arriving.
    pub async fn bytes(self, max_bytes: usize) -> Result<Bytes, Error> {
        let url = self.url.clone();
        let mut stream = self.into_stream();
        let mut all = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if all.len() + piece.len() > max_bytes {
                return Err(Error::TooLarge { url, limit_bytes: max_bytes });
            }
            if all.is_empty() && stream.is_end() {
                return Ok(piece);
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// At most `max_bytes` of the body as text, for error messages. Never fails.
    pub async fn text_prefix(self, max_bytes: usize) -> String {
        let mut stream = self.into_stream();
        let mut all = BytesMut::new();
        while all.len() < max_bytes
            && let Some(Ok(piece)) = stream.next().await
        {
            let take = piece.len().min(max_bytes - all.len());
            all.extend_from_slice(piece.get(..take).unwrap_or_default());
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// The body as it arrives; reading slower slows the server down.
    pub fn into_stream(self) -> BodyStream {
        let idle = Box::pin(tokio::time::sleep(self.idle_timeout));
        BodyStream { url: self.url, body: self.body, idle_timeout: self.idle_timeout, idle, ended: false }
    }
}

/// The pieces of a body. After an error it ends.
#[derive(Debug)]
pub struct BodyStream {
    url: String,
    body: Incoming,
    idle_timeout: Duration,
    idle: Pin<Box<tokio::time::Sleep>>,
    ended: bool,
}

impl BodyStream {
    fn is_end(&self) -> bool {
        use hyper::body::Body as _;
        self.ended || self.body.is_end_stream()
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            let mut frame = this.body.frame();
            match Pin::new(&mut frame).poll(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.idle.as_mut().reset(tokio::time::Instant::now() + this.idle_timeout);
                    // Trailers say nothing that we use.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.ended = true;
                    let reason = format!("the answer broke off: {}", chain_text(&error));
                    return Poll::Ready(Some(Err(Error::Unreachable { url: this.url.clone(), reason })));
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        if this.idle.as_mut().poll(context).is_ready() {
            this.ended = true;
            let seconds = this.idle_timeout.as_secs_f64();
            let error = Error::Timeout { url: this.url.clone(), what: "further part of the answer", seconds };
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Pending
    }
}
