//! Takes the observer's file again while it runs: at SIGHUP, at `POST /-/reload`, and within seconds of a change.
//!
//! Invariants:
//! - A file that cannot be used leaves the last good one in use, and says why: in the log, in `parallax_config_last_reload_successful`, in `/api/v1/stores`, and to whoever
//!   asked for the reload. It is tried again, for what it names may come later.
//! - A change of a key that is only read at the start is refused by name, as a whole: nothing of that file is in effect.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use parallax_net::Context;
use parallax_querier::{EndpointSets, Problem, Querier};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::file;
use super::hub::Hub;
use crate::command::callers::ChangingGuards;

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a file that could not be used is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long what is new may take to answer for the first time, before it is asked all the same.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most requests for a reload that wait for one.
const MAX_WAITING: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

struct ReloadMetrics {
    last_successful: Gauge,
    last_success: Gauge<f64, AtomicU64>,
    reloads: Family<ResultLabel, Counter>,
}

impl ReloadMetrics {
    fn register(metrics: &Metrics) -> Self {
        let all = Self {
            last_successful: metrics.register(
                "parallax_config_last_reload_successful",
                "Whether the last attempt to take the configuration file was successful",
                Gauge::default(),
            ),
            last_success: metrics.register(
                "parallax_config_last_reload_success_timestamp_seconds",
                "When the configuration file in use was taken",
                Gauge::default(),
            ),
            reloads: metrics.register(
                "parallax_config_reloads",
                "Configuration files that were taken up or refused, the first excluded",
                Family::default(),
            ),
        };
        all.succeeded();
        all
    }

    fn succeeded(&self) {
        self.last_successful.set(1);
        self.last_success.set(jiff::Timestamp::now().as_millisecond() as f64 / 1000.0);
    }

    fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&ResultLabel { result }).inc();
    }
}

/// Where one who wants the file to be taken again is told how that went.
type Asked = oneshot::Sender<Result<(), String>>;

/// What a file that is taken changes.
pub struct Parts {
    pub hub: Hub,
    pub querier: Arc<Querier>,
    pub beneath: EndpointSets,
    pub guards: ChangingGuards,
}

/// See the module.
pub struct Reloader {
    path: PathBuf,
    parts: Parts,
    /// The text of the file in use.
    good: String,
    /// What was read last, or why it could not be.
    seen: Result<String, String>,
    /// Of the last attempt, if it failed; and when that was.
    failed: Option<(String, Instant)>,
    metrics: ReloadMetrics,
    hangup: Signal,
    asked: mpsc::Receiver<Asked>,
    asking: mpsc::Sender<Asked>,
}

impl Reloader {
    /// Follows the file at `path`, of which `text` is in use.
    ///
    /// # Errors
    /// If SIGHUP cannot be listened for.
    pub fn new(path: PathBuf, text: String, parts: Parts, context: &Context) -> anyhow::Result<Self> {
        let (asking, asked) = mpsc::channel(MAX_WAITING);
        Ok(Self {
            path,
            parts,
            seen: Ok(text.clone()),
            good: text,
            failed: None,
            metrics: ReloadMetrics::register(&context.metrics),
            hangup: signal(SignalKind::hangup()).context("listening for SIGHUP")?,
            asked,
            asking,
        })
    }

    /// `POST` or `PUT /-/reload`: answers once the file was taken, or with the reason why it was not.
    pub fn router(&self) -> Router {
        Router::new().route("/-/reload", post(on_request).put(on_request)).with_state(self.asking.clone())
    }

    /// Goes on until the context shuts down.
    pub async fn follow(mut self, context: Context) {
        let shutdown = context.shutdown;
        shutdown.run_until_cancelled(self.serve()).await;
    }

    async fn serve(&mut self) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                hangup = self.hangup.recv() => match hangup {
                    // Why it failed is told elsewhere.
                    Some(()) => drop(self.reload().await),
                    // No signal will come any more.
                    None => tokio::time::sleep(LOOK_INTERVAL).await,
                },
                Some(asked) = self.asked.recv() => {
                    let result = self.reload().await;
                    // Whoever has gone does not want to know.
                    let _ = asked.send(result);
                }
            }
        }
    }

    /// Takes the file if it is another one than it was, or may be usable by now.
    async fn look(&mut self) {
        let text = self.read().await;
        let is_due = self.failed.as_ref().is_some_and(|(_, at)| at.elapsed() >= RETRY_INTERVAL);
        if text != self.seen || is_due {
            let _told_elsewhere = self.take(text).await;
        }
    }

    async fn reload(&mut self) -> Result<(), String> {
        let text = self.read().await;
        self.take(text).await
    }

    async fn read(&self) -> Result<String, String> {
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || file::read(&path));
        match reading.await {
            Ok(text) => text.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn take(&mut self, text: Result<String, String>) -> Result<(), String> {
        self.seen.clone_from(&text);
        let result = match text {
            Ok(text) => self.apply(text).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error),
        };
        match &result {
            Ok(()) => {
                self.failed = None;
                self.metrics.succeeded();
                self.metrics.count("success");
                // Whoever sees that nothing is wrong any more sees the rest, too.
                self.parts.querier.endpoints().report(Vec::new());
            }
            Err(error) => {
                if self.failed.as_ref().is_none_or(|(before, _)| before != error) {
                    self.refused(error);
                }
                self.failed = Some((error.clone(), Instant::now()));
            }
        }
        result
    }

    fn refused(&self, error: &str) {
        tracing::error!(
            file = %self.path.display(),
            error,
            "the configuration file cannot be used; the last good one stays in use"
        );
        self.metrics.last_successful.set(0);
        self.metrics.count("failure");
        let error = format!("{error}; the last good file stays in use");
        self.parts
            .querier
            .endpoints()
            .report(vec![Problem { source: self.path.display().to_string(), error }]);
    }

    async fn apply(&mut self, text: String) -> anyhow::Result<()> {
        let file = file::parse(&self.path, &text)?;
        let changed = file::changed_for_good(&self.good, &text);
        ensure!(
            changed.is_empty(),
            "{}: {}: read at the start only; restart the observer, or take the change back",
            self.path.display(),
            changed.join(", ")
        );
        let subject = || self.path.display().to_string();
        let guards = file.guards().with_context(subject)?;
        let plan = self.parts.hub.plan(&file).with_context(subject)?;
        // Before there is anything new to see.
        self.parts.guards.set(guards);
        let endpoints = self.parts.hub.take(plan, Some(PATIENCE)).await;
        let all = self.parts.querier.endpoints();
        all.replace_when_polled(endpoints.configs, all.problems(), PATIENCE).await;
        self.parts.beneath.replace(endpoints.beneath);
        self.good = text;
        tracing::info!(
            file = %self.path.display(),
            clusters = file.clusters.len(),
            "the configuration file is applied"
        );
        Ok(())
    }
}

async fn on_request(State(asking): State<mpsc::Sender<Asked>>) -> (StatusCode, String) {
    let (asked, told) = oneshot::channel();
    let stopping = || (StatusCode::SERVICE_UNAVAILABLE, "the observer is stopping\n".to_owned());
    if asking.send(asked).await.is_err() {
        return stopping();
    }
    match told.await {
        Ok(Ok(())) => (StatusCode::OK, String::new()),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {error}\n")),
        Err(_) => stopping(),
    }
}
