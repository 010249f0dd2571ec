//! Makes Prometheus read its configuration and rules again when they change.
//!
//! A configuration file may be packed and may refer to the environment (`expand`); what comes out is written, whole or not at all, where
//! Prometheus reads it. Files are looked at every second and read when they changed, and at least every watch interval (`watched`). A reload that
//! fails is owed: it is tried again until it succeeds, and Prometheus keeps the configuration that it has.
//!
//! What is wrong is said once, with the file's name, and counted. Nothing that is wrong here stops the rest of the sidecar, or keeps a
//! change elsewhere from Prometheus.

mod expand;
mod metrics;
mod trigger;
mod watched;

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parallax_telemetry::Metrics;

pub use trigger::ReloadMethod;

use crate::SidecarError;
use crate::prometheus::Prometheus;
use metrics::ReloaderMetrics;
use watched::{Digest, NotYaml, Stamp};

/// How often the file system is asked whether something changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is watched, and what happens then.
#[derive(Clone, Debug)]
pub struct ReloaderConfig {
    /// Prometheus' configuration, perhaps packed with gzip.
    pub config_file: Option<PathBuf>,
    /// Where the configuration is written with its references to the environment replaced; Prometheus reads this one.
    pub output_file: Option<PathBuf>,
    /// Directories of rules; not changed, only watched.
    pub rule_directories: Vec<PathBuf>,
    /// How often everything is read again, seen to change or not. Zero: the configuration is written once, and Prometheus never told.
    pub watch_interval: Duration,
    /// How long after a failure it is tried again.
    pub retry_interval: Duration,
    pub method: ReloadMethod,
    /// Leave references to variables that are not set as they are, instead of refusing the file.
    pub tolerate_unset_variables: bool,
}

impl Default for ReloaderConfig {
    /// Thanos' defaults, watching nothing.
    fn default() -> Self {
        Self {
            config_file: None,
            output_file: None,
            rule_directories: Vec::new(),
            watch_interval: Duration::from_secs(180),
            retry_interval: Duration::from_secs(5),
            method: ReloadMethod::Http,
            tolerate_unset_variables: false,
        }
    }
}

impl ReloaderConfig {
    /// # Errors
    /// If the parts contradict each other.
    pub(crate) fn check(&self) -> Result<(), SidecarError> {
        let refuse = |reason: &str| Err(SidecarError::ReloaderConfig(reason.to_owned()));
        match (&self.config_file, &self.output_file) {
            (None, Some(_)) => refuse("a file to write is given, and no configuration file to read"),
            (Some(from), Some(to)) if from == to => {
                refuse("the configuration file would be written over itself; give another file to write")
            }
            _ if self.retry_interval.is_zero() => refuse("the retry interval is zero"),
            _ => Ok(()),
        }
    }

    /// Whether there is nothing to watch or to write.
    pub fn is_empty(&self) -> bool {
        self.config_file.is_none() && self.output_file.is_none() && self.rule_directories.is_empty()
    }
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq)]
struct Look {
    stamps: Vec<Stamp>,
    watches: usize,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    config: Option<Digest>,
    rules: Option<Digest>,
}

pub(crate) struct Reloader {
    config: ReloaderConfig,
    prometheus: Prometheus,
    metrics: ReloaderMetrics,
    /// What Prometheus has, as far as its last successful reload tells.
    loaded: Option<Known>,
    /// As last read; where reading fails, what was there before still counts.
    known: Known,
    /// What was said last, so that the same trouble is said once.
    said: String,
    said_not_yaml: Vec<NotYaml>,
}

impl Reloader {
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn new(
        config: ReloaderConfig,
        prometheus: Prometheus,
        metrics: &Metrics,
    ) -> Result<Self, SidecarError> {
        config.check()?;
        let metrics = ReloaderMetrics::new(metrics, config.method.name());
        let (known, said, said_not_yaml) = (Known::default(), String::new(), Vec::new());
        Ok(Self { config, prometheus, metrics, loaded: None, known, said, said_not_yaml })
    }

    /// Watches until it is dropped.
    pub async fn run(mut self) {
        if self.config.is_empty() {
            return std::future::pending().await;
        }
        tracing::info!(
            config = self.config.config_file.as_ref().map(|file| file.display().to_string()),
            output = self.config.output_file.as_ref().map(|file| file.display().to_string()),
            rule_directories = self.config.rule_directories.len(),
            method = self.config.method.name(),
            "watching prometheus' configuration and rules"
        );
        let once = self.config.watch_interval.is_zero();
        let (mut seen, mut due) = (None, Instant::now());
        loop {
            let look = self.look().await;
            let changed = seen.as_ref() != Some(&look);
            if changed && seen.is_some() {
                self.metrics.watch_events.inc();
            }
            if changed || Instant::now() >= due {
                seen = Some(look);
                let applied = self.apply().await;
                self.report(&applied);
                if once && applied.is_ok() {
                    return std::future::pending().await;
                }
                let wait = match applied {
                    Ok(()) => self.config.watch_interval,
                    Err(_) => self.config.retry_interval,
                };
                due = Instant::now() + wait;
            }
            tokio::time::sleep_until((due.min(Instant::now() + LOOK_INTERVAL)).into()).await;
        }
    }

