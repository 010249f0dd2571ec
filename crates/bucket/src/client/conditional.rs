//! Conditional writes: sent once, unless it is certain that nobody saw them.
//!
//! Of a write "if there is none" or "if it is unchanged" that is repeated, the second attempt meets what the first has written, and the writer
//! takes its own success for somebody else's. `object_store` repeats after a 5xx; so here such an answer becomes an error that nobody repeats, and
//! that says that the outcome is not known.

use hyper::body::Incoming;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest};

use super::Failure;

/// What makes a write conditional, at the clouds that we speak to.
const CONDITIONS: [&str; 3] = ["if-none-match", "if-match", "x-goog-if-generation-match"];

pub(super) fn is_conditional_write(request: &HttpRequest) -> bool {
    request.method() == http::Method::PUT
        && CONDITIONS.iter().any(|name| request.headers().contains_key(*name))
}

/// The outcome of a conditional write, such that it is only repeated if the server has not seen it.
pub(super) fn once(
    host: &str,
    result: Result<http::Response<Incoming>, HttpError>,
) -> Result<http::Response<Incoming>, HttpError> {
    match result {
        // It knows no such writes: nothing was written, and nothing will be.
        Ok(response) if response.status() == http::StatusCode::NOT_IMPLEMENTED => Ok(response),
        Ok(response) if response.status().is_server_error() => {
            let text = format!("{host} answered {}", response.status());
            Err(HttpError::new(HttpErrorKind::Unknown, Failure::sent(text)))
        }
        Ok(response) => Ok(response),
        Err(error) if error.kind() == HttpErrorKind::Connect => Err(error),
        Err(error) => {
            let is_sent = Failure::in_chain(&error).is_none_or(|failure| failure.is_sent);
            Err(HttpError::new(HttpErrorKind::Unknown, Failure { text: error.to_string(), is_sent }))
        }
    }
}

/// Whether a store may have done what it reports as failed. In doubt it may.
pub(crate) fn may_have_acted(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else {
        return matches!(error, object_store::Error::JoinError { .. });
    };
    match Failure::in_chain(source.as_ref()) {
        Some(failure) => failure.is_sent,
        // A refusal that was understood: `object_store` keeps the status in the text only.
        None => {
            let text = super::chain(source.as_ref());
            !REFUSED.iter().any(|status| text.contains(status))
        }
    }
}

/// How `object_store` begins to name a status between 400 and 499, and the one that says that there are no such writes.
const REFUSED: [&str; 2] = ["non-2xx status code: 4", "non-2xx status code: 501"];

#[cfg(test)]
mod tests {
    use super::*;

    fn error(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    #[test]
    fn only_what_certainly_did_not_arrive_or_was_refused_has_not_acted() {
        let http = |failure| HttpError::new(HttpErrorKind::Unknown, failure);
        assert!(may_have_acted(&error(http(Failure::sent("500".to_owned())))));
        assert!(!may_have_acted(&error(http(Failure::unsent("refused".to_owned())))));
        assert!(may_have_acted(&error("who knows")));
        assert!(!may_have_acted(&error("Server returned non-2xx status code: 429 Too Many Requests: ")));
        let exists = object_store::Error::AlreadyExists { path: "x".to_owned(), source: "412".into() };
        assert!(!may_have_acted(&exists));
    }
}
