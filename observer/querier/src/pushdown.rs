//! Distributed execution: aggregations evaluated by the queriers that hold the data, so that only results cross the border.
//!
//! An aggregation that the engine can cut (`parallax_promql`, `cut.rs`) is asked of every endpoint that evaluates queries (`thanos.Query`) and **whose series nobody else has**: its
//! label sets, without replica labels, each contradict those of every other endpoint that the selection concerns. So an endpoint is read as before if another one (the store
//! gateway of its cluster's bucket, a replica) may hold some of its series in that time. What is asked keeps the labels of these sets, so that every group of an answer shows whose it is.
//!
//! Invariant: each series counts once. That is not taken from what endpoints say of themselves, but checked:
//! - a group of an answer carries one of the label sets for which its endpoint was asked, or the whole answer is declined;
//! - no series that is read beside carries one of these sets, or the query is evaluated again without pushdown.
//!
//! An endpoint that declines (it fails, is silent, ends without statistics, sends what cannot be put together) is read instead, and what is missing then is reported as ever. What
//! declined for its content is not asked that again for a minute.

mod answer;
mod guard;
mod partitions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_dedup::Algorithm;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_promql::source::{Cut, Pushed, PushedAnswer, Question, Scope, SourceError};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::claim::Claim;
use crate::coverage::{CoverageLog, named_coverage_series};
use crate::proxy::Proxy;
use crate::received::ReceivedLog;
use crate::select::{Among, Budget, Held, SelectOptions};
use crate::store_selection::Selected;
use guard::Part;
use partitions::{LabelSets, disjoint};

/// How long what was declined is not asked again, and nothing is pushed down after endpoints were found to hold the same series.
const MEMORY: Duration = Duration::from_secs(60);
/// Most questions that are remembered as declined.
const MAX_REMEMBERED: usize = 4096;

/// How a querier distributes queries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The labels by which endpoints are told apart; empty for all labels of their sets. Thanos' `--query.partition-label`.
    pub partition_labels: Vec<String>,
}

/// Of a querier.
pub(crate) struct Distributor {
    proxy: Proxy,
    partition_labels: Vec<String>,
    /// Endpoint and question, until when it is not asked.
    declined: Mutex<HashMap<u64, Instant>>,
    paused_until: Mutex<Option<Instant>>,
    outcomes: Outcomes,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

type Outcomes = Family<OutcomeLabel, Counter<u64, AtomicU64>>;

impl Distributor {
    pub fn new(distribution: Distribution, proxy: Proxy, metrics: &Metrics) -> Arc<Self> {
        let outcomes: Outcomes = metrics.register(
            "parallax_querier_pushdown",
            "Aggregations that endpoints were asked to evaluate: answered; declined, so that their series were read; and queries that were evaluated again without it",
            Family::default(),
        );
        Arc::new(Self {
            proxy,
            partition_labels: distribution.partition_labels,
            declined: Mutex::default(),
            paused_until: Mutex::default(),
            outcomes,
        })
    }

    fn count(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    fn is_paused(&self) -> bool {
        let until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self) {
        self.count("repeated");
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + MEMORY);
    }

