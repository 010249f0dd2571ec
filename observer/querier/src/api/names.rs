//! Label names in a path: `U__` escapes, by which clients write names that are not plain identifiers.
//!
//! Source: Prometheus `model.UnescapeName` with `ValueEncodingEscaping`: `__` stands for `_`, `_1f600_` for a code point.

const ESCAPED_PREFIX: &str = "U__";

/// Most hexadecimal digits of a code point.
const MAX_CODE_POINT_DIGITS: usize = 6;

/// The name that `name` stands for; itself if it is not a valid escape.
pub(super) fn unescape_label_name(name: &str) -> String {
    let unescaped = name.strip_prefix(ESCAPED_PREFIX).and_then(unescape);
    unescaped.unwrap_or_else(|| name.to_owned())
}

fn unescape(escaped: &str) -> Option<String> {
    let mut output = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((plain, tail)) = rest.split_once('_') {
        output.push_str(plain);
        if let Some(tail) = tail.strip_prefix('_') {
            output.push('_');
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_once('_')?;
        if digits.is_empty() || digits.len() > MAX_CODE_POINT_DIGITS {
            return None;
        }
        output.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = tail;
    }
    output.push_str(rest);
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape_label_name("U__label_2e_with_2e_dots"), "label.with.dots");
        assert_eq!(unescape_label_name("U__a__b"), "a_b");
        assert_eq!(unescape_label_name("U___438_мя"), "имя");
    }

    #[test]
    fn what_is_no_escape_stays() {
        for name in ["job", "__name__", "U__a_", "U__a_zz_", "U__a_1234567_", "U__d800_d800_"] {
            assert_eq!(unescape_label_name(name), name);
        }
    }
}
