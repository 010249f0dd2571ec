//! Exemplars: what a query selects, as each endpoint has to be asked for it; and the answers of replicas made one.
//!
//! Source of the semantics: Thanos `pkg/exemplars`. Sidecars of Thanos hand a query to Prometheus as it is, which knows no external labels; so
//! matchers on these are decided here wherever an endpoint advertises a single set of them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use parallax_model::{Labels, Matcher};
use parallax_storeapi::labels;
use parallax_storeapi::matchers::{may_match, selector, without_external};
use parallax_storeapi::proto::thanos::{Exemplar, ExemplarData, Label};

use super::rules::shown;

/// The query for an endpoint that advertises `label_sets`: those of the selectors that can concern it, which it may have found in any expression.
pub(crate) fn query_for(selectors: &[Vec<Matcher>], label_sets: &[Labels]) -> String {
    let terms: Vec<String> = selectors
        .iter()
        .filter(|matchers| may_match(matchers, label_sets))
        .filter_map(|matchers| match label_sets {
            [only] => without_external(matchers, only),
            _ => Some(matchers.clone()),
        })
        .map(|matchers| selector(&matchers))
        .collect();
    terms.join(" or ")
}

/// One entry per series, without `replica_labels`; its exemplars by time, each once. Series without any are left out.
pub(crate) fn merge(parts: Vec<ExemplarData>, replica_labels: &[String]) -> Vec<(Labels, Vec<Exemplar>)> {
    let mut by_series: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    for mut part in parts {
        if part.exemplars.is_empty() {
            continue;
        }
        let series = shown(&part.series_labels).without(replica_labels);
        by_series.entry(series).or_default().append(&mut part.exemplars);
    }
    for exemplars in by_series.values_mut() {
        for exemplar in &mut *exemplars {
            if let Some(set) = &mut exemplar.labels {
                set.labels.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        exemplars.sort_by(order);
        exemplars.dedup_by(|later, earlier| order(earlier, later).is_eq());
    }
    by_series.into_iter().collect()
}

fn order(a: &Exemplar, b: &Exemplar) -> Ordering {
    a.ts.cmp(&b.ts)
        .then_with(|| labels::compare(labels_of(a), labels_of(b)))
        .then_with(|| a.value.total_cmp(&b.value))
}

fn labels_of(exemplar: &Exemplar) -> &[Label] {
    exemplar.labels.as_ref().map_or(&[], |set| &set.labels)
}

#[cfg(test)]
mod tests {
    use parallax_promql::parse::{ParserOptions, parse};
    use parallax_promql::selectors::selectors;

    use super::*;

    fn selectors_of(query: &str) -> Vec<Vec<Matcher>> {
        selectors(&parse(query, &ParserOptions::default()).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    #[test]
    fn each_endpoint_is_asked_for_what_it_can_have() {
        let all = selectors_of("a{cluster=\"eu-1\"} + b{cluster=\"us-1\"} + c");
        let eu = [labels(&[("cluster", "eu-1")])];
        assert_eq!(query_for(&all, &eu), r#"{__name__="a"} or {__name__="c"}"#);
        let both = [eu[0].clone(), labels(&[("cluster", "us-1")])];
        assert_eq!(
            query_for(&all, &both),
            r#"{cluster="eu-1",__name__="a"} or {cluster="us-1",__name__="b"} or {__name__="c"}"#
        );
        assert_eq!(query_for(&selectors_of("{cluster=\"eu-1\"}"), &eu), r#"{__name__!=""}"#);
        assert_eq!(query_for(&selectors_of("{cluster=\"us-1\"}"), &eu), "");
    }

    #[test]
    fn exemplars_of_replicas_are_there_once_and_in_order_of_time() {
        let exemplar = |ts, value| Exemplar { labels: None, value, ts };
        let data = |replica, exemplars| ExemplarData {
            series_labels: Some(labels::set_to_wire(&labels(&[("job", "a"), ("replica", replica)]))),
            exemplars,
        };
        let parts = || {
            vec![
                data("1", vec![exemplar(5, 1.0), exemplar(2, 1.0)]),
                data("0", vec![exemplar(2, 1.0), exemplar(2, 3.0)]),
                data("2", vec![]),
            ]
        };
        let merged = merge(parts(), &["replica".to_owned()]);
        let expected = vec![exemplar(2, 1.0), exemplar(2, 3.0), exemplar(5, 1.0)];
        assert_eq!(merged, [(labels(&[("job", "a")]), expected)]);
        assert_eq!(merge(parts(), &[]).len(), 2);
    }
}
