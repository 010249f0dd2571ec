//! String literals: how they are unquoted, and how names and values are quoted in messages.
//!
//! Both follow Go, whose rules PromQL adopted (`strconv.Quote`, `strutil.Unquote`), because recorded error texts
//! and printed expressions carry its quoting. Nothing here knows about tokens.

use std::fmt::Write as _;

/// `text` in double quotes, special characters escaped.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        escape_into(&mut quoted, c, '"');
    }
    quoted.push('"');
    quoted
}

/// `c` in single quotes, escaped if it is special.
pub fn quote_char(c: char) -> String {
    let mut quoted = String::from("'");
    escape_into(&mut quoted, c, '\'');
    quoted.push('\'');
    quoted
}

fn escape_into(out: &mut String, c: char, quote: char) {
    match c {
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        '\\' => out.push_str("\\\\"),
        c if c == quote => {
            out.push('\\');
            out.push(c);
        }
        c if is_printable(c) => out.push(c),
        c => {
            let code = u32::from(c);
            // Writing to a string cannot fail.
            let _ = match code {
                0..=0x7f => write!(out, "\\x{code:02x}"),
                0x80..=0xffff => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// Letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(c: char) -> bool {
    if c == ' ' || c.is_alphanumeric() || matches!(c, '"' | '\'' | '\\') {
        return true;
    }
    !c.is_control() && !c.is_whitespace() && c.escape_debug().next() != Some('\\')
}

/// The content of a string literal with its quotes, escapes resolved; `None` if it is not well-formed.
///
/// `\x` and octal escapes stand for single bytes; where the bytes are not UTF-8, the replacement character
/// takes their place.
pub fn unquote(literal: &str) -> Option<String> {
    let quote = literal.chars().next()?;
    let content = literal.strip_prefix(quote)?.strip_suffix(quote)?;
    match quote {
        '`' => return (!content.contains('`')).then(|| content.to_owned()),
        '"' | '\'' if !content.contains('\n') => {}
        _ => return None,
    }
    if !content.contains('\\') && !content.contains(quote) {
        return Some(content.to_owned());
    }
    let mut bytes = Vec::with_capacity(content.len());
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => unescape_into(&mut bytes, &mut chars, quote)?,
            c if c == quote => return None,
            c => push_char(&mut bytes, c),
        }
    }
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

fn push_char(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn unescape_into(bytes: &mut Vec<u8>, chars: &mut std::str::Chars<'_>, quote: char) -> Option<()> {
    let c = chars.next()?;
    match c {
        'a' => bytes.push(7),
        'b' => bytes.push(8),
        'f' => bytes.push(12),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(11),
        '\\' => bytes.push(b'\\'),
        'x' => bytes.push(u8::try_from(digits(chars, 0, 2, 16)?).ok()?),
        'u' => push_char(bytes, char::from_u32(digits(chars, 0, 4, 16)?)?),
        'U' => push_char(bytes, char::from_u32(digits(chars, 0, 8, 16)?)?),
        '0'..='7' => bytes.push(u8::try_from(digits(chars, c.to_digit(8)?, 2, 8)?).ok()?),
        c if c == quote => push_char(bytes, c),
        _ => return None,
    }
    Some(())
}

fn digits(chars: &mut std::str::Chars<'_>, first: u32, count: usize, radix: u32) -> Option<u32> {
    (0..count)
        .try_fold(first, |value, _| value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_as_go_does() {
        assert_eq!(quote("a\"b\\\n\u{1}é\u{200b}"), "\"a\\\"b\\\\\\n\\x01é\\u200b\"");
        assert_eq!(quote_char('\''), "'\\''");
        assert_eq!(quote_char('"'), "'\"'");
    }

    #[test]
    fn unquoting_resolves_every_kind_of_escape() {
        assert_eq!(unquote(r#""a\n\t\\\"\x41\101\u00e9\U0001F600""#).unwrap(), "a\n\t\\\"AAé😀");
        assert_eq!(unquote(r"'it\'s'").unwrap(), "it's");
        assert_eq!(unquote(r"`raw\n`").unwrap(), "raw\\n");
        assert_eq!(unquote(r#""\xc3\xa9""#).unwrap(), "é");
        for bad in ["\"", "\"a'", r#""\q""#, r#""\'""#, r#""\ud800""#, r#""\400""#, r#""\x4""#, "a", ""] {
            assert_eq!(unquote(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn quoting_and_unquoting_are_inverse() {
        for text in ["", "plain", "a\"b'c`d", "\u{0}\u{7f}\n", "汉字 é 😀", "\\"] {
            assert_eq!(unquote(&quote(text)).as_deref(), Some(text));
        }
    }
}
