//! What changes about an endpoint: its last Info poll, what it last said, and the breaker.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parallax_model::{Labels, TimeRange};
use tokio::sync::watch;

use super::{Declared, EndpointOptions, Metadata};
use crate::coverage::GapKind;
use crate::shipping::{Heard, Shipping};

/// An endpoint as `/api/v1/stores` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStatus {
    pub name: String,
    /// Empty if it never said.
    pub component: String,
    pub cluster: Option<String>,
    pub strict: bool,
    pub group: bool,
    /// What is declared of its cluster.
    pub declared: Declared,
    /// Whether the last Info poll succeeded.
    pub healthy: bool,
    pub last_check: Option<Timestamp>,
    pub last_error: Option<String>,
    pub label_sets: Vec<Labels>,
    pub range: TimeRange,
    pub shipping: Vec<Shipping>,
}

/// The state behind a lock that is never held across a wait.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<State>,
    polled: watch::Sender<bool>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: RwLock::default(), polled: watch::Sender::new(false) }
    }
}

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the result of a poll that began at `began`.
    pub(crate) fn polled(&self, began: Instant, result: Result<Metadata, String>) {
        self.write().polled(began, result);
        self.polled.send_replace(true);
    }

    /// Takes over what another one for the same endpoint knows, and that it was down. How asking it went is not known of this one.
    pub(crate) fn inherit(&self, former: &Self) {
        let mut inherited = {
            let former = former.read();
            State {
                metadata: former.metadata.clone(),
                learned_at: former.learned_at,
                lately: former.lately.clone(),
                said_less_at: former.said_less_at,
                had_store: former.had_store,
                shipping: former.shipping.clone(),
                is_peer: former.is_peer,
                last_check: None,
                last_error: former.last_error.clone(),
                failed_after: None,
                breaker: None,
            }
        };
        // Who answers there now has not said so.
        inherited.covers(false);
        *self.write() = inherited;
    }

    pub(crate) async fn polled_once(&self) {
        // The sender lives as long as self: this cannot fail.
        let _ = self.polled.subscribe().wait_for(|polled| *polled).await;
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// What it last said.
    pub metadata: Option<Arc<Metadata>>,
    /// When it said that.
    learned_at: Option<Instant>,
    /// The time that it said it holds.
    pub lately: super::lately::Lately,
    /// When it last said less of what it holds than before.
    said_less_at: Option<Instant>,
    /// Whether it ever said that it has the Store API.
    pub had_store: bool,
    /// What it last said of shipping, if it ever did.
    pub shipping: Option<Heard>,
    /// Whether it is a peer of ours: it answers what Thanos does not know.
    pub is_peer: bool,
    pub last_check: Option<Timestamp>,
    /// Of the last poll, if it failed: until the first one, of whom it replaced.
    pub last_error: Option<String>,
    /// How long the last poll took to fail.
    failed_after: Option<Duration>,
    breaker: Option<Breaker>,
}

#[derive(Debug)]
struct Breaker {
    since: Instant,
    until: Instant,
    reason: String,
}

impl State {
    pub fn is_healthy(&self) -> bool {
        self.last_check.is_some() && self.last_error.is_none()
    }

    fn polled(&mut self, began: Instant, result: Result<Metadata, String>) {
        self.last_check = Some(Timestamp::now());
        match result {
            Ok(metadata) => {
                self.learned(metadata);
                self.last_error = None;
                self.failed_after = None;
                // An answer to a question asked before the hang proves nothing.
                self.breaker.take_if(|breaker| breaker.since <= began);
            }
            Err(error) => {
                self.last_error = Some(error);
                self.failed_after = Some(began.elapsed());
            }
        }
    }

    /// Records what it says now.
    pub fn learned(&mut self, metadata: Metadata) {
        let now = Instant::now();
        self.lately.said(metadata.has_store.then_some(metadata.range), now);
        self.had_store |= metadata.has_store;
        let mut metadata = metadata;
        if let Some(former) = &self.metadata {
            // Whoever says something else now has to say again that it says everything.
            metadata.tsdb_infos_cover = former.tsdb_infos_cover && former.tsdb_infos == metadata.tsdb_infos;
            if former.tsdb_infos_cover && !metadata.has_all_of(former) {
                self.said_less_at = Some(now);
            }
        }
        self.metadata = Some(Arc::new(metadata));
        self.learned_at = Some(now);
    }

    /// Whether the TSDBInfos that it said last cover everything.
    pub fn covers(&mut self, covers: bool) {
        if let Some(known) = self.metadata.as_mut().filter(|known| known.tsdb_infos_cover != covers) {
            Arc::make_mut(known).tsdb_infos_cover = covers;
        }
    }

    /// Whether it has said less than before, a short while ago.
    pub fn said_less_lately(&self, now: Instant) -> bool {
        self.said_less_at.is_some_and(|at| now.saturating_duration_since(at) < super::lately::COUNTS_FOR)
    }

