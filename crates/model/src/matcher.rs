//! Label matchers, compiled once: `=`, `!=`, `=~`, `!~` with Prometheus' anchored regular expressions.

use std::fmt;

use regex_automata::meta::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::Labels;
use crate::go_regex::{MatcherPattern, RegexError};

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchOp {
    Equal,
    NotEqual,
    Regex,
    NotRegex,
}

impl MatchOp {
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// Why a matcher could not be made.
#[derive(Debug, thiserror::Error)]
#[error("error parsing regexp of matcher on label {name:?}: {reason}")]
pub struct MatcherError {
    pub name: String,
    pub reason: RegexError,
}

/// One condition on one label. A label that is absent matches as the empty string.
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    test: Test,
}

/// How a regular expression is really tested: most are literals, and a set of literals needs no regex.
#[derive(Clone)]
enum Test {
    Literal,
    /// Sorted alternatives.
    OneOf(Vec<String>),
    Pattern {
        regex: Regex,
        prefix: String,
    },
}

/// More alternatives than this stay a regular expression.
const MAX_ALTERNATIVES: usize = 256;

/// A compiled expression may take this many bytes: one query cannot eat the process.
const REGEX_SIZE_LIMIT_BYTES: usize = 1 << 20;

impl Matcher {
    /// # Errors
    /// If `op` is a regex operator and `value` is not a regular expression, or one too large to compile.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, MatcherError> {
        let (name, value) = (name.into(), value.into());
        let test = match op {
            MatchOp::Equal | MatchOp::NotEqual => Test::Literal,
            MatchOp::Regex | MatchOp::NotRegex => match compile(&value) {
                Ok(test) => test,
                Err(reason) => return Err(MatcherError { name, reason }),
            },
        };
        Ok(Self { name, op, value, test })
    }

    /// `name="value"`, which cannot fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), test: Test::Literal }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn op(&self) -> MatchOp {
        self.op
    }

    pub fn value(&self) -> &str {
        &self.value
    }

    pub fn matches(&self, value: &str) -> bool {
        let hit = match &self.test {
            Test::Literal => self.value == value,
            Test::OneOf(values) => values.binary_search_by(|v| v.as_str().cmp(value)).is_ok(),
            Test::Pattern { regex, .. } => regex.is_match(value),
        };
        hit != self.is_negative()
    }

    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.value_of(&self.name))
    }

    pub fn is_negative(&self) -> bool {
        matches!(self.op, MatchOp::NotEqual | MatchOp::NotRegex)
    }

    /// Whether a series without the label matches.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The sorted values, if the positive form of this matcher is a finite set (`a="x"`, `a=~"x|y"`).
    pub fn set_values(&self) -> Option<&[String]> {
        match &self.test {
            Test::Literal => Some(std::slice::from_ref(&self.value)),
            Test::OneOf(values) => Some(values),
            Test::Pattern { .. } => None,
        }
    }

    /// A literal prefix that every value matching the positive form must have; empty if none is known.
    pub fn prefix(&self) -> String {
        match &self.test {
            Test::Literal => self.value.clone(),
            Test::OneOf(_) => String::new(),
            Test::Pattern { prefix, .. } => prefix.clone(),
        }
    }
}

fn compile(value: &str) -> Result<Test, RegexError> {
    let pattern = MatcherPattern::parse(value)?;
    if let Some(mut values) = pattern.shallow().and_then(alternatives) {
        values.sort();
        values.dedup();
        return Ok(Test::OneOf(values));
    }
    let prefix = pattern.shallow().map(literal_prefix).unwrap_or_default();
    Ok(Test::Pattern { regex: pattern.compile(REGEX_SIZE_LIMIT_BYTES)?, prefix })
}

/// The literals of `a|b|c`, if the whole expression is nothing else.
fn alternatives(hir: &Hir) -> Option<Vec<String>> {
    let mut found = Vec::new();
    expand(hir, &mut found).then_some(found)
}

fn expand(hir: &Hir, found: &mut Vec<String>) -> bool {
    match hir.kind() {
        HirKind::Empty => found.push(String::new()),
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(text) => found.push(text.to_owned()),
            Err(_) => return false,
        },
        HirKind::Capture(capture) => return expand(&capture.sub, found),
        HirKind::Alternation(parts) => return parts.iter().all(|part| expand(part, found)),
        HirKind::Concat(parts) => {
            let mut whole = vec![String::new()];
            for part in parts {
                let mut tails = Vec::new();
                if !expand(part, &mut tails) || whole.len() * tails.len() > MAX_ALTERNATIVES {
                    return false;
                }
                whole = whole
                    .iter()
                    .flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")))
                    .collect();
            }
            found.extend(whole);
        }
        HirKind::Class(class) => {
            let Class::Unicode(class) = class else { return false };
            let size: usize = class.ranges().iter().map(|r| r.end() as usize - r.start() as usize + 1).sum();
            if size > 16 {
                return false;
            }
            found.extend(class.ranges().iter().flat_map(|r| r.start()..=r.end()).map(String::from));
        }
        HirKind::Look(_) | HirKind::Repetition(_) => return false,
    }
    found.len() <= MAX_ALTERNATIVES
}

fn literal_prefix(hir: &Hir) -> String {
    let first = match hir.kind() {
        HirKind::Concat(parts) => parts.first().map(|part| part.kind()),
        kind => Some(kind),
    };
    match first {
        Some(HirKind::Literal(literal)) => String::from_utf8_lossy(&literal.0).into_owned(),
        _ => String::new(),
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.name == other.name && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.symbol(), self.value)
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(value: &str) -> Matcher {
        Matcher::new(MatchOp::Regex, "l", value).unwrap()
    }

    #[test]
    fn regexes_are_anchored_and_dot_matches_newline() {
        assert!(regex("a.c").matches("a\nc"));
        assert!(!regex("a.c").matches("xabc"));
        assert!(regex("foo|bar").matches("bar"));
        assert!(!regex("foo|bar").matches("bar2"));
        assert!(regex("").matches(""));
        assert!(regex(".*").matches(""));
        assert!(!regex(".+").matches(""));
        assert!(regex("(?i)foo").matches("FoO"));
    }

    #[test]
    fn finite_expressions_become_sets() {
        assert_eq!(regex("b|a").set_values().unwrap(), ["a", "b"]);
        assert_eq!(regex("(eu|us)-[12]").set_values().unwrap(), ["eu-1", "eu-2", "us-1", "us-2"]);
        assert_eq!(regex("10\\.0").set_values().unwrap(), ["10.0"]);
        assert!(regex("a.*").set_values().is_none());
        assert_eq!(regex("abc.*").prefix(), "abc");
        assert_eq!(regex("(?i)abc.*").prefix(), "");
    }

    #[test]
    fn negative_matchers_match_absent_labels() {
        let matcher = Matcher::new(MatchOp::NotRegex, "l", "a|b").unwrap();
        assert!(matcher.matches_empty());
        assert!(!matcher.matches("a"));
        assert!(Matcher::new(MatchOp::Regex, "l", "a(").is_err());
    }
}
