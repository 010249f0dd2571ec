//! Transport errors as gRPC statuses: the address, and the cause in words.

use std::error::Error as StdError;

use http_body_util::BodyExt as _;
use parallax_pki::explain::{chain_text, find};
use tonic::body::Body;
use tonic::{Code, Status, TimeoutExpired};

use super::connector::ConnectFailure;
use super::health::Health;

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
