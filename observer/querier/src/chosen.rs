//! Which of the label sets that endpoints advertise are chosen: Thanos' `--selector.relabel-config`. The rules are the caller's.
//!
//! Invariants:
//! - An endpoint all of whose label sets are left out is asked nothing, and missed by nobody. One that advertises none may hold anything, and is asked.
//! - Of an endpoint of which some sets are chosen, series of the others are not in an answer: it is asked by matchers, and where these cannot tell the sets apart, its series
//!   are looked at. A series is of the largest set that it carries whole.
//!
//! Rules, targets, metadata and statistics of an endpoint of which some sets are chosen come whole, as in Thanos.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parallax_model::Labels;
use parallax_storeapi::matchers::{from_wire, may_match};
use parallax_storeapi::proto::thanos::{Label, LabelMatcher, Series};

use crate::claim::matching_any;
use crate::endpoint::Metadata;

/// A matcher that would be longer is left out: then the series are looked at.
const MAX_MATCHER_BYTES: usize = 32 << 10;

/// Whether a label set is chosen.
#[derive(Clone)]
pub struct LabelSetRules(Arc<dyn Fn(&Labels) -> bool + Send + Sync>);

impl LabelSetRules {
    pub fn new(chooses: impl Fn(&Labels) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(chooses))
    }

    /// What an endpoint says of itself, as far as it is chosen.
    pub(crate) fn apply(&self, mut metadata: Metadata) -> Metadata {
        let (chosen, left_out) =
            std::mem::take(&mut metadata.label_sets).into_iter().partition(|set| (self.0)(set));
        (metadata.label_sets, metadata.left_out) = (chosen, left_out);
        // One without labels may be any set's.
        metadata.tsdb_infos.retain(|info| info.labels.is_empty() || (self.0)(&info.labels));
        metadata
    }
}

impl fmt::Debug for LabelSetRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabelSetRules")
    }
}

/// How to ask an endpoint for the chosen ones of its label sets alone.
#[derive(Clone, Debug)]
pub(crate) struct Narrowing {
    /// What all chosen sets match.
    pub matchers: Vec<LabelMatcher>,
    /// Set where the matchers let through what is left out.
    pub sieve: Option<Sieve>,
}

impl Narrowing {
    /// `None` where everything is chosen.
    pub fn of(known: &Metadata) -> Option<Self> {
        let (chosen, left_out) = (&known.label_sets, &known.left_out);
        if left_out.is_empty() {
            return None;
        }
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut occurs: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, value) in chosen.iter().flat_map(Labels::iter) {
            values.entry(name).or_default().insert(value);
            *occurs.entry(name).or_default() += 1;
        }
        // Where a set does not have a label, its series may have any value of it.
        values.retain(|name, _| occurs.get(name) == Some(&chosen.len()));
        let matchers = values.into_iter().map(|(name, values)| matching_any(name, values));
        let matchers: Vec<_> = matchers.filter(|matcher| matcher.value.len() <= MAX_MATCHER_BYTES).collect();
        let passes = |set: &Labels| {
            from_wire(&matchers).map_or(true, |matchers| may_match(&matchers, std::slice::from_ref(set)))
        };
        let is_exact = !left_out.iter().any(passes);
        let sieve = (!is_exact).then(|| Sieve::new(chosen, left_out));
        Some(Self { matchers, sieve })
    }

    /// Adds the matchers to those of a request.
    pub fn adapt(&self, matchers: &mut Vec<LabelMatcher>) {
        matchers.extend(self.matchers.iter().cloned());
    }
}

/// Names of labels, and of the sets that have just these, the values and whether the set is chosen.
type Shape = (Vec<String>, HashMap<Vec<Bytes>, bool>);

/// Tells series of chosen sets from those of others.
#[derive(Clone, Debug)]
pub(crate) struct Sieve {
    /// Those with most labels first.
    shapes: Arc<[Shape]>,
}

impl Sieve {
    fn new(chosen: &[Labels], left_out: &[Labels]) -> Self {
        let mut shapes: BTreeMap<Vec<String>, HashMap<Vec<Bytes>, bool>> = BTreeMap::new();
        let all = left_out.iter().map(|set| (set, false)).chain(chosen.iter().map(|set| (set, true)));
        for (set, is_chosen) in all {
            let (names, values) = set
                .iter()
                .map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
                .unzip();
            shapes.entry(names).or_default().insert(values, is_chosen);
        }
        let mut shapes: Vec<_> = shapes.into_iter().collect();
        shapes.sort_by_key(|(names, _)| std::cmp::Reverse(names.len()));
        Self { shapes: shapes.into() }
    }

