//! What a sidecar asks of Prometheus: its configuration, its labels, (in `remote_read`) its samples, and (in the other modules) what it knows beside them.
//!
//! Every call is bounded in time by the HTTP client and in size here. Nothing is cached: `state` does that.

mod exemplars;
mod json;
mod metric_metadata;
pub mod remote_read;
mod rules;
mod runtime;
mod targets;
mod tsdb_status;

use std::collections::BTreeMap;

use bytes::Bytes;
use parallax_model::{Labels, Matcher};
use parallax_net::{HttpClient, HttpResponse};
use parallax_storeapi::matchers::{is_plain_name, selector};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::SidecarError;

/// The largest JSON answer that is read.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How much of an error's body goes into the message.
const MAX_ERROR_BYTES: usize = 2048;
/// Answers beyond this are parsed off the I/O threads.
const MAX_INLINE_PARSE_BYTES: usize = 128 << 10;
/// Parameters beyond this go into a request's body, where the call allows it: URLs are limited on the way, at the latest at 64 KiB.
const MAX_URL_PARAMETERS_BYTES: usize = 4 << 10;

/// One Prometheus server.
#[derive(Clone)]
pub struct Prometheus {
    url: String,
    http: HttpClient,
}

/// Prometheus' flags that concern a shipper.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Flags {
    #[serde(rename = "storage.tsdb.min-block-duration")]
    pub min_block_duration: String,
    #[serde(rename = "storage.tsdb.max-block-duration")]
    pub max_block_duration: String,
    #[serde(rename = "storage.tsdb.delay-compact-file.path")]
    pub delay_compact_file: String,
    /// Prometheus' data directory as it sees it itself; a sidecar may have it mounted elsewhere.
    #[serde(rename = "storage.tsdb.path")]
    pub data_directory: String,
}

/// Every JSON answer of Prometheus' API.
#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct ConfigAnswer {
    yaml: String,
}

/// The part of Prometheus' configuration file that matters here; unknown keys are Prometheus' business.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    global: GlobalSection,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GlobalSection {
    external_labels: BTreeMap<String, String>,
}

impl Prometheus {
    pub fn new(url: impl Into<String>, http: HttpClient) -> Self {
        Self { url: url.into(), http }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Prometheus' version, which shows that it answers at all.
    pub async fn version(&self) -> Result<String, SidecarError> {
        #[derive(Deserialize)]
        struct BuildInfo {
            version: String,
        }
        let info: BuildInfo = self.get_json("/api/v1/status/buildinfo", &[]).await?;
        Ok(info.version)
    }

    pub async fn flags(&self) -> Result<Flags, SidecarError> {
        self.get_json("/api/v1/status/flags", &[]).await
    }

    /// The external labels of the running configuration.
    ///
    /// # Errors
    /// [`SidecarError::NoExternalLabels`] if there are none: series of several servers could not be told apart.
    pub async fn external_labels(&self) -> Result<Labels, SidecarError> {
        const PATH: &str = "/api/v1/status/config";
        let answer: ConfigAnswer = self.get_json(PATH, &[]).await?;
        let file: ConfigFile =
            serde_saphyr::from_str(&answer.yaml).map_err(|error| self.unreadable(PATH, error.to_string()))?;
        let labels = Labels::from_pairs(file.global.external_labels);
        if labels.is_empty() {
            return Err(SidecarError::NoExternalLabels { url: self.url.clone() });
        }
        Ok(labels)
    }

    /// The time of the oldest sample in milliseconds, or `None` while Prometheus has none.
    pub async fn lowest_timestamp_ms(&self) -> Result<Option<i64>, SidecarError> {
        const PATH: &str = "/metrics";
        const METRIC: &str = "prometheus_tsdb_lowest_timestamp_seconds ";
        let body = self.get_bytes(PATH, &[]).await?;
        let text = std::str::from_utf8(&body).map_err(|error| self.unreadable(PATH, error.to_string()))?;
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(METRIC)) else {
            return Err(self.unreadable(PATH, format!("no metric {}", METRIC.trim())));
        };
        let seconds: f64 = line
            .trim()
            .parse()
            .map_err(|_| self.unreadable(PATH, format!("{METRIC}has the value {line:?}")))?;
        // An empty TSDB reports the largest time there is. What is left fits into 64 bits.
        Ok((seconds.abs() < MAX_SECONDS).then_some((seconds * 1000.0).floor() as i64))
    }