    /// What the file system says now.
    async fn look(&self) -> Look {
        let ReloaderConfig { config_file, rule_directories, .. } = self.config.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let mut files = watched::files_beneath(&rule_directories)?;
            files.extend(config_file);
            Ok::<_, SidecarError>(Look {
                stamps: watched::stamps(&files),
                watches: files.len() + rule_directories.len(),
            })
        });
        let look = match looking.await {
            Ok(Ok(look)) => look,
            // Reading, which follows, says what is wrong.
            Ok(Err(_)) | Err(_) => {
                self.metrics.watch_errors.inc();
                Look::default()
            }
        };
        self.metrics.watches.set(i64::try_from(look.watches).unwrap_or(i64::MAX));
        look
    }

    /// Reads everything, writes the configuration, and makes Prometheus reload if something is new to it.
    ///
    /// # Errors
    /// The first thing that failed, after what could be done was done.
    async fn apply(&mut self) -> Result<(), SidecarError> {
        self.metrics.applies.inc();
        let (config, rules) = (self.take_config().await, self.read_rules().await);
        let mut not_yaml = Vec::new();
        let mut failure = None;
        match config {
            Ok((digest, wrong)) => {
                self.known.config = digest;
                not_yaml.extend(wrong);
            }
            Err(error) => failure = Some(error),
        }
        match rules {
            Ok((digest, wrong)) => {
                self.known.rules = digest;
                not_yaml.extend(wrong);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
        if failure.is_some() {
            self.metrics.failed_applies.inc();
        }
        self.note_not_yaml(not_yaml);
        if self.config.watch_interval.is_zero() || self.loaded == Some(self.known) {
            return failure.map_or(Ok(()), Err);
        }
        let reloaded = self.reload().await;
        failure.map_or(Ok(()), Err).and(reloaded)
    }

    async fn reload(&mut self) -> Result<(), SidecarError> {
        self.metrics.reloads.inc();
        let reloading = self.config.method.trigger(&self.prometheus);
        let reloaded = tokio::time::timeout(self.config.watch_interval, reloading).await;
        let reloaded = reloaded.unwrap_or_else(|_| {
            let reason = format!("it has not reloaded within {} s", self.config.watch_interval.as_secs_f64());
            Err(SidecarError::Reload { url: self.prometheus.url().to_owned(), reason })
        });
        match reloaded {
            Ok(()) => {
                self.loaded = Some(self.known);
                self.metrics.last_successful.set(1);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metrics.last_success_seconds.set(now.as_secs_f64());
                tracing::info!(prometheus = self.prometheus.url(), "prometheus reloaded its configuration");
                Ok(())
            }
            Err(error) => {
                // It may have loaded a part, so that even what it had before is to be loaded again.
                self.loaded = None;
                self.metrics.failed_reloads.inc();
                self.metrics.last_successful.set(0);
                Err(error)
            }
        }
    }

    /// Reads the configuration, and writes it with its references replaced.
    async fn take_config(&self) -> Result<(Option<Digest>, Option<NotYaml>), SidecarError> {
        let ReloaderConfig { config_file, output_file, tolerate_unset_variables, .. } = self.config.clone();
        let Some(config_file) = config_file else { return Ok((None, None)) };
        let unset_variables = self.metrics.unset_variables.clone();
        let taking = tokio::task::spawn_blocking(move || {
            let bytes = watched::read(&config_file)?;
            let digest = watched::digest_of(&config_file, &bytes);
            let expanded = expand::expand(bytes, |name| std::env::var_os(name).map(|value| value.into_vec()))
                .map_err(|reason| file_error(&config_file, &reason))?;
            let not_yaml = watched::check_yaml(&expanded.bytes).err();
            let not_yaml = not_yaml.map(|reason| NotYaml { path: config_file.clone(), reason });
            let Some(output_file) = output_file else { return Ok((Some(digest), not_yaml)) };
            unset_variables.set(i64::try_from(expanded.unset.len()).unwrap_or(i64::MAX));
            if !expanded.unset.is_empty() {
                let names = expanded.unset.join(", ");
                if !tolerate_unset_variables {
                    let reason = format!("the environment does not have {names}; nothing was written");
                    return Err(file_error(&config_file, &reason));
                }
                tracing::debug!(file = %config_file.display(), names, "variables are not set, their references stay");
            }
            write_whole(&output_file, &expanded.bytes)?;
            Ok((Some(digest), not_yaml))
        });
        taking.await.map_err(|error| SidecarError::ReloaderConfig(error.to_string()))?
    }

    async fn read_rules(&self) -> Result<(Option<Digest>, Vec<NotYaml>), SidecarError> {
        let directories = self.config.rule_directories.clone();
        if directories.is_empty() {
            return Ok((None, Vec::new()));
        }
        let reading = tokio::task::spawn_blocking(move || {
            watched::read_all(&watched::files_beneath(&directories)?)
                .map(|(digest, not_yaml)| (Some(digest), not_yaml))
        });
        reading.await.map_err(|error| SidecarError::ReloaderConfig(error.to_string()))?
    }

    /// Names each file that is not YAML, once. Prometheus is told all the same: whether it takes the rest is for it to say.
    fn note_not_yaml(&mut self, found: Vec<NotYaml>) {
        self.metrics.not_yaml.set(i64::try_from(found.len()).unwrap_or(i64::MAX));
        for one in found.iter().filter(|one| !self.said_not_yaml.contains(one)) {
            tracing::error!(
                file = %one.path.display(),
                reason = one.reason,
                "file is not YAML, prometheus will refuse it and keep the configuration that it has"
            );
        }
        self.said_not_yaml = found;
    }

    /// The same trouble is said once, not every few seconds.
    fn report(&mut self, applied: &Result<(), SidecarError>) {
        let text = applied.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if text != self.said && !text.is_empty() {
            tracing::error!(error = text, "configuration or rules are not loaded; trying again");
        }
        self.said = text;
    }
}

/// Replaces the file at once, unless it is what it should be.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), SidecarError> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        // Half a file helps nobody.
        let _ = std::fs::remove_file(&temporary);
        file_error(path, &error)
    })
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> SidecarError {
    SidecarError::File { path: path.to_path_buf(), reason: error.to_string() }
}
