//! Which postings lists a set of matchers needs, and how they combine into the series that match.
//!
//! A plan is made from label values alone and names lists by their *place* (an offset in a file, a range of an object), so
//! that a caller whose lists are far away can fetch all places of a plan at once and combine them afterwards.
//!
//! The semantics are those of Prometheus' `PostingsForMatchers` (tsdb/querier.go): a label that a series lacks has the value
//! `""`; no matchers select nothing; the matcher `""=""` alone is the key of the list of all series. No series has a
//! label whose name is empty, so any other matcher on it only asks whether it matches `""`.

use parallax_model::{MatchOp, Matcher};

use super::{Postings, REF_SIZE_BYTES};

/// The labels of one block and the places of their postings lists.
pub trait LabelValueIndex {
    /// Where one list lies.
    type Place;
    type Error;

    /// The list of all series, which an index files under the empty name and the empty value. `None` without any series.
    fn all_series_place(&self) -> Result<Option<Self::Place>, Self::Error>;

    /// The list of one value; `None` if no series has it.
    fn value_place(&self, name: &str, value: &str) -> Result<Option<Self::Place>, Self::Error>;

    /// Every value of `name` that begins with `prefix`, in order. Nothing for a name that does not exist.
    fn visit_values(
        &self,
        name: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, Self::Place),
    ) -> Result<(), Self::Error>;
}

/// A [`LabelValueIndex`] whose lists are at hand.
pub trait PostingsSource: LabelValueIndex {
    fn postings_at(&self, place: &Self::Place) -> Result<Postings, Self::Error>;
}

/// The series that all `matchers` match.
pub fn select<S: PostingsSource + ?Sized>(source: &S, matchers: &[Matcher]) -> Result<Postings, S::Error> {
    PostingsPlan::new(source, matchers)?.combine(|place| source.postings_at(place))
}

/// The lists that decide which series match: those in every group of `keep` (or all series), less those in any of `drop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostingsPlan<P> {
    /// The list of all series, if nothing else bounds the result.
    all_series: Option<P>,
    /// Each group is the union of its lists. No group here is empty.
    keep: Vec<Group<P>>,
    drop: Vec<Group<P>>,
}

/// The lists that one matcher needs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group<P> {
    /// The matcher's index among those that the plan was made from.
    matcher: usize,
    places: Vec<P>,
}

impl<P> PostingsPlan<P> {
    /// Looks up what `matchers` need, and stops as soon as it is clear that no series can match.
    pub fn new<I: LabelValueIndex<Place = P> + ?Sized>(
        index: &I,
        matchers: &[Matcher],
    ) -> Result<Self, I::Error> {
        let mut plan = Self::nothing();
        if matchers.is_empty() {
            return Ok(plan);
        }
        // A label that some matcher requires to be there turns `l=~"a|"` into something to intersect with.
        let must_be_set =
            |name: &str| !name.is_empty() && matchers.iter().any(|m| m.name() == name && !m.matches_empty());
        for (at, matcher) in matchers.iter().enumerate() {
            let matches_empty = matcher.matches_empty();
            if matcher.name().is_empty() {
                if matches_empty {
                    continue;
                }
                return Ok(Self::nothing());
            }
            if !matches_empty || (!matcher.is_negative() && must_be_set(matcher.name())) {
                if matches_everything(matcher) {
                    continue;
                }
                let places = matching_places(index, matcher)?;
                if places.is_empty() {
                    return Ok(Self::nothing());
                }
                plan.keep.push(Group { matcher: at, places });
            } else if !matches_everything(matcher) {
                plan.drop.push(Group { matcher: at, places: other_places(index, matcher)? });
            }
        }
        if plan.keep.is_empty() {
            plan.all_series = index.all_series_place()?;
            if plan.all_series.is_none() {
                return Ok(Self::nothing());
            }
        }
        Ok(plan)
    }

