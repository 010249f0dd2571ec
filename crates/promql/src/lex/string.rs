//! String literals: where they end, and whether their escapes are well-formed. Their values are made by `quoting`.

use super::{LexError, Lexed, Lexer, TokenKind};

impl<'a> Lexer<'a> {
    pub(super) fn string(&mut self, quote: char) -> Lexed<'a> {
        loop {
            match self.advance() {
                Some('\\') => self.escape(quote)?,
                Some('\u{fffd}') => return self.fail("invalid UTF-8 rune"),
                None | Some('\n') => return self.fail("unterminated quoted string"),
                Some(c) if c == quote => return self.emit(TokenKind::String),
                Some(_) => {}
            }
        }
    }

    pub(super) fn raw_string(&mut self) -> Lexed<'a> {
        loop {
            match self.advance() {
                Some('\u{fffd}') => return self.fail("invalid UTF-8 rune"),
                None => return self.fail("unterminated raw string"),
                Some('`') => return self.emit(TokenKind::String),
                Some(_) => {}
            }
        }
    }

    fn escape(&mut self, quote: char) -> Result<(), LexError> {
        let (mut value, count, radix, max) = match self.advance() {
            None => return Err(self.broken("escape sequence not terminated")),
            Some(c @ '0'..='7') => (c.to_digit(8).unwrap_or(0), 2, 8, 255),
            Some('x') => (0, 2, 16, 255),
            Some('u') => (0, 4, 16, u32::from(char::MAX)),
            Some('U') => (0, 8, 16, u32::from(char::MAX)),
            Some(c) if "abfnrtv\\".contains(c) || c == quote => return Ok(()),
            Some(c) => return Err(self.broken(format!("unknown escape sequence {}", code_point(c)))),
        };
        for _ in 0..count {
            let Some(c) = self.advance() else {
                return Err(self.broken("escape sequence not terminated"));
            };
            let Some(digit) = c.to_digit(radix) else {
                let message = format!("illegal character {} in escape sequence", code_point(c));
                return Err(self.broken(message));
            };
            value = value.wrapping_mul(radix).wrapping_add(digit);
        }
        if value > max || (0xd800..0xe000).contains(&value) {
            return Err(self.broken("escape sequence is an invalid Unicode code point"));
        }
        Ok(())
    }

    /// What is wrong with the literal; the place is its opening quote.
    fn broken(&self, message: impl Into<String>) -> LexError {
        LexError { at: self.start, message: message.into() }
    }
}

fn code_point(c: char) -> String {
    format!("U+{:04X} '{c}'", u32::from(c))
}
