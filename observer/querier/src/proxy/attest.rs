//! What each endpoint of one call vouched for, gathered while it answers.
//!
//! Invariant: an endpoint is complete only if it ended well and is no querier that said nothing of what lies beneath it. Those that had not ended when the
//! answer was given up are late.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use parallax_model::{Matcher, TimeRange};

use super::QUERIER;
use crate::coverage::{Coverage, Gap, Part, State};
use crate::store_selection::{Selected, Selection};

/// Of one call.
#[derive(Debug, Default)]
pub(super) struct Attested {
    /// Known before anything was asked.
    known: Vec<Part>,
    /// One for each endpoint that is asked, in the order of the selection.
    endpoints: Vec<Mutex<Account>>,
}

/// What one endpoint said and left.
#[derive(Debug)]
struct Account {
    /// The clusters that it was asked for.
    clusters: BTreeSet<String>,
    tier: String,
    store: String,
    range: TimeRange,
    gaps: Vec<Gap>,
    warnings: Vec<String>,
    /// What a querier says of those beneath it.
    beneath: Option<Coverage>,
    has_ended: bool,
}

/// Most gaps and warnings of one endpoint that are looked at.
const MAX_REMEMBERED: usize = 1000;

impl Attested {
    pub fn new(
        selection: &Selection,
        selectors: &[Vec<Matcher>],
        asked: TimeRange,
        cluster_label: &str,
    ) -> Self {
        let known = selection.gaps.iter().map(|gap| Part::of_gap(gap, "", asked)).collect();
        let account = |selected: &Selected| {
            Mutex::new(Account {
                clusters: clusters(selected, selectors, cluster_label),
                tier: selected.metadata.as_ref().map(|known| known.component.clone()).unwrap_or_default(),
                store: selected.endpoint.name().to_owned(),
                range: selected.metadata.as_ref().map_or(asked, |known| known.range.intersect(&asked)),
                gaps: Vec::new(),
                warnings: Vec::new(),
                beneath: None,
                has_ended: false,
            })
        };
        Self { known, endpoints: selection.ask.iter().map(account).collect() }
    }

    /// The endpoint `index` leaves a gap.
    pub fn gap(&self, index: usize, gap: &Gap) {
        self.with(index, |account| {
            if account.gaps.len() < MAX_REMEMBERED {
                account.gaps.push(gap.clone());
            }
        });
    }

    pub fn warning(&self, index: usize, text: &str) {
        self.with(index, |account| {
            if account.warnings.len() < MAX_REMEMBERED {
                account.warnings.push(text.to_owned());
            }
        });
    }

    pub fn beneath(&self, index: usize, coverage: Coverage) {
        self.with(index, |account| {
            let former = account.beneath.take();
            account.beneath = Some(Coverage::union(former.into_iter().chain([coverage])));
        });
    }

    /// The endpoint `index` has answered, well or not.
    pub fn ended(&self, index: usize) {
        self.with(index, |account| account.has_ended = true);
    }

    fn with(&self, index: usize, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.endpoints.get(index) {
            change(&mut account.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// What is known now. `was_enough` says that the answer ended because no more of it was wanted.
    pub fn coverage(&self, was_enough: bool) -> Coverage {
        self.gathered(was_enough, false)
    }

    /// What is known of an answer whose time is over before all of it was passed on: what endpoints have sent by then is perhaps not in it.
    pub fn coverage_of_given_up(&self) -> Coverage {
        self.gathered(false, true)
    }

    fn gathered(&self, was_enough: bool, is_given_up: bool) -> Coverage {
        let (mut parts, mut omitted) = (self.known.clone(), 0_u64);
        for account in &self.endpoints {
            let account = account.lock().unwrap_or_else(PoisonError::into_inner);
            omitted = omitted.saturating_add(account.beneath.as_ref().map_or(0, Coverage::omitted));
            account.tell(was_enough, account.has_ended && !is_given_up, &mut parts);
        }
        Coverage::new(parts, omitted)
    }
}

impl Account {
    fn part(&self, cluster: &str, state: State, reason: impl Into<String>) -> Part {
        Part {
            cluster: cluster.to_owned(),
            tier: self.tier.clone(),
            store: self.store.clone(),
            state,
            min_time_ms: self.range.min_ms,
            max_time_ms: self.range.max_ms,
            reason: reason.into(),
        }
    }

    fn tell(&self, was_enough: bool, has_ended: bool, parts: &mut Vec<Part>) {
        let mut named: BTreeSet<&str> = BTreeSet::new();
        // A querier's words about others, in the form that survives queriers of Thanos in between.
        let passed_up: Vec<Gap> = self.warnings.iter().filter_map(|text| Gap::parse(text)).collect();
        let own_gap = self.gaps.iter().find(|gap| gap.endpoint == self.store);
        for gap in passed_up.iter().chain(self.gaps.iter().filter(|gap| gap.endpoint != self.store)) {
            named.insert(&gap.cluster);
            if self.beneath.is_none() {
                parts.push(Part::of_gap(gap, "", self.range));
            }
        }
        let (state, reason) = match (own_gap, self.gaps.first()) {
            (Some(gap), _) => (gap.kind.into(), gap.reason.clone()),
            // It failed with the words of one beneath it: of the others' parts, nobody knows how much came.
            (None, Some(gap)) => (State::Partial, format!("it gave up its whole answer: {gap}")),
            (None, None) if !has_ended && was_enough => {
                (State::Partial, "it was not read to its end: the limit was reached".to_owned())
            }
            (None, None) if !has_ended => {
                (State::Late, "the answer was given up before it had all of this".to_owned())
            }
            (None, None) => (State::Complete, String::new()),
        };
        if let Some(beneath) = &self.beneath {
            parts.extend(beneath.parts().iter().cloned());
            if state == State::Complete {
                return;
            }
        }
        let odd = self.warnings.iter().find(|text| Gap::parse(text).is_none());
        for cluster in &self.clusters {
            parts.push(match (state, odd) {
                (State::Complete, _) if named.contains(cluster.as_str()) => continue,
                (State::Complete, Some(warning)) => self.part(cluster, State::Partial, warning.as_str()),
                (State::Complete, None) if self.tier == QUERIER => {
                    let reason = "this querier does not say what is missing beneath it";
                    self.part(cluster, State::Unattested, reason)
                }
                (state, _) => self.part(cluster, state, reason.as_str()),
            });
        }
    }
}

/// The clusters of an endpoint that a question concerns.
fn clusters(selected: &Selected, selectors: &[Vec<Matcher>], cluster_label: &str) -> BTreeSet<String> {
    let sets = selected.metadata.as_ref().map_or(&[][..], |known| &known.label_sets);
    let concerns = |set: &parallax_model::Labels| {
        selectors.is_empty()
            || selectors
                .iter()
                .any(|matchers| parallax_storeapi::matchers::may_match(matchers, std::slice::from_ref(set)))
    };
    let mut named: BTreeSet<String> = sets
        .iter()
        .filter(|set| concerns(set))
        .filter_map(|set| set.get(cluster_label).map(str::to_owned))
        .collect();
    if named.is_empty() {
        let endpoint = &selected.endpoint;
        let expected = endpoint.expected().iter().filter(|cluster| concerns(&endpoint.labels_of(cluster)));
        named.extend(expected.cloned());
        if named.is_empty() {
            named.insert(endpoint.cluster_name());
        }
    }
    named
}
