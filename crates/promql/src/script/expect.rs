//! What an `eval` states about its answer: values, order, failure, warnings and infos.

use parallax_model::{GoRegex, Labels};

use crate::engine::QueryRange;
use crate::series_notation::SequenceValue;

/// What one `expect` line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ordered,
    Fail,
    Warn,
    NoWarn,
    Info,
    NoInfo,
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ordered" => Self::Ordered,
            "fail" => Self::Fail,
            "warn" => Self::Warn,
            "no_warn" => Self::NoWarn,
            "info" => Self::Info,
            "no_info" => Self::NoInfo,
            _ => return None,
        })
    }
}

/// Which texts an `expect` line accepts.
#[derive(Debug)]
pub(super) enum Matching {
    Anything,
    Exactly(String),
    Pattern(GoRegex),
}

impl Matching {
    pub(super) fn pattern(pattern: &str) -> Result<Self, String> {
        GoRegex::new(pattern).map(Self::Pattern).map_err(|error| error.to_string())
    }

    fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(expected) => expected == text,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Expectations {
    lines: Vec<(Kind, Matching)>,
    pub(super) scalar: Option<f64>,
    pub(super) string: Option<String>,
    /// In the order of the script. A series that is stated twice is stated by its last line.
    pub(super) series: Vec<(Labels, Vec<SequenceValue>)>,
    /// The times of an instant query's range vector.
    pub(super) matrix_times: Option<QueryRange>,
}

impl Expectations {
    pub(super) fn add(&mut self, kind: Kind, matching: Matching) -> Result<(), String> {
        self.lines.push((kind, matching));
        for (one, other) in [(Kind::Info, Kind::NoInfo), (Kind::Warn, Kind::NoWarn)] {
            if self.has(one) && self.has(other) {
                return Err(format!("{one:?} and {other:?} cannot be expected together"));
            }
        }
        if self.of_kind(Kind::Fail).count() > 1 {
            return Err("a failure is expected twice".to_owned());
        }
        Ok(())
    }

    /// The older notation says the message on a line of its own.
    pub(super) fn replace_failure(&mut self, matching: Matching) {
        self.lines.retain(|(kind, _)| *kind != Kind::Fail);
        self.lines.push((Kind::Fail, matching));
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Matching> {
        self.lines.iter().filter(move |(found, _)| *found == kind).map(|(_, matching)| matching)
    }

    fn has(&self, kind: Kind) -> bool {
        self.of_kind(kind).next().is_some()
    }

    pub(super) fn fails(&self) -> bool {
        self.has(Kind::Fail)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.has(Kind::Ordered)
    }

    /// Whether a range query over an instant query's time must answer the same: not for strings and ranges.
    pub(super) fn holds_in_ranges(&self) -> bool {
        self.matrix_times.is_none() && self.string.is_none()
    }

    pub(super) fn check_failure(&self, message: &str) -> Result<(), String> {
        match self.of_kind(Kind::Fail).find(|matching| !matching.accepts(message)) {
            None => Ok(()),
            Some(expected) => Err(format!("expected the failure {expected:?}, but got {message:?}")),
        }
    }

    pub(super) fn check_annotations(&self, warnings: &[String], infos: &[String]) -> Result<(), String> {
        let (warnings, infos) = (without_places(warnings), without_places(infos));
        self.check_kind(Kind::Warn, &warnings)?;
        self.check_kind(Kind::Info, &infos)?;
        for (kind, found) in [(Kind::NoWarn, &warnings), (Kind::NoInfo, &infos)] {
            if self.has(kind) && !found.is_empty() {
                return Err(format!("expected {kind:?}, but got {found:?}"));
            }
        }
        Ok(())
    }

    /// If there are lines of this kind, each must accept some text, and each text must be accepted by one.
    fn check_kind(&self, kind: Kind, found: &[&str]) -> Result<(), String> {
        if !self.has(kind) {
            return Ok(());
        }
        if let Some(missing) =
            self.of_kind(kind).find(|matching| !found.iter().any(|text| matching.accepts(text)))
        {
            return Err(format!("expected {kind:?} {missing:?}, but got {found:?}"));
        }
        match found.iter().find(|text| !self.of_kind(kind).any(|matching| matching.accepts(text))) {
            None => Ok(()),
            Some(text) => Err(format!("unexpected {kind:?} {text:?}")),
        }
    }
}

/// Annotations end with their place in the query, ` (1:5)`, which scripts do not state.
fn without_places(annotations: &[String]) -> Vec<&str> {
    annotations.iter().map(|text| without_place(text)).collect()
}

fn without_place(text: &str) -> &str {
    let Some((head, place)) = text.rsplit_once(" (") else { return text };
    let is_place =
        place.strip_suffix(')').and_then(|place| place.split_once(':')).is_some_and(|(line, column)| {
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number(line) && is_number(column)
        });
    if is_place { head } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_cut_from_annotations() {
        assert_eq!(without_place("PromQL info: something (1:12)"), "PromQL info: something");
        assert_eq!(without_place("something (or other)"), "something (or other)");
    }

    #[test]
    fn each_line_must_match_and_each_annotation_be_matched() {
        let mut expected = Expectations::default();
        expected.add(Kind::Warn, Matching::Exactly("a".to_owned())).unwrap();
        let check = |expected: &Expectations, found: &[&str]| {
            let found: Vec<String> = found.iter().map(|text| (*text).to_owned()).collect();
            expected.check_annotations(&found, &[]).is_ok()
        };
        assert!(check(&expected, &["a (1:1)"]));
        assert!(!check(&expected, &[]));
        assert!(!check(&expected, &["a", "b"]));
        expected.add(Kind::Warn, Matching::pattern("b|c").unwrap()).unwrap();
        assert!(check(&expected, &["a", "b", "c"]));
        assert!(!check(&expected, &["a"]));
        assert!(expected.add(Kind::NoWarn, Matching::Anything).is_err());
    }
}
