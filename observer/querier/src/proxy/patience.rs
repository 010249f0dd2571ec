//! How long one call waits for one endpoint.
//!
//! Three bounds hold together: the call's deadline, the longest silence, and the endpoint's own budget, which all waits of the call use up. Only waiting for the endpoint
//! counts: the time in which the merge waits for others, or has no room, is not its fault.

use std::time::{Duration, Instant};

use super::{Call, ProxyConfig, late};
use crate::coverage::Gap;
use crate::endpoint::Endpoint;

/// Of a budget, what is left for reading series where an evaluation was tried before: one part in this many.
const REST_SHARE: u32 = 2;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    deadline: Instant,
    silence: Option<Duration>,
    /// What is left of the budget; `None` without one.
    left: Option<Duration>,
}

impl Patience {
    pub fn new(call: &Call, endpoint: &Endpoint) -> Self {
        let budget = endpoint.declared().budget;
        let left = budget.map(|budget| if call.is_rest { budget / REST_SHARE } else { budget });
        Self { deadline: call.endpoint_deadline, silence: call.silence, left }
    }

    /// When a wait that begins now is too long.
    pub fn ends(&self) -> Instant {
        let now = Instant::now();
        let bounds = [self.silence, self.left].into_iter().flatten();
        bounds.filter_map(|bound| now.checked_add(bound)).fold(self.deadline, Instant::min)
    }

    /// When all waits together, if they begin now, are too long.
    pub fn ends_at_the_latest(&self) -> Instant {
        let budget_ends = self.left.and_then(|left| Instant::now().checked_add(left));
        budget_ends.map_or(self.deadline, |ends| ends.min(self.deadline))
    }

    /// The longest silence that is borne from here on.
    pub fn silence(&self) -> Option<Duration> {
        [self.silence, self.left].into_iter().flatten().min()
    }

    /// Waits for `work` as long as is left; the error is how long it was waited for in vain.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Duration> {
        let began = Instant::now();
        let result = tokio::time::timeout_at(self.ends().into(), work).await;
        let waited = began.elapsed();
        self.waited(waited);
        result.map_err(|_| waited)
    }

    /// Takes a wait off the budget.
    pub fn waited(&mut self, waited: Duration) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(waited);
        }
    }

    /// The gap that `endpoint` leaves, which was silent for `silence` at last.
    pub fn late(&self, endpoint: &Endpoint, config: &ProxyConfig, silence: Duration, frames: u64) -> Gap {
        let spent = endpoint.declared().budget.filter(|_| self.left.is_some_and(|left| left.is_zero()));
        let reason = match spent {
            None => format!("nothing came for {:.1} s, after {frames} frames", silence.as_secs_f64()),
            Some(budget) => format!(
                "its budget of {budget:?} was spent: nothing came for {:.1} s, after {frames} frames",
                silence.as_secs_f64()
            ),
        };
        late(endpoint, config, silence, reason)
    }
}
