//! The authorization of requests.
//!
//! Invariants: secrets do not show in `Debug`, and the header is marked sensitive. A secret in a file follows the file: it is read again when it is
//! [`REREAD_INTERVAL`] old, and at once after the server refused it. While the file cannot be read, the last secret stays.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;

/// How long a secret that was read from a file is used.
const REREAD_INTERVAL: Duration = Duration::from_secs(10);
/// Largest file of a secret.
const MAX_SECRET_BYTES: usize = 64 << 10;

/// How requests are authorized.
#[derive(Clone, Default)]
pub enum HttpAuth {
    #[default]
    None,
    /// RFC 7617.
    Basic { username: String, password: Secret },
    /// RFC 6750.
    Bearer { token: Secret },
}

/// A password or token.
#[derive(Clone)]
pub enum Secret {
    Text(String),
    /// White space at the end does not count.
    File(PathBuf),
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Secret {
    fn read(&self) -> Result<String, String> {
        let path = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if text.len() > MAX_SECRET_BYTES {
            return Err(format!("{}: larger than {MAX_SECRET_BYTES} bytes", path.display()));
        }
        Ok(text.trim_end().to_owned())
    }
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
    fn is_in_file(&self) -> bool {
        let (Self::Basic { password: secret, .. } | Self::Bearer { token: secret }) = self else {
            return false;
        };
        matches!(secret, Secret::File(_))
    }

    /// The value of the `Authorization` header. Errors: the file cannot be read; it holds a character that a header cannot.
    fn header(&self) -> Result<Option<HeaderValue>, String> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Basic { username, .. } if username.contains(':') => {
                return Err("a user name for basic authorization cannot contain ':'".to_owned());
            }
            Self::Basic { username, password } => {
                format!("Basic {}", base64(format!("{username}:{}", password.read()?).as_bytes()))
            }
            Self::Bearer { token } => format!("Bearer {}", token.read()?),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "the authorization holds a character that a header cannot".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// The current header of an [`HttpAuth`]. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    auth: HttpAuth,
    current: Arc<Mutex<Current>>,
}

#[derive(Debug)]
struct Current {
    header: Option<HeaderValue>,
    /// When the file is read again; `None` if there is none.
    stale_at: Option<Instant>,
}

impl Authorization {
    /// Errors: as [`HttpAuth::header`].
    pub(super) fn new(auth: HttpAuth) -> Result<Self, String> {
        let header = auth.header()?;
        let stale_at = auth.is_in_file().then(|| Instant::now() + REREAD_INTERVAL);
        Ok(Self { auth, current: Arc::new(Mutex::new(Current { header, stale_at })) })
    }

    /// The header to send now.
    pub(super) async fn header(&self) -> Option<HeaderValue> {
        {
            let mut current = self.current();
            let now = Instant::now();
            if current.stale_at.is_none_or(|at| now < at) {
                return current.header.clone();
            }
            // Others go on with the old one meanwhile.
            current.stale_at = Some(now + REREAD_INTERVAL);
        }
        let auth = self.auth.clone();
        let read = tokio::task::spawn_blocking(move || auth.header()).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let mut current = self.current();
        match read {
            Ok(header) => current.header = header,
            Err(reason) => {
                tracing::warn!(reason, "the secret cannot be read again; the last one stays in use");
            }
        }
        current.header.clone()
    }

    /// The server refused it: perhaps there is a newer one.
    pub(super) fn refused(&self) {
        let mut current = self.current();
        if current.stale_at.is_some() {
            current.stale_at = Some(Instant::now());
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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
        let auth = HttpAuth::Bearer { token: "s3cret".into() };
        assert!(!format!("{auth:?} {:?}", auth.header()).contains("s3cret"));
    }

    #[test]
    fn a_line_break_in_a_token_is_an_error() {
        assert!(HttpAuth::Bearer { token: "a\nb".into() }.header().is_err());
    }

    #[tokio::test]
    async fn a_secret_in_a_file_is_read_again_when_it_is_refused_or_old_and_survives_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(Authorization::new(HttpAuth::Bearer { token: Secret::File(path.clone()) }).is_err());
        std::fs::write(&path, "one\n").unwrap();
        let authorization =
            Authorization::new(HttpAuth::Bearer { token: Secret::File(path.clone()) }).unwrap();
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(authorization.header().await.unwrap(), "Bearer one");
        authorization.refused();
        assert_eq!(authorization.header().await.unwrap(), "Bearer two");
        std::fs::write(&path, "three").unwrap();
        authorization.current().stale_at = Some(Instant::now());
        assert_eq!(authorization.clone().header().await.unwrap(), "Bearer three");
        std::fs::remove_file(&path).unwrap();
        authorization.refused();
        assert_eq!(authorization.header().await.unwrap(), "Bearer three");
    }
}
