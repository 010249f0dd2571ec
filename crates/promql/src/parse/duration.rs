//! Durations in brackets and after `offset`: literals, and the experimental arithmetic on them.
//!
//! A literal that stands alone is turned into milliseconds; inside arithmetic a plain number stays one, in seconds.

use super::binary::{UNARY_POWER, power};
use super::{ParseError, Parser};
use crate::ast::{AggregateOp, BinaryOp, DurationExpr, DurationKind, DurationOp, PosRange};
use crate::lex::{Preprocessor, Token, TokenKind};

/// Seconds beyond this do not fit 64 bits of nanoseconds.
const MAX_SECONDS: f64 = 9_223_372_036.854_775;

/// A duration while it is read. A literal can still take a sign.
pub(super) enum Duration {
    Literal { pos: PosRange, seconds: f64, has_unit: bool },
    Expression(DurationExpr),
}

impl Duration {
    fn pos(&self) -> PosRange {
        match self {
            Self::Literal { pos, .. } => *pos,
            Self::Expression(expr) => expr.pos,
        }
    }

    /// Where Prometheus sees it.
    fn place(&self) -> PosRange {
        match self {
            Self::Literal { pos, .. } => *pos,
            Self::Expression(expr) => expr.place(),
        }
    }

    /// As a whole duration: a number alone means seconds.
    pub(super) fn into_ast(self) -> DurationExpr {
        match self {
            Self::Literal { pos, seconds, .. } => {
                // Rounded to nanoseconds, cut to milliseconds; bounded by `MAX_SECONDS`.
                let kind = DurationKind::Literal((seconds * 1e9).round() as i64 / 1_000_000);
                DurationExpr { pos, kind }
            }
            Self::Expression(expr) => expr,
        }
    }

    /// As an operand: a number without unit may be a factor.
    fn into_operand(self) -> Box<DurationExpr> {
        Box::new(match self {
            Self::Literal { pos, seconds, has_unit: false } => {
                DurationExpr { pos, kind: DurationKind::Number(seconds) }
            }
            other => other.into_ast(),
        })
    }

    fn is_literal_zero(&self) -> bool {
        matches!(self, Self::Literal { seconds, .. } if *seconds == 0.0)
    }
}

impl<'a> Parser<'a> {
    pub(super) fn positive_duration(&mut self) -> Result<Duration, ParseError> {
        let duration = self.duration(0)?;
        match duration {
            Duration::Literal { pos, seconds, .. } if seconds <= 0.0 || seconds.is_nan() => {
                Err(self.error(pos, "duration must be greater than 0"))
            }
            duration => Ok(duration),
        }
    }

