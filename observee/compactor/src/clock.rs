//! [`Clock`]: how much time passes, as something that is handed in. What time it is a pass is told when it begins.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tells the time since some moment; never goes back. A clone is the same clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The machine's.
    pub fn system() -> Self {
        let begun = Instant::now();
        Self::of(move || begun.elapsed())
    }

    /// One that somebody else turns.
    pub fn of(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> Duration {
        (self.0)()
    }

    /// How much time has passed since [`Self::now`] said so.
    pub fn since(&self, then: Duration) -> Duration {
        self.now().saturating_sub(then)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
