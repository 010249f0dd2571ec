//! What a store's answer means: its errors sorted into ours, with what to do about them.
//!
//! The clouds answer with a code in XML; `object_store` passes it on as text. Texts are cut to a line: a proxy's error page may be long.

use object_store::Error;

use crate::BucketError;

/// Longest text taken from a store's answer.
const MAX_TEXT_CHARS: usize = 300;

pub(crate) fn failed<'a>(
    bucket: &'a str,
    operation: &'static str,
    object: &'a str,
) -> impl Fn(Error) -> BucketError + use<'a> {
    move |source| explain(bucket, operation, object, source)
}

fn explain(bucket: &str, operation: &'static str, object: &str, source: Error) -> BucketError {
    let text = crate::client::chain(&source);
    let code = between(&text, "<Code>", "</Code>").unwrap_or_default();
    if matches!(code, "NoSuchBucket" | "ContainerNotFound")
        || text.contains("specified bucket does not exist")
    {
        return BucketError::MissingBucket { bucket: bucket.to_owned() };
    }
    let advice = ADVICE.iter().find(|(known, _)| *known == code).map(|(_, advice)| *advice);
    let denied = matches!(source, Error::PermissionDenied { .. } | Error::Unauthenticated { .. });
    if denied || advice.is_some() {
        let what = if code.is_empty() { "access denied" } else { code };
        let advice =
            advice.unwrap_or("check the credentials in --objstore.config and what they are allowed to do");
        let region =
            between(&text, "<Region>", "</Region>").map(|r| format!(" (the bucket's region is {r})"));
        return BucketError::Denied {
            bucket: bucket.to_owned(),
            operation,
            object: object.to_owned(),
            reason: format!("{what}: {advice}{}", region.unwrap_or_default()),
        };
    }
    match source {
        Error::NotFound { .. } => BucketError::NotFound { object: object.to_owned() },
        // Amazon's answer to writes that race: this one was not done, and the other may fail yet.
        Error::AlreadyExists { .. } if code == "ConditionalRequestConflict" => BucketError::Condition {
            object: object.to_owned(),
            reason: "another conditional write of it is under way",
        },
        Error::AlreadyExists { .. } => {
            BucketError::Condition { object: object.to_owned(), reason: "it exists already" }
        }
        Error::Precondition { .. } => {
            BucketError::Condition { object: object.to_owned(), reason: "it has changed since it was read" }
        }
        source => BucketError::Store {
            bucket: bucket.to_owned(),
            operation,
            object: object.to_owned(),
            source: Box::new(source),
        },
    }
}

/// What to do, by the code of the answer. Sources: the error lists of S3 and of Azure Blob storage.
const ADVICE: &[(&str, &str)] = &[
    (
        "SignatureDoesNotMatch",
        "the secret key does not belong to the access key: check secret_key in --objstore.config, or where else the keys \
         come from",
    ),
    (
        "InvalidAccessKeyId",
        "the store does not know this access key: check access_key, and that endpoint is the right store",
    ),
    (
        "AccessDenied",
        "these credentials may not do this: they need ListBucket, GetObject, PutObject and DeleteObject",
    ),
    ("ExpiredToken", "the session token has expired: renew session_token"),
    ("InvalidToken", "the session token is not valid: check session_token"),
    ("RequestTimeTooSkewed", "this machine's clock is too far from the store's: set the clock"),
    (
        "AuthorizationHeaderMalformed",
        "the request is signed for another region: set region in --objstore.config",
    ),
    ("PermanentRedirect", "the bucket is at another endpoint: set region and endpoint in --objstore.config"),
    (
        "AuthenticationFailed",
        "the store does not accept these credentials: check storage_account_key and the clock",
    ),
    (
        "AuthorizationPermissionMismatch",
        "this identity needs the role Storage Blob Data Contributor (or Reader)",
    ),
    ("AuthorizationFailure", "the storage account does not let this network or identity in"),
];

/// An error in one line: the code and message of a store's XML where there are any.
pub(crate) fn brief(error: &Error) -> String {
    if let Error::Generic { source, .. } = error {
        return shorten(&crate::client::chain(source.as_ref()));
    }
    shorten(&crate::client::chain(error))
}

fn shorten(text: &str) -> String {
    let mut line =
        match (between(text, "<Code>", "</Code>"), text.find("<?xml").or_else(|| text.find("<Error"))) {
            (Some(code), Some(start)) => {
                let message = between(text, "<Message>", "</Message>").unwrap_or_default();
                format!("{}{code} {message}", text.get(..start).unwrap_or_default())
            }
            _ => text.to_owned(),
        };
    line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_TEXT_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(start)?;
    let (inner, _) = rest.split_once(end)?;
    (inner.len() < MAX_TEXT_CHARS).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> Error {
        Error::Generic { store: "S3", source: format!("Server returned 500: {body}").into() }
    }

    #[test]
    fn a_code_becomes_advice() {
        let body = "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        let text = explain("b", "get", "x", error(body)).to_string();
        assert!(
            text.contains("bucket b") && text.contains("set region") && text.contains("eu-west-1"),
            "{text}"
        );
        let missing = explain("b", "iter", "", error("<Error><Code>NoSuchBucket</Code></Error>"));
        assert!(matches!(missing, BucketError::MissingBucket { bucket } if bucket == "b"));
    }

    #[test]
    fn long_answers_are_cut_to_a_line() {
        let text = brief(&error(&"<html>\n".repeat(1000)));
        assert!(text.chars().count() <= MAX_TEXT_CHARS + 1 && !text.contains('\n'), "{text}");
        let xml = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce</Message><HostId>h</HostId></Error>";
        assert_eq!(brief(&error(xml)), "Server returned 500: SlowDown Reduce");
    }
}
