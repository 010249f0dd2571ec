//! Rules: filtered as the caller asked, groups of one file and name joined, and of the rules that replicas have in common the one kept that says most.
//!
//! Source of the semantics: Thanos `pkg/rules` (groups are told apart by file and name, rules by kind, name, labels, query and duration; of equal ones
//! the more critical state wins, then the later evaluation). As in Prometheus, several selectors are alternatives.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};

use parallax_model::{Labels, Matcher};
use parallax_storeapi::labels;
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::rules_request::Type;
use parallax_storeapi::proto::thanos::{Label, Rule, RuleGroup, RulesRequest, ZLabelSet};
use prost_types::Timestamp;

/// What of a request decides about rules, read once.
pub(crate) struct Filter<'a> {
    request: &'a RulesRequest,
    selectors: Vec<Vec<Matcher>>,
}

impl<'a> Filter<'a> {
    /// # Errors
    /// What is wrong with one of the selectors.
    pub(crate) fn new(request: &'a RulesRequest) -> Result<Self, parallax_promql::parse::ParseError> {
        let selectors = parallax_promql::parse::parse_selectors(&request.matcher_string)?;
        Ok(Self { request, selectors })
    }

    /// The part of `group` that was asked for; a group that has none is not there.
    pub(crate) fn keep(&self, mut group: RuleGroup) -> Option<RuleGroup> {
        let among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        if !among(&self.request.rule_group, &group.name) || !among(&self.request.file, &group.file) {
            return None;
        }
        group.rules.retain(|rule| {
            self.is_of_type(rule) && among(&self.request.rule_name, name(rule)) && self.is_selected(rule)
        });
        (!group.rules.is_empty()).then_some(group)
    }

    fn is_of_type(&self, rule: &Rule) -> bool {
        !matches!(
            (&rule.result, Type::try_from(self.request.r#type)),
            (None, _)
                | (Some(Kind::Recording(_)), Ok(Type::Alert))
                | (Some(Kind::Alert(_)), Ok(Type::Record))
        )
    }

    fn is_selected(&self, rule: &Rule) -> bool {
        if self.selectors.is_empty() {
            return true;
        }
        let wire = labels_of(rule);
        let value = |name: &str| -> &str {
            let text = std::str::from_utf8(labels::value_of(wire, name)).unwrap_or_default();
            // What a template will become is not known.
            if text.contains("{{") { "" } else { text }
        };
        self.selectors
            .iter()
            .any(|matchers| matchers.iter().all(|matcher| matcher.matches(value(matcher.name()))))
    }
}

/// Joins groups of the same file and name, without `replica_labels`, and keeps one of each rule.
pub(crate) fn merge(groups: Vec<RuleGroup>, replica_labels: &[String]) -> Vec<RuleGroup> {
    let mut joined: BTreeMap<(String, String), RuleGroup> = BTreeMap::new();
    for mut group in groups {
        for rule in &mut group.rules {
            remove_replica_labels(rule, replica_labels);
        }
        match joined.entry((group.file.clone(), group.name.clone())) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(group);
            }
            btree_map::Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                let mut rules = std::mem::take(&mut known.rules);
                rules.append(&mut group.rules);
                if time(&group.last_evaluation) > time(&known.last_evaluation) {
                    *known = group;
                }
                known.rules = rules;
            }
        }
    }
    let mut groups: Vec<RuleGroup> = joined.into_values().collect();
    for group in &mut groups {
        // The first of equal ones stays.
        group.rules.sort_by(|a, b| identity(a, b).then_with(|| preference(a, b)));
        group.rules.dedup_by(|later, earlier| identity(earlier, later).is_eq());
    }
    groups
}

fn remove_replica_labels(rule: &mut Rule, replica_labels: &[String]) {
    let clean = |set: &mut Option<ZLabelSet>| {
        if let Some(set) = set {
            labels::remove(&mut set.labels, replica_labels);
            set.labels.sort_by(|a, b| a.name.cmp(&b.name));
        }
    };
    match &mut rule.result {
        Some(Kind::Recording(recording)) => clean(&mut recording.labels),
        Some(Kind::Alert(alert)) => {
            clean(&mut alert.labels);
            alert.alerts.iter_mut().for_each(|instance| clean(&mut instance.labels));
        }
        None => {}
    }
}

