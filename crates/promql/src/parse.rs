//! The parser: query text into a type-checked tree.
//!
//! Source: the grammar of Prometheus 3.9 (`promql/parser/generated_parser.y`, `parse.go`). Messages are worded and
//! placed as Prometheus words and places them, since clients show them; only the first error is kept, which is
//! the one Prometheus shows. A tree that is returned is type-checked (`check`), no deeper than
//! [`MAX_DEPTH`], and came from a text of at most [`MAX_INPUT_BYTES`].

mod aggregate;
mod binary;
mod check;
mod duration;
mod error;
mod float;
mod literal;
mod metric;
mod options;
mod selector;

pub use error::ParseError;
pub(crate) use float::float;
pub(crate) use literal::number;
pub(crate) use metric::parse_labels;
pub use options::ParserOptions;
pub(crate) use selector::go_fixed;

use parallax_model::Matcher;

use crate::ast::{BinaryOp, Call, Expr, ExprKind, PosRange};
use crate::lex::quoting::{quote, unquote};
use crate::lex::{Keyword, Lexer, Preprocessor, Token, TokenKind};
use crate::signature;

/// Longer texts are refused.
pub const MAX_INPUT_BYTES: usize = 1 << 20;

/// How deep parentheses, calls, unary operators and the like may nest: it bounds the parser's stack.
pub const MAX_NESTING: usize = 100;

/// How deep the resulting tree may be. It is more than the nesting, because `a + b + c + …` makes a tree
/// as deep as it has operands.
pub const MAX_DEPTH: usize = 400;

/// Parses and type-checks one expression.
///
/// # Errors
/// The first thing wrong with `text`, worded as Prometheus does: `1:5: parse error: unexpected …`.
pub fn parse(text: &str, options: &ParserOptions) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(text, options)?;
    let mut expr = parser.whole_expression()?;
    check::check(&mut expr, text)?;
    Ok(expr)
}

/// Parses one series selector without modifiers, as `match[]` parameters have it: `up{job="x"}`.
///
/// As in Prometheus, a selector that selects everything is not refused here.
///
/// # Errors
/// The first thing wrong with `text`.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let options = ParserOptions::default();
    let mut parser = Parser::new(text, &options)?;
    let first = parser.peek()?;
    let selector = match first.kind {
        TokenKind::LeftBrace => parser.vector_selector(None)?,
        _ if first.is_metric_name() => {
            let name = parser.next()?;
            parser.vector_selector(Some(name))?
        }
        _ => return Err(parser.unexpected(first)),
    };
    parser.expect_end()?;
    match selector.kind {
        ExprKind::Vector(selector) => Ok(selector.matchers),
        _ => Ok(Vec::new()),
    }
}

/// Parses several selectors; a series is wanted if any of them matches it.
///
/// # Errors
/// The first error of the first selector that has one.
pub fn parse_selectors<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Vec<Matcher>>, ParseError> {
    texts.iter().map(|text| parse_selector(text.as_ref())).collect()
}

/// An expression and the depth of its tree.
struct Node {
    expr: Expr,
    depth: usize,
}

/// What is being read when something unexpected turns up, and what would have been expected.
type Context = (&'static str, &'static str);

