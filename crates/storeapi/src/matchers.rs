//! Matchers on the wire, and matchers against the external labels of whole stores.

use parallax_model::{Labels, MatchOp, Matcher};

use crate::Error;
use crate::proto::thanos::LabelMatcher;
use crate::proto::thanos::label_matcher::Type;

/// Compiles the matchers of a request.
///
/// # Errors
/// Names the matcher whose type is unknown, whose name is empty or whose regular expression does not compile.
pub fn from_wire(matchers: &[LabelMatcher]) -> Result<Vec<Matcher>, Error> {
    matchers.iter().map(one_from_wire).collect()
}

fn one_from_wire(matcher: &LabelMatcher) -> Result<Matcher, Error> {
    if matcher.name.is_empty() {
        return Err(Error::EmptyMatcherName);
    }
    let op = match Type::try_from(matcher.r#type) {
        Ok(Type::Eq) => MatchOp::Equal,
        Ok(Type::Neq) => MatchOp::NotEqual,
        Ok(Type::Re) => MatchOp::Regex,
        Ok(Type::Nre) => MatchOp::NotRegex,
        Err(_) => {
            return Err(Error::UnknownMatcherType { name: matcher.name.clone(), kind: matcher.r#type });
        }
    };
    Ok(Matcher::new(op, &matcher.name, &matcher.value)?)
}

pub fn to_wire(matchers: &[Matcher]) -> Vec<LabelMatcher> {
    matchers
        .iter()
        .map(|matcher| {
            let kind = match matcher.op() {
                MatchOp::Equal => Type::Eq,
                MatchOp::NotEqual => Type::Neq,
                MatchOp::Regex => Type::Re,
                MatchOp::NotRegex => Type::Nre,
            };
            LabelMatcher {
                r#type: kind.into(),
                name: matcher.name().to_owned(),
                value: matcher.value().to_owned(),
            }
        })
        .collect()
}

/// Whether a store that advertises `label_sets` may hold series that match: one of the sets contradicts no matcher.
/// A store that advertises nothing may hold anything. A label that a set lacks says nothing.
pub fn may_match(matchers: &[Matcher], label_sets: &[Labels]) -> bool {
    label_sets.is_empty() || label_sets.iter().any(|set| !contradicts(matchers, set))
}

/// Whether no series with the external labels `set` can match.
pub fn contradicts(matchers: &[Matcher], set: &Labels) -> bool {
    matchers.iter().any(|matcher| set.get(matcher.name()).is_some_and(|value| !matcher.matches(value)))
}

/// The matchers that remain once those on external labels are checked, or `None` if one of these does not match.
pub fn without_external(matchers: &[Matcher], external: &Labels) -> Option<Vec<Matcher>> {
    if contradicts(matchers, external) {
        return None;
    }
    Some(matchers.iter().filter(|matcher| !external.contains(matcher.name())).cloned().collect())
}

/// `{a="b",c=~"d"}`. Names that are not plain identifiers are quoted, which Prometheus 3 understands.
///
/// Prometheus refuses a selector that would take a series without any label. Every series that it scrapes or records has a
/// metric name, so asking for one as well changes nothing.
pub fn selector(matchers: &[Matcher]) -> String {
    let one = |matcher: &Matcher| {
        let name = matcher.name();
        let name = if is_plain_name(name) { name.to_owned() } else { quoted(name) };
        format!("{name}{}{}", matcher.op().symbol(), quoted(matcher.value()))
    };
    let mut terms: Vec<String> = matchers.iter().map(one).collect();
    if matchers.iter().all(|matcher| matcher.matches("")) {
        terms.push("__name__!=\"\"".to_owned());
    }
    format!("{{{}}}", terms.join(","))
}

/// Whether PromQL takes a label's name without quotes.
pub fn is_plain_name(name: &str) -> bool {
    name.bytes()
        .enumerate()
        .all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()))
        && !name.is_empty()
}

/// A PromQL string literal: only what Go's unquoting understands, unlike Rust's `{:?}`.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for character in text.chars() {
        match character {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            // Written out, it counts as broken UTF-8.
            '\u{fffd}' => literal.push_str("\\ufffd"),
            _ => literal.push(character),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_survive_the_wire() {
        let matchers = vec![
            Matcher::equal("a", "1"),
            Matcher::new(MatchOp::NotEqual, "b", "").unwrap(),
            Matcher::new(MatchOp::Regex, "c", "x.*").unwrap(),
            Matcher::new(MatchOp::NotRegex, "d", "y|z").unwrap(),
        ];
        assert_eq!(from_wire(&to_wire(&matchers)).unwrap(), matchers);
    }

    #[test]
    fn a_bad_matcher_is_an_invalid_argument_that_names_its_label() {
        let bad = |kind: i32, name: &str, value: &str| {
            let matcher = LabelMatcher { r#type: kind, name: name.to_owned(), value: value.to_owned() };
            tonic::Status::from(from_wire(&[matcher]).unwrap_err())
        };
        for status in [bad(9, "job", "x"), bad(Type::Re.into(), "job", "a(")] {
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains("\"job\""), "{status}");
        }
        assert_eq!(bad(0, "", "x").code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn only_a_label_that_is_there_can_contradict() {
        let eu = Labels::from_pairs([("cluster", "eu-1")]);
        let us = Labels::from_pairs([("cluster", "us-1")]);
        let of = |name: &str, value: &str| [Matcher::equal(name, value)];
        assert!(may_match(&of("cluster", "eu-1"), &[us.clone(), eu.clone()]));
        assert!(!may_match(&of("cluster", "eu-1"), std::slice::from_ref(&us)));
        assert!(may_match(&of("region", "eu"), std::slice::from_ref(&us)));
        assert!(may_match(&of("cluster", "eu-1"), &[]));
        assert_eq!(without_external(&of("cluster", "us-1"), &us), Some(vec![]));
        assert_eq!(without_external(&of("cluster", "eu-1"), &us), None);
    }

    #[test]
    fn selectors_are_promql() {
        let matchers = [
            Matcher::equal("__name__", "up"),
            Matcher::new(MatchOp::NotRegex, "a.b", "x\\.y|\"z\"").unwrap(),
        ];
        assert_eq!(selector(&matchers), r#"{__name__="up","a.b"!~"x\\.y|\"z\""}"#);
    }

    #[test]
    fn a_selector_of_absent_labels_asks_for_a_metric_name_too() {
        assert_eq!(selector(&[Matcher::equal("job", "")]), r#"{job="",__name__!=""}"#);
        assert_eq!(selector(&[Matcher::equal("a", "\u{fffd}\n")]), r#"{a="\ufffd\n"}"#);
    }
}
