//! [`Gate`]: how many bytes of chunks may be on their way between the threads of a merge.
//!
//! A batch of ordinary series is small; one series of a long block may not be. Whoever reads waits until there is room; a batch that alone takes more than
//! there is goes through when nothing else is on its way.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Debug)]
pub(super) struct Gate {
    limit_bytes: usize,
    held_bytes: Mutex<usize>,
    freed: Condvar,
}

/// Bytes that are on their way; let go on drop.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    size_bytes: usize,
}

impl Gate {
    pub(super) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, held_bytes: Mutex::new(0), freed: Condvar::new() })
    }

    /// Waits until there is room.
    pub(super) fn enter(self: &Arc<Self>, size_bytes: usize) -> Permit {
        let mut held = self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *held > 0 && held.saturating_add(size_bytes) > self.limit_bytes {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        *held = held.saturating_add(size_bytes);
        Permit { gate: Arc::clone(self), size_bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = self.gate.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *held = held.saturating_sub(self.size_bytes);
        self.gate.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_never_fits_goes_alone() {
        let gate = Gate::new(10);
        let first = gate.enter(8);
        let (entered, entries) = sync_channel(1);
        let behind = Arc::clone(&gate);
        let waiting = thread::spawn(move || {
            let permit = behind.enter(100);
            entered.send(()).unwrap();
            drop(permit);
        });
        assert!(entries.try_recv().is_err(), "there is no room yet");
        drop(first);
        entries.recv().unwrap();
        waiting.join().unwrap();
        assert_eq!(*gate.held_bytes.lock().unwrap(), 0);
    }
}
