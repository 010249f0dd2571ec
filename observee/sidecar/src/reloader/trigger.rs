//! How Prometheus is made to read its configuration again, and how one knows that it did.
//!
//! Over HTTP the answer of `/-/reload` comes after the attempt and says how it went. A signal says nothing, so the runtime information of
//! before and after is compared, as Thanos does it.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::SidecarError;
use crate::prometheus::Prometheus;

/// How often Prometheus is asked whether a signal has had its effect.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How far apart two reloads have to be for Prometheus to show that there were two, and a little more.
const CONFIG_TIME_STEP_MS: u64 = 1_100;
/// What the kernel keeps of the name of a program.
const KEPT_NAME_BYTES: usize = 15;

/// How Prometheus is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadMethod {
    /// `POST /-/reload`; Prometheus needs `--web.enable-lifecycle`.
    Http,
    /// `SIGHUP` to the process of that name, in the same process namespace.
    Signal { process_name: String },
}

impl ReloadMethod {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Signal { .. } => "signal",
        }
    }

    /// Makes Prometheus reload, and waits until it has. The caller limits the time.
    ///
    /// # Errors
    /// With Prometheus' own reason where it gives one.
    pub(super) async fn trigger(&self, prometheus: &Prometheus) -> Result<(), SidecarError> {
        match self {
            Self::Http => prometheus.reload().await,
            Self::Signal { process_name } => by_signal(prometheus, process_name).await,
        }
    }
}

async fn by_signal(prometheus: &Prometheus, name: &str) -> Result<(), SidecarError> {
    let before = prometheus.runtime_info().await?;
    // Prometheus tells the time of its last reload in whole seconds: a second one in the same second could not be told from it.
    let now = jiff::Timestamp::now();
    let since_ms = now.as_millisecond().saturating_sub(before.last_config_time.as_millisecond());
    if let Ok(since_ms @ 0..CONFIG_TIME_STEP_MS) = u64::try_from(since_ms) {
        tokio::time::sleep(Duration::from_millis(CONFIG_TIME_STEP_MS - since_ms)).await;
    }
    let id = process_called(name, Path::new("/proc"))?;
    kill_process(id, Signal::HUP)
        .map_err(|error| process_error(name, format!("process {}: {error}", id.as_raw_nonzero())))?;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let after = prometheus.runtime_info().await?;
        if after.reload_config_success && after.last_config_time > before.last_config_time {
            return Ok(());
        }
        // Where the reload before this one had failed too, nothing tells a second failure from one that is still under way.
        if before.reload_config_success && !after.reload_config_success {
            return Err(SidecarError::Reload {
                url: prometheus.url().to_owned(),
                reason: "it could not load the configuration; its own log says why".to_owned(),
            });
        }
    }
}

/// The one process whose program is called `name`.
fn process_called(name: &str, proc: &Path) -> Result<Pid, SidecarError> {
    let kept = name.get(..KEPT_NAME_BYTES).unwrap_or(name);
    let unreadable = |error: std::io::Error| process_error(name, format!("{}: {error}", proc.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let id = entry.file_name().to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
        let Some(id) = id else { continue };
        // Processes come and go meanwhile.
        let Ok(comm) = std::fs::read(entry.path().join("comm")) else { continue };
        if comm.strip_suffix(b"\n").unwrap_or(&comm) == kept.as_bytes() {
            found.push(id);
        }
    }
    match found.as_slice() {
        [id] => Ok(*id),
        [] => Err(process_error(
            name,
            "there is no such process; the sidecar has to see Prometheus' processes (in Kubernetes: shareProcessNamespace)",
        )),
        more => {
            let ids: Vec<String> = more.iter().map(|id| id.as_raw_nonzero().to_string()).collect();
            Err(process_error(
                name,
                format!(
                    "{} processes have that name ({}); reload over HTTP instead",
                    more.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

fn process_error(name: &str, reason: impl Into<String>) -> SidecarError {
    SidecarError::Process { name: name.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_the_name_that_the_kernel_keeps() {
        let proc = tempfile::tempdir().unwrap();
        let add = |id: &str, comm: &str| {
            std::fs::create_dir(proc.path().join(id)).unwrap();
            std::fs::write(proc.path().join(id).join("comm"), comm).unwrap();
        };
        let find = |name: &str| process_called(name, proc.path()).map(|id| id.as_raw_nonzero().get());
        add("7", "prometheus\n");
        add("8", "a-name-of-fifte\n");
        std::fs::create_dir(proc.path().join("9")).unwrap();
        add("self", "prometheus\n");
        assert_eq!(find("prometheus").unwrap(), 7);
        assert_eq!(find("a-name-of-fifteen-and-more").unwrap(), 8);
        assert!(find("prom").unwrap_err().to_string().contains("no such process"));
        add("10", "prometheus\n");
        let error = find("prometheus").unwrap_err().to_string();
        assert!(error.contains("2 processes") && error.contains("10"), "{error}");
    }
}
