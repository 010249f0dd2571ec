//! Sets of series of one block: sorted lists of series refs, and lazy intersection, union and difference over them.
//!
//! Invariant: what a [`Postings`] yields is strictly increasing. A list decoded from a file is checked when it is
//! decoded, so the algebra never has to doubt its inputs. Nothing is materialised: a list stays the bytes it was
//! read as, and an operator holds its inputs and at most one number per input.
//!
//! Which lists a set of matchers needs is decided in [`plan`]; where lists come from is the index's business.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;

pub mod plan;

pub use plan::{LabelValueIndex, PostingsPlan, PostingsSource, select};

/// Where a series' entry lies in its index: the byte position divided by 16.
///
/// Refs of one index sort as the labels of their series do. They mean nothing in another index.
pub type SeriesRef = u32;

/// Bytes of one ref in a list on disk.
const REF_SIZE_BYTES: usize = 4;

/// A strictly increasing sequence of series refs, taken from the front.
#[derive(Clone, Debug, Default)]
pub struct Postings(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    Empty,
    /// Big-endian u32s, as on disk; what was taken is cut off the front.
    Encoded(Bytes),
    Refs {
        refs: Arc<[SeriesRef]>,
        next: usize,
    },
    Intersection(Vec<Postings>),
    Union(Box<Union>),
    Difference(Box<(Postings, Postings)>),
}

impl Postings {
    pub fn empty() -> Self {
        Self::default()
    }

    /// From refs in any order.
    pub fn from_refs(mut refs: Vec<SeriesRef>) -> Self {
        refs.sort_unstable();
        refs.dedup();
        if refs.is_empty() {
            return Self::empty();
        }
        Self(Kind::Refs { refs: refs.into(), next: 0 })
    }

    /// From big-endian u32s without length or count in front. `None` if they are not whole or not strictly increasing.
    pub fn from_encoded(encoded: Bytes) -> Option<Self> {
        let (refs, rest) = encoded.as_chunks::<REF_SIZE_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        let sorted = refs.windows(2).all(|pair| match pair {
            [a, b] => u32::from_be_bytes(*a) < u32::from_be_bytes(*b),
            _ => true,
        });
        if !sorted {
            return None;
        }
        Some(if refs.is_empty() { Self::empty() } else { Self(Kind::Encoded(encoded)) })
    }

    /// What is in every one of `sets`; nothing, if there are no sets.
    pub fn intersection(mut sets: Vec<Postings>) -> Self {
        if sets.iter().any(Self::is_known_empty) {
            return Self::empty();
        }
        // The shortest leads: each of its members is looked for in the others, which gallop over the rest.
        sets.sort_by_cached_key(Self::len_bound);
        match sets.len() {
            0 => Self::empty(),
            1 => sets.remove(0),
            _ => Self(Kind::Intersection(sets)),
        }
    }

    /// What is in any of `sets`.
    pub fn union(mut sets: Vec<Postings>) -> Self {
        sets.retain(|set| !set.is_known_empty());
        match sets.len() {
            0 => Self::empty(),
            1 => sets.remove(0),
            _ => Self(Kind::Union(Box::new(Union::new(sets)))),
        }
    }

    /// What is in this set and not in `dropped`.
    pub fn without(self, dropped: Postings) -> Self {
        if self.is_known_empty() || dropped.is_known_empty() {
            return self;
        }
        Self(Kind::Difference(Box::new((self, dropped))))
    }

    /// The next ref, without taking it.
    pub fn peek(&mut self) -> Option<SeriesRef> {
        match &mut self.0 {
            Kind::Empty => None,
            Kind::Encoded(bytes) => bytes.first_chunk().map(|first| u32::from_be_bytes(*first)),
            Kind::Refs { refs, next } => refs.get(*next).copied(),
            Kind::Intersection(sets) => {
                let found = settle_intersection(sets);
                if found.is_none() {
                    self.0 = Kind::Empty;
                }
                found
            }
            Kind::Union(union) => union.peek(),
            Kind::Difference(pair) => {
                let (kept, dropped) = &mut **pair;
                loop {
                    let candidate = kept.peek()?;
                    if dropped.seek(candidate) != Some(candidate) {
                        return Some(candidate);
                    }
                    kept.next();
                }
            }
        }
    }

