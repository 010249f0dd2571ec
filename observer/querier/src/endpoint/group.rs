//! Several servers that hold the same data, as one endpoint.
//!
//! Invariants:
//! - An answer is one server's: the first that begins one. What others had begun is dropped, so that nothing is mixed or doubled.
//! - A server that fails before its answer begins gives way to the next at once. At most two are asked at a time.
//!
//! [`Choice::Rotate`] is Thanos' `--endpoint-group`: each call begins with the next server. [`Choice::Prefer`] begins with the one that is well, fast and listed
//! first, and asks another, too, if no answer has begun after a while (a hedge).

mod calls;
mod member;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parallax_storeapi::Store;
use parallax_storeapi::proto::thanos::info::InfoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::{Code, Status};

use crate::coverage::Gap;
use member::Member;

/// How many of the latest answers say when a hedge is due…
const REMEMBERED_ANSWERS: usize = 128;
/// …and how many there have to be before they do.
const ENOUGH_ANSWERS: usize = 20;
/// Of them, the share in percent that no hedge shall be sent for.
const HEDGE_PERCENTILE: usize = 95;
/// No hedge is sent sooner: the network alone may take that long.
const MIN_HEDGE_DELAY: Duration = Duration::from_millis(10);
/// Of the time that a call has left, a hedge is sent before one part in this many is over.
const HEDGE_SHARE: u32 = 4;
/// How long a poll waits for the others once one server has said what it holds.
const STRAGGLERS: Duration = Duration::from_millis(250);

/// When another server is asked, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// After this long; `None`: after what 95 of the last hundred answers took at most to begin.
    pub delay: Option<Duration>,
    /// Never later than this, and so until there were enough answers.
    pub max_delay: Duration,
}

/// Who is asked first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    Rotate,
    Prefer(Hedge),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    endpoint: String,
    event: &'static str,
}

/// Counts what became of calls that one server alone would not have answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupCounters {
    events: Family<EventLabels, Counter<u64, AtomicU64>>,
}

impl GroupCounters {
    /// All that can happen: a hedge is sent, a hedge answers first, a failure goes over to another server.
    const EVENTS: [&str; 3] = ["hedge", "hedge_won", "failover"];

    pub(crate) fn register(metrics: &parallax_telemetry::Metrics) -> Self {
        let events = metrics.register(
            "parallax_querier_alternatives",
            "Calls to endpoints of several servers in which another server was asked, too (hedge), answered before the first (hedge_won), or took over after a failure (failover)",
            Family::default(),
        );
        Self { events }
    }

    fn count(&self, endpoint: &str, event: &'static str) {
        self.events.get_or_create(&EventLabels { endpoint: endpoint.to_owned(), event }).inc();
    }

    pub(crate) fn forget(&self, endpoint: &str) {
        for event in Self::EVENTS {
            self.events.remove(&EventLabels { endpoint: endpoint.to_owned(), event });
        }
    }
}

pub(super) struct Group {
    /// Of the endpoint.
    name: String,
    members: Vec<Member>,
    choice: Choice,
    next: AtomicUsize,
    /// How long the latest answers took to begin.
    begun_after: Mutex<VecDeque<Duration>>,
    counters: GroupCounters,
}

/// Whether an answer begins soon, or only when it is ready.
#[derive(Clone, Copy)]
enum Kind {
    Streaming,
    Evaluating,
}

/// One call to one server.
struct Ended<'a, T> {
    member: &'a Member,
    began: Instant,
    is_hedge: bool,
    result: Result<T, Status>,
}

impl Group {
    pub(super) fn new(
        name: &str,
        members: Vec<(String, Arc<dyn Store>)>,
        choice: Choice,
        counters: GroupCounters,
    ) -> Self {
        Self {
            name: name.to_owned(),
            members: members.into_iter().map(|(name, store)| Member::new(name, store)).collect(),
            choice,
            next: AtomicUsize::new(0),
            begun_after: Mutex::default(),
            counters,
        }
    }