    /// The age of what is known, if the last poll failed.
    pub fn silent_for(&self, now: Instant) -> Duration {
        let learned_at = self.learned_at.filter(|_| self.last_error.is_some());
        learned_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    pub fn hung(&mut self, now: Instant, options: &EndpointOptions, reason: &str) {
        let until = now + options.cool_down;
        self.breaker = Some(Breaker { since: now, until, reason: reason.to_owned() });
    }

    pub fn why_not_now(&self, now: Instant, options: &EndpointOptions) -> Option<(GapKind, String)> {
        if let Some(breaker) = self.breaker.as_ref().filter(|breaker| now < breaker.until) {
            let ago = now.saturating_duration_since(breaker.since).as_secs();
            return Some((GapKind::Late, format!("not asked: {ago} s ago {}", breaker.reason)));
        }
        let error = self.last_error.as_deref()?;
        let slow = self.failed_after.is_some_and(|after| after >= options.slow_failure);
        slow.then(|| (GapKind::Missing, format!("not asked: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::TsdbInfo;

    fn metadata() -> Metadata {
        Metadata::from_info(Default::default()).unwrap()
    }

    #[test]
    fn what_was_said_last_survives_a_failure() {
        let mut state = State::default();
        state.polled(Instant::now(), Ok(metadata()));
        assert!(state.is_healthy());
        state.polled(Instant::now(), Err("connection refused".to_owned()));
        assert!(!state.is_healthy());
        assert!(state.metadata.is_some());
        // It failed fast: asking costs nothing, and finds out at once when it is back.
        assert_eq!(state.why_not_now(Instant::now(), &EndpointOptions::default()), None);
    }

    #[test]
    fn what_is_known_grows_old_only_while_polls_fail() {
        let mut state = State::default();
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(state.silent_for(later), Duration::ZERO);
        state.polled(Instant::now(), Ok(metadata()));
        assert_eq!(state.silent_for(later), Duration::ZERO);
        state.polled(Instant::now(), Err("connection refused".to_owned()));
        assert!(state.silent_for(later) > Duration::ZERO);
    }

    #[test]
    fn who_replaces_an_endpoint_that_is_down_knows_so_and_is_asked() {
        let options = EndpointOptions { slow_failure: Duration::ZERO, ..EndpointOptions::default() };
        let (former, next) = (Shared::default(), Shared::default());
        let mut held = metadata();
        (held.has_store, held.range) = (true, TimeRange::new(100, 200));
        held.tsdb_infos = vec![TsdbInfo { labels: Labels::empty(), range: held.range }];
        let less = Metadata { tsdb_infos: Vec::new(), ..held.clone() };
        former.polled(Instant::now(), Ok(held));
        former.write().covers(true);
        former.polled(Instant::now(), Ok(less));
        former.polled(Instant::now(), Err("connection refused".to_owned()));
        former.write().hung(Instant::now(), &options, "nothing came for 1s");
        next.inherit(&former);
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(3 * 60 * 60));
        let state = next.read();
        assert!(state.silent_for(later) >= Duration::from_secs(3 * 60 * 60));
        assert_eq!(state.lately.range(), Some(TimeRange::new(100, 200)));
        assert!(state.had_store && state.said_less_at == former.read().said_less_at);
        assert!(state.said_less_at.is_some());
        assert_eq!(state.last_error.as_deref(), Some("connection refused"));
        assert!(!state.is_healthy() && state.last_check.is_none());
        assert_eq!(state.why_not_now(now, &options), None, "this one was not asked yet");
        drop(state);
        next.polled(Instant::now(), Ok(metadata()));
        assert!(next.read().is_healthy() && next.read().silent_for(later) == Duration::ZERO);
        assert!(next.read().had_store, "whatever it says now");
    }

    #[test]
    fn an_endpoint_that_fails_slowly_is_not_asked() {
        let mut state = State::default();
        let options = EndpointOptions { slow_failure: Duration::ZERO, ..EndpointOptions::default() };
        state.polled(Instant::now(), Err("no answer within 5s".to_owned()));
        let (kind, reason) = state.why_not_now(Instant::now(), &options).unwrap();
        assert_eq!((kind, reason.as_str()), (GapKind::Missing, "not asked: no answer within 5s"));
    }

    #[test]
    fn the_breaker_opens_at_a_hang_and_closes_with_a_later_poll_or_with_time() {
        let (mut state, options) = (State::default(), EndpointOptions::default());
        let before = Instant::now();
        let hang = before + Duration::from_millis(1);
        state.hung(hang, &options, "nothing came for 1s");
        assert_eq!(state.why_not_now(hang, &options).unwrap().0, GapKind::Late);
        assert_eq!(state.why_not_now(hang + options.cool_down, &options), None);
        state.polled(before, Ok(metadata()));
        assert!(state.why_not_now(hang, &options).is_some(), "that poll began before the hang");
        state.polled(hang, Ok(metadata()));
        assert_eq!(state.why_not_now(hang, &options), None);
    }
}