    /// Skips every ref below `target` and returns the one that is then next, without taking it.
    pub fn seek(&mut self, target: SeriesRef) -> Option<SeriesRef> {
        match &mut self.0 {
            Kind::Empty => {}
            Kind::Encoded(bytes) => {
                let (refs, _) = bytes.as_chunks::<REF_SIZE_BYTES>();
                let skipped = gallop(refs, |raw| u32::from_be_bytes(*raw) < target);
                bytes::Buf::advance(bytes, skipped * REF_SIZE_BYTES);
            }
            Kind::Refs { refs, next } => {
                *next += gallop(refs.get(*next..).unwrap_or_default(), |found| *found < target);
            }
            Kind::Intersection(sets) => {
                if let Some(leader) = sets.first_mut() {
                    leader.seek(target);
                }
            }
            Kind::Union(union) => union.seek(target),
            Kind::Difference(pair) => {
                pair.0.seek(target);
            }
        }
        self.peek()
    }

    /// No more than this many refs follow.
    pub fn len_bound(&self) -> usize {
        match &self.0 {
            Kind::Empty => 0,
            Kind::Encoded(bytes) => bytes.len() / REF_SIZE_BYTES,
            Kind::Refs { refs, next } => refs.len().saturating_sub(*next),
            Kind::Intersection(sets) => sets.iter().map(Self::len_bound).min().unwrap_or(0),
            Kind::Union(union) => union.sets.iter().fold(0, |sum, set| sum.saturating_add(set.len_bound())),
            Kind::Difference(pair) => pair.0.len_bound(),
        }
    }

    /// Whether this is empty without looking further. An operator may turn out empty all the same.
    pub fn is_known_empty(&self) -> bool {
        self.len_bound() == 0
    }
}

impl Iterator for Postings {
    type Item = SeriesRef;

    fn next(&mut self) -> Option<SeriesRef> {
        let taken = self.peek()?;
        match &mut self.0 {
            Kind::Empty => {}
            Kind::Encoded(bytes) => bytes::Buf::advance(bytes, REF_SIZE_BYTES),
            Kind::Refs { next, .. } => *next += 1,
            Kind::Intersection(sets) => {
                if let Some(leader) = sets.first_mut() {
                    leader.next();
                }
            }
            Kind::Union(union) => union.advance_past(taken),
            Kind::Difference(pair) => {
                pair.0.next();
            }
        }
        Some(taken)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.len_bound()))
    }
}

/// Moves all sets to the first ref that all of them have.
fn settle_intersection(sets: &mut [Postings]) -> Option<SeriesRef> {
    let (leader, others) = sets.split_first_mut()?;
    let mut candidate = leader.peek()?;
    'candidates: loop {
        for other in &mut *others {
            let found = other.seek(candidate)?;
            if found > candidate {
                candidate = leader.seek(found)?;
                continue 'candidates;
            }
        }
        return Some(candidate);
    }
}

/// How many items at the front are below the target: steps that double, then halves. Costs O(log of the answer).
fn gallop<T>(items: &[T], is_below: impl Fn(&T) -> bool) -> usize {
    let mut low = 0;
    let mut step = 1;
    while items.get(low + step - 1).is_some_and(&is_below) {
        low += step;
        step *= 2;
    }
    let high = items.len().min(low + step);
    low + items.get(low..high).unwrap_or_default().partition_point(is_below)
}

/// A k-way merge: each set that is not exhausted has its next ref in the heap, once.
#[derive(Clone, Debug)]
struct Union {
    sets: Vec<Postings>,
    heads: BinaryHeap<Reverse<(SeriesRef, usize)>>,
}

impl Union {
    fn new(mut sets: Vec<Postings>) -> Self {
        let heads = sets
            .iter_mut()
            .enumerate()
            .filter_map(|(index, set)| set.peek().map(|head| Reverse((head, index))))
            .collect();
        Self { sets, heads }
    }

    fn peek(&self) -> Option<SeriesRef> {
        self.heads.peek().map(|Reverse((head, _))| *head)
    }

    fn seek(&mut self, target: SeriesRef) {
        while let Some(mut top) = self.heads.peek_mut() {
            let Reverse((head, index)) = *top;
            if head >= target {
                break;
            }
            match self.sets.get_mut(index).and_then(|set| set.seek(target)) {
                Some(found) => *top = Reverse((found, index)),
                None => {
                    std::collections::binary_heap::PeekMut::pop(top);
                }
            }
        }
    }