    fn has_declined(&self, key: u64) -> bool {
        let declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        declined.get(&key).is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, key: u64) {
        let now = Instant::now();
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        if declined.len() >= MAX_REMEMBERED {
            declined.retain(|_, until| now < *until);
        }
        if declined.len() < MAX_REMEMBERED {
            declined.insert(key, now + MEMORY);
        }
    }
}

/// Of one query.
pub(crate) struct QueryPushdown {
    distributor: Arc<Distributor>,
    runtime: Handle,
    options: SelectOptions,
    budget: Arc<Budget>,
    canceled: CancellationToken,
    coverage: CoverageLog,
    received: ReceivedLog,
    /// For whom it is.
    tenant: Option<Arc<str>>,
    next: AtomicU64,
    cuts: Mutex<BTreeMap<u64, Arc<CutState>>>,
    /// Whether a series came from two sides.
    is_mixed: AtomicBool,
}

/// One cut, shared by those who ask and those who read what is left.
#[derive(Default)]
pub(crate) struct CutState {
    targets: Vec<Target>,
    /// Of all targets.
    sets: LabelSets,
    declined: Mutex<BTreeSet<usize>>,
}

/// An endpoint that is asked.
struct Target {
    selected: Selected,
    question: Question,
    sets: LabelSets,
    /// What is selected of it.
    matchers: Vec<Matcher>,
    range: TimeRange,
    reads_counters: bool,
    key: u64,
}

impl CutState {
    fn declined(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryPushdown {
    /// `None` if the query asks for something that no endpoint can be told.
    pub fn new(
        distributor: &Arc<Distributor>,
        runtime: Handle,
        options: &SelectOptions,
        budget: &Arc<Budget>,
        canceled: &CancellationToken,
        (coverage, received): (&CoverageLog, &ReceivedLog),
        tenant: Option<Arc<str>>,
    ) -> Option<Arc<Self>> {
        // How others deduplicate and choose resolutions is only known for what is the default everywhere: Thanos' queriers cannot be told an algorithm, and who is asked may be one.
        let is_plain = options.store_matchers.is_empty()
            && options.shard.is_none()
            && options.max_resolution_ms == 0
            && options.algorithm == Algorithm::Penalty;
        (is_plain && !distributor.is_paused()).then(|| {
            Arc::new(Self {
                distributor: Arc::clone(distributor),
                runtime,
                options: options.clone(),
                budget: Arc::clone(budget),
                canceled: canceled.clone(),
                coverage: coverage.clone(),
                received: received.clone(),
                tenant,
                next: AtomicU64::new(0),
                cuts: Mutex::default(),
                is_mixed: AtomicBool::new(false),
            })
        })
    }

    /// Whether the evaluation failed because a series came from two sides. Then it has to be done without pushdown.
    pub fn is_mixed(&self) -> bool {
        self.is_mixed.load(Ordering::Relaxed)
    }

    /// Notes that it has to be done again.
    pub fn gives_up(&self) {
        self.distributor.pause();
    }

    fn mixed(&self) {
        self.is_mixed.store(true, Ordering::Relaxed);
    }

    /// Has `cut` evaluated by those who can.
    pub fn offer(self: &Arc<Self>, cut: &Cut) -> Option<Box<dyn Pushed>> {
        if named_coverage_series(cut.matchers()).is_some() {
            return None;
        }
        let selection = self.distributor.proxy.selection(cut.matchers(), cut.range())?;
        let with_gaps: BTreeSet<&str> = selection.gaps.iter().map(|gap| gap.endpoint.as_str()).collect();
        let (replicas, partition) = (&self.options.replica_labels, &self.distributor.partition_labels);
        let sets: Vec<Option<LabelSets>> = selection
            .ask
            .iter()
            .map(|selected| LabelSets::of(&label_sets(selected), replicas, partition))
            .collect();
        let alone = disjoint(&sets);
        let candidates = selection.ask.into_iter().zip(sets).zip(alone);
        let targets: Vec<Target> = candidates
            .filter(|((selected, _), alone)| {
                *alone && selected.can_evaluate() && !with_gaps.contains(selected.endpoint.name())
            })
            .filter_map(|((selected, sets), _)| self.target(cut, selected, sets?))
            .collect();
        if targets.is_empty() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut sets = LabelSets::default();
        targets.iter().for_each(|target| sets.extend(&target.sets));
        let state = Arc::new(CutState { targets, sets, declined: Mutex::default() });
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&state));
        Some(Box::new(Asking {
            number,
            state,
            query: Arc::clone(self),
            answers: None,
            tasks: JoinSet::new(),
            left: 0,
        }))
    }

    fn target(&self, cut: &Cut, selected: Selected, sets: LabelSets) -> Option<Target> {
        let claim = selected.endpoint.claim();
        // Where its own label is taken off, nothing can be told by it.
        if claim
            .as_ref()
            .is_some_and(|claim| self.options.replica_labels.iter().any(|name| name == claim.label()))
        {
            return None;
        }
        let own: Vec<Matcher> = claim.iter().map(Claim::own_matcher).collect::<Option<_>>()?;
        let question = cut.question(sets.names(), &own)?;
        let mut hasher = DefaultHasher::new();
        (selected.endpoint.name(), question.text()).hash(&mut hasher);
        let key = hasher.finish();
        let (matchers, range) = (cut.matchers().to_vec(), cut.range());
        let reads_counters = cut.reads_counters();
        let target = Target { selected, question, sets, matchers, range, reads_counters, key };
        (!self.distributor.has_declined(key)).then_some(target)
    }

