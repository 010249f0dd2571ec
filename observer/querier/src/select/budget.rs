//! How many bytes of series one query may hold that wait to be merged or decoded.
//!
//! Shared by all selections of a query and by the fan-out beneath them (a request extension carries it there). What is decoded the
//! engine counts, in samples. What is held is given back when its [`Held`] is dropped, and whoever waits for room hears of it.
//!
//! Invariant: a selection that the engine does not wait for yet keeps nobody from going on. It holds its share at most, waits for room instead of failing,
//! and gives all of it back when one that the engine waits for needs it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use parallax_model::{OverQuota, Quota, budget};
use parallax_promql::source::SourceError;
use tokio::sync::{Notify, watch};

use super::interest::{Interest, Selecting};

/// Selections that are not wanted yet may use one part in this many of a query's budget.
pub(crate) const UNREAD_SHARE: u64 = 4;

/// The bytes of one query.
#[derive(Debug)]
pub struct Budget {
    bytes: Arc<Quota>,
    released: Notify,
    /// How many wanted selections wait for what unwanted ones hold.
    needed: watch::Sender<usize>,
    /// Selections that hold, or held, something before they were wanted.
    unread: Mutex<Vec<Weak<Selecting>>>,
}

impl Budget {
    /// A limit of 0 is no limit.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
        Arc::new(Self {
            bytes: Arc::new(Quota::new("bytes", limit)),
            released: Notify::new(),
            needed: watch::Sender::new(0),
            unread: Mutex::default(),
        })
    }

    /// # Errors
    /// If the query would then hold more than its limit.
    pub(crate) fn hold(self: &Arc<Self>, size_bytes: usize) -> Result<Held, OverBudget> {
        let held = self.bytes.hold(as_u64(size_bytes)).map_err(OverBudget)?;
        Ok(Held { held: Some(held), counted: None, budget: Arc::clone(self) })
    }

    /// The same for a selection, if no more than one part in `share` of the limit is used then; less for one that is not wanted yet.
    pub(crate) fn hold_share(
        self: &Arc<Self>,
        interest: &Interest,
        size_bytes: usize,
        share: u64,
    ) -> Option<Held> {
        let is_wanted = interest.is_wanted();
        let share = if is_wanted { share } else { share.max(UNREAD_SHARE) };
        let limit = self.bytes.limit() / share.max(1);
        let held = self.bytes.hold_within(as_u64(size_bytes), limit).ok()?;
        let counted = (!is_wanted).then(|| self.count_unread(interest, size_bytes));
        Some(Held { held: Some(held), counted, budget: Arc::clone(self) })
    }

    /// Holds what a selection cannot go on without. One that is not wanted yet waits until there is room in its share, or until it is wanted; one that is
    /// wanted waits for nothing but what unwanted ones hold.
    ///
    /// # Errors
    /// If the query would then hold more than its limit, though nothing is held that is not wanted.
    pub(crate) async fn hold_for(
        self: &Arc<Self>,
        interest: &Interest,
        size_bytes: usize,
    ) -> Result<Held, OverBudget> {
        let mut waiting = None;
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            if !interest.is_wanted() {
                if let Some(held) = self.hold_share(interest, size_bytes, UNREAD_SHARE) {
                    return Ok(held);
                }
                let _starved = interest.starved();
                tokio::select! {
                    () = released => {}
                    () = interest.wanted() => {}
                }
                continue;
            }
            // Looked at first: what is given back in between is found free.
            let others_hold = self.is_held_unread();
            match self.hold(size_bytes) {
                Ok(held) => return Ok(held),
                Err(over) if !others_hold => return Err(over),
                Err(_) => {}
            }
            waiting.get_or_insert_with(|| Waiting::begin(self));
            released.await;
        }
    }

    /// Told of everything that is given back.
    pub(crate) fn released(&self) -> &Notify {
        &self.released
    }

    /// Comes back once a wanted selection waits for what unwanted ones hold.
    pub(crate) async fn needed(&self) {
        // The sender lives as long as self.
        let _ = self.needed.subscribe().wait_for(|waiting| *waiting > 0).await;
    }

    fn is_held_unread(&self) -> bool {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.retain(|one| one.strong_count() > 0);
        unread.iter().filter_map(Weak::upgrade).any(|one| one.holds_unread())
    }

    fn count_unread(&self, interest: &Interest, size_bytes: usize) -> Counted {
        let selecting = interest.selecting();
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        if !unread.iter().any(|one| std::ptr::eq(one.as_ptr(), Arc::as_ptr(selecting))) {
            unread.push(Arc::downgrade(selecting));
        }
        selecting.add(size_bytes);
        Counted { selecting: Arc::clone(selecting), size_bytes }
    }
}

