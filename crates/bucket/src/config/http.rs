//! `http_config`: the timeouts, connections and TLS of a cloud's client, with Thanos' keys and defaults.
//!
//! Source: Thanos `docs/storage.md` and Prometheus' `tls_config`. As there, a `ca_file` replaces the system's authorities.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::invalid;
use crate::BucketError;

/// How to talk to a cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// From sending a request to the headers of its answer; larger uploads get more.
    pub response_timeout: Duration,
    /// For TCP and TLS together.
    pub handshake_timeout: Duration,
    pub max_idle_per_host: usize,
    /// Requests at a time; `None` is no bound.
    pub max_connections: Option<usize>,
    pub tls: TlsConfig,
}

/// Whom to trust, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The only authorities, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A client certificate and its key: both or neither.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Looked for in the server's certificate instead of the endpoint's host.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(90),
            response_timeout: Duration::from_secs(120),
            handshake_timeout: Duration::from_secs(10),
            max_idle_per_host: 100,
            max_connections: None,
            tls: TlsConfig::default(),
        }
    }
}

/// `http_config` as written. `expect_continue_timeout`, `max_idle_conns` and `disable_compression` have nothing to change here: no
/// request waits for a "100 Continue", one host is asked, and nothing is asked for compressed.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct HttpSection {
    idle_conn_timeout: Option<DurationText>,
    response_header_timeout: Option<DurationText>,
    insecure_skip_verify: Option<bool>,
    tls_handshake_timeout: Option<DurationText>,
    max_idle_conns_per_host: Option<u32>,
    max_conns_per_host: Option<u32>,
    tls_config: Option<TlsSection>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TlsSection {
    ca_file: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    server_name: Option<String>,
    insecure_skip_verify: Option<bool>,
}

impl HttpSection {
    pub(super) fn resolve(self) -> Result<HttpConfig, BucketError> {
        let defaults = HttpConfig::default();
        let tls = self.tls_config.unwrap_or_default();
        let file = |text: Option<String>| text.filter(|text| !text.is_empty()).map(PathBuf::from);
        let identity = match (file(tls.cert_file), file(tls.key_file)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(invalid("http_config.tls_config has a cert_file but no key_file"));
            }
            (None, Some(_)) => {
                return Err(invalid("http_config.tls_config has a key_file but no cert_file"));
            }
        };
        let or = |value: Option<DurationText>, default: Duration| {
            // Zero means without limit in Go; here every wait has one.
            value.map(|value| value.0).filter(|value| !value.is_zero()).unwrap_or(default)
        };
        Ok(HttpConfig {
            idle_timeout: or(self.idle_conn_timeout, defaults.idle_timeout),
            response_timeout: or(self.response_header_timeout, defaults.response_timeout),
            handshake_timeout: or(self.tls_handshake_timeout, defaults.handshake_timeout),
            max_idle_per_host: self
                .max_idle_conns_per_host
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| *count > 0)
                .unwrap_or(defaults.max_idle_per_host),
            max_connections: self
                .max_conns_per_host
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| *count > 0),
            tls: TlsConfig {
                ca_file: file(tls.ca_file),
                identity,
                server_name: tls.server_name.filter(|name| !name.is_empty()),
                insecure_skip_verify: self.insecure_skip_verify.unwrap_or(false)
                    || tls.insecure_skip_verify.unwrap_or(false),
            },
        })
    }
}

/// A duration as Prometheus writes them: `1m30s`, `500ms`, `0`.
#[derive(Clone, Copy)]
pub(super) struct DurationText(pub(super) Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is no duration; write it as 90s, 1m30s or 500ms"))
        })
    }
}

pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms = match rest.get(..letters)? {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        rest = rest.get(letters..)?;
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_prometheus_durations() {
        for (text, ms) in [("1m30s", 90_000), ("500ms", 500), ("0", 0), ("0s", 0), ("2h", 7_200_000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "1", "s", "1x", "-1s", "1s5", "99999999999999999999s", "9999999999999999y"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
