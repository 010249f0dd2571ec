//! Why a regular expression is none, in the words of Go's `regexp/syntax`, which clients know.
//!
//! The regex library describes the error in several lines: the pattern, a caret under the culprit, the reason. The
//! frequent reasons are translated; the others keep their own words, on one line.

/// What the pattern is wrapped in before it is compiled.
const PREFIX: &str = "^(?s:";

/// The message for `pattern`, which the library refused with `reason`.
pub(super) fn wording(reason: &str, pattern: &str) -> String {
    let last_line = reason.lines().last().unwrap_or("");
    let cause = last_line.strip_prefix("error: ").unwrap_or(last_line);
    let culprit = culprit(reason, pattern);
    let said = match cause {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => format!("missing closing ]: `{culprit}`"),
        "repetition operator missing expression" => {
            let operator: String = culprit.chars().take(1).collect();
            format!("missing argument to repetition operator: `{operator}`")
        }
        "unrecognized escape sequence" => {
            let sequence: String = culprit.chars().take(2).collect();
            format!("invalid escape sequence: `{sequence}`")
        }
        cause => format!("{cause}: `{pattern}`"),
    };
    format!("error parsing regexp: {said}")
}

/// The pattern from where the caret stands.
fn culprit<'a>(reason: &str, pattern: &'a str) -> &'a str {
    let Some(caret_line) =
        reason.lines().find(|line| line.contains('^') && line.trim().trim_matches('^').is_empty())
    else {
        return pattern;
    };
    let column = caret_line.chars().take_while(|c| *c == ' ').count();
    // The pattern is shown with four blanks before it.
    let skipped = column.saturating_sub(4 + PREFIX.len());
    pattern.char_indices().nth(skipped).and_then(|(at, _)| pattern.get(at..)).unwrap_or(pattern)
}

#[cfg(test)]
mod tests {
    use parallax_model::{MatchOp, Matcher};

    use super::*;

    #[test]
    fn frequent_errors_read_as_in_go() {
        for (pattern, said) in [
            ("a(", "missing closing ): `a(`"),
            ("a)", "unexpected ): `a)`"),
            ("x[ab", "missing closing ]: `[ab`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a\\y", "invalid escape sequence: `\\y`"),
        ] {
            let error = Matcher::new(MatchOp::Regex, "l", pattern).unwrap_err();
            assert_eq!(wording(&error.reason, pattern), format!("error parsing regexp: {said}"), "{pattern}");
        }
    }
}
