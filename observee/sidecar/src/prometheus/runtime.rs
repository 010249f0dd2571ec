//! Prometheus as a process: its runtime information, and the request to read its configuration again.

use bytes::Bytes;
use serde::Deserialize;
use std::time::Duration;

use super::Prometheus;
use crate::SidecarError;

/// What is used of `/api/v1/status/runtimeinfo`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuntimeInfo {
    /// Whether the last reload was successful.
    pub reload_config_success: bool,
    /// When the last successful one was.
    pub last_config_time: jiff::Timestamp,
    /// What limits the storage: `15d`, `10GiB`, or `15d or 10GiB`.
    #[serde(default)]
    storage_retention: String,
}

impl RuntimeInfo {
    /// How long samples are kept; `None` where only the size limits them.
    pub fn retention(&self) -> Option<Duration> {
        let millis = self.storage_retention.split(" or ").find_map(parallax_model::parse_duration_ms)?;
        u64::try_from(millis).ok().filter(|millis| *millis > 0).map(Duration::from_millis)
    }
}

impl Prometheus {
    pub async fn runtime_info(&self) -> Result<RuntimeInfo, SidecarError> {
        self.get_json("/api/v1/status/runtimeinfo", &[]).await
    }

    /// `POST /-/reload`; comes back when Prometheus has its configuration loaded.
    ///
    /// # Errors
    /// [`SidecarError::Reload`] with Prometheus' own reason if it refuses or could not load the configuration.
    pub async fn reload(&self) -> Result<(), SidecarError> {
        const PATH: &str = "/-/reload";
        let response =
            self.http.post_bytes(PATH, &[], Bytes::new()).await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status().as_u16();
        let body = response.text_prefix(super::MAX_ERROR_BYTES).await;
        let hint = if matches!(status, 403..=405) { "; it needs --web.enable-lifecycle" } else { "" };
        let reason = format!("{PATH} answered {status}: {}{hint}", body.trim());
        Err(SidecarError::Reload { url: self.url.clone(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retention_is_the_part_that_is_a_time() {
        let info = |text: &str| RuntimeInfo {
            reload_config_success: true,
            last_config_time: jiff::Timestamp::UNIX_EPOCH,
            storage_retention: text.to_owned(),
        };
        let day = Duration::from_secs(86_400);
        assert_eq!(info("15d").retention(), Some(15 * day));
        assert_eq!(info("15d or 10GiB").retention(), Some(15 * day));
        assert_eq!(info("10GiB").retention(), None);
        assert_eq!(info("").retention(), None);
        assert_eq!(info("0s").retention(), None);
    }
}
