//! One of several servers that hold the same: whether it failed or was too slow lately, and how far away it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_storeapi::Store;

/// How long a server that failed is asked after the others, unless it is heard of before.
const SUSPECTED_FOR: Duration = Duration::from_secs(30);
/// A call that is given up after this long was not answered for a reason.
const SLOW: Duration = Duration::from_secs(1);
/// Below this, one server is as near as the other.
const NEAR_MS: u128 = 8;
/// Of the time that polls take, the latest counts for one part in this many.
const LATEST_SHARE: u32 = 4;

pub(super) struct Member {
    name: String,
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when, and until when, it is asked after the others.
    suspected: Option<(Instant, Instant)>,
    /// What polls take, smoothed.
    poll_takes: Option<Duration>,
}

/// A call to a server. Given up, it tells against the server if it took long.
pub(super) struct Call<'a> {
    member: &'a Member,
    began: Instant,
    has_ended: bool,
}

impl Member {
    pub(super) fn new(name: String, store: Arc<dyn Store>) -> Self {
        Self { name, store, state: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    pub(super) fn begin(&self) -> Call<'_> {
        Call { member: self, began: Instant::now(), has_ended: false }
    }

    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.state().suspected.is_some_and(|(_, until)| now < until)
    }

    /// In powers of two, so that small differences do not change who is asked.
    pub(super) fn slowness(&self) -> u32 {
        let takes_ms = self.state().poll_takes.map_or(0, |takes| takes.as_millis());
        takes_ms.max(NEAR_MS).ilog2()
    }

    /// It failed, or another one was faster though asked later.
    pub(super) fn failed(&self) {
        let now = Instant::now();
        self.state().suspected = Some((now, now + SUSPECTED_FOR));
    }

    /// It answered a call that began at `began`: an answer to a question from before a failure proves nothing.
    pub(super) fn answered(&self, began: Instant) {
        self.state().suspected.take_if(|(since, _)| *since <= began);
    }

    /// It answered a poll that began at `began`.
    pub(super) fn polled(&self, began: Instant) {
        self.answered(began);
        let took = began.elapsed();
        let mut state = self.state();
        state.poll_takes = Some(match state.poll_takes {
            None => took,
            Some(before) => before - before / LATEST_SHARE + took / LATEST_SHARE,
        });
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call<'_> {
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.began.elapsed() >= SLOW {
            self.member.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::unusable::Unusable;

    #[test]
    fn a_server_that_failed_is_asked_last_until_it_is_heard_of_again() {
        let member = Member::new("a".to_owned(), Arc::new(Unusable::new("none")));
        let before = Instant::now();
        assert!(!member.is_suspect(before));
        std::thread::sleep(Duration::from_millis(1));
        member.failed();
        assert!(member.is_suspect(Instant::now()));
        member.answered(before);
        assert!(member.is_suspect(Instant::now()), "that was asked before the failure");
        assert!(!member.is_suspect(Instant::now() + SUSPECTED_FOR));
        member.answered(Instant::now());
        assert!(!member.is_suspect(Instant::now()));
    }

    #[test]
    fn one_server_is_slower_than_another_only_if_it_is_much_slower() {
        let polled = |took_ms| {
            let member = Member::new("a".to_owned(), Arc::new(Unusable::new("none")));
            member.state().poll_takes = Some(Duration::from_millis(took_ms));
            member.slowness()
        };
        assert_eq!(polled(0), polled(7));
        assert_eq!(polled(40), polled(60));
        assert!(polled(200) > polled(60));
    }
}