    fn nothing() -> Self {
        Self { all_series: None, keep: Vec::new(), drop: Vec::new() }
    }

    /// Whether no series can match, whatever the lists hold.
    pub fn is_empty(&self) -> bool {
        self.all_series.is_none() && self.keep.is_empty()
    }

    /// Every list that [`Self::combine`] will ask for, in the same order.
    pub fn places(&self) -> impl Iterator<Item = &P> {
        let grouped = self.keep.iter().chain(&self.drop).flat_map(|group| &group.places);
        self.all_series.iter().chain(grouped)
    }

    /// Takes those groups out of the plan whose lists cost more than reading every series that the rest may leave.
    ///
    /// `{name="x", pod=~"a.*"}` may need the lists of a hundred thousand pods in order to narrow a hundred series.
    /// `size_bytes` is what a list takes, `series_size_bytes` what a series is expected to take. A group of more than `lists_per_series`
    /// lists for each series that the rest may leave is taken out whatever its size; 0 is no such limit. The matchers with the returned
    /// indexes must then be held against the labels of each series that the plan selects.
    pub fn defer_costly(
        &mut self,
        size_bytes: impl Fn(&P) -> u64,
        series_size_bytes: u64,
        lists_per_series: f64,
    ) -> Vec<usize> {
        let cost =
            |places: &[P]| places.iter().fold(0u64, |sum, place| sum.saturating_add(size_bytes(place)));
        let cheapest = match &self.all_series {
            Some(place) => Some((None, size_bytes(place))),
            None => self
                .keep
                .iter()
                .map(|group| (Some(group.matcher), cost(&group.places)))
                .min_by_key(|found| found.1),
        };
        let Some((base, base_bytes)) = cheapest else { return Vec::new() };
        let base_series = base_bytes / REF_SIZE_BYTES as u64;
        let worth_bytes = base_series.saturating_mul(series_size_bytes);
        let is_too_many =
            |lists: usize| lists_per_series > 0.0 && lists as f64 > lists_per_series * base_series as f64;
        let mut deferred = Vec::new();
        for groups in [&mut self.keep, &mut self.drop] {
            groups.retain(|group| {
                let is_worth_it = cost(&group.places) <= worth_bytes && !is_too_many(group.places.len());
                let stays = base == Some(group.matcher) || is_worth_it;
                if !stays {
                    deferred.push(group.matcher);
                }
                stays
            });
        }
        deferred
    }

    /// The matching series, from the lists that `load` gives for places. Each place is asked for once.
    pub fn combine<E>(&self, mut load: impl FnMut(&P) -> Result<Postings, E>) -> Result<Postings, E> {
        let mut kept = Vec::with_capacity(self.keep.len() + 1);
        if let Some(place) = &self.all_series {
            kept.push(load(place)?);
        }
        for group in &self.keep {
            let lists = group.places.iter().map(&mut load).collect::<Result<Vec<_>, E>>()?;
            kept.push(Postings::union(lists));
        }
        let dropped = self.drop.iter().flat_map(|group| &group.places);
        let dropped = dropped.map(load).collect::<Result<Vec<_>, E>>()?;
        Ok(Postings::intersection(kept).without(Postings::union(dropped)))
    }
}

/// Whether this is `=~".*"`, which asks nothing of a label and needs no list.
fn matches_everything(matcher: &Matcher) -> bool {
    matcher.op() == MatchOp::Regex && matcher.value() == ".*"
}

/// The lists of the values that match. Absent labels are left to the caller.
fn matching_places<I: LabelValueIndex + ?Sized>(
    index: &I,
    matcher: &Matcher,
) -> Result<Vec<I::Place>, I::Error> {
    if matcher.is_negative() {
        return visited_places(index, matcher.name(), "", |value| matcher.matches(value));
    }
    match matcher.set_values() {
        Some(values) => set_places(index, matcher.name(), values),
        None => visited_places(index, matcher.name(), &matcher.prefix(), |value| matcher.matches(value)),
    }
}

