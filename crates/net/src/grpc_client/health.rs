//! What the connections of a channel reported: whether the server has spoken, and the last failure in words.
//!
//! Needed because HTTP/2 keeps only the text of an I/O error, and often not even that reaches the call that failed.

use std::sync::{Arc, Mutex, PoisonError};

use parallax_pki::Explanation;
use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Health {
    /// The first bytes of the server have arrived.
    heard: watch::Sender<bool>,
    failure: Mutex<Option<Explanation>>,
    failed: watch::Sender<bool>,
}

impl Health {
    pub(super) fn new() -> Arc<Self> {
        let (heard, _) = watch::channel(false);
        let (failed, _) = watch::channel(false);
        Arc::new(Self { heard, failure: Mutex::default(), failed })
    }

    /// The server has spoken on a new connection: it accepts us.
    pub(super) fn note_heard(&self) {
        *self.lock() = None;
        self.failed.send_replace(false);
        self.heard.send_replace(true);
    }

    pub(super) fn note_failure(&self, explanation: Explanation) {
        *self.lock() = Some(explanation);
        self.failed.send_replace(true);
    }

    /// The last failure, if no server has spoken since.
    pub(super) fn failure(&self) -> Option<Explanation> {
        self.lock().clone()
    }

    /// Waits until the server has spoken, or its connection has failed.
    pub(super) async fn heard(&self) -> Result<(), Explanation> {
        let (mut heard, mut failed) = (self.heard.subscribe(), self.failed.subscribe());
        tokio::select! {
            // The senders live in `self`: no error can come.
            _ = heard.wait_for(|heard| *heard) => Ok(()),
            _ = failed.wait_for(|failed| *failed) => match self.failure() {
                Some(explanation) => Err(explanation),
                None => Ok(()),
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Explanation>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
