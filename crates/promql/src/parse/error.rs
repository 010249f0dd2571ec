//! What is wrong with a text, and where.

use crate::ast::PosRange;

/// The first error in a text. Displays as Prometheus does: `1:5: parse error: unexpected <by>`, where the place is
/// line and column, both from one and the column in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: parse error: {message}")]
pub struct ParseError {
    /// Where in the text, in bytes.
    pub pos: PosRange,
    /// `line:column` of the position's start.
    pub place: String,
    /// What is wrong, without the place.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, pos: PosRange, message: impl Into<String>) -> Self {
        Self { pos, place: place_in(text, pos.start), message: message.into() }
    }
}

fn place_in(text: &str, at: usize) -> String {
    let before = match text.as_bytes().get(..at) {
        _ if text.is_empty() => return "unknown position".to_owned(),
        Some(before) => before,
        None => return "invalid position".to_owned(),
    };
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    format!("{line}:{}", at - line_start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_byte_columns_from_one() {
        assert_eq!(place_in("ab", 0), "1:1");
        assert_eq!(place_in("ab", 2), "1:3");
        assert_eq!(place_in("é\nb", 3), "2:1");
        assert_eq!(place_in("", 0), "unknown position");
        assert_eq!(place_in("a", 5), "invalid position");
    }
}
