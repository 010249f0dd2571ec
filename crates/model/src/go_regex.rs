//! Go's regular expressions, in which Prometheus' matchers and functions are asked, on the engine of the regex crate.
//!
//! The two languages look alike, but the regex crate refuses what Go takes (`{id}`, `\Q.\E`, `[[a]`), takes what Go refuses (`a**`, `(?x)`), and reads
//! some patterns otherwise: `\w` is ASCII in Go, and `[a&&b]` no intersection. So patterns are parsed here, as Go's `regexp/syntax` does with its Perl
//! flags, and errors have its words. What remains of differences is the version of Unicode: 16 here, 15 in Go 1.26.
//! Sources: Go `regexp/syntax/parse.go`, `regexp/regexp.go`; Prometheus `model/labels/regexp.go`, `promql/functions.go`.

mod classes;
mod parse;

use std::sync::LazyLock;

use regex_automata::meta::{self, Regex};
use regex_automata::util::captures::Captures;
use regex_syntax::hir::{Hir, Look};

/// Why a regular expression is none, in Go's words: the reason, and the part of the pattern it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: `{culprit}`")]
pub struct RegexError {
    reason: String,
    culprit: String,
}

impl RegexError {
    fn new(reason: impl Into<String>, culprit: &str) -> Self {
        Self { reason: reason.into(), culprit: culprit.to_owned() }
    }
}

/// A compiled expression that is not a matcher's may take this many bytes.
const SIZE_LIMIT_BYTES: usize = 10 << 20;
/// What the lazily built automaton of one search may take.
const CACHE_BYTES: usize = 2 << 20;

/// The engine compiles by recursion: what nests deeper than this is left to a thread whose stack holds what may nest at all.
const DEEP: usize = 100;
const DEEP_STACK_BYTES: usize = 16 << 20;

/// A matcher's pattern, without its groups: a dot matches a newline, and nothing is anchored yet.
pub(crate) struct MatcherPattern<'p> {
    text: &'p str,
    hir: Hir,
    height: usize,
}

impl<'p> MatcherPattern<'p> {
    pub(crate) fn parse(text: &'p str) -> Result<Self, RegexError> {
        let parsed = parse::parse(text, parse::Reader::Matcher)?;
        Ok(Self { text, hir: parsed.hir, height: parsed.height })
    }

    /// What it says, unless that nests too deeply to be walked by recursion.
    pub(crate) fn shallow(&self) -> Option<&Hir> {
        (self.height <= DEEP).then_some(&self.hir)
    }

    /// Compiles it so that only whole values match.
    pub(crate) fn compile(self, limit_bytes: usize) -> Result<Regex, RegexError> {
        let whole = Hir::concat(vec![Hir::look(Look::Start), self.hir, Hir::look(Look::End)]);
        compile(&whole, self.height, self.text, limit_bytes)
    }
}

fn compile(hir: &Hir, height: usize, pattern: &str, limit_bytes: usize) -> Result<Regex, RegexError> {
    if height <= DEEP {
        return compile_here(hir, pattern, limit_bytes);
    }
    let builder = std::thread::Builder::new().stack_size(DEEP_STACK_BYTES);
    std::thread::scope(|scope| {
        let spawned = builder.spawn_scoped(scope, || compile_here(hir, pattern, limit_bytes));
        spawned.ok().and_then(|thread| thread.join().ok())
    })
    .unwrap_or_else(|| Err(RegexError::new(parse::NESTS_TOO_DEEPLY, pattern)))
}

fn compile_here(hir: &Hir, pattern: &str, limit_bytes: usize) -> Result<Regex, RegexError> {
    let config = meta::Config::new().nfa_size_limit(Some(limit_bytes)).hybrid_cache_capacity(CACHE_BYTES);
    meta::Builder::new().configure(config).build_from_hir(hir).map_err(|error| {
        let reason = match error.size_limit() {
            Some(limit) => format!("Compiled regex exceeds size limit of {limit} bytes."),
            None => error.to_string(),
        };
        RegexError::new(reason, pattern)
    })
}