    /// What of a selection is read here; `None` for all of it.
    pub fn part(self: &Arc<Self>, scope: Scope) -> Option<Part> {
        let number = match scope {
            Scope::All => return None,
            Scope::Rest(number) | Scope::Declined(number) => number,
        };
        let state = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        // Nothing is to be read for a cut that nobody made.
        let Some(state) = state else {
            let among = Among::Only(Arc::default());
            return Some(Part { among, state: Arc::default(), scope, query: Arc::clone(self) });
        };
        let selected = |target: &Target| target.selected.clone();
        let among = match scope {
            Scope::All | Scope::Rest(_) => Among::Except(state.targets.iter().map(selected).collect()),
            Scope::Declined(_) => {
                let declined = state.declined();
                let targets = state.targets.iter().enumerate();
                let targets = targets.filter(|(index, _)| declined.contains(index));
                Among::Only(targets.map(|(_, target)| selected(target)).collect())
            }
        };
        Some(Part { among, state, scope, query: Arc::clone(self) })
    }
}

/// What an endpoint may hold: what it said, or if it never spoke, what it is expected to.
fn label_sets(selected: &Selected) -> Vec<Labels> {
    match &selected.metadata {
        Some(known) => known.label_sets.clone(),
        None => selected.endpoint.expected().iter().map(|name| selected.endpoint.labels_of(name)).collect(),
    }
}

/// What one target's answer came to.
struct Outcome {
    index: usize,
    answer: Result<(PushedAnswer, Vec<Held>), answer::Declined>,
}

/// The targets of one cut, being asked.
struct Asking {
    number: u64,
    state: Arc<CutState>,
    query: Arc<QueryPushdown>,
    /// `None` until it is started.
    answers: Option<mpsc::Receiver<Outcome>>,
    /// Ended with this.
    tasks: JoinSet<()>,
    left: usize,
}

impl Pushed for Asking {
    fn number(&self) -> u64 {
        self.number
    }

    fn questions(&self) -> Vec<String> {
        let question = |target: &Target| {
            let cluster = target.selected.endpoint.cluster_name();
            format!("{cluster}: {}", target.question.text())
        };
        self.state.targets.iter().map(question).collect()
    }

    fn start(&mut self, query_range: TimeRange) {
        if self.answers.is_some() {
            return;
        }
        let (sender, answers) = mpsc::channel(self.state.targets.len().max(1));
        self.answers = Some(answers);
        // Which of two replicas is followed depends on where the whole query begins to read, and an endpoint does not see all of it.
        let is_whole = |target: &Target| target.range == query_range;
        if !self.query.options.replica_labels.is_empty() && !self.state.targets.iter().all(is_whole) {
            self.state.declined().extend(0..self.state.targets.len());
            return;
        }
        self.left = self.state.targets.len();
        for index in 0..self.left {
            let (state, query, sender) = (Arc::clone(&self.state), Arc::clone(&self.query), sender.clone());
            let work = async move {
                let Some(target) = state.targets.get(index) else { return };
                tokio::select! {
                    () = query.canceled.cancelled() => {}
                    answer = query.ask(target, index) => {
                        // Whoever no longer listens needs no answer.
                        let _ = sender.send(Outcome { index, answer }).await;
                    }
                }
            };
            self.tasks.spawn_on(work, &self.query.runtime);
        }
    }

    fn next_answer(&mut self) -> Result<Option<PushedAnswer>, SourceError> {
        let Some(answers) = &mut self.answers else { return Ok(None) };
        while self.left > 0 {
            let Some(outcome) = answers.blocking_recv() else {
                return Err(SourceError::Canceled);
            };
            self.left -= 1;
            match outcome.answer {
                Ok((answer, _held)) => {
                    self.query.distributor.count("answered");
                    return Ok(Some(answer));
                }
                Err(declined) => {
                    self.query.distributor.count("declined");
                    self.state.declined().insert(outcome.index);
                    let Some(target) = self.state.targets.get(outcome.index) else { continue };
                    let (endpoint, reason) = (target.selected.endpoint.name(), declined.reason.as_str());
                    tracing::debug!(
                        endpoint,
                        reason,
                        "an aggregation is not evaluated there; its series are read"
                    );
                    if declined.is_lasting {
                        self.query.distributor.remember(target.key);
                    }
                }
            }
        }
        Ok(None)
    }

    fn has_declined(&self) -> bool {
        !self.state.declined().is_empty()
    }
}
