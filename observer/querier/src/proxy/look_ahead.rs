//! How far an endpoint's frames may run ahead of the merge, in bytes.
//!
//! Invariants:
//! - An endpoint that has nothing waiting may always deliver, as long as the query's budget holds: the merge may be waiting for just that one, and
//!   making it wait for room that others take would be a deadlock. Past the budget it fails.
//! - Running ahead is for those who find room: in the endpoint's own share, and in half of the query's budget, so that the other half is left to those
//!   whom the merge waits for.
//! - For a selection that the engine has not come to, everything is running ahead: its endpoints wait for room where others would fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::select::{Budget, Held, Interest, OverBudget};

/// Running ahead may use one part in this many of a query's budget.
const AHEAD_SHARE: u64 = 2;

/// One endpoint's share.
#[derive(Debug)]
pub(super) struct LookAhead {
    budget: Arc<Budget>,
    interest: Interest,
    own_bytes: Arc<AtomicUsize>,
    limit_bytes: usize,
}

impl LookAhead {
    pub fn new(budget: Arc<Budget>, interest: Interest, limit_bytes: usize) -> Self {
        Self { budget, interest, own_bytes: Arc::default(), limit_bytes }
    }

    /// Waits until `size_bytes` more may wait for the merge.
    ///
    /// # Errors
    /// If the query's budget is spent, and this is what it waits for.
    pub async fn admit(&self, size_bytes: usize) -> Result<Ahead, OverBudget> {
        loop {
            let released = self.budget.released().notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            let own_bytes = self.own_bytes.load(Ordering::Acquire);
            if own_bytes == 0 {
                let held = self.budget.hold_for(&self.interest, size_bytes).await?;
                return Ok(self.counted(held, size_bytes));
            }
            if own_bytes.saturating_add(size_bytes) <= self.limit_bytes
                && let Some(held) = self.budget.hold_share(&self.interest, size_bytes, AHEAD_SHARE)
            {
                return Ok(self.counted(held, size_bytes));
            }
            released.await;
        }
    }

    fn counted(&self, held: Held, size_bytes: usize) -> Ahead {
        self.own_bytes.fetch_add(size_bytes, Ordering::AcqRel);
        Ahead { own_bytes: Arc::clone(&self.own_bytes), size_bytes, _held: held }
    }
}

/// Bytes that wait for the merge; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Ahead {
    own_bytes: Arc<AtomicUsize>,
    size_bytes: usize,
    /// Dropped after `own_bytes` is corrected, which wakes who waits.
    _held: Held,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.own_bytes.fetch_sub(self.size_bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn ahead_of(budget: Arc<Budget>, limit_bytes: usize) -> LookAhead {
        LookAhead::new(budget, Interest::always(), limit_bytes)
    }

    #[tokio::test]
    async fn the_first_frame_for_a_selection_that_nobody_reads_waits_instead_of_failing() {
        let budget = Budget::new(1000);
        let (want, interest) = Interest::in_selection();
        let unread = |budget: &Arc<Budget>| LookAhead::new(budget.clone(), interest.clone(), usize::MAX);
        let (first, second) = (unread(&budget), unread(&budget));
        let _held = first.admit(200).await.unwrap();
        let waiting = second.admit(900);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none(), "it neither fails nor takes what others may need");
        let needed = ahead_of(budget.clone(), 10).admit(800).now_or_never().unwrap().unwrap();
        want.send_replace(true);
        assert!(waiting.as_mut().now_or_never().unwrap().is_err(), "now it is an answer that is too large");
        drop(needed);
    }

    #[tokio::test]
    async fn an_endpoint_waits_for_its_own_share_but_never_with_nothing_under_way() {
        let ahead = ahead_of(Budget::new(1000), 100);
        // Larger than the share, and alone.
        let first = ahead.admit(150).await.unwrap();
        assert!(ahead.admit(1).now_or_never().is_none());
        let waiting = ahead.admit(60);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        let second = waiting.await.unwrap();
        let third = ahead.admit(40).await.unwrap();
        assert!(ahead.admit(1).now_or_never().is_none());
        drop((second, third));
    }

    #[tokio::test]
    async fn running_ahead_leaves_half_of_the_budget_to_those_who_are_waited_for() {
        let budget = Budget::new(1000);
        let greedy = ahead_of(budget.clone(), usize::MAX);
        let _first = greedy.admit(400).await.unwrap();
        assert!(greedy.admit(101).now_or_never().is_none());
        let modest = ahead_of(budget.clone(), 10);
        let _needed = modest.admit(600).await.unwrap();
        let late = ahead_of(budget, 10);
        assert!(late.admit(1).await.unwrap_err().to_string().contains("more than 1000 bytes"));
    }

    #[tokio::test]
    async fn no_limit_is_no_limit() {
        let ahead = ahead_of(Budget::new(0), usize::MAX);
        let _first = ahead.admit(1 << 40).await.unwrap();
        assert!(ahead.admit(1 << 40).await.is_ok());
    }
}
