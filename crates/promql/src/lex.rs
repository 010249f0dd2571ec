//! The lexer: query text into tokens, with a place for each.
//!
//! What a character means depends on where it stands: inside braces words are only names, inside brackets a
//! duration expression is read until its first number, after which the ordinary rules hold. Source: Prometheus
//! 3.9 `promql/parser/lex.go`; the error texts and their places are part of what clients see. Comments are
//! dropped. Bounds on the text's length are the parser's.

mod number;
pub mod quoting;
mod string;
mod token;

pub(crate) use token::{Keyword, Preprocessor, Token, TokenKind, keyword};

use crate::ast::{AggregateOp, BinaryOp, PosRange};
use quoting::quote_char;

/// What could not be read, and the byte offset where the token began.
#[derive(Debug)]
pub(crate) struct LexError {
    pub(crate) at: usize,
    pub(crate) message: String,
}

type Lexed<'a> = Result<Token<'a>, LexError>;

/// Reads tokens one at a time; after the end, or an error, it keeps answering [`TokenKind::Eof`].
pub(crate) struct Lexer<'a> {
    input: &'a str,
    /// The next byte to read.
    at: usize,
    /// Where the token being read began.
    start: usize,
    /// Whether `fill`, `range()` and the trim operators are known.
    later_syntax: bool,
    open_parens: u32,
    in_braces: bool,
    in_brackets: bool,
    /// Inside brackets, before the first number.
    in_duration: bool,
    got_colon: bool,
    got_duration: bool,
    done: bool,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(input: &'a str, later_syntax: bool) -> Self {
        Self {
            input,
            at: 0,
            start: 0,
            later_syntax,
            open_parens: 0,
            in_braces: false,
            in_brackets: false,
            in_duration: false,
            got_colon: false,
            got_duration: false,
            done: false,
        }
    }

    pub(crate) fn next_token(&mut self) -> Lexed<'a> {
        self.start = self.at;
        if self.done {
            return self.emit(TokenKind::Eof);
        }
        let token = if self.in_braces {
            self.inside_braces()
        } else if self.in_duration {
            self.inside_duration()
        } else {
            self.statement()
        };
        self.done = !matches!(&token, Ok(token) if token.kind != TokenKind::Eof);
        token
    }

    fn rest(&self) -> &'a str {
        self.input.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn advance_if(&mut self, accept: impl Fn(char) -> bool) -> bool {
        let accepted = self.peek().is_some_and(accept);
        if accepted {
            self.advance();
        }
        accepted
    }

    fn advance_while(&mut self, accept: impl Fn(char) -> bool) {
        while self.advance_if(&accept) {}
    }

    fn emit(&self, kind: TokenKind) -> Lexed<'a> {
        let pos = PosRange { start: self.start, end: self.at };
        Ok(Token { kind, pos, text: self.input.get(self.start..self.at).unwrap_or("") })
    }

    /// An error whose place is where the token began.
    fn fail(&self, message: impl Into<String>) -> Lexed<'a> {
        Err(LexError { at: self.start, message: message.into() })
    }

    /// An error found right after a token was complete: its place is behind that token.
    fn fail_behind(&self, message: impl Into<String>) -> Lexed<'a> {
        Err(LexError { at: self.at, message: message.into() })
    }

    /// Skips blanks and, where they are allowed, comments.
    fn skip_blanks(&mut self, comments: bool) {
        loop {
            self.advance_while(is_space);
            if !comments || self.peek() != Some('#') {
                break;
            }
            self.advance_while(|c| c != '\n' && c != '\r');
        }
        self.start = self.at;
    }

    fn statement(&mut self) -> Lexed<'a> {
        self.skip_blanks(true);
        let Some(c) = self.advance() else {
            return match () {
                () if self.open_parens != 0 => self.fail("unclosed left parenthesis"),
                () if self.in_brackets => self.fail("unclosed left bracket"),
                () => self.emit(TokenKind::Eof),
            };
        };
        match c {
            ',' => self.emit(TokenKind::Comma),
            '*' | '/' | '%' | '+' | '-' | '^' => self.emit(arithmetic(c)),
            '=' | '!' | '<' | '>' => self.comparison(c),
            '(' | ')' => self.parenthesis(c),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '@' => self.emit(TokenKind::At),
            '{' => {
                self.in_braces = true;
                self.emit(TokenKind::LeftBrace)
            }
            '[' if self.in_brackets => self.fail(format!("unexpected left bracket {}", quote_char(c))),
            '[' => {
                (self.in_brackets, self.in_duration, self.got_colon) = (true, true, false);
                self.emit(TokenKind::LeftBracket)
            }
            ']' if !self.in_brackets => self.fail(format!("unexpected right bracket {}", quote_char(c))),
            ']' => {
                self.in_brackets = false;
                self.emit(TokenKind::RightBracket)
            }
            c if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit())) => {
                self.at = self.start;
                self.number_or_duration()
            }
            c if is_alpha(c) || c == ':' => {
                if self.in_brackets {
                    self.word_in_brackets(c)
                } else {
                    self.word()
                }
            }
            c => self.fail(format!("unexpected character: {}", quote_char(c))),
        }
    }

    fn comparison(&mut self, first: char) -> Lexed<'a> {
        let next = self.peek();
        let op = match (first, next) {
            ('=', Some('=')) => BinaryOp::Equal,
            ('=', Some('~')) => return self.fail("unexpected character after '=': '~'"),
            ('=', _) => return self.emit(TokenKind::Assign),
            ('!', Some('=')) => BinaryOp::NotEqual,
            ('!', other) => {
                return self.fail(format!("unexpected character after '!': {}", quote_end(other)));
            }
            ('<', Some('=')) => BinaryOp::LessOrEqual,
            ('<', Some('/')) if self.later_syntax => BinaryOp::TrimUpper,
            ('<', _) => return self.emit(TokenKind::Operator(BinaryOp::Less)),
            (_, Some('=')) => BinaryOp::GreaterOrEqual,
            (_, Some('/')) if self.later_syntax => BinaryOp::TrimLower,
            _ => return self.emit(TokenKind::Operator(BinaryOp::Greater)),
        };
        self.advance();
        self.emit(TokenKind::Operator(op))
    }

    fn parenthesis(&mut self, c: char) -> Lexed<'a> {
        if c == '(' {
            self.open_parens = self.open_parens.saturating_add(1);
            return self.emit(TokenKind::LeftParen);
        }
        match self.open_parens.checked_sub(1) {
            Some(open) => self.open_parens = open,
            None => return self.fail_behind("unexpected right parenthesis ')'"),
        }
        self.emit(TokenKind::RightParen)
    }

    fn inside_braces(&mut self) -> Lexed<'a> {
        self.skip_blanks(true);
        let Some(c) = self.advance() else {
            return self.fail("unexpected end of input inside braces");
        };
        match c {
            ',' => self.emit(TokenKind::Comma),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '=' if self.advance_if(|c| c == '~') => self.emit(TokenKind::RegexMatch),
            '=' => self.emit(TokenKind::Assign),
            '!' => match self.advance() {
                Some('~') => self.emit(TokenKind::RegexNoMatch),
                Some('=') => self.emit(TokenKind::Operator(BinaryOp::NotEqual)),
                other => {
                    self.fail(format!("unexpected character after '!' inside braces: {}", quote_end(other)))
                }
            },
            '{' => self.fail("unexpected left brace '{'"),
            '}' => {
                self.in_braces = false;
                self.emit(TokenKind::RightBrace)
            }
            c if is_alpha(c) => {
                self.advance_while(is_alphanumeric);
                self.emit(TokenKind::Identifier)
            }
            c => self.fail(format!("unexpected character inside braces: {}", quote_char(c))),
        }
    }

    fn inside_duration(&mut self) -> Lexed<'a> {
        self.skip_blanks(false);
        let Some(c) = self.advance() else {
            return self.fail("unexpected end of input in duration expression");
        };
        match c {
            ']' => {
                (self.in_brackets, self.in_duration, self.got_colon) = (false, false, false);
                self.emit(TokenKind::RightBracket)
            }
            ':' if !self.got_duration => {
                self.fail_behind("unexpected colon before duration in duration expression")
            }
            ':' if self.got_colon => self.fail_behind("unexpected repeated colon in duration expression"),
            ':' => {
                self.got_colon = true;
                self.emit(TokenKind::Colon)
            }
            '(' | ')' => self.parenthesis(c),
            '*' | '/' | '%' | '+' | '-' | '^' => self.emit(arithmetic(c)),
            ',' => self.emit(TokenKind::Comma),
            c if self.begins_duration_keyword(c) => match self.duration_keyword() {
                Some(kind) => self.emit(kind),
                None => self.fail(format!("unexpected character in duration expression: {}", quote_char(c))),
            },
            c if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit())) => {
                self.at = self.start;
                (self.in_duration, self.got_duration) = (false, true);
                self.number_or_duration()
            }
            c => self.fail(format!("unexpected character in duration expression: {}", quote_char(c))),
        }
    }

    /// Inside brackets a word can only be a colon or one of the duration functions.
    fn word_in_brackets(&mut self, first: char) -> Lexed<'a> {
        if first == ':' {
            if self.got_colon {
                return self.fail("unexpected colon ':'");
            }
            self.got_colon = true;
            return self.emit(TokenKind::Colon);
        }
        if self.begins_duration_keyword(first)
            && let Some(kind) = self.duration_keyword()
        {
            return self.emit(kind);
        }
        self.fail(format!("unexpected character: {}, expected ':'", quote_char(first)))
    }

    fn begins_duration_keyword(&self, c: char) -> bool {
        matches!(c, 's' | 'S' | 'm' | 'M') || (self.later_syntax && matches!(c, 'r' | 'R'))
    }

    fn duration_keyword(&mut self) -> Option<TokenKind> {
        self.advance_while(is_alpha);
        let word = self.input.get(self.start..self.at)?;
        match keyword(word)? {
            kind @ (TokenKind::Call(Preprocessor::Step)
            | TokenKind::Aggregator(AggregateOp::Min | AggregateOp::Max)) => Some(kind),
            kind @ TokenKind::Call(Preprocessor::Range) if self.later_syntax => Some(kind),
            _ => None,
        }
    }

    fn word(&mut self) -> Lexed<'a> {
        self.advance_while(|c| is_alphanumeric(c) || c == ':');
        let word = self.input.get(self.start..self.at).unwrap_or("");
        match keyword(word) {
            Some(kind) if self.is_plain_name(kind) => self.emit(TokenKind::Identifier),
            Some(kind) => self.emit(kind),
            None if word.contains(':') => self.emit(TokenKind::MetricIdentifier),
            None => self.emit(TokenKind::Identifier),
        }
    }

    /// Keywords younger than 3.9 are names without their feature, and `fill` is one unless `(` follows.
    fn is_plain_name(&self, kind: TokenKind) -> bool {
        match kind {
            TokenKind::Call(Preprocessor::Range) => !self.later_syntax,
            TokenKind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight) => {
                !self.later_syntax || !self.rest().trim_start_matches(is_space).starts_with('(')
            }
            _ => false,
        }
    }
}

fn arithmetic(c: char) -> TokenKind {
    TokenKind::Operator(match c {
        '*' => BinaryOp::Mul,
        '/' => BinaryOp::Div,
        '%' => BinaryOp::Mod,
        '+' => BinaryOp::Add,
        '-' => BinaryOp::Sub,
        _ => BinaryOp::Pow,
    })
}

pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

pub(crate) fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

pub(crate) fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

/// A character in single quotes; the end of the text shows as the replacement character.
fn quote_end(c: Option<char>) -> String {
    quote_char(c.unwrap_or('\u{fffd}'))
}
