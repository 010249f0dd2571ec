//! The envelope of every answer, errors and their status codes, and what may be cached.
//!
//! An answer that lacks data (any warning that is not the engine's own) and every error carry `Cache-Control: no-store`.

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use parallax_promql::engine::QueryError;
use parallax_promql::source::SourceError;
use tokio::task::{JoinError, JoinHandle};
use tonic::{Code, Status};

use super::coverage::{Covered, write_coverage};
use crate::query::RunError;

use super::json::{write_string, write_strings};

/// Warnings of the engine begin like this; all others mean that data is missing or was cut.
const ENGINE_WARNING_PREFIX: &str = "PromQL ";

/// What kind of failure a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorKind {
    BadData,
    Execution,
    Canceled,
    Timeout,
    Internal,
    NotFound,
    Forbidden,
}

impl ErrorKind {
    const fn name(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Execution => "execution",
            Self::Canceled => "canceled",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::BadData => StatusCode::BAD_REQUEST,
            Self::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Canceled | Self::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Forbidden => StatusCode::FORBIDDEN,
        }
    }
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

impl ApiError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Of a guard that does not let somebody in.
    pub(super) fn of_guard(status: &Status) -> Self {
        let kind = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Forbidden,
            Code::InvalidArgument => ErrorKind::BadData,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, status.message())
    }

    pub(super) fn bad_parameter(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::BadData, format!("invalid parameter \"{name}\": {reason}"))
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let kind = match &error {
            QueryError::BadQuery(_) => return Self::bad_parameter("query", error),
            QueryError::Timeout { .. } => ErrorKind::Timeout,
            QueryError::Canceled => ErrorKind::Canceled,
            QueryError::Execution(_) | QueryError::TooManySamples | QueryError::Storage(_) => {
                ErrorKind::Execution
            }
        };
        Self::new(kind, error.to_string())
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Query(error) => error.into(),
            RunError::Lost(_) => Self::new(ErrorKind::Internal, error.to_string()),
        }
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        let kind = match &error {
            SourceError::Timeout { .. } => ErrorKind::Timeout,
            SourceError::Canceled => ErrorKind::Canceled,
            SourceError::Limit(_) | SourceError::Storage(_) => ErrorKind::Execution,
        };
        Self::new(kind, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(self.message.len() + 64);
        body.extend_from_slice(b"{\"status\":\"error\",\"errorType\":");
        write_string(&mut body, self.kind.name());
        body.extend_from_slice(b",\"error\":");
        write_string(&mut body, &self.message);
        body.push(b'}');
        json_response(self.kind.status(), Body::from(Bytes::from(body)), true)
    }
}

/// An answer whose `data` is being written.
pub(super) struct Success {
    body: Vec<u8>,
    coverage: Option<Covered>,
}

impl Success {
    pub(super) fn begin() -> Self {
        Self { body: b"{\"status\":\"success\",\"data\":".to_vec(), coverage: None }
    }

    /// What the answer is made of, if a fan-out said.
    pub(super) fn covering(self, coverage: Option<Covered>) -> Self {
        Self { coverage, ..self }
    }

    /// Where `data` goes, as one JSON value.
    pub(super) fn data(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    /// Closes the answer. `more` are members beside `data`, with the comma before each.
    pub(super) fn finish(mut self, warnings: &[String], infos: &[String], more: &[u8]) -> Finished {
        let coverage = self.coverage;
        let is_partial = write_end(&mut self.body, warnings, infos, coverage.as_ref(), more);
        Finished {
            body: self.body,
            rest: None,
            is_partial,
            coverage: coverage.map(|all| all.coverage.header()),
        }
    }

    /// Closes an answer whose `data` goes on with `pieces`, which are written when they are sent, and ends with `end`.
    pub(super) fn finish_in_pieces(
        self,
        pieces: impl Iterator<Item = Vec<u8>> + Send + 'static,
        mut end: Vec<u8>,
        warnings: &[String],
        infos: &[String],
    ) -> Finished {
        let coverage = self.coverage;
        let is_partial = write_end(&mut end, warnings, infos, coverage.as_ref(), b"");
        let rest = Some(Box::new(pieces.chain([end])) as Pieces);
        Finished { body: self.body, rest, is_partial, coverage: coverage.map(|all| all.coverage.header()) }
    }
}

/// Appends what comes after `data`; whether the answer lacks data.
fn write_end(
    body: &mut Vec<u8>,
    warnings: &[String],
    infos: &[String],
    coverage: Option<&Covered>,
    more: &[u8],
) -> bool {
    for (name, texts) in [("warnings", warnings), ("infos", infos)] {
        if !texts.is_empty() {
            body.push(b',');
            write_string(body, name);
            body.push(b':');
            write_strings(body, texts);
        }
    }
    if let Some(coverage) = coverage {
        body.extend_from_slice(b",\"coverage\":");
        write_coverage(body, coverage);
    }
    body.extend_from_slice(more);
    body.push(b'}');
    warnings.iter().any(|warning| !warning.starts_with(ENGINE_WARNING_PREFIX))
}

/// What is still to be made of an answer.
type Pieces = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// The pieces of an answer, made on the threads that may block, some at a time: while some are sent the next ones are made. None is held up by a client
/// that reads slowly, for a thread makes a few and is done.
struct Ahead {
    ready: std::vec::IntoIter<Vec<u8>>,
    /// `None` once it broke off.
    making: Option<JoinHandle<(Vec<Vec<u8>>, Pieces)>>,
}

impl Ahead {
    /// How many are made at a time.
    const PIECES: usize = 8;

