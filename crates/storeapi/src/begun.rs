//! Work that is begun by whoever asks for it, and goes on as a task only if that does not end it.
//!
//! To hand work over to another thread, and what comes of it back, takes longer than all that a small question needs where the data is in memory. What has to wait, for
//! the network, for a disk or for its reader, becomes a task when it first does.
//!
//! Invariant: the new task looks at everything again before it waits, so that nothing is missed that came in between.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::task::JoinHandle;

/// Work under way; to drop it ends it.
#[derive(Debug)]
pub struct Begun(Option<JoinHandle<()>>);

impl Begun {
    /// Does here what can be done without waiting, and the rest in a task. Work that panics has ended, as a task has. Call it inside a tokio runtime.
    pub fn here(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
        let mut nobody = Context::from_waker(Waker::noop());
        let begun = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut nobody)));
        match begun {
            Ok(begun) if begun.is_pending() => Self::elsewhere(work),
            // The panic's hook has said what there is to say.
            _ => Self(None),
        }
    }

    /// Does all of it in a task. Call it inside a tokio runtime.
    pub fn elsewhere(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(work)))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_need_not_wait_is_done_where_it_is_asked_for() {
        let (sender, mut done) = mpsc::channel::<ThreadId>(1);
        let here = current().id();
        let begun = Begun::here(async move { sender.send(current().id()).await.unwrap() });
        assert_eq!(done.try_recv(), Ok(here));
        assert!(begun.0.is_none());
    }

    #[tokio::test]
    async fn what_has_to_wait_goes_on_and_misses_nothing() {
        let (go, gone) = oneshot::channel();
        let (sender, mut done) = mpsc::channel(1);
        let begun = Begun::here(async move {
            let said: u32 = gone.await.unwrap();
            sender.send(said).await.unwrap();
        });
        // Before the task has run for the first time.
        go.send(7).unwrap();
        assert_eq!(done.recv().await, Some(7));
        drop(begun);
    }

    #[tokio::test]
    async fn to_drop_it_ends_it() {
        let (sender, mut done) = mpsc::channel::<()>(1);
        let begun = Begun::here(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        assert!(done.try_recv().is_err());
        drop(begun);
        assert_eq!(done.recv().await, None);
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_alone() {
        let (sender, mut done) = mpsc::channel::<()>(1);
        let _begun = Begun::here(async move {
            let _sender = sender;
            panic!("as a defect would");
        });
        assert_eq!(done.recv().await, None);
    }
}
