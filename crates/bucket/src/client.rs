//! The HTTP client beneath every cloud: `object_store` builds and signs the requests, this sends them, over hyper and rustls.
//!
//! Invariants: every wait has a limit (a place among `max_conns_per_host`, connection, headers, each piece of a body); plain HTTP only where it was
//! allowed; `tls_config` holds for the bucket's endpoint only. Nothing is followed or repeated here, but whether a failed request may be repeated is
//! decided here: by a budget, and never a conditional write that may have been done (`conditional`).

use std::error::Error as _;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::BucketError;
use crate::config::{HttpConfig, TlsConfig};

mod budget;
mod conditional;
mod connection;
mod proxy;
mod tls;

pub(crate) use budget::RetryBudget;
pub(crate) use conditional::may_have_acted;
pub(crate) use connection::Endpoint;
use connection::{Connector, ConnectorConfig, Trust};
pub(crate) use proxy::Proxy;

/// For the next piece of a body.
const BODY_IDLE: Duration = Duration::from_secs(60);
/// How slow an upload may be; its answer is waited for that much longer.
const SLOWEST_UPLOAD_BYTES_PER_SECOND: u64 = 256 << 10;
/// For connections to metadata services, which are near or absent.
const METADATA_CONNECT: Duration = Duration::from_secs(1);
const USER_AGENT: &str = concat!("parallax/", env!("CARGO_PKG_VERSION"));

/// Makes the clients of one bucket: its own, and those of the services that give it credentials. All share one budget.
#[derive(Clone, Debug)]
pub(crate) struct CloudConnector {
    config: HttpConfig,
    /// Of the bucket.
    endpoint: Option<Endpoint>,
    configured: Trust,
    others: Trust,
    budget: Arc<RetryBudget>,
    permits: Option<Arc<Semaphore>>,
    proxy: Option<Proxy>,
}

impl CloudConnector {
    /// A connector for the bucket at `url`.
    ///
    /// # Errors
    /// [`BucketError::Config`], naming a file of `tls_config` that cannot be used.
    pub(crate) fn new(
        config: &HttpConfig,
        url: &str,
        budget: Arc<RetryBudget>,
        proxy: Option<Proxy>,
    ) -> Result<Self, BucketError> {
        let defaults = TlsConfig::default();
        let tls = Arc::new(tls::client_config(&config.tls)?);
        let plain =
            if config.tls == defaults { Arc::clone(&tls) } else { Arc::new(tls::client_config(&defaults)?) };
        Ok(Self {
            config: config.clone(),
            endpoint: Endpoint::of(url),
            configured: Trust { tls, server_name: config.tls.server_name.clone() },
            others: Trust { tls: plain, server_name: None },
            budget,
            permits: config.max_connections.map(|count| Arc::new(Semaphore::new(count))),
            proxy,
        })
    }
}

impl HttpConnector for CloudConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let option = |key| options.get_config_value(&key);
        let near = option(ClientConfigKey::ConnectTimeout).as_deref() == Some("1s");
        let connector = Connector::new(ConnectorConfig {
            endpoint: self.endpoint.clone(),
            configured: self.configured.clone(),
            others: self.others.clone(),
            proxy: self.proxy.clone(),
            allow_http: option(ClientConfigKey::AllowHttp).as_deref() == Some("true"),
            timeout: if near { METADATA_CONNECT } else { self.config.handshake_timeout },
        });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.config.idle_timeout)
            .pool_max_idle_per_host(self.config.max_idle_per_host)
            .build(connector);
        Ok(HttpClient::new(CloudClient {
            client,
            response_timeout: self.config.response_timeout,
            budget: Arc::clone(&self.budget),
            permits: self.permits.clone(),
        }))
    }
}

#[derive(Debug)]
struct CloudClient {
    client: Client<Connector, HttpRequestBody>,
    response_timeout: Duration,
    budget: Arc<RetryBudget>,
    permits: Option<Arc<Semaphore>>,
}

#[async_trait::async_trait]
impl HttpService for CloudClient {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let permit = self.permit().await?;
        let is_conditional = conditional::is_conditional_write(&request);
        request
            .headers_mut()
            .entry(http::header::USER_AGENT)
            .or_insert(http::HeaderValue::from_static(USER_AGENT));
        let upload_seconds = request.body().content_length() as u64 / SLOWEST_UPLOAD_BYTES_PER_SECOND;
        let limit = self.response_timeout + Duration::from_secs(upload_seconds);
        let method = request.method().clone();
        let host = request.uri().host().unwrap_or_default().to_owned();
        let result = match tokio::time::timeout(limit, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(HttpError::new(kind_of(&error), Failure::of(&host, &error))),
            Err(_) => {
                let reason =
                    format!("{host}: no answer within {limit:?} (http_config.response_header_timeout)");
                Err(HttpError::new(HttpErrorKind::Timeout, Failure::sent(reason)))
            }
        };
        if let Ok(response) = &result {
            tracing::debug!(%method, host, status = response.status().as_u16(), "object store answered");
        }
        let result = if is_conditional { conditional::once(&host, result) } else { result };
        let response = self.within_budget(&host, result)?;
        Ok(response.map(|body| HttpResponseBody::new(BoundedBody::new(body, permit))))
    }
}