/// Says for as long as it lives that a wanted selection waits.
struct Waiting(Arc<Budget>);

impl Waiting {
    fn begin(budget: &Arc<Budget>) -> Self {
        budget.needed.send_modify(|waiting| *waiting += 1);
        Self(Arc::clone(budget))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.needed.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

fn as_u64(size_bytes: usize) -> u64 {
    u64::try_from(size_bytes).unwrap_or(u64::MAX)
}

/// The query would hold too much.
#[derive(Debug)]
pub(crate) struct OverBudget(OverQuota);

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "query holds more than {} bytes of series that wait to be evaluated: select fewer series or a shorter range, or \
             raise the limit of bytes per query (--query.max-held-bytes, or max_held_bytes in an observer's file)",
            self.0.limit
        )
    }
}

impl From<OverBudget> for SourceError {
    fn from(over: OverBudget) -> Self {
        Self::Limit(over.to_string())
    }
}

/// A part of a [`Budget`] in use.
#[derive(Debug)]
pub(crate) struct Held {
    /// `None` only while it is dropped.
    held: Option<budget::Held>,
    counted: Option<Counted>,
    budget: Arc<Budget>,
}

/// What a selection holds that was not wanted then.
#[derive(Debug)]
struct Counted {
    selecting: Arc<Selecting>,
    size_bytes: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.selecting.remove(self.size_bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Given back first: who is woken looks at once.
        drop(self.held.take());
        drop(self.counted.take());
        self.budget.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_given_back_can_be_held_again() {
        let budget = Budget::new(100);
        let first = budget.hold(60).unwrap();
        let refused = SourceError::from(budget.hold(60).unwrap_err());
        assert!(matches!(refused, SourceError::Limit(text) if text.contains("more than 100 bytes")));
        drop(first);
        assert!(budget.hold(60).is_ok());
        assert!(Budget::new(0).hold(usize::MAX).is_ok());
    }

    #[tokio::test]
    async fn who_is_not_wanted_waits_for_room_and_who_is_wanted_is_given_theirs() {
        let budget = Budget::new(100);
        let (want, unread) = Interest::in_selection();
        let kept = budget.hold_for(&unread, 20).await.unwrap();
        assert!(budget.hold_for(&unread, 20).now_or_never().is_none(), "past a quarter it waits");
        let read = Interest::always();
        let needing = budget.hold_for(&read, 90);
        tokio::pin!(needing);
        assert!(needing.as_mut().now_or_never().is_none(), "it waits for what the other one holds");
        assert!(budget.needed().now_or_never().is_some());
        drop(kept);
        let held = needing.await.unwrap();
        assert!(budget.needed().now_or_never().is_none());
        drop(held);

        let _kept = budget.hold_for(&unread, 20).await.unwrap();
        want.send_replace(true);
        let over = budget.hold_for(&read, 90).now_or_never().unwrap().unwrap_err();
        assert!(
            over.to_string().contains("more than 100 bytes"),
            "both are wanted: nobody gives anything back"
        );
        assert!(budget.hold_for(&unread, 70).now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_room_goes_on_when_it_is_wanted() {
        let budget = Budget::new(100);
        let (want, interest) = Interest::in_selection();
        let waiting = budget.hold_for(&interest, 90);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(interest.is_starved());
        want.send_replace(true);
        assert!(waiting.await.is_ok());
        assert!(!interest.is_starved());
    }
}
