//! [`BlockList`]: the present list of blocks, and how a call gets a newer one when a block it reads turns out to be gone.
//!
//! A block leaves a bucket when another holds its samples (or nobody wants them any more). A call that began before reads from the list of that
//! time, and meets objects that do not exist. Then [`BlockList::successor`] says which block to read instead: from the present list, or from the next,
//! for which it asks and waits, but not long and not often: a block that is merely broken must not cost a sync for each query.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::block::Block;
use crate::blocks::Blocks;

/// A newer list is waited for so long at most.
const RENEWAL_WAIT: Duration = Duration::from_secs(10);

/// A newer list is asked for no sooner than so long after the last time. Who asks before gets what came of that.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// The list, its syncs by number, and who waits for one.
#[derive(Debug)]
pub struct BlockList {
    present: RwLock<Arc<Blocks>>,
    /// How many syncs have begun, and the number of the last that ended, well or not.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
    last_renewal: Mutex<Option<Renewal>>,
    wanted: Notify,
    renewal_wait: Duration,
}

/// A sync that was asked for.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    at: Instant,
    /// The first sync that begins after it was asked for.
    number: u64,
}

impl Default for BlockList {
    fn default() -> Self {
        Self {
            present: RwLock::default(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
            last_renewal: Mutex::default(),
            wanted: Notify::new(),
            renewal_wait: RENEWAL_WAIT,
        }
    }
}

impl BlockList {
    pub fn present(&self) -> Arc<Blocks> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace(&self, blocks: Blocks) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(blocks);
    }

    /// Says that a sync begins. It has ended when what is returned is dropped.
    pub fn begin_sync(&self) -> Syncing<'_> {
        Syncing { list: self, number: self.begun.fetch_add(1, Ordering::AcqRel) + 1 }
    }

    /// Returns when somebody wants a newer list.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The block that holds what one held that is gone; `None` if there is none, or none is known in time.
    pub async fn successor(&self, gone: &Block) -> Option<Arc<Block>> {
        if let Some(found) = self.present().successor(gone) {
            return Some(found);
        }
        self.renew().await;
        self.present().successor(gone)
    }

    /// Waits for a sync that begins after now, or for the last one that was asked for.
    async fn renew(&self) {
        let number = {
            let mut last = self.last_renewal.lock().unwrap_or_else(PoisonError::into_inner);
            match *last {
                Some(renewal) if renewal.at.elapsed() < RENEWAL_PAUSE => renewal.number,
                _ => {
                    let number = self.begun.load(Ordering::Acquire) + 1;
                    *last = Some(Renewal { at: Instant::now(), number });
                    self.wanted.notify_one();
                    number
                }
            }
        };
        let mut ended = self.ended.subscribe();
        // Whatever it came to: then the list is as it is.
        let _ = tokio::time::timeout(self.renewal_wait, ended.wait_for(|ended| *ended >= number)).await;
    }
}

/// A sync under way.
pub struct Syncing<'a> {
    list: &'a BlockList,
    number: u64,
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.list.ended.send_replace(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::tests::block_of;

    const FIRST: &str = "01M7ZT2XAE94D33BEGH3SZ0001";
    const SECOND: &str = "01M7ZT2XAE94D33BEGH3SZ0002";
    const THIRD: &str = "01M7ZT2XAE94D33BEGH3SZ0003";

    #[tokio::test]
    async fn a_successor_of_the_present_list_needs_no_sync() {
        let list = BlockList::default();
        let gone = block_of(FIRST, 0, (0, 100), &[FIRST]);
        list.replace(Blocks::new([block_of(THIRD, 0, (0, 200), &[FIRST, SECOND])], Vec::new()));
        assert_eq!(list.successor(&gone).await.unwrap().id().to_string(), THIRD);
        assert!(list.last_renewal.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_newer_list_is_asked_for_once_and_waited_for() {
        let list = Arc::new(BlockList::default());
        let gone = block_of(FIRST, 0, (0, 100), &[FIRST]);
        // A sync that began before the question does not count.
        let before = list.begin_sync();
        let asking = tokio::spawn({
            let (list, gone) = (Arc::clone(&list), Arc::clone(&gone));
            async move { list.successor(&gone).await }
        });
        list.wanted().await;
        drop(before);
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        let syncing = list.begin_sync();
        list.replace(Blocks::new([block_of(THIRD, 0, (0, 200), &[FIRST, SECOND])], Vec::new()));
        drop(syncing);
        assert_eq!(asking.await.unwrap().unwrap().id().to_string(), THIRD);
        // One that nobody holds costs no other sync so soon, and no wait.
        let other = block_of(SECOND, 300_000, (0, 100), &[SECOND]);
        assert!(list.successor(&other).await.is_none());
        assert_eq!(list.last_renewal.lock().unwrap().unwrap().number, 2);
    }

    #[tokio::test]
    async fn a_sync_that_does_not_come_is_not_waited_for_for_ever() {
        let list = BlockList { renewal_wait: Duration::from_millis(10), ..BlockList::default() };
        let gone = block_of(FIRST, 0, (0, 100), &[FIRST]);
        assert!(list.successor(&gone).await.is_none());
    }
}