    /// What stands after `offset`. A literal, a function or a signed parenthesis ends it, so that
    /// `foo offset -2 ^ 2` is `(foo offset -2) ^ 2`; only what begins with a parenthesis goes on.
    pub(super) fn offset_duration(&mut self) -> Result<Duration, ParseError> {
        let token = self.peek()?;
        match token.kind {
            TokenKind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                self.next()?;
                let next = self.peek()?.kind;
                let double_sign = matches!(next, TokenKind::Operator(BinaryOp::Add | BinaryOp::Sub));
                let operand = match next {
                    _ if double_sign => self.duration(UNARY_POWER)?,
                    TokenKind::LeftParen => self.duration_in_parentheses()?.0,
                    // Whether it is in range is asked of both, at the sign.
                    TokenKind::Number | TokenKind::Duration => self.duration_literal()?,
                    _ => self.duration_operand()?,
                };
                let signed = self.signed(token, op == BinaryOp::Sub, operand)?;
                if double_sign { self.duration_operators(signed, 0) } else { Ok(signed) }
            }
            TokenKind::LeftParen => self.duration(0),
            _ => self.duration_operand(),
        }
    }

    /// A duration whose operators all bind at least as strongly as `min_power`.
    fn duration(&mut self, min_power: u8) -> Result<Duration, ParseError> {
        self.nested(|parser| {
            let token = parser.peek()?;
            let left = match token.kind {
                TokenKind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                    parser.next()?;
                    let operand = parser.duration(UNARY_POWER)?;
                    parser.signed(token, op == BinaryOp::Sub, operand)?
                }
                _ => parser.duration_operand()?,
            };
            parser.duration_operators(left, min_power)
        })
    }

    fn duration_operators(&mut self, mut left: Duration, min_power: u8) -> Result<Duration, ParseError> {
        let mut operators = 0;
        loop {
            let token = self.peek()?;
            let Some((op, binary)) = duration_operator(token.kind) else { return Ok(left) };
            if power(binary) < min_power {
                return Ok(left);
            }
            operators += 1;
            if operators > super::MAX_NESTING {
                let message = format!("duration has more than {} operators", super::MAX_NESTING);
                return Err(self.error(token.pos, message));
            }
            self.next()?;
            let right = self.duration(power(binary) + u8::from(op != DurationOp::Pow))?;
            self.require_duration_expressions(left.place())?;
            match op {
                DurationOp::Div if right.is_literal_zero() => {
                    return Err(self.error(token.pos, "division by zero"));
                }
                DurationOp::Mod if right.is_literal_zero() => {
                    return Err(self.error(token.pos, "modulo by zero"));
                }
                _ => {}
            }
            let pos = PosRange { start: left.pos().start, end: right.pos().end };
            let kind = DurationKind::Binary { op, left: left.into_operand(), right: right.into_operand() };
            left = Duration::Expression(DurationExpr { pos, kind });
        }
    }

    /// A number or a duration that comes next, however large.
    fn duration_literal(&mut self) -> Result<Duration, ParseError> {
        let token = self.next()?;
        let seconds = self.number_or_duration(token)?;
        Ok(Duration::Literal { pos: token.pos, seconds, has_unit: token.kind == TokenKind::Duration })
    }

    fn duration_operand(&mut self) -> Result<Duration, ParseError> {
        let token = self.peek()?;
        match token.kind {
            TokenKind::Number | TokenKind::Duration => {
                let literal = self.duration_literal()?;
                self.in_range(token.pos, literal)
            }
            TokenKind::Call(Preprocessor::Step) => self.query_time(token, DurationKind::Step),
            TokenKind::Call(Preprocessor::Range) => self.query_time(token, DurationKind::Range),
            TokenKind::Aggregator(op @ (AggregateOp::Min | AggregateOp::Max)) => {
                self.next()?;
                self.expect(TokenKind::LeftParen)?;
                let left = self.duration(0)?.into_operand();
                self.expect(TokenKind::Comma)?;
                let right = self.duration(0)?.into_operand();
                let close = self.expect(TokenKind::RightParen)?;
                let pos = PosRange { start: token.pos.start, end: close.pos.end };
                let kind = match op {
                    AggregateOp::Min => DurationKind::Min(left, right),
                    _ => DurationKind::Max(left, right),
                };
                Ok(Duration::Expression(DurationExpr { pos, kind }))
            }
            TokenKind::LeftParen => {
                let (duration, inner_pos) = self.duration_in_parentheses()?;
                self.require_duration_expressions(inner_pos)?;
                Ok(duration)
            }
            _ => Err(self.unexpected(token)),
        }
    }

    /// A duration in parentheses, and where its inside stands. Around a literal they mean nothing, and twice
    /// is as good as once.
    fn duration_in_parentheses(&mut self) -> Result<(Duration, PosRange), ParseError> {
        let open = self.expect(TokenKind::LeftParen)?;
        let inner = self.duration(0)?;
        let close = self.expect(TokenKind::RightParen)?;
        let inner_pos = inner.place();
        let pos = PosRange { start: open.pos.start, end: close.pos.end };
        let duration = match inner {
            Duration::Expression(inner) if !matches!(inner.kind, DurationKind::Paren(_)) => {
                Duration::Expression(DurationExpr { pos, kind: DurationKind::Paren(Box::new(inner)) })
            }
            inner => inner,
        };
        Ok((duration, inner_pos))
    }

    /// The rest of a duration function that stands where an expression should, up to its last operator.
    /// The grammar allows it; no type does.
    pub(super) fn stray_duration(&mut self, name: Token<'a>) -> Result<PosRange, ParseError> {
        self.expect(TokenKind::LeftParen)?;
        let close = self.expect(TokenKind::RightParen)?;
        let pos = PosRange { start: name.pos.start, end: close.pos.end };
        let duration = Duration::Expression(DurationExpr { pos, kind: DurationKind::Step });
        self.duration_operators(duration, 0).map(|duration| duration.pos())
    }

    /// `step()` or `range()`.
    fn query_time(&mut self, name: Token<'a>, kind: DurationKind) -> Result<Duration, ParseError> {
        self.next()?;
        self.expect(TokenKind::LeftParen)?;
        let close = self.expect(TokenKind::RightParen)?;
        let pos = PosRange { start: name.pos.start, end: close.pos.end };
        Ok(Duration::Expression(DurationExpr { pos, kind }))
    }

    fn signed(&self, sign: Token<'_>, negate: bool, operand: Duration) -> Result<Duration, ParseError> {
        let pos = PosRange { start: sign.pos.start, end: operand.pos().end };
        match operand {
            Duration::Literal { seconds, has_unit, .. } => {
                let seconds = if negate { -seconds } else { seconds };
                self.in_range(sign.pos, Duration::Literal { pos, seconds, has_unit })
            }
            Duration::Expression(operand) if negate => {
                let kind = DurationKind::Unary { negate, operand: Box::new(operand) };
                Ok(Duration::Expression(DurationExpr { pos, kind }))
            }
            unsigned => Ok(unsigned),
        }
    }

    fn in_range(&self, at: PosRange, literal: Duration) -> Result<Duration, ParseError> {
        match literal {
            // Not a number is out of range, too.
            Duration::Literal { seconds, .. } if seconds.abs() > MAX_SECONDS || seconds.is_nan() => {
                Err(self.error(at, "duration out of range"))
            }
            literal => Ok(literal),
        }
    }

    fn require_duration_expressions(&self, pos: PosRange) -> Result<(), ParseError> {
        if self.options.duration_expressions {
            return Ok(());
        }
        Err(self.error(pos, "experimental duration expression is not enabled"))
    }
}

fn duration_operator(kind: TokenKind) -> Option<(DurationOp, BinaryOp)> {
    let TokenKind::Operator(binary) = kind else { return None };
    let op = match binary {
        BinaryOp::Add => DurationOp::Add,
        BinaryOp::Sub => DurationOp::Sub,
        BinaryOp::Mul => DurationOp::Mul,
        BinaryOp::Div => DurationOp::Div,
        BinaryOp::Mod => DurationOp::Mod,
        BinaryOp::Pow => DurationOp::Pow,
        _ => return None,
    };
    Some((op, binary))
}
