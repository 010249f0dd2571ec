//! Whose labels an endpoint may use: one that is declared as a cluster answers for that cluster alone.
//!
//! Invariant: behind the check, nothing of a declared endpoint carries the label of another cluster, or none: neither series, label sets and values of
//! the label, nor rules, targets and exemplars. What the wire lets nobody tell apart (metadata of metrics, statistics) stays.

use parallax_model::{Labels, MatchOp, Matcher};
use parallax_storeapi::proto::thanos::{Label, LabelMatcher, label_matcher};

use crate::coverage::bounded;
use crate::endpoint::Metadata;

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

/// What one endpoint may claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    label: String,
    cluster: String,
    mode: ForeignLabels,
}

impl Claim {
    pub fn new(label: impl Into<String>, cluster: impl Into<String>, mode: ForeignLabels) -> Self {
        Self { label: label.into(), cluster: cluster.into(), mode }
    }

    pub fn mode(&self) -> ForeignLabels {
        self.mode
    }

    /// The label whose value is the cluster.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The declared cluster as a set of labels.
    pub fn own(&self) -> Labels {
        Labels::from_pairs([(self.label.as_str(), self.cluster.as_str())])
    }

    /// Why a series, rule or target with these labels is not the declared cluster's: it carries the label once, with the cluster's name, byte by byte.
    pub fn foreign(&self, wire: &[Label]) -> Option<String> {
        let mut values = wire.iter().filter(|one| one.name == self.label).map(|one| &*one.value);
        let found = values.next().unwrap_or_default();
        if values.next().is_some() {
            return Some(format!("carries the label {} more than once", self.label));
        }
        (found != self.cluster.as_bytes()).then(|| self.reason(&String::from_utf8_lossy(found)))
    }

    /// Why a value of the label is not the declared cluster.
    pub fn foreign_value(&self, value: &str) -> Option<String> {
        (value != self.cluster).then(|| self.reason(value))
    }

    fn reason(&self, found: &str) -> String {
        let (label, own) = (&self.label, &self.cluster);
        match found {
            "" => format!("does not say {label}={own:?}, which its endpoint is declared to be"),
            other => bounded(format!("claims {label}={other:?}, but its endpoint is declared as {own:?}")),
        }
    }

    /// What the endpoint says of itself, as far as it may.
    pub(crate) fn apply(&self, mut metadata: Metadata) -> Metadata {
        let own = self.own();
        if self.mode == ForeignLabels::Inject {
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
        let is_own = |set: &Labels| set.get(&self.label) == Some(self.cluster.as_str());
        let foreign = metadata.label_sets.iter().find(|set| !is_own(set));
        metadata.foreign = foreign.map(|set| {
            bounded(format!("it advertises {set}, but it is declared as {}={:?}", self.label, self.cluster))
        });
        metadata.label_sets.retain(is_own);
        metadata.tsdb_infos.retain(|info| is_own(&info.labels));
        metadata
    }

    /// The matchers of a call for names or values of labels, or for statistics, whose answer does not say whose it is: it is asked of the declared cluster
    /// alone. Without matchers it may stay so where the endpoint knows no label of clusters.
    pub(crate) fn adapt_narrow(&self, matchers: &mut Vec<LabelMatcher>) {
        if self.mode != ForeignLabels::Inject || !matchers.is_empty() {
            self.adapt(matchers);
        }
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
                let own = wire(label_matcher::Type::Eq, &self.label, &self.cluster);
                if !matchers.contains(&own) {
                    matchers.push(own);
                }
            }
        }
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
        assert_eq!(other, r#"claims cluster="us-1", but its endpoint is declared as "eu-1""#);
        for alike in ["EU-1", "eu-1 ", "eu\u{2010}1", "\u{435}u-1", "eu-1.", ""] {
            assert!(claim.foreign(&labels::to_wire(&set(&[("cluster", alike)]))).is_some(), "{alike:?}");
        }
        let twice = [set(&[("cluster", "eu-1")]), set(&[("cluster", "us-1")])];
        let twice: Vec<Label> = twice.iter().flat_map(labels::to_wire).collect();
        let twice = claim.foreign(&twice).unwrap();
        assert_eq!(twice, "carries the label cluster more than once");
        let none = claim.foreign(&labels::to_wire(&set(&[("job", "a")]))).unwrap();
        assert_eq!(none, r#"does not say cluster="eu-1", which its endpoint is declared to be"#);
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
}
