//! Base URLs, and the encoding of queries and forms.

use std::fmt;

use crate::Error;

/// A URL without query, whose path has no trailing slash.
#[derive(Clone, Debug)]
pub(super) struct BaseUrl {
    text: String,
    pub(super) https: bool,
    pub(super) host: String,
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl BaseUrl {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::Address { address: redacted(text), reason: reason.to_owned() };
        let uri: http::Uri = text.parse().map_err(|_| refuse("it is not a URL"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it must not hold a user name or password"));
        }
        if uri.query().is_some() {
            return Err(refuse("it must not hold a query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(refuse("it has no host"));
        }
        Ok(Self { text: text.trim_end_matches('/').to_owned(), https, host })
    }

    /// `path` begins with `/`; one that does not gets it.
    pub(super) fn join(&self, path: &str) -> String {
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{}{slash}{path}", self.text)
    }
}

/// What an error shows of a URL that may hold a password.
fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    }
}

/// `a=b&c=d`, as `application/x-www-form-urlencoded` says (spaces as `%20`, which every reader takes).
pub(super) fn encode_pairs(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        encode(&mut text, name);
        text.push('=');
        encode(&mut text, value);
    }
    text
}

fn encode(text: &mut String, raw: &str) {
    use std::fmt::Write as _;
    for byte in raw.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_below_the_prefix() {
        let base = BaseUrl::parse("http://prometheus:9090/prom/").unwrap();
        assert_eq!(base.join("/api/v1/read"), "http://prometheus:9090/prom/api/v1/read");
        assert_eq!(BaseUrl::parse("http://[::1]:9090").unwrap().host, "::1");
    }

    #[test]
    fn pairs_are_escaped() {
        let pairs = [("match[]", "{a=\"ü b\"}"), ("x", "1+1")];
        assert_eq!(encode_pairs(&pairs), "match%5B%5D=%7Ba%3D%22%C3%BC%20b%22%7D&x=1%2B1");
    }

    #[test]
    fn urls_that_are_not_bases_are_refused_without_showing_a_password() {
        for text in ["prometheus:9090", "ftp://x", "http://", "http://u:p@x:1", "http://x/?a=b"] {
            let error = BaseUrl::parse(text).unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
