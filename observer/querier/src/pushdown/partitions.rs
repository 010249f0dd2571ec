//! Whose series are whose: the label sets of endpoints.
//!
//! Two label sets exclude each other if they give one label different values: no series carries both.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use parallax_model::Labels;

/// Most label sets of one endpoint; one with more is read.
const MAX_SETS: usize = 1000;
/// Most pairs of label sets of different shapes that are compared for one question.
const MAX_PAIRS: usize = 1_000_000;

/// The label sets of one endpoint, by which its series are told from those of others. None is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelSets {
    /// By the names of their labels.
    shapes: BTreeMap<Vec<String>, HashSet<Labels>>,
    names: Vec<String>,
}

impl LabelSets {
    /// `None` for an endpoint that may hold series by which it cannot be told.
    pub fn of(label_sets: &[Labels], replica_labels: &[String], partition_labels: &[String]) -> Option<Self> {
        if label_sets.is_empty() || label_sets.len() > MAX_SETS {
            return None;
        }
        let mut shapes: BTreeMap<Vec<String>, HashSet<Labels>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for set in label_sets {
            let mut set = set.without(replica_labels);
            if !partition_labels.is_empty() {
                set = set.keeping(partition_labels);
            }
            if set.is_empty() {
                return None;
            }
            let shape: Vec<String> = set.iter().map(|(name, _)| name.to_owned()).collect();
            names.extend(shape.iter().cloned());
            shapes.entry(shape).or_default().insert(set);
        }
        Some(Self { shapes, names: names.into_iter().collect() })
    }

    /// All labels that occur in a set.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a series with these labels belongs to one of the sets.
    pub fn has(&self, labels: &Labels) -> bool {
        self.shapes.iter().any(|(names, sets)| {
            let own = labels.keeping(names);
            own.len() == names.len() && sets.contains(&own)
        })
    }

    /// Adds those of another endpoint; the names stay.
    pub fn extend(&mut self, other: &Self) {
        for (shape, sets) in &other.shapes {
            self.shapes.entry(shape.clone()).or_default().extend(sets.iter().cloned());
        }
    }

    fn len(&self) -> usize {
        self.shapes.values().map(HashSet::len).sum()
    }

    /// Whether no series can be of both. `pairs` is how many comparisons there may still be.
    fn excludes(&self, other: &Self, pairs: &mut usize) -> bool {
        self.shapes.iter().all(|(shape, sets)| {
            other.shapes.iter().all(|(other_shape, other_sets)| {
                if shape == other_shape {
                    // Different values for the same labels exclude each other.
                    let (few, many) =
                        if sets.len() < other_sets.len() { (sets, other_sets) } else { (other_sets, sets) };
                    return few.iter().all(|set| !many.contains(set));
                }
                let Some(left) = pairs.checked_sub(sets.len() * other_sets.len()) else { return false };
                *pairs = left;
                sets.iter().all(|set| other_sets.iter().all(|other| contradict(set, other)))
            })
        })
    }
}

fn contradict(left: &Labels, right: &Labels) -> bool {
    left.iter().any(|(name, value)| right.get(name).is_some_and(|other| other != value))
}

/// For each endpoint whether its series are its own. One that may hold anything leaves none to the others.
pub(super) fn disjoint(all: &[Option<LabelSets>]) -> Vec<bool> {
    let known: Option<Vec<&LabelSets>> = all.iter().map(Option::as_ref).collect();
    let Some(known) = known else { return vec![false; all.len()] };
    let mut alone = vec![true; known.len()];
    // Most have one set each, and all of the same shape: those need no pairs.
    let mut holders: BTreeMap<&Labels, usize> = BTreeMap::new();
    let mut shapes: BTreeSet<&Vec<String>> = BTreeSet::new();
    for (index, sets) in known.iter().enumerate() {
        shapes.extend(sets.shapes.keys());
        for set in sets.shapes.values().flatten() {
            if let Some(other) = holders.insert(set, index)
                && let (Some(first), false) = (alone.get_mut(other), other == index)
            {
                *first = false;
                if let Some(second) = alone.get_mut(index) {
                    *second = false;
                }
            }
        }
    }
    if shapes.len() == 1 {
        return alone;
    }
    let mut pairs = MAX_PAIRS.saturating_sub(known.iter().map(|sets| sets.len()).sum());
    for (index, sets) in known.iter().enumerate() {
        for (other_index, other) in known.iter().enumerate().skip(index + 1) {
            pairs = pairs.saturating_sub(1);
            if !sets.excludes(other, &mut pairs) {
                for at in [index, other_index] {
                    if let Some(alone) = alone.get_mut(at) {
                        *alone = false;
                    }
                }
            }
        }
        if pairs == 0 {
            return vec![false; known.len()];
        }
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(all: &[&[(&str, &str)]]) -> Option<LabelSets> {
        let all: Vec<Labels> = all.iter().map(|pairs| Labels::from_pairs(pairs.iter().copied())).collect();
        LabelSets::of(&all, &["replica".to_owned()], &[])
    }

    #[test]
    fn endpoints_are_alone_if_their_sets_contradict_all_others() {
        let a: &[(&str, &str)] = &[("cluster", "a"), ("replica", "0")];
        let b: &[(&str, &str)] = &[("cluster", "b")];
        let b_1: &[(&str, &str)] = &[("cluster", "b"), ("tenant", "1")];
        let other: &[(&str, &str)] = &[("region", "eu")];
        assert_eq!(disjoint(&[sets(&[a]), sets(&[b])]), [true, true]);
        assert_eq!(disjoint(&[sets(&[a]), sets(&[b]), sets(&[b])]), [true, false, false]);
        assert_eq!(disjoint(&[sets(&[a]), sets(&[b]), sets(&[b_1])]), [true, false, false]);
        assert_eq!(disjoint(&[sets(&[a, b]), sets(&[b_1])]), [false, false]);
        // Neither says anything about the other's label.
        assert_eq!(disjoint(&[sets(&[a]), sets(&[other])]), [false, false]);
        assert_eq!(disjoint(&[sets(&[a]), sets(&[])]), [false, false], "it may hold anything");
        assert_eq!(disjoint(&[sets(&[a, a])]), [true], "two replicas in one place");
        assert!(sets(&[&[("replica", "0")]]).is_none(), "nothing is left to tell it by");
    }

    #[test]
    fn a_series_is_of_a_set_if_it_carries_all_of_it() {
        let known = sets(&[&[("cluster", "a"), ("tenant", "1")], &[("cluster", "b")]]).unwrap();
        let has = |pairs: &[(&str, &str)]| known.has(&Labels::from_pairs(pairs.iter().copied()));
        assert!(has(&[("cluster", "a"), ("job", "x"), ("tenant", "1")]));
        assert!(has(&[("cluster", "b"), ("tenant", "7")]));
        assert!(!has(&[("cluster", "a")]));
        assert!(!has(&[("cluster", "c")]) && !has(&[]));
        assert_eq!(known.names(), ["cluster", "tenant"]);
    }

    #[test]
    fn partition_labels_narrow_the_sets() {
        let all = [Labels::from_pairs([("cluster", "a"), ("prometheus", "x")])];
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            LabelSets::of(&all, &[], &names).map(|sets| sets.names().to_vec())
        };
        assert_eq!(of(&["cluster"]).unwrap(), ["cluster"]);
        assert!(of(&["region"]).is_none());
    }
}
