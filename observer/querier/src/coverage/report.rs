//! What an answer is made of: for each cluster that could have been needed, and each tier and store of it, whether its part is there.
//!
//! Invariant: nothing is complete that nobody vouched for. A cluster is complete if all its parts are; if they are not, what is worst decides, and where some are
//! complete and others are not, it is partial.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use parallax_model::TimeRange;

use super::{Gap, GapKind};

/// Most parts in one report; further ones are counted.
pub const MAX_PARTS: usize = 10_000;
/// Clusters that a response header names.
const MAX_NAMED: usize = 20;

/// How much of something is in an answer. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// All of it, as the store that holds it said by ending well.
    Complete,
    /// Perhaps: a tier in between says nothing about it, and would not if it were missing.
    Unattested,
    /// Something came, but not all.
    Partial,
    /// It did not come in time.
    Late,
    /// Its store did not want to give it, or is not believed.
    Refused,
    /// Nothing came.
    Missing,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::Unattested, Self::Partial, Self::Late, Self::Refused, Self::Missing];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Unattested => "unattested",
            Self::Partial => "partial",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Missing => "missing",
        }
    }
}

impl From<GapKind> for State {
    fn from(kind: GapKind) -> Self {
        match kind {
            GapKind::Missing => Self::Missing,
            GapKind::Partial => Self::Partial,
            GapKind::Late => Self::Late,
            GapKind::Refused => Self::Refused,
        }
    }
}

/// One store's part of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    pub cluster: String,
    /// What kind of store it is: `sidecar`, `store`, `query`…; empty if it never said.
    pub tier: String,
    /// The name of the endpoint, as whoever asks it calls it.
    pub store: String,
    pub state: State,
    /// The time, in milliseconds since the epoch, both ends included, that the part is about: what was asked for and the store may hold.
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    /// Empty if it is complete.
    pub reason: String,
}

impl Part {
    pub(crate) fn of_gap(gap: &Gap, tier: &str, range: TimeRange) -> Self {
        Self {
            cluster: gap.cluster.clone(),
            tier: tier.to_owned(),
            store: gap.endpoint.clone(),
            state: gap.kind.into(),
            min_time_ms: range.min_ms,
            max_time_ms: range.max_ms,
            reason: gap.reason.clone(),
        }
    }
}

/// What is known of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Sorted; one for each cluster, tier and store.
    parts: Vec<Part>,
    /// Parts that are not named, because there are too many.
    omitted: u64,
}

impl Coverage {
    /// Of several parts of one store, the worst stays.
    pub fn new(parts: impl IntoIterator<Item = Part>, omitted: u64) -> Self {
        let mut known: BTreeMap<(String, String, String), Part> = BTreeMap::new();
        let mut omitted = omitted;
        for part in parts {
            let key = (part.cluster.clone(), part.tier.clone(), part.store.clone());
            let has_room = known.len() < MAX_PARTS;
            match known.get_mut(&key) {
                Some(other) => {
                    let range =
                        (other.min_time_ms.min(part.min_time_ms), other.max_time_ms.max(part.max_time_ms));
                    if part.state > other.state {
                        *other = part;
                    }
                    (other.min_time_ms, other.max_time_ms) = range;
                }
                None if has_room => {
                    known.insert(key, part);
                }
                None => omitted = omitted.saturating_add(1),
            }
        }
        Self { parts: known.into_values().collect(), omitted }
    }

    /// All that several answers have, for something that was made from all of them.
    pub fn union(all: impl IntoIterator<Item = Self>) -> Self {
        let (mut parts, mut omitted) = (Vec::new(), 0_u64);
        for one in all {
            parts.extend(one.parts);
            omitted = omitted.saturating_add(one.omitted);
        }
        Self::new(parts, omitted)
    }

    /// With everything late that somebody may have vouched for: it is not known how much of it is in the answer.
    pub(crate) fn cut_short(mut self, reason: &str) -> Self {
        for part in self.parts.iter_mut().filter(|part| part.state <= State::Unattested) {
            part.state = State::Late;
            reason.clone_into(&mut part.reason);
        }
        self
    }

