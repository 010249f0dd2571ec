//! Numbers and durations: which characters belong to one token. Their values are the parser's.

use super::{Lexed, Lexer, TokenKind, is_alphanumeric};
use crate::lex::quoting::quote;

impl<'a> Lexer<'a> {
    pub(super) fn number_or_duration(&mut self) -> Lexed<'a> {
        if self.scan_number() {
            return self.emit(TokenKind::Number);
        }
        if self.scan_rest_of_duration() {
            return self.emit(TokenKind::Duration);
        }
        let text = self.input.get(self.start..self.at).unwrap_or("");
        self.fail(format!("bad number or duration syntax: {}", quote(text)))
    }

    /// Decimal, hexadecimal or octal integers and floats, `_` between digits. What is scanned need not be a
    /// valid number. If it is not followed by the end of a word, the digits may still begin a duration.
    fn scan_number(&mut self) -> bool {
        let begin = self.at;
        let hex = self.advance_if(|c| c == '0') && self.advance_if(|c| c == 'x' || c == 'X');
        if hex {
            self.advance_if(|c| c == '_');
        }
        let is_digit = move |c: char| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
        let is_exponent = |c: char| c == 'e' || c == 'E';
        let (mut dots, mut exponents) = (0, 0);
        // A leading dot does not count as the dot of the rest: `.5.5` ends at the second one below.
        self.advance_if(|c| c == '.');
        self.advance_if(is_digit);
        while let Some(c) = self.peek() {
            if c == '.' {
                self.advance();
                dots += 1;
                if dots > 1 || hex || self.advance_if(|c| c == '_' || c == '.') {
                    return false;
                }
            } else if is_exponent(c) {
                self.advance();
                exponents += 1;
                if exponents > 1 {
                    return false;
                }
                self.advance_if(|c| c == '+' || c == '-');
                if self.advance_if(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                    return false;
                }
            } else if c == '_' {
                self.advance();
                if self.advance_if(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                    return false;
                }
            } else if is_digit(c) {
                self.advance_while(is_digit);
            } else {
                break;
            }
        }
        self.at != begin && !self.peek().is_some_and(is_alphanumeric)
    }

    /// The units of a duration, after its first number was scanned.
    fn scan_rest_of_duration(&mut self) -> bool {
        if !self.advance_if(|c| "smhdwy".contains(c)) {
            return false;
        }
        // For `ms`; wrong units like `hs` are found when the duration is read.
        self.advance_if(|c| c == 's');
        while self.advance_if(|c| c.is_ascii_digit()) {
            self.advance_while(|c| c.is_ascii_digit());
            // Years come first or not at all.
            if !self.advance_if(|c| "smhdw".contains(c)) {
                return false;
            }
            self.advance_if(|c| c == 's');
        }
        if self.peek().is_some_and(is_alphanumeric) {
            // The offending character belongs to the message.
            self.advance();
            return false;
        }
        true
    }
}
