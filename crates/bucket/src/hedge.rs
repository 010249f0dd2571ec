//! Hedged reads: a read that takes longer than most recent ones is asked for a second time, and the first answer counts.
//!
//! The delay is a quantile of what recent reads took, so that few reads are hedged by construction; a budget bounds them when a whole store
//! gets slow: at most one further request for ten reads. Nothing is hedged before enough reads are known.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::config::HedgingConfig;

/// Reads remembered.
const WINDOW: usize = 256;
/// Reads known before the first is hedged.
const MIN_READS: usize = 20;
/// Below this a second request costs more than it can win.
const MIN_DELAY: Duration = Duration::from_millis(5);
/// What a further request costs, in the units a read earns one of.
const COST: u32 = 10;
/// Further requests that may be saved up.
const CAPACITY: u32 = 10;

/// The memory and the budget of one bucket's reads.
#[derive(Debug)]
pub(crate) struct Hedge {
    config: HedgingConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<Duration>,
    units: u32,
}

/// What a hedged read came to.
pub(crate) struct Hedged<T> {
    pub result: T,
    /// Requests sent beyond the first.
    pub further: u32,
    /// Whether one of those answered first.
    pub won: bool,
}

impl Hedge {
    pub(crate) fn new(config: HedgingConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    /// Runs `read`, and again after the delay while nothing has come; the first success, or the last failure.
    pub(crate) async fn run<T, E, F>(&self, mut read: impl FnMut() -> F) -> Hedged<Result<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let delay = self.begin();
        let started = Instant::now();
        let mut running = FuturesUnordered::new();
        let mut numbered = |number: u32| {
            let future = read();
            async move { (number, future.await) }
        };
        running.push(numbered(0));
        let mut further = 0;
        loop {
            let may_add = delay.filter(|_| further + 1 < self.config.up_to);
            let next = async {
                match may_add {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((number, result)) = running.next() => {
                    if result.is_ok() {
                        self.took(started.elapsed());
                    } else if !running.is_empty() {
                        continue;
                    }
                    return Hedged { result, further, won: number > 0 };
                }
                () = next => {
                    if !self.spend() {
                        // Without budget this read waits for what it has.
                        let mut last = None;
                        while let Some((number, result)) = running.next().await {
                            let done = result.is_ok() || running.is_empty();
                            if result.is_ok() {
                                self.took(started.elapsed());
                            }
                            last = Some(Hedged { result, further, won: number > 0 });
                            if done { break; }
                        }
                        if let Some(last) = last { return last; }
                    }
                    further += 1;
                    running.push(numbered(further));
                }
            }
        }
    }

    /// Counts a read, and says after which delay it may be hedged.
    fn begin(&self) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.units = (state.units + 1).min(CAPACITY * COST);
        if state.recent.len() < MIN_READS {
            return None;
        }
        let mut sorted: Vec<Duration> = state.recent.iter().copied().collect();
        let permille = usize::try_from(self.config.quantile_permille).unwrap_or(usize::MAX);
        let rank = (sorted.len() * permille / 1000).min(sorted.len() - 1);
        let (_, quantile, _) = sorted.select_nth_unstable(rank);
        Some((*quantile).max(MIN_DELAY))
    }

    fn spend(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.units.checked_sub(COST) {
            Some(left) => {
                state.units = left;
                true
            }
            None => false,
        }
    }

    fn took(&self, duration: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.recent.len() == WINDOW {
            state.recent.pop_front();
        }
        state.recent.push_back(duration);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn hedge(up_to: u32) -> Hedge {
        Hedge::new(HedgingConfig { up_to, quantile_permille: 900 })
    }

    async fn train(hedge: &Hedge, reads: usize) {
        for _ in 0..reads {
            hedge.run(|| async { Ok::<_, ()>(()) }).await;
        }
    }

    #[tokio::test]
    async fn a_slow_read_is_asked_for_again_and_the_first_answer_counts() {
        let hedge = hedge(3);
        train(&hedge, MIN_READS).await;
        let calls = AtomicU32::new(0);
        let hedged = hedge
            .run(|| {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                async move {
                    if call == 0 {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, ()>(call)
                }
            })
            .await;
        assert_eq!((hedged.result, hedged.further, hedged.won), (Ok(1), 1, true));
    }

    #[tokio::test]
    async fn nothing_is_hedged_before_reads_are_known() {
        let hedge = hedge(3);
        let read = hedge.run(|| async {
            tokio::time::sleep(MIN_DELAY * 4).await;
            Ok::<_, ()>(())
        });
        assert_eq!(read.await.further, 0);
    }

    #[tokio::test]
    async fn a_store_that_gets_slow_as_a_whole_is_not_asked_twice_as_much() {
        let hedge = hedge(2);
        train(&hedge, MIN_READS).await;
        let mut further = 0;
        for _ in 0..100 {
            let read = hedge.run(|| async {
                tokio::time::sleep(MIN_DELAY * 2).await;
                Ok::<_, ()>(())
            });
            further += read.await.further;
        }
        assert!((1..=CAPACITY + 10).contains(&further), "{further}");
    }

    #[tokio::test]
    async fn an_error_of_one_request_does_not_hide_the_others_answer() {
        let hedge = hedge(2);
        train(&hedge, MIN_READS).await;
        let calls = AtomicU32::new(0);
        let hedged = hedge
            .run(|| {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                async move {
                    // Long after the second was asked, also on a machine that is busy.
                    tokio::time::sleep(MIN_DELAY * if call == 0 { 200 } else { 220 }).await;
                    if call == 0 { Err("broken") } else { Ok(call) }
                }
            })
            .await;
        assert_eq!(hedged.result, Ok(1));
        let all_fail = hedge.run(|| async { Err::<(), _>("broken") }).await;
        assert_eq!(all_fail.result, Err("broken"));
    }
}