    /// Of something that nobody named.
    pub(crate) fn unknown() -> Self {
        Self::new([], 1)
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// The clusters, sorted, each with its state.
    pub fn clusters(&self) -> BTreeMap<&str, State> {
        let mut states: BTreeMap<&str, BTreeSet<State>> = BTreeMap::new();
        for part in &self.parts {
            states.entry(&part.cluster).or_default().insert(part.state);
        }
        states.into_iter().map(|(cluster, states)| (cluster, together(&states))).collect()
    }

    /// Of the answer as a whole.
    pub fn state(&self) -> State {
        if self.omitted > 0 {
            return State::Partial;
        }
        let states: BTreeSet<State> = self.clusters().into_values().collect();
        match states.len() {
            0 => State::Complete,
            // Several clusters, all of them late, are still an answer of which parts are late.
            _ => together(&states),
        }
    }

    /// For the response header `Parallax-Coverage`: the state, how many clusters are complete, and those that are not, such as
    /// `partial; complete=3; us-1=late`.
    pub fn header(&self) -> String {
        let clusters = self.clusters();
        let complete = clusters.values().filter(|state| **state == State::Complete).count();
        let mut text = format!("{}; complete={complete}", self.state().as_str());
        let others = || clusters.iter().filter(|(_, state)| **state != State::Complete);
        for (cluster, state) in others().take(MAX_NAMED) {
            let _ = write!(text, "; {}={}", header_token(cluster), state.as_str());
        }
        let unnamed = others().count().saturating_sub(MAX_NAMED);
        if unnamed > 0 {
            let _ = write!(text, "; more={unnamed}");
        }
        text
    }
}

/// The state of something that is made of parts in these states.
fn together(states: &BTreeSet<State>) -> State {
    let worst = states.last().copied().unwrap_or(State::Complete);
    let has_something = states.contains(&State::Complete) || states.contains(&State::Unattested);
    match worst {
        State::Complete | State::Unattested => worst,
        _ if has_something || states.len() > 1 => State::Partial,
        _ => worst,
    }
}

/// Names of clusters may hold anything; what has a meaning in the header is written as in a URL.
fn header_token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte) {
            token.push(char::from(byte));
        } else {
            let _ = write!(token, "%{byte:02X}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(cluster: &str, store: &str, state: State) -> Part {
        Part {
            cluster: cluster.to_owned(),
            tier: "sidecar".to_owned(),
            store: store.to_owned(),
            state,
            min_time_ms: 0,
            max_time_ms: 10,
            reason: String::new(),
        }
    }

    fn state(parts: &[(&str, &str, State)]) -> State {
        Coverage::new(parts.iter().map(|(cluster, store, state)| part(cluster, store, *state)), 0).state()
    }

    #[test]
    fn an_answer_is_as_whole_as_its_parts() {
        use State::{Complete, Late, Missing, Partial, Unattested};
        assert_eq!(state(&[]), Complete);
        assert_eq!(state(&[("a", "1", Complete), ("b", "1", Complete)]), Complete);
        assert_eq!(state(&[("a", "1", Complete), ("b", "1", Unattested)]), Unattested);
        assert_eq!(state(&[("a", "1", Complete), ("a", "2", Missing)]), Partial);
        assert_eq!(state(&[("a", "1", Missing), ("b", "1", Missing)]), Missing);
        assert_eq!(state(&[("a", "1", Missing), ("b", "1", Late)]), Partial);
        assert_eq!(state(&[("a", "1", Unattested), ("b", "1", Late)]), Partial);
    }

    #[test]
    fn of_several_words_about_one_store_the_worst_counts() {
        let mut later = part("a", "1", State::Late);
        later.max_time_ms = 20;
        let coverage = Coverage::new([later, part("a", "1", State::Complete)], 0);
        assert_eq!(coverage.parts().len(), 1);
        assert_eq!((coverage.parts()[0].state, coverage.parts()[0].max_time_ms), (State::Late, 20));
        let all = Coverage::union([coverage, Coverage::new([part("b", "1", State::Complete)], 0)]);
        assert_eq!(all.clusters(), BTreeMap::from([("a", State::Late), ("b", State::Complete)]));
    }

    #[test]
    fn the_header_names_what_is_not_complete_and_stays_short() {
        let coverage = Coverage::new(
            [
                part("eu-1", "1", State::Complete),
                part("us-1", "1", State::Late),
                part("a b;ü", "1", State::Missing),
            ],
            0,
        );
        assert_eq!(coverage.header(), "partial; complete=1; a%20b%3B%C3%BC=missing; us-1=late");
        let many = (0..100).map(|number| part(&format!("{number:03}"), "1", State::Missing));
        let header = Coverage::new(many, 0).header();
        assert!(header.len() < 400 && header.ends_with("; 019=missing; more=80"), "{header}");
    }

    #[test]
    fn parts_beyond_the_bound_are_counted_and_keep_the_answer_from_being_complete() {
        let many = (0..MAX_PARTS + 3).map(|number| part(&format!("{number}"), "1", State::Complete));
        let coverage = Coverage::new(many, 0);
        assert_eq!(
            (coverage.parts().len(), coverage.omitted(), coverage.state()),
            (MAX_PARTS, 3, State::Partial)
        );
    }
}
