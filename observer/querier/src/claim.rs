//! Whose labels an endpoint may use: one that is declared as a cluster answers for that cluster alone, and a hub over several for those that are delegated to it.
//!
//! Invariant: behind the check, nothing of a declared endpoint carries the label of another cluster, or none: neither series, label sets and values of
//! the label, nor rules, targets and exemplars. What the wire lets nobody tell apart (metadata of metrics, statistics) stays.

use std::fmt::Write as _;
use std::sync::Arc;

use parallax_model::{Labels, MatchOp, Matcher};
use parallax_storeapi::proto::thanos::{Label, LabelMatcher, label_matcher};

use crate::coverage::bounded;
use crate::endpoint::Metadata;

/// Most clusters that are delegated to one endpoint.
pub const MAX_DELEGATED: usize = 1000;
/// How many of them a text names.
const NAMED: usize = 8;
/// What to do about a claim that is refused.
const RULE: &str = "rule of declared clusters: mend the external labels there, or declare the endpoint as what it is; a hub over several clusters lists them under delegated";

/// What becomes of labels by which an endpoint that is declared as one cluster claims another one, or none at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignLabels {
    /// Everything the endpoint sends is the declared cluster's, whatever it says.
    Inject,
    /// What claims another cluster is left out and counted, and the endpoint is asked for its own alone.
    #[default]
    Drop,
    /// An endpoint that claims another cluster is not believed at all: its whole answer is refused.
    Refuse,
}

/// Why `delegated` cannot be what an endpoint with this `mode` answers for; `None` if it can. Nothing delegated is no defect.
pub fn delegation_defect(delegated: &[String], mode: ForeignLabels) -> Option<String> {
    if delegated.len() > MAX_DELEGATED {
        return Some(format!("delegated: at most {MAX_DELEGATED} clusters"));
    }
    if delegated.iter().any(String::is_empty) {
        return Some("delegated: the name of a cluster is empty".to_owned());
    }
    (mode == ForeignLabels::Inject && delegated.len() > 1).then(|| {
        "delegated: several clusters, and foreign_labels: inject would make everything one cluster's; use drop or refuse".to_owned()
    })
}

/// What one endpoint may claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    label: String,
    /// Sorted, and never empty.
    clusters: Arc<[String]>,
    mode: ForeignLabels,
}

impl Claim {
    pub fn new(label: impl Into<String>, cluster: impl Into<String>, mode: ForeignLabels) -> Self {
        Self { label: label.into(), clusters: [cluster.into()].into(), mode }
    }

    /// Of a hub that answers for these clusters and for no other; `None` if there is none. `clusters` is sorted. Where there are several, nothing can be
    /// injected, and what is foreign is dropped instead.
    pub fn delegated(
        label: impl Into<String>,
        clusters: &Arc<[String]>,
        mode: ForeignLabels,
    ) -> Option<Self> {
        debug_assert!(clusters.is_sorted(), "claims look their clusters up by order");
        let injects = mode == ForeignLabels::Inject && clusters.len() > 1;
        let mode = if injects { ForeignLabels::Drop } else { mode };
        (!clusters.is_empty()).then(|| Self { label: label.into(), clusters: Arc::clone(clusters), mode })
    }

    pub fn mode(&self) -> ForeignLabels {
        self.mode
    }

    /// The label whose value is the cluster.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The one declared cluster as a set of labels, for [`ForeignLabels::Inject`].
    pub fn own(&self) -> Labels {
        Labels::from_pairs(self.clusters.first().map(|cluster| (self.label.as_str(), cluster.as_str())))
    }

    /// Each cluster it may answer for, as a set of labels.
    pub fn own_sets(&self) -> Vec<Labels> {
        let set = |cluster: &String| Labels::from_pairs([(self.label.as_str(), cluster.as_str())]);
        self.clusters.iter().map(set).collect()
    }

    fn holds(&self, cluster: &[u8]) -> bool {
        self.clusters.binary_search_by(|own| own.as_bytes().cmp(cluster)).is_ok()
    }

