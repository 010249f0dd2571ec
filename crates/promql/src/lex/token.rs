//! Tokens: what kinds there are, which words are keywords, and how a message names a token.

use crate::ast::{AggregateOp, BinaryOp, PosRange};

use super::quoting::quote;

/// What a token is. Words that are keywords keep their text, since many may also be names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Eof,
    Comma,
    Colon,
    /// A single `=`.
    Assign,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Number,
    Duration,
    String,
    Identifier,
    /// An identifier with a colon: a metric, never a function or a label.
    MetricIdentifier,
    Operator(BinaryOp),
    /// `=~`
    RegexMatch,
    /// `!~`
    RegexNoMatch,
    /// `@`
    At,
    Aggregator(AggregateOp),
    Keyword(Keyword),
    Call(Preprocessor),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyword {
    Offset,
    Smoothed,
    Anchored,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
}

/// Words that, followed by parentheses, stand for a time of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preprocessor {
    Start,
    End,
    Step,
    Range,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind,
    pub(crate) pos: PosRange,
    pub(crate) text: &'a str,
}

impl Token<'_> {
    /// How an "unexpected …" message names this token.
    pub(crate) fn describe(&self) -> String {
        match self.kind {
            TokenKind::Eof => "end of input".to_owned(),
            TokenKind::Identifier => format!("identifier {}", quote(self.text)),
            TokenKind::MetricIdentifier => format!("metric identifier {}", quote(self.text)),
            TokenKind::Number => format!("number {}", shortened(self.text)),
            TokenKind::Duration => format!("duration {}", shortened(self.text)),
            TokenKind::String => format!("string {}", shortened(self.text)),
            TokenKind::Keyword(_) => format!("<{}>", self.text),
            TokenKind::Operator(_) | TokenKind::RegexMatch | TokenKind::RegexNoMatch | TokenKind::At => {
                format!("<op:{}>", self.text)
            }
            TokenKind::Aggregator(_) => format!("<aggr:{}>", self.text),
            _ => quote(self.text),
        }
    }

    /// Whether this word may stand as a metric name.
    pub(crate) fn is_metric_name(&self) -> bool {
        use Keyword as K;
        match self.kind {
            TokenKind::Identifier | TokenKind::MetricIdentifier | TokenKind::Aggregator(_) => true,
            TokenKind::Call(_) => true,
            TokenKind::Operator(op) => matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless),
            TokenKind::Keyword(word) => {
                matches!(word, K::By | K::Without | K::Offset | K::Anchored | K::Smoothed)
            }
            _ => false,
        }
    }

    /// Whether this word may stand as a label name in a grouping clause: any keyword but `without`.
    pub(crate) fn is_label_name(&self) -> bool {
        match self.kind {
            TokenKind::Keyword(word) => word != Keyword::Without,
            TokenKind::Operator(op) => {
                matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::Atan2)
            }
            _ => self.is_metric_name(),
        }
    }

    /// Whether an expression may begin here.
    pub(crate) fn begins_expression(&self) -> bool {
        matches!(
            self.kind,
            TokenKind::Number
                | TokenKind::Duration
                | TokenKind::String
                | TokenKind::LeftParen
                | TokenKind::LeftBrace
                | TokenKind::Operator(BinaryOp::Add | BinaryOp::Sub)
        ) || self.is_metric_name()
    }
}

/// Long literals are cut to ten characters.
fn shortened(text: &str) -> String {
    if text.len() <= 10 {
        return quote(text);
    }
    let head: String = text.chars().take(10).collect();
    format!("{}...", quote(&head))
}

/// The keyword that `word` is, whatever its case. `inf` and `nan` are numbers.
pub(crate) fn keyword(word: &str) -> Option<TokenKind> {
    use AggregateOp as A;
    use Keyword as K;
    let lower = word.to_ascii_lowercase();
    Some(match lower.as_str() {
        "and" => TokenKind::Operator(BinaryOp::And),
        "or" => TokenKind::Operator(BinaryOp::Or),
        "unless" => TokenKind::Operator(BinaryOp::Unless),
        "atan2" => TokenKind::Operator(BinaryOp::Atan2),
        "sum" => TokenKind::Aggregator(A::Sum),
        "avg" => TokenKind::Aggregator(A::Avg),
        "count" => TokenKind::Aggregator(A::Count),
        "min" => TokenKind::Aggregator(A::Min),
        "max" => TokenKind::Aggregator(A::Max),
        "group" => TokenKind::Aggregator(A::Group),
        "stddev" => TokenKind::Aggregator(A::Stddev),
        "stdvar" => TokenKind::Aggregator(A::Stdvar),
        "topk" => TokenKind::Aggregator(A::Topk),
        "bottomk" => TokenKind::Aggregator(A::Bottomk),
        "count_values" => TokenKind::Aggregator(A::CountValues),
        "quantile" => TokenKind::Aggregator(A::Quantile),
        "limitk" => TokenKind::Aggregator(A::Limitk),
        "limit_ratio" => TokenKind::Aggregator(A::LimitRatio),
        "offset" => TokenKind::Keyword(K::Offset),
        "smoothed" => TokenKind::Keyword(K::Smoothed),
        "anchored" => TokenKind::Keyword(K::Anchored),
        "by" => TokenKind::Keyword(K::By),
        "without" => TokenKind::Keyword(K::Without),
        "on" => TokenKind::Keyword(K::On),
        "ignoring" => TokenKind::Keyword(K::Ignoring),
        "group_left" => TokenKind::Keyword(K::GroupLeft),
        "group_right" => TokenKind::Keyword(K::GroupRight),
        "fill" => TokenKind::Keyword(K::Fill),
        "fill_left" => TokenKind::Keyword(K::FillLeft),
        "fill_right" => TokenKind::Keyword(K::FillRight),
        "bool" => TokenKind::Keyword(K::Bool),
        "start" => TokenKind::Call(Preprocessor::Start),
        "end" => TokenKind::Call(Preprocessor::End),
        "step" => TokenKind::Call(Preprocessor::Step),
        "range" => TokenKind::Call(Preprocessor::Range),
        "inf" | "nan" => TokenKind::Number,
        _ => return None,
    })
}