    /// The servers in the order in which they are asked.
    fn order(&self) -> Vec<&Member> {
        let now = Instant::now();
        let mut order: Vec<&Member> = self.members.iter().collect();
        match self.choice {
            Choice::Rotate => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                order.rotate_left(turn.checked_rem(self.members.len()).unwrap_or(0));
                order.sort_by_key(|member| member.is_suspect(now));
            }
            Choice::Prefer(_) => order.sort_by_key(|member| (member.is_suspect(now), member.slowness())),
        }
        order
    }

    /// After how long another server is asked, too.
    fn hedge_after(&self, kind: Kind, deadline: Option<Instant>) -> Option<Duration> {
        let Choice::Prefer(hedge) = self.choice else { return None };
        let usual = match kind {
            Kind::Streaming => hedge.delay.or_else(|| self.usual()),
            // What it takes depends on the query alone.
            Kind::Evaluating => None,
        };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) / HEDGE_SHARE);
        let longest = left.map_or(hedge.max_delay, |left| left.min(hedge.max_delay));
        Some(usual.unwrap_or(longest).min(longest).max(MIN_HEDGE_DELAY))
    }

    /// What most answers took to begin lately, if there were enough.
    fn usual(&self) -> Option<Duration> {
        let mut begun: Vec<Duration> =
            self.begun_after.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        if begun.len() < ENOUGH_ANSWERS {
            return None;
        }
        begun.sort_unstable();
        begun.get(begun.len() * HEDGE_PERCENTILE / 100).copied()
    }

    fn remember(&self, begun_after: Duration) {
        let mut begun = self.begun_after.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.len() >= REMEMBERED_ANSWERS {
            begun.pop_front();
        }
        begun.push_back(begun_after);
    }

    /// The first answer that begins. An attempt has to end with the first frame of its answer.
    async fn first<T, F>(
        &self,
        kind: Kind,
        deadline: Option<Instant>,
        attempt: impl Fn(Arc<dyn Store>) -> F + Send + Sync,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let attempt = &attempt;
        let ask = |member, is_hedge| async move {
            let mut call = Member::begin(member);
            let result = attempt(member.store()).await;
            call.end();
            Ended { member, began: call.began(), is_hedge, result }
        };
        let mut waiting = self.order().into_iter();
        let Some(first) = waiting.next() else {
            return Err(Status::failed_precondition("the group has no servers"));
        };
        let hedge_after = self.hedge_after(kind, deadline).filter(|_| waiting.len() > 0);
        let hedge = async {
            match hedge_after {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(hedge);
        let mut asked = vec![first];
        let mut running: FuturesUnordered<_> = std::iter::once(ask(first, false)).collect();
        let (mut has_hedged, mut failures) = (false, Vec::new());
        loop {
            let ended = tokio::select! {
                biased;
                ended = running.next() => ended,
                () = &mut hedge, if !has_hedged => {
                    has_hedged = true;
                    if let Some(member) = waiting.next() {
                        self.counters.count(&self.name, "hedge");
                        asked.push(member);
                        running.push(ask(member, true));
                    }
                    continue;
                }
            };
            let Some(ended) = ended else { return Err(all_failed(failures)) };
            match ended.result {
                Ok(answer) => {
                    self.won(kind, &asked, ended.member, ended.began, ended.is_hedge);
                    return Ok(answer);
                }
                Err(status) if is_anybodys(&status) => return Err(status),
                Err(status) => {
                    ended.member.failed();
                    asked.retain(|member| !std::ptr::eq(*member, ended.member));
                    failures.push((ended.member.name().to_owned(), status));
                    if let Some(member) = waiting.next() {
                        self.counters.count(&self.name, "failover");
                        asked.push(member);
                        running.push(ask(member, ended.is_hedge));
                    }
                }
            }
        }
    }

    /// Notes who answered first, and who was too slow for that.
    fn won(&self, kind: Kind, asked: &[&Member], winner: &Member, began: Instant, is_hedge: bool) {
        winner.answered(began);
        if matches!(kind, Kind::Streaming) {
            self.remember(began.elapsed());
        }
        if is_hedge {
            self.counters.count(&self.name, "hedge_won");
            asked.iter().filter(|member| !std::ptr::eq(**member, winner)).for_each(|member| member.failed());
        }
    }

    /// What the first server says that says anything.
    async fn any_info(&self) -> Result<InfoResponse, Status> {
        let mut failures = Vec::new();
        for member in self.order() {
            match member.store().info().await {
                Err(status) if status.code() == Code::Unavailable => {
                    failures.push((member.name().to_owned(), status));
                }
                result => return result,
            }
        }
        Err(all_failed(failures))
    }

    /// What the preferred one of those says that answer; all are asked, so that it is known who is well and how far away.
    async fn preferred_info(&self) -> Result<InfoResponse, Status> {
        let poll = |(index, member): (usize, &Member)| {
            let store = member.store();
            async move {
                let began = Instant::now();
                (index, began, store.info().await)
            }
        };
        let mut polls: FuturesUnordered<_> = self.members.iter().enumerate().map(poll).collect();
        let mut answers: BTreeMap<usize, Result<InfoResponse, Status>> = BTreeMap::new();
        let mut ends: Option<Instant> = None;
        loop {
            let next = match ends {
                None => polls.next().await,
                Some(ends) => {
                    let Ok(next) = tokio::time::timeout_at(ends.into(), polls.next()).await else { break };
                    next
                }
            };
            let Some((index, began, result)) = next else { break };
            if let Some(member) = self.members.get(index) {
                match &result {
                    Ok(_) => member.polled(began),
                    Err(_) => member.failed(),
                }
            }
            if result.is_ok() {
                ends.get_or_insert_with(|| Instant::now() + STRAGGLERS);
            }
            answers.insert(index, result);
        }
        let silent = self.members.iter().enumerate().filter(|(index, _)| !answers.contains_key(index));
        silent.for_each(|(_, member)| member.failed());
        let (mut failures, mut said) = (Vec::new(), Vec::new());
        for (index, answer) in answers {
            let Some(member) = self.members.get(index) else { continue };
            match answer {
                Ok(info) => said.push((member.name(), info)),
                Err(status) => failures.push((member.name().to_owned(), status)),
            }
        }
        let order = self.order();
        let place = |name: &str| order.iter().position(|member| member.name() == name);
        let best = said.into_iter().min_by_key(|(name, _)| place(name));
        best.map(|(_, info)| info).ok_or_else(|| all_failed(failures))
    }
}

/// Whether every server would say so.
fn is_anybodys(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::Cancelled)
}