/// Whether two rules are the same one, and their order if they are not.
fn identity(a: &Rule, b: &Rule) -> Ordering {
    let kind = |rule: &Rule| u8::from(matches!(rule.result, Some(Kind::Recording(_))));
    kind(a)
        .cmp(&kind(b))
        .then_with(|| name(a).cmp(name(b)))
        .then_with(|| labels::compare(labels_of(a), labels_of(b)))
        .then_with(|| query(a).cmp(query(b)))
        .then_with(|| hold_seconds(a).total_cmp(&hold_seconds(b)))
}

/// Which of two equal rules is shown: the one in the more critical state, then the one evaluated last.
fn preference(a: &Rule, b: &Rule) -> Ordering {
    let state = |rule: &Rule| match &rule.result {
        Some(Kind::Alert(alert)) => alert.state,
        _ => 0,
    };
    let evaluated = |rule: &Rule| match &rule.result {
        Some(Kind::Alert(alert)) => time(&alert.last_evaluation),
        Some(Kind::Recording(recording)) => time(&recording.last_evaluation),
        None => None,
    };
    state(b).cmp(&state(a)).then_with(|| evaluated(b).cmp(&evaluated(a)))
}

pub(crate) fn name(rule: &Rule) -> &str {
    match &rule.result {
        Some(Kind::Recording(recording)) => &recording.name,
        Some(Kind::Alert(alert)) => &alert.name,
        None => "",
    }
}

fn query(rule: &Rule) -> &str {
    match &rule.result {
        Some(Kind::Recording(recording)) => &recording.query,
        Some(Kind::Alert(alert)) => &alert.query,
        None => "",
    }
}

fn hold_seconds(rule: &Rule) -> f64 {
    match &rule.result {
        Some(Kind::Alert(alert)) => alert.duration_seconds,
        _ => 0.0,
    }
}

fn labels_of(rule: &Rule) -> &[Label] {
    let set = match &rule.result {
        Some(Kind::Recording(recording)) => &recording.labels,
        Some(Kind::Alert(alert)) => &alert.labels,
        None => &None,
    };
    set.as_ref().map_or(&[], |set| &set.labels)
}

/// For comparisons; nothing is before everything.
pub(crate) fn time(time: &Option<Timestamp>) -> Option<(i64, i32)> {
    time.as_ref().map(|time| (time.seconds, time.nanos))
}

