//! Selectors: matchers in braces, and what follows a selector (`[5m]`, `[1h:5m]`, `offset`, `@`, `anchored`).

use parallax_model::{METRIC_NAME, MatchOp, Matcher};

use super::{Node, ParseError, Parser};
use crate::ast::{
    At, BinaryOp, DurationKind, Expr, ExprKind, MatrixSelector, PosRange, RangeExtension, Subquery,
    TimeModifiers, VectorSelector,
};
use crate::lex::{Keyword, Preprocessor, Token, TokenKind};

const MATCHING: &str = "label matching";
const DURATION_EXPECTED: &str = "number, duration, or step()";

impl<'a> Parser<'a> {
    /// `name{…}`, `name` or `{…}`; the name has been taken.
    pub(super) fn vector_selector(&mut self, name: Option<Token<'a>>) -> Result<Expr, ParseError> {
        let mut matchers = Vec::new();
        let first = self.peek()?;
        let mut pos = name.map_or(first.pos, |name| name.pos);
        if let Some(open) = self.next_if(TokenKind::LeftBrace)? {
            pos.end = self.matchers(&mut matchers)?.max(open.pos.end);
        }
        let name = name.map(|name| name.text.to_owned());
        if let Some(name) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name.as_str()));
        }
        let modifiers = TimeModifiers::default();
        let selector = VectorSelector { name, matchers, modifiers, extension: RangeExtension::None };
        Ok(Expr { pos, kind: ExprKind::Vector(selector) })
    }

    /// The inside of the braces and the closing one, whose end is returned.
    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Result<usize, ParseError> {
        loop {
            if let Some(close) = self.next_if(TokenKind::RightBrace)? {
                return Ok(close.pos.end);
            }
            matchers.push(self.matcher()?);
            let token = self.peek()?;
            match token.kind {
                TokenKind::Comma => drop(self.next()?),
                TokenKind::RightBrace => {}
                _ => return Err(self.unexpected_in(token, MATCHING, "\",\" or \"}\"")),
            }
        }
    }

    /// `label="value"`, `"label"=~"value"`, or a quoted metric name alone.
    fn matcher(&mut self) -> Result<Matcher, ParseError> {
        let label = self.peek()?;
        let quoted = label.kind == TokenKind::String;
        if !quoted && label.kind != TokenKind::Identifier {
            return Err(self.unexpected_in(label, MATCHING, "identifier or \"}\""));
        }
        self.next()?;
        let name = if quoted { self.string_value(label)? } else { label.text.to_owned() };
        let operator = self.peek()?;
        let op = match operator.kind {
            TokenKind::Assign => MatchOp::Equal,
            TokenKind::Operator(BinaryOp::NotEqual) => MatchOp::NotEqual,
            TokenKind::RegexMatch => MatchOp::Regex,
            TokenKind::RegexNoMatch => MatchOp::NotRegex,
            _ if quoted => return Ok(Matcher::equal(METRIC_NAME, name)),
            _ => return Err(self.unexpected_in(operator, MATCHING, "label matching operator")),
        };
        self.next()?;
        let literal = self.peek()?;
        if literal.kind != TokenKind::String {
            return Err(self.unexpected_in(literal, MATCHING, "string"));
        }
        self.next()?;
        let value = self.string_value(literal)?;
        let pos = PosRange { start: label.pos.start, end: literal.pos.end };
        Matcher::new(op, name, value.as_str())
            .map_err(|error| self.error(pos, format!("error parsing regexp: {}", error.reason)))
    }

    /// `[range]` or `[range:step]` after an expression.
    pub(super) fn brackets(&mut self, left: Node) -> Result<Node, ParseError> {
        let open = self.next()?;
        let range =
            self.within(("subquery or range selector", DURATION_EXPECTED), Self::positive_duration)?;
        let token = self.peek()?;
        match token.kind {
            TokenKind::RightBracket => {
                self.next()?;
                let brackets = PosRange { start: open.pos.start, end: token.pos.end };
                self.matrix(left, range.into_ast(), brackets)
            }
            TokenKind::Colon => {
                self.next()?;
                let mut step = None;
                if self.peek()?.kind != TokenKind::RightBracket {
                    let expected = "number, duration, or step() or \"]\"";
                    let given = self.within(("subquery selector", expected), Self::positive_duration)?;
                    step = Some(given.into_ast());
                }
                let close = self.within(("subquery selector", "\"]\""), |parser| {
                    parser.expect(TokenKind::RightBracket)
                })?;
                let pos = PosRange { start: left.expr.pos.start, end: close.pos.end };
                let operand = Box::new(left.expr);
                let modifiers = TimeModifiers::default();
                let subquery = Subquery { operand, range: range.into_ast(), step, modifiers };
                self.node(Expr { pos, kind: ExprKind::Subquery(subquery) }, left.depth + 1)
            }
            _ => Err(self.unexpected_in(token, "subquery or range", "\":\" or \"]\"")),
        }
    }

    fn matrix(
        &self,
        left: Node,
        range: crate::ast::DurationExpr,
        brackets: PosRange,
    ) -> Result<Node, ParseError> {
        let selector_pos = left.expr.pos;
        let ExprKind::Vector(selector) = left.expr.kind else {
            return Err(self.error(brackets, "ranges only allowed for vector selectors"));
        };
        if has_literal_offset(&selector.modifiers) {
            return Err(self.error(brackets, "no offset modifiers allowed before range"));
        }
        if matches!(selector.modifiers.at, Some(At::TimestampMs(_))) {
            return Err(self.error(brackets, "no @ modifiers allowed before range"));
        }
        let pos = PosRange { start: selector_pos.start, end: brackets.end };
        let matrix = MatrixSelector { selector, selector_pos, range };
        self.node(Expr { pos, kind: ExprKind::Matrix(matrix) }, left.depth)
    }

    pub(super) fn offset_modifier(&mut self, mut left: Node) -> Result<Node, ParseError> {
        self.next()?;
        let offset = self.within(("offset", DURATION_EXPECTED), Self::offset_duration)?.into_ast();
        // Whether the duration goes on is decided by the next token, so its errors come first.
        self.peek()?;
        let pos = left.expr.pos;
        let Some(modifiers) = modifiers_of(&mut left.expr) else {
            return Err(self.error(pos, must_follow_selector("offset")));
        };
        let is_set = match &modifiers.offset {
            Some(offset) => offset.kind != DurationKind::Literal(0),
            None => false,
        };
        if is_set {
            return Err(self.error(pos, "offset may not be set multiple times"));
        }
        let end = offset.pos.end;
        modifiers.offset = Some(offset);
        left.expr.pos.end = end;
        Ok(left)
    }

    pub(super) fn at_modifier(&mut self, mut left: Node) -> Result<Node, ParseError> {
        self.next()?;
        let (at, end) = self.within(("@", "timestamp"), Self::at_time)?;
        let pos = left.expr.pos;
        let at = match at {
            AtTime::Seconds(seconds) => {
                let in_bounds = seconds.abs() < i64::MAX as f64;
                if !in_bounds {
                    let shown = go_fixed(seconds);
                    let message = format!("timestamp out of bounds for @ modifier: {shown}");
                    return Err(self.error(pos, message));
                }
                // Saturates where milliseconds no longer fit.
                At::TimestampMs((seconds * 1000.0).round() as i64)
            }
            AtTime::Start => At::Start,
            AtTime::End => At::End,
        };
        let Some(modifiers) = modifiers_of(&mut left.expr) else {
            return Err(self.error(pos, must_follow_selector("@")));
        };
        if modifiers.at.is_some() {
            return Err(self.error(pos, "@ <timestamp> may not be set multiple times"));
        }
        modifiers.at = Some(at);
        left.expr.pos.end = end;
        Ok(left)
    }

    fn at_time(&mut self) -> Result<(AtTime, usize), ParseError> {
        let token = self.next()?;
        let (number, negate) = match token.kind {
            TokenKind::Call(word @ (Preprocessor::Start | Preprocessor::End)) => {
                self.expect(TokenKind::LeftParen)?;
                let close = self.expect(TokenKind::RightParen)?;
                let at = if word == Preprocessor::Start { AtTime::Start } else { AtTime::End };
                return Ok((at, close.pos.end));
            }
            TokenKind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => (self.next()?, op == BinaryOp::Sub),
            _ => (token, false),
        };
        if !matches!(number.kind, TokenKind::Number | TokenKind::Duration) {
            return Err(self.unexpected(number));
        }
        let seconds = self.number_or_duration(number)?;
        Ok((AtTime::Seconds(if negate { -seconds } else { seconds }), number.pos.end))
    }

    /// `anchored` or `smoothed`.
    pub(super) fn extension_modifier(&mut self, mut left: Node) -> Result<Node, ParseError> {
        let token = self.next()?;
        let (name, wanted) = match token.kind {
            TokenKind::Keyword(Keyword::Anchored) => ("anchored", RangeExtension::Anchored),
            _ => ("smoothed", RangeExtension::Smoothed),
        };
        let pos = left.expr.pos;
        if !self.options.extended_range_selectors {
            return Err(self.error(pos, format!("{name} modifier is experimental and not enabled")));
        }
        let selector = match &mut left.expr.kind {
            ExprKind::Vector(selector) => selector,
            ExprKind::Matrix(matrix) => &mut matrix.selector,
            ExprKind::Subquery(_) => {
                return Err(self.error(pos, format!("{name} modifier is not supported for subqueries")));
            }
            _ => return Err(self.error(pos, format!("{name} modifier not implemented"))),
        };
        if selector.extension != RangeExtension::None && selector.extension != wanted {
            return Err(self.error(pos, "anchored and smoothed modifiers cannot be used together"));
        }
        selector.extension = wanted;
        left.expr.pos.end = token.pos.end;
        Ok(left)
    }
}

enum AtTime {
    Seconds(f64),
    Start,
    End,
}

fn must_follow_selector(modifier: &str) -> String {
    format!(
        "{modifier} modifier must be preceded by an instant vector selector or range vector selector or a subquery"
    )
}

fn has_literal_offset(modifiers: &TimeModifiers) -> bool {
    match &modifiers.offset {
        Some(offset) => matches!(offset.kind, DurationKind::Literal(ms) if ms != 0),
        None => false,
    }
}

fn modifiers_of(expr: &mut Expr) -> Option<&mut TimeModifiers> {
    match &mut expr.kind {
        ExprKind::Vector(selector) => Some(&mut selector.modifiers),
        ExprKind::Matrix(matrix) => Some(&mut matrix.selector.modifiers),
        ExprKind::Subquery(subquery) => Some(&mut subquery.modifiers),
        _ => None,
    }
}

/// Six decimals, and Go's names for what is not finite.
pub(crate) fn go_fixed(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => format!("{value:.6}"),
    }
}
