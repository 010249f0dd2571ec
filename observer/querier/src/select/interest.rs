//! Whether the engine waits for a selection yet, known to all who hold bytes for it.
//!
//! A request extension carries it through the fan-outs of this process; it never travels. A request without one is waited for.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::coverage::{Gap, GapKind};

/// Gaps that are remembered per selection, so that an attempt that is repeated does not count them again.
const MAX_REMEMBERED_GAPS: usize = 10_000;

/// Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    selecting: Arc<Selecting>,
}

/// One selection, whatever attempts at reading it there are.
#[derive(Debug)]
pub(crate) struct Selecting {
    /// `None` for a request that is waited for from the start.
    wanted: Option<watch::Receiver<bool>>,
    /// Bytes held on its behalf since before it was wanted.
    unread_bytes: AtomicUsize,
    /// Endpoints that wait for room.
    starved: watch::Sender<usize>,
    counted: Mutex<HashSet<(usize, String, GapKind)>>,
}

impl Interest {
    pub fn new(wanted: watch::Receiver<bool>) -> Self {
        Self::of(Some(wanted))
    }

    /// Of a request that is waited for.
    pub fn always() -> Self {
        Self::of(None)
    }

    fn of(wanted: Option<watch::Receiver<bool>>) -> Self {
        let (unread_bytes, starved) = (AtomicUsize::new(0), watch::Sender::new(0));
        Self { selecting: Arc::new(Selecting { wanted, unread_bytes, starved, counted: Mutex::default() }) }
    }

    #[cfg(test)]
    pub fn in_selection() -> (watch::Sender<bool>, Self) {
        let (want, wanted) = watch::channel(false);
        (want, Self::new(wanted))
    }

    pub fn is_wanted(&self) -> bool {
        self.selecting.is_wanted()
    }

    /// Comes back once the engine waits for it; never, if the engine has gone.
    pub async fn wanted(&self) {
        let Some(wanted) = &self.selecting.wanted else { return };
        if wanted.clone().wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Says for as long as it lives that an endpoint waits for room.
    pub(super) fn starved(&self) -> Starved {
        self.selecting.starved.send_modify(|starved| *starved += 1);
        Starved(Arc::clone(&self.selecting))
    }

    #[cfg(test)]
    pub(super) fn is_starved(&self) -> bool {
        *self.selecting.starved.borrow() > 0
    }

    /// Comes back once an endpoint waits for room.
    pub async fn is_short_of_room(&self) {
        // The sender lives as long as self.
        let _ = self.selecting.starved.subscribe().wait_for(|starved| *starved > 0).await;
    }

    pub(super) fn selecting(&self) -> &Arc<Selecting> {
        &self.selecting
    }

    /// Whether `gap`, of the fan-out `whose`, is new to this selection.
    pub fn is_new(&self, whose: usize, gap: &Gap) -> bool {
        let mut counted = self.selecting.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.len() < MAX_REMEMBERED_GAPS && counted.insert((whose, gap.endpoint.clone(), gap.kind))
    }
}

impl Selecting {
    fn is_wanted(&self) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| *wanted.borrow())
    }

    /// Whether it keeps something from those who are wanted.
    pub(super) fn holds_unread(&self) -> bool {
        !self.is_wanted() && self.unread_bytes.load(Ordering::Acquire) > 0
    }

    pub(super) fn add(&self, size_bytes: usize) {
        self.unread_bytes.fetch_add(size_bytes, Ordering::AcqRel);
    }

    pub(super) fn remove(&self, size_bytes: usize) {
        self.unread_bytes.fetch_sub(size_bytes, Ordering::AcqRel);
    }
}

/// See [`Interest::starved`].
pub(super) struct Starved(Arc<Selecting>);

impl Drop for Starved {
    fn drop(&mut self) {
        self.0.starved.send_modify(|starved| *starved = starved.saturating_sub(1));
    }
}
