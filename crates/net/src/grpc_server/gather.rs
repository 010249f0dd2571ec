//! Small writes into one: HTTP/2 flushes after every frame of 16 KiB, and a call of the system for each is a third of what sending costs.
//!
//! A flush is put off to the next time the connection's task runs, which is at once: it is woken. Every turn of an HTTP/2 connection begins with a read,
//! and that makes the flush good. So what is written in one turn leaves in pieces of [`GATHERED_BYTES`], and nothing is held longer than a turn.
//!
//! Invariant: bytes leave in their order; a flush that said it was done is made good by the next read, and by a shutdown.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much is gathered; what comes in larger pieces is passed on as it is.
const GATHERED_BYTES: usize = 64 << 10;

/// A stream whose small writes are gathered.
pub(super) struct Gather<S> {
    stream: S,
    held: Vec<u8>,
    /// What of `held` has been written.
    written: usize,
    /// Whether a flush was put off.
    owes_flush: bool,
}

impl<S> Gather<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), written: 0, owes_flush: false }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Writes what is held.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        // Connections that are idle hold no buffer.
        self.held = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn flush_now(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.owes_flush = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // One that has to wait for its peer wakes the task again.
        if self.owes_flush
            && let Poll::Ready(Err(error)) = self.flush_now(context)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size_bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.held.len() + size_bytes > GATHERED_BYTES {
            ready!(self.drain(context))?;
        }
        if size_bytes > GATHERED_BYTES {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        Poll::Ready(Ok(size_bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return self.flush_now(context);
        }
        if !std::mem::replace(&mut self.owes_flush, true) {
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.flush_now(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use proptest::prelude::*;

    use super::*;

    /// Takes what it is told to: how many bytes at the next write, and `None` for not now.
    #[derive(Default)]
    struct Slow {
        takes: Vec<Option<usize>>,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncRead for Slow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let most = match self.takes.pop() {
                Some(None) => return Poll::Pending,
                Some(Some(most)) => most.clamp(1, bytes.len().max(1)),
                None => bytes.len(),
            };
            self.writes.push(bytes[..most].to_vec());
            Poll::Ready(Ok(most))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn begin_turn(stream: &mut Gather<Slow>, context: &mut Context<'_>) {
        let mut space = [0; 8];
        assert!(Pin::new(stream).poll_read(context, &mut ReadBuf::new(&mut space)).is_pending());
    }

    #[test]
    fn frames_of_one_turn_leave_together_and_the_rest_in_the_next() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        let mut stream = Gather::new(Slow::default());
        begin_turn(&mut stream, &mut context);
        for _ in 0..9 {
            let frame = [IoSlice::new(&[1; 9]), IoSlice::new(&[2; 16 << 10])];
            assert!(Pin::new(&mut stream).poll_write_vectored(&mut context, &frame).is_ready());
            assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        }
        let sizes =
            |stream: &Gather<Slow>| -> Vec<usize> { stream.stream.writes.iter().map(Vec::len).collect() };
        assert_eq!(sizes(&stream), [3 * (9 + (16 << 10)); 2]);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        begin_turn(&mut stream, &mut context);
        for _ in 0..2 {
            assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());
        }
        assert_eq!(sizes(&stream), [3 * (9 + (16 << 10)); 3]);
        assert_eq!(
            wakes.0.load(Ordering::Relaxed),
            1,
            "with nothing held, nothing is to be done in the next turn"
        );
    }

    #[derive(Clone, Debug)]
    enum Act {
        Write(usize),
        Flush,
        Turn,
    }

    proptest! {
        #[test]
        fn every_byte_leaves_once_and_in_order(
            acts in prop::collection::vec(
                prop_oneof![(0usize..100_000).prop_map(Act::Write), Just(Act::Flush), Just(Act::Turn)],
                0..40,
            ),
            takes in prop::collection::vec(prop::option::of(1usize..50_000), 0..60),
        ) {
            let waker = Waker::from(Arc::new(Wakes::default()));
            let mut context = Context::from_waker(&waker);
            let mut stream = Gather::new(Slow { takes, ..Slow::default() });
            let (mut expected, mut next) = (Vec::new(), 0u8);
            for act in acts {
                match act {
                    Act::Write(size) => {
                        let bytes: Vec<u8> = (0..size).map(|at| next.wrapping_add(at as u8)).collect();
                        if let Poll::Ready(taken) = Pin::new(&mut stream).poll_write(&mut context, &bytes) {
                            expected.extend_from_slice(&bytes[..taken.unwrap()]);
                            next = next.wrapping_add(37);
                        }
                    }
                    Act::Flush => {
                        let _ = Pin::new(&mut stream).poll_flush(&mut context);
                    }
                    Act::Turn => begin_turn(&mut stream, &mut context),
                }
            }
            while Pin::new(&mut stream).poll_shutdown(&mut context).is_pending() {}
            prop_assert!(stream.stream.writes.concat() == expected);
        }
    }
}
