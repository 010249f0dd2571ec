//! Transport errors as gRPC statuses: the address, and the cause in words.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use parallax_pki::explain::{chain_text, find};
use tonic::body::Body;
use tonic::{Code, Status, TimeoutExpired};

use super::connector::ConnectFailure;
use super::health::Health;

/// How much of a page that is no gRPC is read, and for how long.
const MAX_PAGE_BYTES: usize = 4096;
const PAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// The status of a call that got no answer. `Unavailable`, unless its deadline passed or HTTP/2 says otherwise (cancelled, refused as too much).
pub(super) fn from_transport(address: &str, health: &Health, error: &(dyn StdError + 'static)) -> Status {
    if let Some(failure) = find::<ConnectFailure>(error) {
        return Status::unavailable(format!("{address}: {failure}"));
    }
    if find::<TimeoutExpired>(error).is_some() {
        return Status::deadline_exceeded(format!("{address}: no answer within the call's deadline"));
    }
    if let Some(failure) = health.failure() {
        return Status::unavailable(format!("{address}: {}", failure.text));
    }
    let text = format!("{address}: {}", chain_text(error));
    match find::<Status>(error).map(Status::code) {
        Some(code) if !is_vague(code) => Status::new(code, text),
        _ => Status::unavailable(text),
    }
}

/// True if the connection went away under the call (GOAWAY, closed, reset), so that another one may do better. False if connecting itself failed.
pub(super) fn is_lost_connection(error: &(dyn StdError + 'static)) -> bool {
    find::<ConnectFailure>(error).is_none() && find::<hyper::Error>(error).is_some()
}

/// The status for an answer that is no gRPC: a proxy in between, or another server, speaks plain HTTP. `None` for gRPC.
///
/// The page's title goes into the text, for that is where an ingress says what it wants (nginx: "No required SSL certificate
/// was sent").
pub(super) async fn from_plain_http(
    response: http::Response<Body>,
    address: &str,
) -> Result<http::Response<Body>, Status> {
    let kind = response
        .headers()
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    if response.status() == http::StatusCode::OK && kind.starts_with("application/grpc") {
        return Ok(response);
    }
    let status = response.status();
    let reading = Limited::new(response.into_body(), MAX_PAGE_BYTES).collect();
    let page = match tokio::time::timeout(PAGE_TIMEOUT, reading).await {
        Ok(Ok(page)) => page.to_bytes(),
        _ => Bytes::new(),
    };
    let title = title(&String::from_utf8_lossy(&page)).map(|title| format!(" ({title})")).unwrap_or_default();
    let behind =
        matches!(status.as_u16(), 502..=504).then_some("; nothing answers behind it").unwrap_or_default();
    let text = format!("{address}: the ingress answered HTTP {status}{title} instead of gRPC{behind}");
    Err(match status.as_u16() {
        401 => Status::unauthenticated(text),
        403 => Status::permission_denied(text),
        404 => Status::unimplemented(text),
        _ => Status::unavailable(text),
    })
}

/// What stands between `<title>` and `</title>`, if it adds something to the HTTP status.
fn title(page: &str) -> Option<&str> {
    let (_, after) = page.split_once("<title>")?;
    let (title, _) = after.split_once("</title>")?;
    Some(title.trim()).filter(|title| !title.is_empty() && title.len() <= 200)
}

/// Puts the address, and the cause in words, into errors that come while the body is read.
pub(super) fn with_address(response: http::Response<Body>, address: &str) -> http::Response<Body> {
    let address = address.to_owned();
    response.map(|body| {
        Body::new(body.map_err(move |status| {
            if status.source().is_none() {
                return status;
            }
            let text = match find::<ConnectFailure>(&status) {
                Some(failure) => format!("{address}: {failure}"),
                None => format!("{address}: {}", chain_text(&status)),
            };
            let lost = status.source().is_some_and(|source| find::<std::io::Error>(source).is_some());
            if lost || status.code() == Code::Unknown {
                Status::unavailable(text)
            } else {
                Status::new(status.code(), text)
            }
        }))
    })
}

fn is_vague(code: Code) -> bool {
    matches!(code, Code::Ok | Code::Unknown | Code::Internal)
}
