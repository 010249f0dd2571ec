//! The authorization of requests.
//!
//! Invariant: secrets do not show in `Debug`, and the header is marked sensitive.

use http::HeaderValue;

/// How requests are authorized.
#[derive(Clone, Default)]
pub enum HttpAuth {
    #[default]
    None,
    /// RFC 7617.
    Basic { username: String, password: String },
    /// RFC 6750.
    Bearer { token: String },
}

impl std::fmt::Debug for HttpAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic",
            Self::Bearer { .. } => "Bearer",
        })
    }
}

impl HttpAuth {
    /// The value of the `Authorization` header. Errors: it holds a character that a header cannot.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, &'static str> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Basic { username, .. } if username.contains(':') => {
                return Err("a user name for basic authorization cannot contain ':'");
            }
            Self::Basic { username, password } => {
                format!("Basic {}", base64(format!("{username}:{password}").as_bytes()))
            }
            Self::Bearer { token } => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "the authorization holds a character that a header cannot")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| group.get(index).copied().map_or(0, u32::from);
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            if index > group.len() {
                text.push('=');
            } else {
                let sextet = (bits >> (18 - 6 * index)) & 0x3f;
                text.push(ALPHABET.get(sextet as usize).copied().map_or('=', char::from));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_vectors_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let auth = HttpAuth::Bearer { token: "s3cret".to_owned() };
        assert!(!format!("{auth:?} {:?}", auth.header()).contains("s3cret"));
    }

    #[test]
    fn a_line_break_in_a_token_is_an_error() {
        assert!(HttpAuth::Bearer { token: "a\nb".to_owned() }.header().is_err());
    }
}