/// An expression as Go's `regexp.Compile` has it: not anchored, and with its groups.
#[derive(Clone, Debug)]
pub struct GoRegex {
    regex: Regex,
    /// Of the groups, from the first on. Several may have one name.
    names: Vec<Option<String>>,
}

impl GoRegex {
    /// # Errors
    /// If the pattern is no regular expression, or one too large to compile.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        let parsed = parse::parse(pattern, parse::Reader::Compile)?;
        let regex = compile(&parsed.hir, parsed.height, pattern, SIZE_LIMIT_BYTES)?;
        Ok(Self { regex, names: parsed.names })
    }

    /// Whether the text matches somewhere.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// A template for [`GoRegex::expanded`], as Go's `Regexp.Expand` reads it: `$1`, `${1}`, `$name` and `${name}` stand for groups, `$$` for a dollar.
    pub fn template(&self, text: &str) -> Template {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            parts.push(Part::Text(before.to_owned()));
            if let Some(after) = after.strip_prefix('$') {
                parts.push(Part::Text("$".to_owned()));
                rest = after;
            } else if let Some((name, after)) = leading_name(after) {
                parts.push(Part::Groups(self.groups(name)));
                rest = after;
            } else {
                parts.push(Part::Text("$".to_owned()));
                rest = after;
            }
        }
        parts.push(Part::Text(rest.to_owned()));
        Template { parts }
    }

    /// The template, filled with what the groups of the first match hold; `None` without a match.
    pub fn expanded(&self, text: &str, template: &Template) -> Option<String> {
        let mut captures = self.regex.create_captures();
        self.regex.captures(text, &mut captures);
        captures.is_match().then(|| template.fill(text, &captures))
    }

    /// The groups that a name in a template means: the one of that number, or all of that name.
    fn groups(&self, name: &str) -> Vec<usize> {
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let has_leading_zero = name.len() > 1 && name.starts_with('0');
        // Go takes longer numbers for names.
        if is_number && !has_leading_zero && name.len() <= 9 {
            return name.parse().into_iter().collect();
        }
        let named =
            |(index, found): (usize, &Option<String>)| (found.as_deref() == Some(name)).then_some(index + 1);
        self.names.iter().enumerate().filter_map(named).collect()
    }
}

/// A text with places for groups; made by [`GoRegex::template`].
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The first of these groups that took part in the match; nothing if none did.
    Groups(Vec<usize>),
}

impl Template {
    fn fill(&self, text: &str, captures: &Captures) -> String {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(own) => filled.push_str(own),
                Part::Groups(groups) => {
                    let span = groups.iter().find_map(|&group| captures.get_group(group));
                    filled.push_str(span.and_then(|span| text.get(span.range())).unwrap_or_default());
                }
            }
        }
        filled
    }
}

/// The name that a text starts with, in braces or not, and what follows it.
fn leading_name(text: &str) -> Option<(&str, &str)> {
    let (inner, in_braces) = match text.strip_prefix('{') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let end = inner.find(|c| !is_name_char(c)).unwrap_or(inner.len());
    let (name, rest) = inner.split_at_checked(end).filter(|(name, _)| !name.is_empty())?;
    Some((name, if in_braces { rest.strip_prefix('}')? } else { rest }))
}

/// Letters and decimal digits as Go's `unicode` package has them, which Rust's alphabetic characters are not.
fn is_name_char(c: char) -> bool {
    static BEYOND_ASCII: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
        let classes = ["L", "Nd"].into_iter().filter_map(classes::unicode_exactly);
        classes.flat_map(|class| classes::pairs(&class).collect::<Vec<_>>()).collect()
    });
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    BEYOND_ASCII.iter().any(|&(first, last)| (first..=last).contains(&c))
}

#[cfg(test)]
mod tests;