    /// Whether a series with these labels, replica labels included, is of a chosen set. What is of no set that is known stays.
    pub fn admits(&self, labels: &[Label]) -> bool {
        let value =
            |name: &String| labels.iter().find(|label| label.name == *name).map(|label| label.value.clone());
        let of_shape = |(names, sets): &Shape| {
            let values: Option<Vec<Bytes>> = names.iter().map(value).collect();
            sets.get(&values?).copied()
        };
        self.shapes.iter().find_map(of_shape).unwrap_or(true)
    }

    pub fn sift(&self, series: &mut Vec<Series>) {
        series.retain(|one| self.admits(&one.labels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parallax_storeapi::labels::to_wire;

    fn known(
        sets: &[&[(&str, &str)]],
        chooses: impl Fn(&Labels) -> bool + Send + Sync + 'static,
    ) -> Metadata {
        let mut metadata = Metadata::from_info(Default::default()).unwrap();
        metadata.label_sets = sets.iter().map(|pairs| Labels::from_pairs(pairs.iter().copied())).collect();
        LabelSetRules::new(chooses).apply(metadata)
    }

    fn admits(sieve: &Sieve, pairs: &[(&str, &str)]) -> bool {
        sieve.admits(&to_wire(&Labels::from_pairs(pairs.iter().copied())))
    }

    #[test]
    fn what_one_label_tells_apart_is_asked_by_a_matcher() {
        let all: &[&[(&str, &str)]] = &[
            &[("cluster", "a.1"), ("replica", "0")],
            &[("cluster", "b"), ("replica", "1")],
            &[("cluster", "c"), ("replica", "0")],
        ];
        let known = known(all, |set| set.value_of("cluster") != "c");
        assert_eq!((known.label_sets.len(), known.left_out.len(), known.is_left_out()), (2, 1, false));
        let narrowing = Narrowing::of(&known).unwrap();
        let texts: Vec<_> =
            narrowing.matchers.iter().map(|one| (one.name.as_str(), one.value.as_str())).collect();
        assert_eq!(texts, [("cluster", r"a\.1|b"), ("replica", "0|1")]);
        assert!(narrowing.sieve.is_none(), "the matchers are exact");
    }

    #[test]
    fn what_matchers_cannot_tell_apart_is_sifted_by_the_largest_set() {
        let all: &[&[(&str, &str)]] = &[
            &[("cluster", "a"), ("replica", "0")],
            &[("cluster", "b"), ("replica", "1")],
            &[("cluster", "a"), ("replica", "1")],
        ];
        let narrowing = Narrowing::of(&known(all, |set| {
            (set.value_of("cluster"), set.value_of("replica")) != ("a", "1")
        }));
        let sieve = narrowing.unwrap().sieve.unwrap();
        assert!(admits(&sieve, &[("cluster", "a"), ("replica", "0"), ("job", "x")]));
        assert!(!admits(&sieve, &[("cluster", "a"), ("replica", "1"), ("job", "x")]));
        assert!(admits(&sieve, &[("cluster", "z"), ("replica", "1")]), "of no set that is known");
        let nested: &[&[(&str, &str)]] = &[&[("cluster", "a")], &[("cluster", "a"), ("tenant", "1")]];
        let without_tenant =
            Narrowing::of(&known(nested, |set| !set.contains("tenant"))).unwrap().sieve.unwrap();
        assert!(!admits(&without_tenant, &[("cluster", "a"), ("tenant", "1")]));
        assert!(admits(&without_tenant, &[("cluster", "a"), ("tenant", "2")]), "its own label");
        let tenant = Narrowing::of(&known(nested, |set| set.contains("tenant"))).unwrap();
        assert_eq!(tenant.matchers.len(), 2);
        let sieve = tenant.sieve.unwrap();
        assert!(admits(&sieve, &[("cluster", "a"), ("tenant", "1")]) && !admits(&sieve, &[("cluster", "a")]));
    }

    #[test]
    fn everything_and_nothing_need_no_matchers() {
        let all: &[&[(&str, &str)]] = &[&[("cluster", "a")]];
        assert!(Narrowing::of(&known(all, |_| true)).is_none());
        let none = known(all, |_| false);
        assert!(none.is_left_out() && none.label_sets.is_empty());
        assert!(!known(&[], |_| false).is_left_out(), "it may hold anything");
    }
}