struct Parser<'a> {
    text: &'a str,
    options: &'a ParserOptions,
    lexer: Lexer<'a>,
    /// The token that was looked at but not taken. Tokens are read as late as possible, so that errors of the
    /// lexer and of the grammar come in the order in which Prometheus finds them.
    peeked: Option<Token<'a>>,
    contexts: Vec<Context>,
    nesting: usize,
    /// A duration function where an expression should stand: fatal, but only if the grammar has no complaint.
    stray: Option<PosRange>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, options: &'a ParserOptions) -> Result<Self, ParseError> {
        if text.len() > MAX_INPUT_BYTES {
            let message = format!("expression of {} bytes is longer than {MAX_INPUT_BYTES}", text.len());
            return Err(ParseError::new("", PosRange::default(), message));
        }
        let lexer = Lexer::new(text, options.later_syntax);
        Ok(Self { text, options, lexer, peeked: None, contexts: Vec::new(), nesting: 0, stray: None })
    }

    fn peek(&mut self) -> Result<Token<'a>, ParseError> {
        let token = match self.peeked {
            Some(token) => token,
            None => self.lex()?,
        };
        self.peeked = Some(token);
        Ok(token)
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.lex(),
        }
    }

    fn lex(&mut self) -> Result<Token<'a>, ParseError> {
        let text = self.text;
        self.lexer.next_token().map_err(|error| {
            ParseError::new(text, PosRange { start: error.at, end: text.len() }, error.message)
        })
    }

    fn next_if(&mut self, kind: TokenKind) -> Result<Option<Token<'a>>, ParseError> {
        Ok(if self.peek()?.kind == kind { self.peeked.take() } else { None })
    }

    fn expect(&mut self, kind: TokenKind) -> Result<Token<'a>, ParseError> {
        let token = self.peek()?;
        if token.kind == kind { self.next() } else { Err(self.unexpected(token)) }
    }

    fn expect_end(&mut self) -> Result<(), ParseError> {
        self.expect(TokenKind::Eof).map(drop)
    }

    fn error(&self, pos: PosRange, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, pos, message.into())
    }

    /// `token` cannot stand here; the innermost context says what was being read.
    fn unexpected(&self, token: Token<'_>) -> ParseError {
        let (context, expected) = self.contexts.last().copied().unwrap_or_default();
        self.unexpected_in(token, context, expected)
    }

    fn unexpected_in(&self, token: Token<'_>, context: &str, expected: &str) -> ParseError {
        let mut message = format!("unexpected {}", token.describe());
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(token.pos, message)
    }

    /// Runs `read` with a context for what it finds unexpected.
    fn within<T>(
        &mut self,
        context: Context,
        read: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        self.contexts.push(context);
        let result = read(self);
        self.contexts.pop();
        result
    }

    /// Runs `read` one level deeper.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, ParseError>) -> Result<T, ParseError> {
        if self.nesting >= MAX_NESTING {
            let pos = self.peek()?.pos;
            return Err(self.error(pos, format!("expression is nested more than {MAX_NESTING} levels deep")));
        }
        self.nesting += 1;
        let result = read(self);
        self.nesting -= 1;
        result
    }

    fn node(&self, expr: Expr, depth: usize) -> Result<Node, ParseError> {
        if depth > MAX_DEPTH {
            return Err(self.error(expr.pos, format!("expression tree is more than {MAX_DEPTH} levels deep")));
        }
        Ok(Node { expr, depth })
    }

    fn whole_expression(&mut self) -> Result<Expr, ParseError> {
        if self.peek()?.kind == TokenKind::Eof {
            return Err(self.error(PosRange::default(), "no expression found in input"));
        }
        let node = self.expression(0)?;
        self.expect_end()?;
        match self.stray {
            Some(pos) => Err(self.error(pos, "unknown node type: *parser.DurationExpr")),
            None => Ok(node.expr),
        }
    }

    /// An expression whose binary operators all bind at least as strongly as `min_power`.
    fn expression(&mut self, min_power: u8) -> Result<Node, ParseError> {
        self.nested(|parser| {
            let mut left = parser.prefix()?;
            loop {
                let token = parser.peek()?;
                left = match token.kind {
                    TokenKind::LeftBracket => parser.brackets(left)?,
                    TokenKind::At => parser.at_modifier(left)?,
                    TokenKind::Keyword(Keyword::Offset) => parser.offset_modifier(left)?,
                    TokenKind::Keyword(Keyword::Anchored | Keyword::Smoothed) => {
                        parser.extension_modifier(left)?
                    }
                    TokenKind::Operator(op) if binary::power(op) >= min_power => {
                        parser.next()?;
                        parser.binary(left, op)?
                    }
                    _ => return Ok(left),
                };
            }
        })
    }

    fn prefix(&mut self) -> Result<Node, ParseError> {
        let token = self.peek()?;
        if !token.begins_expression() {
            return Err(self.unexpected(token));
        }
        if token.kind == TokenKind::LeftBrace {
            let expr = self.vector_selector(None)?;
            return self.node(expr, 1);
        }
        self.next()?;
        match token.kind {
            TokenKind::Number | TokenKind::Duration => {
                let value = self.number_or_duration(token)?;
                self.node(Expr { pos: token.pos, kind: ExprKind::Number(value) }, 1)
            }
            TokenKind::String => {
                let value = self.string_value(token)?;
                self.node(Expr { pos: token.pos, kind: ExprKind::String(value) }, 1)
            }
            TokenKind::LeftParen => {
                let inner = self.expression(0)?;
                let close = self.expect(TokenKind::RightParen)?;
                let pos = PosRange { start: token.pos.start, end: close.pos.end };
                let kind = ExprKind::Paren(Box::new(inner.expr));
                self.node(Expr { pos, kind }, inner.depth + 1)
            }
            TokenKind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                self.unary(token, op == BinaryOp::Sub)
            }
            _ => self.word(token),
        }
    }

    /// A literal takes the sign itself: `-1` is a number.
    fn unary(&mut self, sign: Token<'a>, negate: bool) -> Result<Node, ParseError> {
        let operand = self.expression(binary::UNARY_POWER)?;
        let pos = PosRange { start: sign.pos.start, end: operand.expr.pos.end };
        if let ExprKind::Number(value) = operand.expr.kind {
            let value = if negate { -value } else { value };
            return self.node(Expr { pos, kind: ExprKind::Number(value) }, 1);
        }
        let kind = ExprKind::Unary { negate, operand: Box::new(operand.expr) };
        self.node(Expr { pos, kind }, operand.depth + 1)
    }

    /// A metric, a function or an aggregation, by what follows its name.
    fn word(&mut self, word: Token<'a>) -> Result<Node, ParseError> {
        use TokenKind as T;
        match (word.kind, self.peek()?.kind) {
            (T::Aggregator(op), T::LeftParen | T::Keyword(Keyword::By | Keyword::Without)) => {
                self.aggregate(word, op)
            }
            (T::Identifier, T::LeftParen) => self.call(word),
            (T::Call(Preprocessor::Step | Preprocessor::Range), T::LeftParen) => {
                let pos = self.stray_duration(word)?;
                self.stray = self.stray.or(Some(pos));
                self.node(Expr { pos, kind: ExprKind::Number(0.0) }, 1)
            }
            _ => {
                let expr = self.vector_selector(Some(word))?;
                self.node(expr, 1)
            }
        }
    }

    fn call(&mut self, name: Token<'a>) -> Result<Node, ParseError> {
        let (arguments, end, depth) = self.arguments()?;
        let Some(function) = signature::lookup(name.text) else {
            return Err(self.error(name.pos, format!("unknown function with name {}", quote(name.text))));
        };
        if function.experimental && !self.options.experimental_functions {
            return Err(self.error(name.pos, format!("function {} is not enabled", quote(name.text))));
        }
        let pos = PosRange { start: name.pos.start, end };
        self.node(Expr { pos, kind: ExprKind::Call(Call { function, arguments }) }, depth + 1)
    }

    /// `(a, b, …)`: the arguments, the end of the closing parenthesis, and the depth of the deepest argument.
    fn arguments(&mut self) -> Result<(Vec<Expr>, usize, usize), ParseError> {
        self.expect(TokenKind::LeftParen)?;
        let (mut arguments, mut depth) = (Vec::new(), 0);
        if let Some(close) = self.next_if(TokenKind::RightParen)? {
            return Ok((arguments, close.pos.end, depth));
        }
        loop {
            let argument = self.expression(0)?;
            depth = depth.max(argument.depth);
            arguments.push(argument.expr);
            let Some(comma) = self.next_if(TokenKind::Comma)? else {
                let close = self.expect(TokenKind::RightParen)?;
                return Ok((arguments, close.pos.end, depth));
            };
            if !self.peek()?.begins_expression() {
                return Err(self.error(comma.pos, "trailing commas not allowed in function call args"));
            }
        }
    }

    fn string_value(&self, token: Token<'_>) -> Result<String, ParseError> {
        unquote(token.text).ok_or_else(|| {
            self.error(token.pos, format!("error unquoting string {}: invalid syntax", quote(token.text)))
        })
    }
}
