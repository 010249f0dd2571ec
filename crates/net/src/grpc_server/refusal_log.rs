//! Refusals in the log, up to a rate: what a stranger does must not fill a disk.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Refusals that are logged in one [`LOG_WINDOW`].
const LOGGED_REFUSALS: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// Of one server.
pub(super) struct RefusalLog(Mutex<Window>);

struct Window {
    began: Instant,
    logged: u32,
    suppressed: u64,
}

impl Window {
    fn new() -> Self {
        Self { began: Instant::now(), logged: 0, suppressed: 0 }
    }
}

impl Default for RefusalLog {
    fn default() -> Self {
        Self(Mutex::new(Window::new()))
    }
}

impl RefusalLog {
    /// Logs that something of `peer` was refused, if not too much was logged already.
    pub(super) fn note(&self, peer: SocketAddr, reason: &str) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= LOG_WINDOW {
            if window.suppressed > 0 {
                tracing::warn!(
                    count = window.suppressed,
                    "more was refused on the gRPC server than is logged"
                );
            }
            *window = Window::new();
        }
        if window.logged < LOGGED_REFUSALS {
            window.logged += 1;
            tracing::warn!(%peer, reason, "gRPC connection or call refused");
        } else {
            window.suppressed += 1;
        }
    }
}