/// The lists of the values that do not match.
fn other_places<I: LabelValueIndex + ?Sized>(
    index: &I,
    matcher: &Matcher,
) -> Result<Vec<I::Place>, I::Error> {
    if !matcher.is_negative() {
        return visited_places(index, matcher.name(), "", |value| !matcher.matches(value));
    }
    match matcher.set_values() {
        Some(values) => set_places(index, matcher.name(), values),
        None => visited_places(index, matcher.name(), &matcher.prefix(), |value| !matcher.matches(value)),
    }
}

fn set_places<I: LabelValueIndex + ?Sized>(
    index: &I,
    name: &str,
    values: &[String],
) -> Result<Vec<I::Place>, I::Error> {
    let mut places = Vec::new();
    for value in values {
        places.extend(index.value_place(name, value)?);
    }
    Ok(places)
}

fn visited_places<I: LabelValueIndex + ?Sized>(
    index: &I,
    name: &str,
    prefix: &str,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<I::Place>, I::Error> {
    let mut places = Vec::new();
    index.visit_values(name, prefix, &mut |value, place| {
        if is_wanted(value) {
            places.push(place);
        }
    })?;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use parallax_model::Labels;
    use proptest::prelude::*;

    use super::*;

    /// Series in order, and the lists an index would hold for them. A place is a (name, value) pair.
    #[derive(Debug)]
    struct Model {
        series: Vec<Labels>,
        lists: BTreeMap<(String, String), Vec<u32>>,
    }

    impl Model {
        fn new(mut series: Vec<Labels>) -> Self {
            series.sort();
            series.dedup();
            let mut lists: BTreeMap<(String, String), Vec<u32>> = BTreeMap::new();
            for (series_ref, labels) in (0..).zip(&series) {
                lists.entry(Default::default()).or_default().push(series_ref);
                for (name, value) in labels {
                    lists.entry((name.to_owned(), value.to_owned())).or_default().push(series_ref);
                }
            }
            Self { series, lists }
        }

        fn expected(&self, matchers: &[Matcher]) -> Vec<u32> {
            let matches = |labels: &Labels| matchers.iter().all(|m| m.matches_labels(labels));
            (0..).zip(&self.series).filter(|(_, labels)| matches(labels)).map(|(at, _)| at).collect()
        }
    }

    impl LabelValueIndex for Model {
        type Place = (String, String);
        type Error = Infallible;

        fn all_series_place(&self) -> Result<Option<Self::Place>, Infallible> {
            self.value_place("", "")
        }

        fn value_place(&self, name: &str, value: &str) -> Result<Option<Self::Place>, Infallible> {
            let place = (name.to_owned(), value.to_owned());
            Ok(self.lists.contains_key(&place).then_some(place))
        }

        fn visit_values(
            &self,
            name: &str,
            prefix: &str,
            visit: &mut dyn FnMut(&str, Self::Place),
        ) -> Result<(), Infallible> {
            for place in self.lists.keys().filter(|(n, v)| n == name && v.starts_with(prefix)) {
                visit(&place.1, place.clone());
            }
            Ok(())
        }
    }

    impl PostingsSource for Model {
        fn postings_at(&self, place: &Self::Place) -> Result<Postings, Infallible> {
            Ok(Postings::from_refs(self.lists[place].clone()))
        }
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let op =
            prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
        let values = vec![
            "", "a", "ab", "b", "missing", ".*", ".+", "a|b", "a|", "a.*", "a.+", "[ab]", "(a|b)?", ".b",
        ];
        (op, prop::sample::select(vec!["x", "y", "z", "nowhere", ""]), prop::sample::select(values))
            .prop_map(|(op, name, value)| Matcher::new(op, name, value).unwrap())
    }

    fn model() -> impl Strategy<Value = Model> {
        let label =
            (prop::sample::select(vec!["x", "y", "z"]), prop::sample::select(vec!["a", "ab", "b", "bb"]));
        prop::collection::vec(prop::collection::vec(label, 0..4).prop_map(Labels::from_pairs), 0..24)
            .prop_map(Model::new)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn selection_agrees_with_matching_every_series(model in model(), matchers in prop::collection::vec(matcher(), 1..4)) {
            let plan = PostingsPlan::new(&model, &matchers).unwrap();
            let mut asked = Vec::new();
            let found: Vec<u32> = plan
                .combine(|place| {
                    asked.push(place.clone());
                    model.postings_at(place)
                })
                .unwrap()
                .collect();
            prop_assert_eq!(found, model.expected(&matchers));
            prop_assert_eq!(asked, plan.places().cloned().collect::<Vec<_>>());
        }

        #[test]
        fn deferred_matchers_and_the_rest_of_the_plan_select_the_same(
            model in model(),
            matchers in prop::collection::vec(matcher(), 1..5),
            series_size_bytes in 0u64..6,
            lists_per_series in prop::sample::select(vec![0.0, 0.1, 1.0, 100.0]),
        ) {
            let mut plan = PostingsPlan::new(&model, &matchers).unwrap();
            let before = plan.places().count();
            let size_bytes = |place: &(String, String)| model.lists[place].len() as u64 * 4;
            let deferred = plan.defer_costly(size_bytes, series_size_bytes, lists_per_series);
            prop_assert!(deferred.is_empty() || plan.places().count() < before);
            let found: Vec<u32> = plan
                .combine(|place| model.postings_at(place))
                .unwrap()
                .filter(|at| deferred.iter().all(|m| matchers[*m].matches_labels(&model.series[*at as usize])))
                .collect();
            prop_assert_eq!(found, model.expected(&matchers));
        }
    }

    fn three_series() -> Model {
        Model::new(vec![
            Labels::from_pairs([("x", "a")]),
            Labels::from_pairs([("x", "b"), ("y", "a")]),
            Labels::from_pairs([("y", "b")]),
        ])
    }

    fn selected(matchers: &[(MatchOp, &str, &str)]) -> Vec<u32> {
        let matchers: Vec<_> =
            matchers.iter().map(|(op, name, value)| Matcher::new(*op, *name, *value).unwrap()).collect();
        select(&three_series(), &matchers).unwrap().collect()
    }

    #[test]
    fn absent_labels_match_as_empty() {
        assert_eq!(selected(&[(MatchOp::Equal, "x", "")]), [2]);
        assert_eq!(selected(&[(MatchOp::NotEqual, "x", "")]), [0, 1]);
        assert_eq!(selected(&[(MatchOp::NotEqual, "x", "a")]), [1, 2]);
        assert_eq!(selected(&[(MatchOp::Regex, "x", "a|")]), [0, 2]);
        assert_eq!(selected(&[(MatchOp::Regex, "nowhere", ".*")]), [0, 1, 2]);
        assert_eq!(selected(&[(MatchOp::NotRegex, "x", ".*")]), [0u32; 0]);
    }

    #[test]
    fn no_matchers_select_nothing_and_the_empty_one_selects_all() {
        assert_eq!(selected(&[]), [0u32; 0]);
        assert_eq!(selected(&[(MatchOp::Equal, "", "")]), [0, 1, 2]);
        assert_eq!(selected(&[(MatchOp::Equal, "", "a")]), [0u32; 0]);
    }

    #[test]
    fn a_required_label_is_intersected_with_rather_than_subtracted_from_all() {
        let matchers = [
            Matcher::new(MatchOp::NotEqual, "x", "").unwrap(),
            Matcher::new(MatchOp::Regex, "x", "a|").unwrap(),
        ];
        let plan = PostingsPlan::new(&three_series(), &matchers).unwrap();
        assert!(plan.all_series.is_none() && plan.drop.is_empty());
        assert_eq!(plan.keep.len(), 2);
    }
}