    /// Why a series, rule or target with these labels is not the endpoint's: it carries the label once, with the name of a cluster of its own, byte by byte.
    pub fn foreign(&self, wire: &[Label]) -> Option<String> {
        let mut values = wire.iter().filter(|one| one.name == self.label).map(|one| &*one.value);
        let found = values.next().unwrap_or_default();
        if values.next().is_some() {
            return Some(format!("carries the label {} more than once ({RULE})", self.label));
        }
        (!self.holds(found)).then(|| self.reason(&String::from_utf8_lossy(found)))
    }

    /// Why a value of the label is no cluster of the endpoint's.
    pub fn foreign_value(&self, value: &str) -> Option<String> {
        (!self.holds(value.as_bytes())).then(|| self.reason(value))
    }

    fn reason(&self, found: &str) -> String {
        let (label, declared) = (&self.label, self.declared());
        match found {
            "" => format!("does not say {label}, and its endpoint {declared} ({RULE})"),
            other => bounded(format!("claims {label}={other:?}, but its endpoint {declared} ({RULE})")),
        }
    }

    /// What the endpoint is, in words.
    fn declared(&self) -> String {
        if let [only] = &*self.clusters {
            return format!("is declared as {only:?}");
        }
        let mut text = "may answer only for ".to_owned();
        for (index, cluster) in self.clusters.iter().take(NAMED).enumerate() {
            let _ = write!(text, "{}{cluster:?}", if index == 0 { "" } else { ", " });
        }
        if let Some(more) = self.clusters.len().checked_sub(NAMED).filter(|more| *more > 0) {
            let _ = write!(text, " and {more} more");
        }
        text
    }

    /// What the endpoint says of itself, as far as it may.
    pub(crate) fn apply(&self, mut metadata: Metadata) -> Metadata {
        if self.mode == ForeignLabels::Inject {
            let own = self.own();
            let is_empty = metadata.label_sets.is_empty() && metadata.range.is_empty();
            if metadata.label_sets.is_empty() && !is_empty {
                metadata.label_sets.push(Labels::empty());
            }
            for set in &mut metadata.label_sets {
                *set = set.overlaid_with(&own);
            }
            metadata.label_sets.dedup();
            for info in &mut metadata.tsdb_infos {
                info.labels = info.labels.overlaid_with(&own);
            }
            return metadata;
        }
        let is_own =
            |set: &Labels| set.get(&self.label).is_some_and(|cluster| self.holds(cluster.as_bytes()));
        let foreign = metadata.label_sets.iter().find(|set| !is_own(set));
        metadata.foreign = foreign.map(|set| {
            bounded(format!("it advertises {set}, but its endpoint {} ({RULE})", self.declared()))
        });
        metadata.label_sets.retain(is_own);
        // What does not say whose it is may be its own.
        metadata.tsdb_infos.retain(|info| is_own(&info.labels) || !info.labels.contains(&self.label));
        metadata
    }

    /// The matchers of a call for names or values of labels, or for statistics, whose answer does not say whose it is: it is asked of the declared cluster
    /// alone. Without matchers it may stay so where the endpoint knows no label of clusters.
    pub(crate) fn adapt_narrow(&self, matchers: &mut Vec<LabelMatcher>) {
        if self.mode != ForeignLabels::Inject || !matchers.is_empty() {
            self.adapt(matchers);
        }
    }

    /// What its own series match; `None` if there is no regular expression of so many names.
    pub(crate) fn own_matcher(&self) -> Option<Matcher> {
        parallax_storeapi::matchers::from_wire(&[self.matcher()]).ok()?.pop()
    }

    /// The matchers for the endpoint, of a request that its declared cluster does not contradict.
    pub(crate) fn adapt(&self, matchers: &mut Vec<LabelMatcher>) {
        match self.mode {
            ForeignLabels::Inject => {
                // The endpoint may not know the label.
                matchers.retain(|matcher| matcher.name != self.label);
                if matchers.is_empty() {
                    matchers.push(wire(label_matcher::Type::Neq, "__name__", ""));
                }
            }
            ForeignLabels::Drop | ForeignLabels::Refuse => {
                let own = self.matcher();
                if !matchers.contains(&own) {
                    matchers.push(own);
                }
            }
        }
    }

    /// Selects what is of the endpoint's own clusters.
    fn matcher(&self) -> LabelMatcher {
        matching_any(&self.label, self.clusters.iter().map(String::as_str))
    }

