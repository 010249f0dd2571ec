//! Aggregations, and the label lists of `by`, `without`, `on`, `ignoring` and `group_…`.

use super::{Node, ParseError, Parser};
use crate::ast::{Aggregate, AggregateOp, Expr, ExprKind, Grouping, PosRange};
use crate::lex::quoting::quote;
use crate::lex::{Keyword, Token, TokenKind};

const CONTEXT: &str = "grouping opts";

impl<'a> Parser<'a> {
    /// The clause may stand before or after the arguments.
    pub(super) fn aggregate(&mut self, name: Token<'a>, op: AggregateOp) -> Result<Node, ParseError> {
        let (clause, (arguments, mut end, depth)) = self.within(("aggregation", ""), |parser| {
            let clause = parser.grouping_clause()?;
            Ok((clause, parser.arguments()?))
        })?;
        let grouping = match clause {
            Some((grouping, _)) => grouping,
            None => match self.grouping_clause()? {
                Some((grouping, clause_end)) => {
                    end = clause_end;
                    grouping
                }
                None => Grouping::By(Vec::new()),
            },
        };
        let pos = PosRange { start: name.pos.start, end };
        let (parameter, operand) = self.aggregate_arguments(op, pos, arguments)?;
        let kind = ExprKind::Aggregate(Aggregate { op, parameter, operand, grouping });
        self.node(Expr { pos, kind }, depth + 1)
    }

    fn aggregate_arguments(
        &self,
        op: AggregateOp,
        pos: PosRange,
        arguments: Vec<Expr>,
    ) -> Result<(Option<Box<Expr>>, Box<Expr>), ParseError> {
        if arguments.is_empty() {
            return Err(self.error(pos, "no arguments for aggregate expression provided"));
        }
        let experimental = matches!(op, AggregateOp::Limitk | AggregateOp::LimitRatio);
        if experimental && !self.options.experimental_functions {
            let flag = "--enable-feature=promql-experimental-functions";
            let message = format!("{}() is experimental and must be enabled with {flag}", op.name());
            return Err(self.error(pos, message));
        }
        let (given, wanted) = (arguments.len(), if op.has_parameter() { 2 } else { 1 });
        let mut rest = arguments.into_iter();
        match (rest.next(), rest.next(), given) {
            (Some(operand), None, 1) if wanted == 1 => Ok((None, Box::new(operand))),
            (Some(parameter), Some(operand), 2) if wanted == 2 => {
                Ok((Some(Box::new(parameter)), Box::new(operand)))
            }
            _ => {
                let what = "wrong number of arguments for aggregate expression provided";
                Err(self.error(pos, format!("{what}, expected {wanted}, got {given}")))
            }
        }
    }

    fn grouping_clause(&mut self) -> Result<Option<(Grouping, usize)>, ParseError> {
        let grouping: fn(Vec<String>) -> Grouping = match self.peek()?.kind {
            TokenKind::Keyword(Keyword::By) => Grouping::By,
            TokenKind::Keyword(Keyword::Without) => Grouping::Without,
            _ => return Ok(None),
        };
        self.next()?;
        let (labels, end) = self.label_list()?;
        Ok(Some((grouping(labels), end)))
    }

    /// `(a, "b.c", …)`, perhaps with a comma at the end: the labels, and where the list ends.
    pub(super) fn label_list(&mut self) -> Result<(Vec<String>, usize), ParseError> {
        let open = self.peek()?;
        if open.kind != TokenKind::LeftParen {
            return Err(self.unexpected_in(open, CONTEXT, "\"(\""));
        }
        self.next()?;
        let mut labels = Vec::new();
        loop {
            if let Some(close) = self.next_if(TokenKind::RightParen)? {
                return Ok((labels, close.pos.end));
            }
            labels.push(self.label()?);
            let token = self.peek()?;
            match token.kind {
                TokenKind::Comma => drop(self.next()?),
                TokenKind::RightParen => {}
                _ => return Err(self.unexpected_in(token, CONTEXT, "\",\" or \")\"")),
            }
        }
    }

    fn label(&mut self) -> Result<String, ParseError> {
        let token = self.peek()?;
        let name = match token.kind {
            TokenKind::String => self.string_value(token)?,
            _ if token.is_label_name() => token.text.to_owned(),
            _ => return Err(self.unexpected_in(token, CONTEXT, "label")),
        };
        self.next()?;
        if name.is_empty() {
            return Err(self.error(token.pos, format!("invalid label name for grouping: {}", quote(&name))));
        }
        Ok(name)
    }
}

impl AggregateOp {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Topk => "topk",
            Self::Bottomk => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
            Self::Limitk => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }

    /// Whether it takes a parameter before its operand.
    pub const fn has_parameter(self) -> bool {
        matches!(
            self,
            Self::Topk | Self::Bottomk | Self::CountValues | Self::Quantile | Self::Limitk | Self::LimitRatio
        )
    }
}