    fn begin(first: Vec<u8>, rest: Pieces) -> Self {
        Self { ready: vec![first].into_iter(), making: Some(Self::make(rest)) }
    }

    fn make(mut rest: Pieces) -> JoinHandle<(Vec<Vec<u8>>, Pieces)> {
        tokio::task::spawn_blocking(move || (rest.by_ref().take(Self::PIECES).collect(), rest))
    }

    /// The next piece; an error if the making of it broke off, so that what was sent is not taken for the whole.
    async fn next(mut self) -> Option<(Result<Vec<u8>, JoinError>, Self)> {
        if let Some(piece) = self.ready.next() {
            return Some((Ok(piece), self));
        }
        match self.making.take()?.await {
            Ok((made, rest)) => {
                self.ready = made.into_iter();
                let piece = self.ready.next()?;
                self.making = Some(Self::make(rest));
                Some((Ok(piece), self))
            }
            Err(error) => Some((Err(error), self)),
        }
    }
}

/// A whole answer, ready to be sent.
pub(super) struct Finished {
    body: Vec<u8>,
    /// What follows, made while what comes before it is sent.
    rest: Option<Pieces>,
    is_partial: bool,
    /// The response header of what it is made of.
    coverage: Option<String>,
}

/// Names the state of the answer and the clusters that are not complete.
const COVERAGE_HEADER: HeaderName = HeaderName::from_static("parallax-coverage");

impl IntoResponse for Finished {
    fn into_response(self) -> Response {
        let body = match self.rest {
            None => Body::from(Bytes::from(self.body)),
            Some(rest) => {
                Body::from_stream(futures::stream::unfold(Ahead::begin(self.body, rest), Ahead::next))
            }
        };
        let mut response = json_response(StatusCode::OK, body, self.is_partial);
        if let Some(value) = self.coverage.and_then(|text| HeaderValue::try_from(text).ok()) {
            response.headers_mut().insert(COVERAGE_HEADER, value);
        }
        response
    }
}

fn json_response(status: StatusCode, body: Body, is_uncacheable: bool) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_uncacheable {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// For paths below the API that do not exist.
pub(super) async fn not_found(uri: http::Uri) -> Response {
    ApiError::new(ErrorKind::NotFound, format!("there is no {}", uri.path())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(pieces: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Result<Vec<u8>, axum::Error> {
        let finished =
            Success::begin().finish_in_pieces(pieces, b"]".to_vec(), &["PromQL warning: x".to_owned()], &[]);
        let response = finished.into_response();
        assert_eq!(response.status(), StatusCode::OK);
        axum::body::to_bytes(response.into_body(), usize::MAX).await.map(Vec::from)
    }

    #[tokio::test]
    async fn pieces_come_in_order_and_the_end_after_them() {
        for count in [0, 1, Ahead::PIECES - 1, Ahead::PIECES, 3 * Ahead::PIECES + 1] {
            let pieces: Vec<Vec<u8>> = (0..count).map(|number| format!("{number},").into_bytes()).collect();
            let list = String::from_utf8(pieces.concat()).unwrap();
            let wanted =
                format!("{{\"status\":\"success\",\"data\":{list}],\"warnings\":[\"PromQL warning: x\"]}}");
            assert_eq!(String::from_utf8(body(pieces.into_iter()).await.unwrap()).unwrap(), wanted);
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_whole_answer() {
        let pieces = (0..40).map(|number| if number < 30 { vec![b'x'] } else { panic!("as a defect would") });
        assert!(body(pieces).await.is_err());
    }
}