/// What all servers said. Of several, one that can be tried again counts as that; a gap that a querier names stays as it is.
fn all_failed(mut failures: Vec<(String, Status)>) -> Status {
    if failures.len() <= 1 {
        let nobody = || Status::failed_precondition("the group has no servers");
        return failures.pop().map_or_else(nobody, |(_, status)| status);
    }
    let named = failures.iter().position(|(_, status)| Gap::parse(status.message()).is_some());
    if let Some(index) = named {
        return failures.swap_remove(index).1;
    }
    let again = failures.iter().any(|(_, status)| status.code() == Code::Unavailable);
    let code =
        if again { Code::Unavailable } else { failures.first().map_or(Code::Unknown, |(_, s)| s.code()) };
    let said = failures.iter().map(|(name, status)| format!("{name}: {}", crate::proxy::reason_of(status)));
    Status::new(code, said.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(choice: Choice) -> Group {
        Group::new("group", Vec::new(), choice, GroupCounters::default())
    }

    #[test]
    fn a_hedge_waits_for_what_most_answers_take_and_for_no_more_than_it_may() {
        let (ms, at_most) = (Duration::from_millis, Duration::from_millis(500));
        let hedging = |delay| group(Choice::Prefer(Hedge { delay, max_delay: at_most }));
        let by_use = hedging(None);
        assert_eq!(by_use.hedge_after(Kind::Streaming, None), Some(at_most), "nothing is known");
        (1..=100).for_each(|took| by_use.remember(ms(took)));
        assert_eq!(by_use.hedge_after(Kind::Streaming, None), Some(ms(96)));
        assert_eq!(by_use.hedge_after(Kind::Evaluating, None), Some(at_most));
        (0..200).for_each(|_| by_use.remember(ms(5000)));
        assert_eq!(by_use.hedge_after(Kind::Streaming, None), Some(at_most));
        (0..200).for_each(|_| by_use.remember(Duration::ZERO));
        assert_eq!(by_use.hedge_after(Kind::Streaming, None), Some(MIN_HEDGE_DELAY));
        let fixed = hedging(Some(ms(70)));
        assert_eq!(fixed.hedge_after(Kind::Streaming, None), Some(ms(70)));
        let soon = fixed.hedge_after(Kind::Streaming, Some(Instant::now() + ms(120))).unwrap();
        assert!(soon <= ms(30) && soon >= MIN_HEDGE_DELAY, "{soon:?}");
        assert_eq!(group(Choice::Rotate).hedge_after(Kind::Streaming, None), None);
    }

    #[test]
    fn of_several_failures_all_are_named_and_a_gap_stays_one() {
        let failed = |all: &[(&str, Status)]| {
            all_failed(all.iter().map(|(name, status)| ((*name).to_owned(), status.clone())).collect())
        };
        let (refused, broken) = (Status::unavailable("refused"), Status::internal("broken"));
        let both = failed(&[("a", broken.clone()), ("b", refused)]);
        assert_eq!((both.code(), both.message()), (Code::Unavailable, "a: broken; b: refused"));
        let gap = Status::aborted("parallax: cluster \"us-1\" late: x:1: nothing came");
        assert_eq!(failed(&[("a", broken.clone()), ("b", gap.clone())]).message(), gap.message());
        assert_eq!(failed(&[("a", broken)]).message(), "broken");
        assert_eq!(failed(&[]).code(), Code::FailedPrecondition);
    }
}
