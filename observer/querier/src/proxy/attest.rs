//! What each endpoint of one call vouched for, gathered while it answers.
//!
//! Invariant: an endpoint is complete only if it ended well and is no querier that said nothing of what lies beneath it. A report that comes through a querier of others
//! is one of ours beneath it speaking for itself: it says nothing of the clusters that it does not name. Those that had not ended when the answer was given up are late.

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
    /// Whether what it says of those beneath it is all that there is to say.
    speaks_for_all: bool,
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
                speaks_for_all: selected.endpoint.is_peer() || is_unknown(selected),
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
        let beneath = self.beneath.as_ref().map_or(&[][..], Coverage::parts);
        let mut named: BTreeSet<&str> = beneath.iter().map(|part| part.cluster.as_str()).collect();
        let known_missing: BTreeSet<&str> = beneath
            .iter()
            .filter(|part| part.state > State::Unattested)
            .map(|part| part.cluster.as_str())
            .collect();
        // A querier's words about others, in the form that survives queriers of Thanos in between.
        let passed_up: Vec<Gap> = self.warnings.iter().filter_map(|text| Gap::parse(text)).collect();
        let own_gap = self.gaps.iter().find(|gap| gap.endpoint == self.store);
        for gap in passed_up.iter().chain(self.gaps.iter().filter(|gap| gap.endpoint != self.store)) {
            named.insert(&gap.cluster);
            if !known_missing.contains(gap.cluster.as_str()) {
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
        parts.extend(beneath.iter().cloned());
        if self.beneath.is_some() && self.speaks_for_all && state == State::Complete {
            return;
        }
        let odd = self.warnings.iter().find(|text| Gap::parse(text).is_none());
        for cluster in &self.clusters {
            parts.push(match (state, odd) {
                (State::Complete, _) if named.contains(cluster.as_str()) => continue,
                (State::Complete, Some(warning)) => self.part(cluster, State::Partial, warning.as_str()),
                (State::Complete, None) if self.tier == QUERIER || self.beneath.is_some() => {
                    let reason = "this querier does not say what is missing beneath it";
                    self.part(cluster, State::Unattested, reason)
                }
                (state, _) => self.part(cluster, state, reason.as_str()),
            });
        }
    }
}

/// Whether nothing is known that it might hold beside what it reports: it has not said what it is yet, nor is it expected to hold anything.
fn is_unknown(selected: &Selected) -> bool {
    selected.metadata.is_none() && selected.endpoint.expected().is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn part(cluster: &str, state: State) -> Part {
        Part {
            cluster: cluster.to_owned(),
            tier: "sidecar".to_owned(),
            store: format!("{cluster}:1"),
            state,
            min_time_ms: 0,
            max_time_ms: 1000,
            reason: String::new(),
        }
    }

    /// A querier over these clusters that answered to its end, with a report of one of ours beneath it.
    fn querier(clusters: &[&str], speaks_for_all: bool, beneath: &[Part], warnings: &[&str]) -> Account {
        Account {
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            tier: QUERIER.to_owned(),
            store: "thanos:1".to_owned(),
            speaks_for_all,
            range: TimeRange::new(0, 1000),
            gaps: Vec::new(),
            warnings: warnings.iter().map(|text| (*text).to_owned()).collect(),
            beneath: Some(Coverage::new(beneath.to_vec(), 0)),
            has_ended: true,
        }
    }

    fn told(account: &Account) -> Coverage {
        let mut parts = Vec::new();
        account.tell(false, account.has_ended, &mut parts);
        Coverage::new(parts, 0)
    }

    fn states(coverage: &Coverage) -> Vec<(&str, State)> {
        coverage.clusters().into_iter().collect()
    }

    const C_IS_LATE: &str = "parallax: cluster \"c\" late: x:1: nothing came for 1.0 s";

    #[test]
    fn a_report_through_a_querier_of_others_speaks_for_the_clusters_that_it_names() {
        let complete = [part("a", State::Complete)];
        let coverage = told(&querier(&["a", "b", "c"], false, &complete, &[C_IS_LATE]));
        let expected = [("a", State::Complete), ("b", State::Unattested), ("c", State::Late)];
        assert_eq!(states(&coverage), expected);
        let late = coverage.parts().iter().find(|part| part.cluster == "c").unwrap();
        assert_eq!((late.store.as_str(), late.reason.as_str()), ("x:1", "nothing came for 1.0 s"));

        let unheard = Account { tier: String::new(), ..querier(&["a", "b"], false, &complete, &[]) };
        assert_eq!(states(&told(&unheard)), [("a", State::Complete), ("b", State::Unattested)]);

        let odd = told(&querier(&["a", "b"], false, &complete, &["half a disk"]));
        assert_eq!(states(&odd), [("a", State::Complete), ("b", State::Partial)]);
        assert_eq!(odd.parts()[1].reason, "half a disk");
    }

    #[test]
    fn a_report_of_a_peer_speaks_for_all_that_lies_beneath_it() {
        let coverage = told(&querier(&["a", "b"], true, &[part("a", State::Complete)], &[]));
        assert_eq!(states(&coverage), [("a", State::Complete)], "nothing of b was needed");
    }

    #[test]
    fn what_a_report_has_and_a_warning_says_too_is_told_once() {
        for is_peer in [true, false] {
            let beneath = [part("a", State::Complete), part("c", State::Late)];
            let coverage = told(&querier(&["a", "c"], is_peer, &beneath, &[C_IS_LATE]));
            assert_eq!(coverage.parts(), beneath, "{is_peer}");
        }
        // One of two peers beneath a querier of others vouches for c, and the other one's report is lost.
        let beneath = [part("c", State::Complete)];
        let coverage = told(&querier(&["c"], false, &beneath, &[C_IS_LATE]));
        assert_eq!(states(&coverage), [("c", State::Partial)]);
    }
}
