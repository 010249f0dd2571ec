//! The labels of one series as it is described in scripts: `name{a="b"}`, `{"na.me", a="b"}`, or nothing.

use parallax_model::{Labels, METRIC_NAME};

use super::{ParseError, Parser, ParserOptions};
use crate::lex::{Token, TokenKind};

const CONTEXT: &str = "label set";

/// Reads the labels at the start of `text`, and returns them with the number of bytes they take. A brace belongs
/// to the name only if it follows directly.
///
/// # Errors
/// The first thing wrong with the labels.
pub(crate) fn parse_labels(text: &str) -> Result<(Labels, usize), ParseError> {
    let options = ParserOptions::default();
    let mut parser = Parser::new(text, &options)?;
    let first = parser.next()?;
    let mut pairs = Vec::new();
    let mut end = first.pos.end;
    let mut has_braces = first.kind == TokenKind::LeftBrace;
    if first.is_metric_name() {
        pairs.push((METRIC_NAME.to_owned(), first.text.to_owned()));
        has_braces = text.get(end..).is_some_and(|rest| rest.starts_with('{'));
        if has_braces {
            parser.next()?;
        }
    } else if !has_braces {
        return Err(parser.unexpected(first));
    }
    if has_braces {
        end = parser.label_set(&mut pairs)?;
    }
    Ok((Labels::from_pairs(pairs), end))
}

impl<'a> Parser<'a> {
    /// The inside of the braces and the closing one, whose end is returned.
    fn label_set(&mut self, pairs: &mut Vec<(String, String)>) -> Result<usize, ParseError> {
        loop {
            if let Some(close) = self.next_if(TokenKind::RightBrace)? {
                return Ok(close.pos.end);
            }
            let pair = self.label_pair()?;
            // A metric name in braces takes the place of one before them, and a label's last value counts.
            pairs.retain(|(name, _)| *name != pair.0);
            pairs.push(pair);
            // The token after the brace is never read: it belongs to another notation.
            let token = self.peek()?;
            match token.kind {
                TokenKind::Comma => drop(self.next()?),
                TokenKind::RightBrace => {}
                _ => return Err(self.unexpected_in(token, CONTEXT, "\",\" or \"}\"")),
            }
        }
    }

    fn label_pair(&mut self) -> Result<(String, String), ParseError> {
        let label: Token<'a> = self.peek()?;
        let quoted = label.kind == TokenKind::String;
        if !quoted && label.kind != TokenKind::Identifier {
            return Err(self.unexpected_in(label, CONTEXT, "identifier or \"}\""));
        }
        self.next()?;
        let name = if quoted { self.string_value(label)? } else { label.text.to_owned() };
        let operator = self.peek()?;
        if operator.kind != TokenKind::Assign {
            if quoted {
                return Ok((METRIC_NAME.to_owned(), name));
            }
            return Err(self.unexpected_in(operator, CONTEXT, "\"=\""));
        }
        self.next()?;
        let value = self.peek()?;
        if value.kind != TokenKind::String {
            return Err(self.unexpected_in(value, CONTEXT, "string"));
        }
        self.next()?;
        Ok((name, self.string_value(value)?))
    }
}
