//! [`Edge`]: a network between two gRPC peers that is calm, slow or stormy, as a test wants it at the moment.
//!
//! It has two ways in: [`Edge::relay`] stands between them as a TCP hop and knows bytes only; [`Edge::routes`] is an ingress that knows streams, and ends,
//! resets or holds back single answers. What happens to the nth connection or answer in a weather follows from the seed; which call is the nth does not: that
//! depends on who comes first. So a seed repeats the kind of weather, not each drop.

mod answers;
mod relay;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

use crate::seeded::Seeded;

/// What an edge does to what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes at once.
    #[default]
    Calm,
    /// Everything passes, in pieces down to a byte and with pauses in between.
    Slow,
    /// Some passes, some does so slowly, some is cut, held back for as long as the storm lasts, or refused.
    Storm,
}

/// How many bytes pass until something happens: short answers shall be hit as often as long ones.
const REACHES: [u64; 6] = [1, 40, 400, 4_000, 20_000, 80_000];
/// The longest pause between two pieces.
const LONGEST_PAUSE_MS: u64 = 12;
/// Pieces with a pause after each are at least so long, so that an answer takes a part of a second.
const SMALLEST_PAUSED_PIECE: u64 = 2_000;

/// See the module. Cloning shares it; it ends with the last clone.
#[derive(Clone)]
pub struct Edge {
    state: Arc<State>,
    stop: CancellationToken,
    _stops_with_the_last: Arc<DropGuard>,
}

struct State {
    rows: Seeded,
    sky: watch::Sender<Sky>,
    connections: AtomicU64,
    answers: AtomicU64,
    faults: AtomicU64,
}

/// A weather, and the how many-eth it is.
#[derive(Clone, Copy, Debug, Default)]
struct Sky {
    weather: Weather,
    number: u64,
}

/// How something passes: in pieces of at most `piece_bytes`, with a pause after each; and what happens once `left_bytes` have passed.
#[derive(Clone, Copy, Debug)]
struct Pace {
    piece_bytes: usize,
    pause: Option<Duration>,
    left_bytes: usize,
}

impl Pace {
    const WHOLE: Self = Self { piece_bytes: usize::MAX, pause: None, left_bytes: usize::MAX };

    fn slow(row: &mut Seeded) -> Self {
        if row.percent(30) {
            // Without pauses, for they would last forever.
            return Self { piece_bytes: 1 + row.index(60), ..Self::WHOLE };
        }
        let piece_bytes = usize::try_from(SMALLEST_PAUSED_PIECE + row.below(20_000)).unwrap_or(usize::MAX);
        let pause = Duration::from_millis(1 + row.below(LONGEST_PAUSE_MS));
        Self { piece_bytes, pause: Some(pause), left_bytes: usize::MAX }
    }

    /// Until something happens.
    fn until(row: &mut Seeded) -> Self {
        let reach = *row.pick(&REACHES);
        let left_bytes = usize::try_from(row.below(reach)).unwrap_or(0);
        Self { left_bytes, ..if row.percent(30) { Self::slow(row) } else { Self::WHOLE } }
    }
}

impl Edge {
    /// Calm, until told otherwise.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rows: Seeded::new(seed),
            sky: watch::Sender::new(Sky::default()),
            connections: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        };
        let stop = CancellationToken::new();
        let guard = Arc::new(stop.clone().drop_guard());
        Self { state: Arc::new(state), stop, _stops_with_the_last: guard }
    }

    /// Changes the weather, also for what is open.
    pub fn set(&self, weather: Weather) {
        self.state.sky.send_modify(|sky| *sky = Sky { weather, number: sky.number + 1 });
    }

    /// What was cut, held back, ended or refused so far: a test without any shows nothing.
    pub fn faults(&self) -> u64 {
        self.state.faults.load(Ordering::Relaxed)
    }

    /// Listens on loopback, and passes every connection on to `upstream`; the address is where.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn relay(&self, upstream: impl Into<String>) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let passing = relay::pass_on(listener, upstream.into(), Arc::clone(&self.state));
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(passing));
        Ok(address)
    }

    /// The same services, whose answers have the weather.
    #[must_use]
    pub fn routes(&self, routes: Routes) -> Routes {
        answers::weathered(routes, Arc::clone(&self.state))
    }
}

impl State {
    fn count(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("sky", &*self.state.sky.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use futures::StreamExt as _;
    use parallax_model::TimeRange;
    use parallax_storeapi::proto::thanos::SeriesRequest;
    use parallax_storeapi::{Store as _, StoreClient};
    use tonic::{Code, Request};

    use crate::fake_store::FakeStore;

    fn routes() -> Routes {
        let samples = || (0..100).map(|i| (i * 15_000, i as f64));
        let store = FakeStore::new([("cluster", "eu-1")])
            .with_range(TimeRange::new(0, i64::MAX))
            .with_series([("__name__", "a")], samples())
            .with_series([("__name__", "b")], samples());
        let (_, readiness) = watch::channel(true);
        parallax_storeapi::routes(Arc::new(store), readiness).unwrap()
    }

    /// How many calls end in which way, and how many series came; a call that hangs counts as none.
    async fn outcomes(weather: Weather, calls: usize) -> (BTreeMap<&'static str, usize>, u64) {
        let edge = Edge::new(7);
        edge.set(weather);
        let client = StoreClient::new(edge.routes(routes()));
        let mut counts = BTreeMap::new();
        for _ in 0..calls {
            let request = SeriesRequest {
                max_time: i64::MAX,
                matchers: vec![parallax_storeapi::proto::thanos::LabelMatcher {
                    name: "cluster".to_owned(),
                    value: "eu-1".to_owned(),
                    ..Default::default()
                }],
                ..SeriesRequest::default()
            };
            let asking = async {
                let mut stream =
                    client.series(Request::new(request)).await.map_err(|status| status.code())?;
                let mut frames = 0;
                while let Some(frame) = stream.next().await {
                    frame.map_err(|status| status.code())?;
                    frames += 1;
                }
                Ok::<_, Code>(frames)
            };
            let outcome = match tokio::time::timeout(Duration::from_millis(500), asking).await {
                Err(_) => "hangs",
                Ok(Ok(2)) => "whole",
                Ok(Ok(_)) => "short",
                Ok(Err(_)) => "fails",
            };
            *counts.entry(outcome).or_default() += 1;
        }
        (counts, edge.faults())
    }

    #[tokio::test]
    async fn what_is_slow_is_whole() {
        for weather in [Weather::Calm, Weather::Slow] {
            assert_eq!(outcomes(weather, 20).await, (BTreeMap::from([("whole", 20)]), 0), "{weather:?}");
        }
    }

    #[tokio::test]
    async fn a_storm_spares_some_and_none_that_is_cut_short_looks_whole() {
        let (counts, faults) = outcomes(Weather::Storm, 40).await;
        assert!(faults > 10, "{counts:?}");
        assert!(counts["whole"] > 5 && counts["fails"] > 5, "{counts:?}");
        assert_eq!(counts.get("short"), None, "{counts:?}");
    }
}