    /// The same for a selector that is not on the wire yet; `None` if the declared cluster contradicts it.
    pub(crate) fn adapt_selector(&self, selector: &[Matcher]) -> Vec<Matcher> {
        let mut matchers = selector.to_vec();
        if self.mode == ForeignLabels::Inject {
            matchers.retain(|matcher| matcher.name() != self.label);
            if matchers.is_empty() {
                matchers.extend(Matcher::new(MatchOp::NotEqual, "__name__", ""));
            }
        }
        matchers
    }
}

/// Selects these values of a label.
pub(crate) fn matching_any<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> LabelMatcher {
    let values: Vec<&str> = values.into_iter().collect();
    if let [only] = values[..] {
        return wire(label_matcher::Type::Eq, name, only);
    }
    let values: Vec<String> = values.into_iter().map(quoted).collect();
    wire(label_matcher::Type::Re, name, &values.join("|"))
}

/// A regular expression for this text alone, for RE2 as well as for ours.
fn quoted(text: &str) -> String {
    let mut expression = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            expression.push('\\');
        }
        expression.push(character);
    }
    expression
}

fn wire(kind: label_matcher::Type, name: &str, value: &str) -> LabelMatcher {
    LabelMatcher { r#type: kind.into(), name: name.to_owned(), value: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use parallax_storeapi::labels;

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    fn advertising(sets: &[Labels]) -> Metadata {
        let mut metadata = Metadata::from_info(Default::default()).unwrap();
        metadata.label_sets = sets.to_vec();
        metadata
    }

    fn claim(mode: ForeignLabels) -> Claim {
        Claim::new("cluster", "eu-1", mode)
    }

    #[test]
    fn only_the_declared_value_is_no_foreign_one() {
        let claim = claim(ForeignLabels::Drop);
        assert_eq!(claim.foreign(&labels::to_wire(&set(&[("cluster", "eu-1"), ("job", "a")]))), None);
        let other = claim.foreign(&labels::to_wire(&set(&[("cluster", "us-1")]))).unwrap();
        assert!(
            other.starts_with(r#"claims cluster="us-1", but its endpoint is declared as "eu-1" (rule of declared clusters: "#),
            "{other}"
        );
        for alike in ["EU-1", "eu-1 ", "eu\u{2010}1", "\u{435}u-1", "eu-1.", ""] {
            assert!(claim.foreign(&labels::to_wire(&set(&[("cluster", alike)]))).is_some(), "{alike:?}");
        }
        let twice = [set(&[("cluster", "eu-1")]), set(&[("cluster", "us-1")])];
        let twice: Vec<Label> = twice.iter().flat_map(labels::to_wire).collect();
        let twice = claim.foreign(&twice).unwrap();
        assert!(twice.starts_with("carries the label cluster more than once (rule of"), "{twice}");
        let none = claim.foreign(&labels::to_wire(&set(&[("job", "a")]))).unwrap();
        assert!(
            none.starts_with(r#"does not say cluster, and its endpoint is declared as "eu-1" (rule of"#),
            "{none}"
        );
    }

    #[test]
    fn what_an_endpoint_advertises_is_narrowed_or_overlaid() {
        let mixed = [set(&[("cluster", "eu-1")]), set(&[("cluster", "us-1")]), set(&[("replica", "0")])];
        for mode in [ForeignLabels::Drop, ForeignLabels::Refuse] {
            let narrowed = claim(mode).apply(advertising(&mixed));
            assert_eq!(narrowed.label_sets, mixed[..1]);
            assert!(narrowed.foreign.unwrap().contains(r#"{cluster="us-1"}"#));
        }
        let own = claim(ForeignLabels::Drop).apply(advertising(&mixed[..1]));
        assert_eq!((own.label_sets, own.foreign), (mixed[..1].to_vec(), None));
        let overlaid = claim(ForeignLabels::Inject).apply(advertising(&mixed));
        assert_eq!(
            overlaid.label_sets,
            [mixed[0].clone(), set(&[("cluster", "eu-1"), ("replica", "0")])],
            "what became the same is there once"
        );
        assert_eq!(overlaid.foreign, None);
        assert_eq!(claim(ForeignLabels::Inject).apply(advertising(&[])).label_sets, mixed[..1]);
    }

    #[test]
    fn an_endpoint_is_asked_for_its_own_or_without_the_label() {
        let up = || vec![wire(label_matcher::Type::Eq, "__name__", "up")];
        let own = wire(label_matcher::Type::Eq, "cluster", "eu-1");
        let adapted = |mode, mut matchers: Vec<LabelMatcher>| {
            claim(mode).adapt(&mut matchers);
            matchers
        };
        let both = [up(), vec![own.clone()]].concat();
        assert_eq!(adapted(ForeignLabels::Drop, up()), both);
        assert_eq!(adapted(ForeignLabels::Refuse, both.clone()), both);
        assert_eq!(adapted(ForeignLabels::Inject, both), up());
        assert_eq!(
            adapted(ForeignLabels::Inject, vec![own]),
            [wire(label_matcher::Type::Neq, "__name__", "")],
            "a store takes no request without matchers"
        );
    }

    fn hub(mode: ForeignLabels) -> Claim {
        let clusters: Arc<[String]> = ["eu-1", "eu.2"].map(str::to_owned).into();
        Claim::delegated("cluster", &clusters, mode).unwrap()
    }

    #[test]
    fn a_hub_answers_for_the_clusters_delegated_to_it_and_for_no_other() {
        for mode in [ForeignLabels::Drop, ForeignLabels::Refuse, ForeignLabels::Inject] {
            let hub = hub(mode);
            for own in ["eu-1", "eu.2"] {
                assert_eq!(hub.foreign(&labels::to_wire(&set(&[("cluster", own)]))), None);
                assert_eq!(hub.foreign_value(own), None);
            }
            for other in ["eu", "eu-2", "eux2", "EU-1", "eu-1|eu.2", "us-1", ""] {
                let reason = hub.foreign(&labels::to_wire(&set(&[("cluster", other)]))).unwrap();
                assert!(
                    reason.contains(r#"may answer only for "eu-1", "eu.2" (rule of declared"#),
                    "{reason}"
                );
            }
        }
        let many: Arc<[String]> = (100..200).map(|number| format!("c-{number}")).collect();
        let many = Claim::delegated("cluster", &many, ForeignLabels::Drop).unwrap();
        assert!(many.foreign_value("x").unwrap().contains(r#""c-107" and 92 more"#));
        assert_eq!(Claim::delegated("cluster", &Arc::default(), ForeignLabels::Drop), None);
    }

    #[test]
    fn a_hub_is_asked_for_what_is_delegated_to_it_and_advertises_no_more() {
        let mut matchers = vec![wire(label_matcher::Type::Eq, "__name__", "up")];
        // Nothing can be made one of several: it is dropped instead.
        hub(ForeignLabels::Inject).adapt(&mut matchers);
        assert_eq!(matchers[1], wire(label_matcher::Type::Re, "cluster", r"eu-1|eu\.2"));
        let asked = parallax_storeapi::matchers::from_wire(&matchers).unwrap();
        assert!(asked[1].matches("eu.2") && !asked[1].matches("eux2"));
        let mixed = [set(&[("cluster", "eu-1")]), set(&[("cluster", "us-1")]), set(&[("cluster", "eu.2")])];
        let narrowed = hub(ForeignLabels::Drop).apply(advertising(&mixed));
        assert_eq!(narrowed.label_sets, [mixed[0].clone(), mixed[2].clone()]);
        assert!(narrowed.foreign.unwrap().contains(r#"it advertises {cluster="us-1"}, but"#));
    }

    #[test]
    fn lists_that_cannot_be_delegated_are_named() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let defect = |names: &[&str], mode| delegation_defect(&list(names), mode);
        assert_eq!(defect(&["a", "b"], ForeignLabels::Refuse), None);
        assert_eq!(defect(&["a"], ForeignLabels::Inject), None);
        assert!(defect(&["a", "b"], ForeignLabels::Inject).unwrap().contains("use drop or refuse"));
        assert!(defect(&["a", ""], ForeignLabels::Drop).unwrap().contains("empty"));
        let many = vec!["a".to_owned(); MAX_DELEGATED + 1];
        assert!(delegation_defect(&many, ForeignLabels::Drop).unwrap().contains("1000"));
    }
}
