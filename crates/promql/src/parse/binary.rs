//! Binary operators: how strongly they bind, and the modifiers between operator and right side.

use super::{Node, ParseError, Parser};
use crate::ast::{Binary, BinaryOp, Cardinality, Expr, ExprKind, PosRange, VectorMatching};
use crate::lex::{Keyword, TokenKind};

const FACTOR_POWER: u8 = 5;
const POW_POWER: u8 = 6;

/// A sign binds as strongly as `*`: `-a ^ b` is `-(a ^ b)`, `-a * b` is `(-a) * b`.
pub(super) const UNARY_POWER: u8 = FACTOR_POWER + 1;

/// How strongly `op` binds; a higher power binds tighter.
pub(super) const fn power(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And | BinaryOp::Unless => 2,
        BinaryOp::Equal
        | BinaryOp::NotEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterOrEqual
        | BinaryOp::Less
        | BinaryOp::LessOrEqual
        | BinaryOp::TrimUpper
        | BinaryOp::TrimLower => 3,
        BinaryOp::Add | BinaryOp::Sub => 4,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => FACTOR_POWER,
        BinaryOp::Pow => POW_POWER,
    }
}

impl Parser<'_> {
    /// The rest of `left op …`; the operator has been taken.
    pub(super) fn binary(&mut self, left: Node, op: BinaryOp) -> Result<Node, ParseError> {
        let mut matching = VectorMatching {
            cardinality: Cardinality::OneToOne,
            labels: Vec::new(),
            on: false,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        let return_bool = self.next_if(TokenKind::Keyword(Keyword::Bool))?.is_some();
        self.matching_clause(&mut matching)?;
        self.fill_clause(&mut matching)?;
        // All operators but `^` associate to the left.
        let min_power = if op == BinaryOp::Pow { POW_POWER } else { power(op) + 1 };
        let right = self.expression(min_power)?;
        let pos = PosRange { start: left.expr.pos.start, end: right.expr.pos.end };
        let depth = left.depth.max(right.depth) + 1;
        let binary = Binary { op, left: left.expr, right: right.expr, return_bool, matching: Some(matching) };
        self.node(Expr { pos, kind: ExprKind::Binary(Box::new(binary)) }, depth)
    }

    /// `on (…) group_left (…)`, or nothing.
    fn matching_clause(&mut self, matching: &mut VectorMatching) -> Result<(), ParseError> {
        matching.on = match self.peek()?.kind {
            TokenKind::Keyword(Keyword::On) => true,
            TokenKind::Keyword(Keyword::Ignoring) => false,
            _ => return Ok(()),
        };
        self.next()?;
        matching.labels = self.label_list()?.0;
        matching.cardinality = match self.peek()?.kind {
            TokenKind::Keyword(Keyword::GroupLeft) => Cardinality::ManyToOne,
            TokenKind::Keyword(Keyword::GroupRight) => Cardinality::OneToMany,
            _ => return Ok(()),
        };
        self.next()?;
        let next = self.peek()?;
        let is_fill =
            matches!(next.kind, TokenKind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight));
        if next.kind == TokenKind::LeftParen || !(next.begins_expression() || is_fill) {
            matching.include = self.label_list()?.0;
        }
        Ok(())
    }

    /// `fill (0)`, or `fill_left (0)` and `fill_right (0)` in any order, or nothing.
    fn fill_clause(&mut self, matching: &mut VectorMatching) -> Result<(), ParseError> {
        loop {
            let word = match self.peek()?.kind {
                TokenKind::Keyword(word @ Keyword::Fill)
                    if matching.fill_left.is_none() && matching.fill_right.is_none() =>
                {
                    word
                }
                TokenKind::Keyword(word @ Keyword::FillLeft) if matching.fill_left.is_none() => word,
                TokenKind::Keyword(word @ Keyword::FillRight) if matching.fill_right.is_none() => word,
                _ => return Ok(()),
            };
            self.next()?;
            let value = Some(self.fill_value()?);
            if word != Keyword::FillRight {
                matching.fill_left = value;
            }
            if word != Keyword::FillLeft {
                matching.fill_right = value;
            }
        }
    }

    fn fill_value(&mut self) -> Result<f64, ParseError> {
        self.expect(TokenKind::LeftParen)?;
        let negate = match self.peek()?.kind {
            TokenKind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                self.next()?;
                op == BinaryOp::Sub
            }
            _ => false,
        };
        let token = self.peek()?;
        if !matches!(token.kind, TokenKind::Number | TokenKind::Duration) {
            return Err(self.unexpected(token));
        }
        self.next()?;
        let value = self.number_or_duration(token)?;
        self.expect(TokenKind::RightParen)?;
        Ok(if negate { -value } else { value })
    }
}

impl BinaryOp {
    /// As it is written.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
        }
    }

    pub const fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::NotEqual
                | Self::Greater
                | Self::GreaterOrEqual
                | Self::Less
                | Self::LessOrEqual
        )
    }

    /// `and`, `or`, `unless`.
    pub const fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}