    /// Names of labels, of the series that match (of all, if there are no matchers).
    pub async fn label_names(&self, call: &MetadataCall<'_>) -> Result<Vec<String>, SidecarError> {
        self.ask_json("/api/v1/labels", &call.parameters()).await
    }

    pub async fn label_values(
        &self,
        name: &str,
        call: &MetadataCall<'_>,
    ) -> Result<Vec<String>, SidecarError> {
        self.get_json(&format!("/api/v1/label/{}/values", path_label(name)), &call.parameters()).await
    }

    /// Labels of the series that match, without samples and without external labels; in no order.
    pub async fn series(&self, call: &MetadataCall<'_>) -> Result<Vec<Labels>, SidecarError> {
        let found: Vec<BTreeMap<String, String>> =
            self.ask_json("/api/v1/series", &call.parameters()).await?;
        Ok(found.into_iter().map(Labels::from_pairs).collect())
    }

    /// A GET, or a POST if the parameters are long.
    async fn ask_json<T>(&self, path: &str, parameters: &[(&str, String)]) -> Result<T, SidecarError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let body = self.ask_bytes(path, parameters).await?;
        self.parse(path, body).await
    }

    /// The same, where `null` is an answer.
    async fn ask_json_or_null<T>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Option<T>, SidecarError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let body = self.ask_bytes(path, parameters).await?;
        let envelope = self.parse_envelope(path, body).await?;
        if envelope.data.is_none() && !envelope.error.is_empty() {
            return Err(self.unreadable(path, envelope.error));
        }
        Ok(envelope.data)
    }

    async fn ask_bytes(&self, path: &str, parameters: &[(&str, String)]) -> Result<Bytes, SidecarError> {
        if parameters.iter().map(|(_, value)| value.len()).sum::<usize>() <= MAX_URL_PARAMETERS_BYTES {
            return self.get_bytes(path, parameters).await;
        }
        let sent = self.http.post_form(path, &borrowed(parameters)).await;
        self.body(path, sent).await
    }

    async fn get_json<T>(&self, path: &str, parameters: &[(&str, String)]) -> Result<T, SidecarError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let body = self.get_bytes(path, parameters).await?;
        self.parse(path, body).await
    }

    async fn get_bytes(&self, path: &str, parameters: &[(&str, String)]) -> Result<Bytes, SidecarError> {
        let sent = self.http.get(path, &borrowed(parameters)).await;
        self.body(path, sent).await
    }

    async fn body(
        &self,
        path: &str,
        sent: Result<HttpResponse, parallax_net::Error>,
    ) -> Result<Bytes, SidecarError> {
        let response = sent.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refused_by(path, response).await);
        }
        response.bytes(MAX_ANSWER_BYTES).await.map_err(|error| self.unreachable(&error))
    }

    async fn parse<T>(&self, path: &str, body: Bytes) -> Result<T, SidecarError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let envelope = self.parse_envelope(path, body).await?;
        envelope.data.ok_or_else(|| self.unreadable(path, envelope.error))
    }

    async fn parse_envelope<T>(&self, path: &str, body: Bytes) -> Result<Envelope<T>, SidecarError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let parsed = if body.len() <= MAX_INLINE_PARSE_BYTES {
            serde_json::from_slice::<Envelope<T>>(&body)
        } else {
            let parsing = tokio::task::spawn_blocking(move || serde_json::from_slice::<Envelope<T>>(&body));
            parsing.await.map_err(|error| self.unreadable(path, error.to_string()))?
        };
        parsed.map_err(|error| self.unreadable(path, error.to_string()))
    }

    async fn refused_by(&self, path: &str, response: HttpResponse) -> SidecarError {
        let status = response.status().as_u16();
        self.refused(path, status, response.text_prefix(MAX_ERROR_BYTES).await)
    }

    fn refused(&self, path: &str, status: u16, body: String) -> SidecarError {
        let (url, path, body) = (self.url.clone(), path.to_owned(), body.trim().to_owned());
        SidecarError::Refused { url, path, status, body }
    }

    fn unreachable(&self, error: &parallax_net::Error) -> SidecarError {
        SidecarError::Unreachable { url: self.url.clone(), reason: error.to_string() }
    }

    fn unreadable(&self, path: &str, reason: impl Into<String>) -> SidecarError {
        SidecarError::Unreadable { url: self.url.clone(), path: path.to_owned(), reason: reason.into() }
    }
}