impl CloudClient {
    /// A place among `max_conns_per_host`. It is not waited for longer than for an answer.
    async fn permit(&self) -> Result<Option<OwnedSemaphorePermit>, HttpError> {
        let Some(permits) = &self.permits else { return Ok(None) };
        let limit = self.response_timeout;
        match tokio::time::timeout(limit, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Unknown, error)),
            Err(_) => {
                let reason =
                    format!("no connection was free within {limit:?} (http_config.max_conns_per_host)");
                Err(HttpError::new(HttpErrorKind::Unknown, Failure::unsent(reason)))
            }
        }
    }

    /// A failure that the budget does not let be repeated becomes one that nobody repeats.
    fn within_budget(
        &self,
        host: &str,
        result: Result<http::Response<Incoming>, HttpError>,
    ) -> Result<http::Response<Incoming>, HttpError> {
        let failed = match &result {
            Ok(response) => {
                let status = response.status();
                status.is_server_error()
                    || matches!(
                        status,
                        http::StatusCode::TOO_MANY_REQUESTS | http::StatusCode::REQUEST_TIMEOUT
                    )
            }
            Err(_) => true,
        };
        if !failed {
            self.budget.succeeded();
            return result;
        }
        if self.budget.may_repeat() {
            return result;
        }
        let (what, is_sent) = match result {
            Ok(response) => (format!("{host} answered {}", response.status()), true),
            Err(error) => {
                (error.to_string(), Failure::in_chain(&error).is_none_or(|failure| failure.is_sent))
            }
        };
        let text = format!("{what}; not tried again: too many of the last requests failed");
        Err(HttpError::new(HttpErrorKind::Unknown, Failure { text, is_sent }))
    }
}

/// Why a request failed, in one line.
#[derive(Debug)]
struct Failure {
    text: String,
    /// Whether the server may have seen the request.
    is_sent: bool,
}

impl Failure {
    fn sent(text: String) -> Self {
        Self { text, is_sent: true }
    }

    fn unsent(text: String) -> Self {
        Self { text, is_sent: false }
    }

    fn of(host: &str, error: &hyper_util::client::legacy::Error) -> Self {
        Self { text: format!("{host}: {}", tls::explain(&chain(error))), is_sent: !error.is_connect() }
    }

    /// The one that an error was made from.
    fn in_chain<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return Some(failure);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn kind_of(error: &hyper_util::client::legacy::Error) -> HttpErrorKind {
    if error.is_connect() {
        return HttpErrorKind::Connect;
    }
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            if hyper.is_timeout() {
                return HttpErrorKind::Timeout;
            }
            if hyper.is_canceled() {
                return HttpErrorKind::Request;
            }
            if hyper.is_closed() || hyper.is_incomplete_message() || hyper.is_body_write_aborted() {
                return HttpErrorKind::Interrupted;
            }
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::TimedOut => HttpErrorKind::Timeout,
                io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => HttpErrorKind::Interrupted,
                _ => HttpErrorKind::Unknown,
            };
        }
        next = cause.source();
    }
    HttpErrorKind::Unknown
}

/// A body each of whose pieces comes in time; holds the connection's permit until it ends.
struct BoundedBody {
    body: Incoming,
    idle: Pin<Box<tokio::time::Sleep>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl BoundedBody {
    fn new(body: Incoming, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { body, idle: Box::pin(tokio::time::sleep(BODY_IDLE)), permit }
    }
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.as_mut().reset(tokio::time::Instant::now() + BODY_IDLE);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.permit = None;
                let reason = format!("the answer broke off: {}", chain(&error));
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Interrupted, Failure::sent(reason)))))
            }
            Poll::Ready(None) => {
                this.permit = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if this.idle.as_mut().poll(context).is_ready() {
                    this.permit = None;
                    let reason = format!("no further part of the answer within {BODY_IDLE:?}");
                    return Poll::Ready(Some(Err(HttpError::new(
                        HttpErrorKind::Timeout,
                        Failure::sent(reason),
                    ))));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
