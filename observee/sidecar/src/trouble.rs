//! What Prometheus did not answer as it should: counted each time, and said in the log, though not once per query.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::SidecarError;
use crate::metrics::SidecarMetrics;

/// How long the same line is not written again.
const QUIET: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(crate) struct Troubles {
    metrics: SidecarMetrics,
    /// What was said last, and when.
    said: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Troubles {
    pub fn new(metrics: SidecarMetrics) -> Self {
        Self { metrics, said: Arc::default() }
    }

    /// Counts `error`, writes it to the log, and gives what the StoreAPI says of it.
    pub fn report(&self, error: &SidecarError) -> tonic::Status {
        self.metrics.failed(error);
        let status = error.to_status();
        // What the caller did wrong is the caller's to know.
        if error.kind().is_some() && status.code() != tonic::Code::InvalidArgument {
            self.say(error.to_string());
        }
        status
    }

    /// Prometheus at `url` did not answer before the deadline of a request.
    pub fn late(&self, url: &str) -> tonic::Status {
        let text = format!("prometheus {url} did not answer in time");
        self.metrics.failed_by("late");
        self.say(text.clone());
        tonic::Status::deadline_exceeded(text)
    }

    fn say(&self, text: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref().is_some_and(|(last, at)| *last == text && at.elapsed() < QUIET) {
            return;
        }
        tracing::warn!(error = text, "a query failed in prometheus");
        *said = Some((text, Instant::now()));
    }
}