    /// Several sets may have the ref that was taken.
    fn advance_past(&mut self, taken: SeriesRef) {
        while let Some(mut top) = self.heads.peek_mut() {
            let Reverse((head, index)) = *top;
            if head > taken {
                break;
            }
            let following = self.sets.get_mut(index).and_then(|set| {
                set.next();
                set.peek()
            });
            match following {
                Some(found) => *top = Reverse((found, index)),
                None => {
                    std::collections::binary_heap::PeekMut::pop(top);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn encoded(refs: impl IntoIterator<Item = u32>) -> Bytes {
        refs.into_iter().flat_map(u32::to_be_bytes).collect::<Vec<u8>>().into()
    }

    /// A set expression, to be evaluated both by the algebra and by a model.
    #[derive(Clone, Debug)]
    enum Expression {
        List(BTreeSet<u32>),
        Refs(BTreeSet<u32>),
        And(Vec<Expression>),
        Or(Vec<Expression>),
        Minus(Box<(Expression, Expression)>),
    }

    impl Expression {
        fn postings(&self) -> Postings {
            let all = |parts: &[Expression]| parts.iter().map(Self::postings).collect();
            match self {
                Self::List(set) => Postings::from_encoded(encoded(set.iter().copied())).unwrap(),
                Self::Refs(set) => Postings::from_refs(set.iter().rev().copied().collect()),
                Self::And(parts) => Postings::intersection(all(parts)),
                Self::Or(parts) => Postings::union(all(parts)),
                Self::Minus(pair) => pair.0.postings().without(pair.1.postings()),
            }
        }

        fn model(&self) -> BTreeSet<u32> {
            match self {
                Self::List(set) | Self::Refs(set) => set.clone(),
                Self::And(parts) => {
                    let mut sets = parts.iter().map(Self::model);
                    let Some(first) = sets.next() else { return BTreeSet::new() };
                    sets.fold(first, |a, b| &a & &b)
                }
                Self::Or(parts) => parts.iter().flat_map(Self::model).collect(),
                Self::Minus(pair) => &pair.0.model() - &pair.1.model(),
            }
        }
    }

    fn expression() -> impl Strategy<Value = Expression> {
        let refs = prop::collection::btree_set(0u32..120, 0..60);
        let leaf = prop_oneof![refs.clone().prop_map(Expression::List), refs.prop_map(Expression::Refs)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Expression::And),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Expression::Or),
                (inner.clone(), inner).prop_map(|pair| Expression::Minus(Box::new(pair))),
            ]
        })
    }

    proptest! {
        #[test]
        fn algebra_agrees_with_sets(expression in expression()) {
            let postings = expression.postings();
            prop_assert!(postings.len_bound() >= expression.model().len());
            prop_assert_eq!(postings.collect::<Vec<_>>(), expression.model().into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn seek_and_next_agree_with_sets(expression in expression(), moves in prop::collection::vec((any::<bool>(), 0u32..130), 0..40)) {
            let mut postings = expression.postings();
            let mut left = expression.model();
            for (is_seek, target) in moves {
                if is_seek {
                    left.retain(|found| *found >= target);
                    prop_assert_eq!(postings.seek(target), left.first().copied());
                } else {
                    prop_assert_eq!(postings.next(), left.pop_first());
                }
                prop_assert_eq!(postings.peek(), left.first().copied());
            }
        }

        #[test]
        fn encoded_lists_are_accepted_only_if_strictly_increasing(refs in prop::collection::vec(0u32..40, 0..6), extra in 0usize..4) {
            let mut bytes = encoded(refs.iter().copied()).to_vec();
            bytes.extend(std::iter::repeat_n(0xff, extra));
            let valid = extra == 0 && refs.windows(2).all(|pair| pair[0] < pair[1]);
            prop_assert_eq!(Postings::from_encoded(bytes.into()).is_some(), valid);
        }
    }

    #[test]
    fn long_lists_are_galloped_over() {
        let long = || Postings::from_encoded(encoded((0..100_000).map(|n| n * 3))).unwrap();
        let short = Postings::from_refs(vec![0, 7, 299_997, 299_998]);
        assert_eq!(Postings::intersection(vec![long(), short]).collect::<Vec<_>>(), [0, 299_997]);
        let mut list = long();
        assert_eq!(list.seek(150_001), Some(150_003));
        assert_eq!(list.seek(3), Some(150_003), "seeking back stays where it is");
        assert_eq!(list.seek(u32::MAX), None);
        assert_eq!(list.next(), None);
    }
}
