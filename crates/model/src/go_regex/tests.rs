use proptest::prelude::*;
use serde_json::Value;

use super::{GoRegex, MatcherPattern};
use crate::{MatchOp, Matcher};

/// What Go 1.26 says: first the inputs, then of patterns either the error or which inputs match as a whole, then of templates what they expand to.
const RECORDED: &str = include_str!("recorded.jsonl");

const LIMIT_BYTES: usize = 1 << 20;

fn recorded() -> Vec<Value> {
    RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn patterns_mean_what_they_mean_in_go() {
    let lines = recorded();
    let inputs = texts(&lines[0]["inputs"]);
    let mut wrong = Vec::new();
    for line in lines.iter().filter(|line| line["template"].is_null() && line["inputs"].is_null()) {
        let pattern = line["pattern"].as_str().unwrap();
        let matcher = Matcher::new(MatchOp::Regex, "l", pattern);
        let as_recorded = match &matcher {
            Err(error) => line["error"] == error.reason.to_string().as_str(),
            Ok(matcher) => {
                let found: Vec<&str> =
                    inputs.iter().copied().filter(|input| matcher.matches(input)).collect();
                line["error"].is_null() && found == texts(&line["matches"])
            }
        };
        if !as_recorded {
            let error = matcher.err().map(|error| error.reason.to_string());
            wrong.push(format!("{line}: {error:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn templates_expand_as_in_go() {
    let mut wrong = Vec::new();
    for line in recorded().iter().filter(|line| !line["template"].is_null()) {
        let text = |name: &str| line[name].as_str().unwrap();
        let answer = GoRegex::new(&format!("^(?s:{})$", text("pattern"))).map(|regex| {
            let template = regex.template(text("template"));
            regex.expanded(text("source"), &template)
        });
        let as_recorded = match &answer {
            Err(error) => line["error"] == error.to_string().as_str(),
            Ok(expanded) => line["error"].is_null() && line["expanded"].as_str() == expanded.as_deref(),
        };
        if !as_recorded {
            wrong.push(format!("{line}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Go counts the whole, too: of a thousand levels the innermost character and the anchors take one each.
#[test]
fn groups_nest_as_deep_as_in_go_on_a_small_stack() {
    let on_a_small_stack = || {
        for (open, deepest) in [("(", 998), ("(?:", 1000), ("(a|b", 332)] {
            let nested = |depth: usize| open.repeat(depth) + &")".repeat(depth);
            let matcher = |depth| Matcher::new(MatchOp::Regex, "l", nested(depth));
            assert!(matcher(deepest).is_ok(), "{open}");
            let error = matcher(1001).unwrap_err().reason.to_string();
            assert!(error.starts_with("expression nests too deeply: `"), "{error}");
            GoRegex::new(&nested(deepest - 1)).unwrap();
        }
        assert!(Matcher::new(MatchOp::Regex, "l", "(".repeat(999) + &")".repeat(999)).is_err());
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(on_a_small_stack).unwrap().join().unwrap();
}

#[test]
fn what_grows_too_large_is_refused() {
    for (pattern, reason) in [
        ("\\pL{1000}".to_owned(), "Compiled regex exceeds size limit of 1048576 bytes.: `"),
        ("((a{1000}){1000}){1000}".to_owned(), "invalid repeat count: `"),
        ("\\pL".repeat(10_000), "expression too large: `"),
    ] {
        let error = Matcher::new(MatchOp::Regex, "l", pattern).unwrap_err().reason.to_string();
        assert!(error.starts_with(reason), "{error:.80}");
    }
}

/// Pieces of patterns: plain ones, which Rust's syntax has alike, and doubtful ones.
const PLAIN: [&str; 22] = [
    "a", "b", "ab", "é", "-", ".", "[ab]", "[^a]", "[a-c]", "\\.", "(a|b)", "(?:a|bc)", "(", ")", "|", "*",
    "+", "?", "{2}", "{0,2}", "*?", "(?i:k)",
];
const DOUBTFUL: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    "\\",
    "\\Q",
    "\\E",
    "\\w",
    "\\W",
    "\\b",
    "\\pL",
    "[[:alpha:]]",
    "[a&&b]",
    "{id}",
    "(?i)",
    "(?U)",
    "(?m)",
    "(?-s)",
    "^",
    "$",
    "{,2}",
    "{2,}",
    "\\141",
    "\\x{",
    "(?P<n>",
    "(?",
    "[^",
    "&&",
    "&",
    "",
];
const INPUTS: [&str; 16] =
    ["", "a", "b", "ab", "aa", "aab", "abc", "é", "-", "k", "K", "\u{212a}", "a\nb", "{id}", "a{,2}", "a&"];

fn compiled(pattern: &str) -> Option<regex_automata::meta::Regex> {
    MatcherPattern::parse(pattern).ok()?.compile(LIMIT_BYTES).ok()
}

proptest! {
    #[test]
    fn plain_patterns_mean_the_same_to_the_regex_crate(
        pieces in proptest::collection::vec(proptest::sample::select(PLAIN.as_slice()), 0..8),
    ) {
        let pattern = pieces.concat();
        if let Some(ours) = compiled(&pattern) {
            let theirs = regex_automata::meta::Regex::new(&format!("^(?s:{pattern})$")).unwrap();
            for input in INPUTS {
                prop_assert_eq!(ours.is_match(input), theirs.is_match(input), "{} {:?}", pattern, input);
            }
        }
    }

    /// Sets and prefixes say no other values than the expression itself.
    #[test]
    fn whatever_a_pattern_means_its_set_and_prefix_mean(
        pieces in proptest::collection::vec(
            proptest::sample::select([PLAIN.as_slice(), DOUBTFUL.as_slice()].concat()), 0..8),
    ) {
        let pattern = pieces.concat();
        let matcher = Matcher::new(MatchOp::Regex, "l", pattern.as_str());
        let regex = compiled(&pattern);
        prop_assert_eq!(matcher.is_ok(), regex.is_some());
        let Some((matcher, regex)) = matcher.ok().zip(regex) else { return Ok(()) };
        let values = matcher.set_values().unwrap_or_default().iter().map(String::as_str);
        for input in values.chain(INPUTS) {
            prop_assert_eq!(matcher.matches(input), regex.is_match(input), "{} {:?}", pattern, input);
            let prefix = if matcher.set_values().is_some() { String::new() } else { matcher.prefix() };
            prop_assert!(!regex.is_match(input) || input.starts_with(&prefix), "{} {:?}", pattern, input);
        }
    }

    #[test]
    fn quoted_text_is_only_itself(text in "[a-c\\\\{}()|*.^$é\\[\\]]{0,8}", other in "[a-c.*]{0,4}") {
        let matcher = Matcher::new(MatchOp::Regex, "l", format!("\\Q{text}\\E")).unwrap();
        prop_assert!(matcher.matches(&text));
        prop_assert_eq!(matcher.matches(&other), text == other);
    }
}