/// Labels for showing. Those of the fan-out are known to be text.
pub(crate) fn shown(set: &Option<ZLabelSet>) -> Labels {
    set.as_ref().and_then(|set| labels::set_from_wire(set).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use parallax_storeapi::proto::thanos::{Alert, AlertInstance, AlertState, RecordingRule};

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Option<ZLabelSet> {
        Some(labels::set_to_wire(&Labels::from_pairs(pairs.iter().copied())))
    }

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn alert(replica: &str, state: AlertState, evaluated: i64) -> Rule {
        let own = set(&[("cluster", "eu-1"), ("replica", replica)]);
        let instance = AlertInstance { labels: own.clone(), ..AlertInstance::default() };
        Rule {
            result: Some(Kind::Alert(Alert {
                name: "Down".to_owned(),
                state: state.into(),
                labels: own,
                last_evaluation: at(evaluated),
                alerts: vec![instance],
                ..Alert::default()
            })),
        }
    }

    fn recording(name: &str, pairs: &[(&str, &str)], evaluated: i64) -> Rule {
        Rule {
            result: Some(Kind::Recording(RecordingRule {
                name: name.to_owned(),
                labels: set(pairs),
                last_evaluation: at(evaluated),
                ..RecordingRule::default()
            })),
        }
    }

    fn group(evaluated: i64, rules: Vec<Rule>) -> RuleGroup {
        RuleGroup {
            name: "g".to_owned(),
            file: "f.yml".to_owned(),
            rules,
            last_evaluation: at(evaluated),
            ..RuleGroup::default()
        }
    }

    fn evaluated(rule: &Rule) -> i64 {
        match rule.result.as_ref().unwrap() {
            Kind::Alert(alert) => alert.last_evaluation.unwrap().seconds,
            Kind::Recording(recording) => recording.last_evaluation.unwrap().seconds,
        }
    }

    #[test]
    fn of_two_replicas_the_more_critical_and_then_the_later_evaluation_stays() {
        let replica = ["replica".to_owned()];
        let merged = |a: Rule, b: Rule| {
            let mut groups = merge(vec![group(1, vec![a]), group(2, vec![b])], &replica);
            assert_eq!(groups.len(), 1);
            assert_eq!(groups[0].last_evaluation, at(2), "the fresher group's head");
            assert_eq!(groups[0].rules.len(), 1);
            groups.remove(0).rules.remove(0)
        };
        use AlertState::{Firing, Inactive, Pending};
        assert_eq!(evaluated(&merged(alert("0", Firing, 5), alert("1", Pending, 9))), 5);
        assert_eq!(evaluated(&merged(alert("0", Inactive, 5), alert("1", Pending, 3))), 3);
        let kept = merged(alert("0", Firing, 5), alert("1", Firing, 9));
        assert_eq!(evaluated(&kept), 9);
        let Some(Kind::Alert(kept)) = kept.result else { panic!("an alert") };
        assert_eq!(shown(&kept.labels), Labels::from_pairs([("cluster", "eu-1")]));
        assert_eq!(shown(&kept.alerts[0].labels), Labels::from_pairs([("cluster", "eu-1")]));
        let of = |replica, time| recording("r", &[("replica", replica)], time);
        assert_eq!(evaluated(&merged(of("0", 7), of("1", 4))), 7);
    }

    #[test]
    fn rules_of_two_clusters_stay_two_in_one_group() {
        let of = |cluster, replica| recording("r", &[("cluster", cluster), ("replica", replica)], 1);
        let groups = vec![group(1, vec![of("b", "0")]), group(1, vec![of("a", "0"), of("a", "1")])];
        let merged = merge(groups.clone(), &["replica".to_owned()]);
        let shown_labels: Vec<_> =
            merged[0].rules.iter().map(|rule| labels::display(labels_of(rule))).collect();
        assert_eq!(shown_labels, ["{cluster=\"a\"}", "{cluster=\"b\"}"]);
        assert_eq!(merge(groups, &[])[0].rules.len(), 3, "nothing is removed without deduplication");
    }

    #[test]
    fn filters_are_by_type_name_group_file_and_selectors() {
        let rules = vec![
            alert("0", AlertState::Firing, 1),
            recording("a", &[("team", "x")], 1),
            recording("b", &[("team", "{{ $labels.team }}")], 1),
        ];
        let kept = |request: RulesRequest| -> Vec<String> {
            let kept = Filter::new(&request).unwrap().keep(group(1, rules.clone()));
            kept.iter().flat_map(|group| &group.rules).map(|rule| name(rule).to_owned()).collect()
        };
        let one = |text: &str| vec![text.to_owned()];
        assert_eq!(kept(RulesRequest::default()), ["Down", "a", "b"]);
        let alerts = RulesRequest { r#type: Type::Alert.into(), ..Default::default() };
        assert_eq!(kept(alerts), ["Down"]);
        assert_eq!(kept(RulesRequest { r#type: Type::Record.into(), ..Default::default() }), ["a", "b"]);
        assert_eq!(kept(RulesRequest { rule_name: one("b"), ..Default::default() }), ["b"]);
        assert!(kept(RulesRequest { rule_group: one("other"), ..Default::default() }).is_empty());
        assert!(kept(RulesRequest { file: one("other"), ..Default::default() }).is_empty());
        let selected = |texts: &[&str]| {
            let matcher_string = texts.iter().map(|text| (*text).to_owned()).collect();
            kept(RulesRequest { matcher_string, ..Default::default() })
        };
        assert_eq!(selected(&["{team=\"x\"}"]), ["a"]);
        assert_eq!(selected(&["{team=\"x\"}", "{replica=\"0\"}"]), ["Down", "a"]);
        assert_eq!(selected(&["{team=~\".*labels.*\"}"]), [""; 0], "a template has no value yet");
        let bad = RulesRequest { matcher_string: one("{"), ..Default::default() };
        assert!(Filter::new(&bad).is_err());
    }
}