fn borrowed<'a>(parameters: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    parameters.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Seconds beyond this are Prometheus' "no data yet" (the largest 64-bit millisecond).
const MAX_SECONDS: f64 = 9e15;

/// What the three metadata calls have in common.
pub struct MetadataCall<'a> {
    pub matchers: &'a [Matcher],
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    /// 0 is no limit. Servers before 2.54 do not know it and answer everything.
    pub limit: usize,
}

impl MetadataCall<'_> {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if !self.matchers.is_empty() {
            parameters.push(("match[]", selector(self.matchers)));
        }
        // Unset ends mean "all" to Prometheus; it cannot parse the extremes of 64-bit milliseconds.
        if self.min_time_ms > -MAX_METADATA_MS {
            parameters.push(("start", seconds(self.min_time_ms.min(MAX_METADATA_MS))));
        }
        if self.max_time_ms < MAX_METADATA_MS {
            parameters.push(("end", seconds(self.max_time_ms.max(-MAX_METADATA_MS))));
        }
        if self.limit > 0 {
            parameters.push(("limit", self.limit.to_string()));
        }
        parameters
    }
}

/// The year 9999 and its mirror: outside of it, a bound is no bound.
const MAX_METADATA_MS: i64 = 253_402_300_799_000;

fn seconds(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    let millis = millis.unsigned_abs();
    format!("{sign}{}.{:03}", millis / 1000, millis % 1000)
}

/// A label name as a path segment: Prometheus' `U__` escaping where it is not a plain name.
fn path_label(name: &str) -> String {
    if is_plain_name(name) {
        return name.to_owned();
    }
    let mut escaped = "U__".to_owned();
    for character in name.chars() {
        match character {
            '_' => escaped.push_str("__"),
            c if c.is_ascii_alphanumeric() => escaped.push(c),
            c => escaped.push_str(&format!("_{:x}_", c as u32)),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbounded_ends_are_left_out() {
        let call = MetadataCall { matchers: &[], min_time_ms: i64::MIN, max_time_ms: 1_500, limit: 0 };
        assert_eq!(call.parameters(), [("end", "1.500".to_owned())]);
    }

    #[test]
    fn times_before_1970_keep_their_milliseconds() {
        assert_eq!(
            [seconds(-1_500), seconds(-1), seconds(0), seconds(12_034)],
            ["-1.500", "-0.001", "0.000", "12.034"]
        );
    }

    #[test]
    fn odd_label_names_are_escaped_in_paths() {
        assert_eq!(path_label("job"), "job");
        assert_eq!(path_label("a.b_c"), "U__a_2e_b__c");
    }

    #[test]
    fn external_labels_keep_their_text() {
        let yaml = "global:\n  scrape_interval: 15s\n  external_labels:\n    version: 1.10\n    cluster: eu-1\nrule_files: []\n";
        let file: ConfigFile = serde_saphyr::from_str(yaml).unwrap();
        assert_eq!(file.global.external_labels["version"], "1.10");
        assert!(serde_saphyr::from_str::<ConfigFile>("{}").unwrap().global.external_labels.is_empty());
    }
}
