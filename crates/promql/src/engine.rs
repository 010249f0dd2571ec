//! The engine: an expression and a source go in, an answer with its annotations comes out.
//!
//! It plans (`plan`), runs the operators batch by batch (`exec`), and turns the rows that come out into a
//! value. It holds no state between queries and starts no threads; the caller's thread does the work and may
//! wait in the source.

mod answer;
mod interrupt;
mod stats;

pub use interrupt::Interrupt;
pub use stats::{OperatorStats, PlanNode, QueryStats, StatsOptions, Timings};

use crate::ast::Expr;
use crate::source::{Selection, Source, SourceError};
use crate::value::QueryValue;

/// How long a sample stays valid for an instant selector, as in Prometheus.
pub const DEFAULT_LOOKBACK_MS: i64 = 300_000;

/// How many samples one query may hold at once, as in Prometheus.
pub const DEFAULT_MAX_SAMPLES: usize = 50_000_000;

/// The step of a subquery that names none: Prometheus' default global evaluation interval.
pub const DEFAULT_SUBQUERY_STEP_MS: i64 = 60_000;

/// What holds for all queries of an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub lookback_ms: i64,
    /// Samples held in memory at once, by one query. A histogram counts by its size, 16 bytes to a sample.
    pub max_samples: usize,
    pub default_subquery_step_ms: i64,
    /// Drop metric names at the end of the query instead of in each function (experimental in 3.9).
    pub delayed_name_removal: bool,
    /// Judge by the label `__type__` whether a metric is a counter, not by its name (experimental in 3.9).
    pub type_and_unit_labels: bool,
    /// Labels that selectors may name though no series shows them: the replica labels that a source has taken off. What is said of them in one selector means
    /// nothing to what it is matched with.
    pub unseen_labels: Vec<String>,
    /// What is measured beyond what costs nothing.
    pub stats: StatsOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lookback_ms: DEFAULT_LOOKBACK_MS,
            max_samples: DEFAULT_MAX_SAMPLES,
            default_subquery_step_ms: DEFAULT_SUBQUERY_STEP_MS,
            delayed_name_removal: false,
            type_and_unit_labels: false,
            unseen_labels: Vec::new(),
            stats: StatsOptions::default(),
        }
    }
}

/// The times an expression is evaluated at. Closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryRange {
    pub start_ms: i64,
    pub end_ms: i64,
    /// 0 for an instant query, whose start is its end; positive for a range query.
    pub step_ms: i64,
}

impl QueryRange {
    pub const fn instant(at_ms: i64) -> Self {
        Self { start_ms: at_ms, end_ms: at_ms, step_ms: 0 }
    }

    pub const fn is_instant(&self) -> bool {
        self.step_ms == 0
    }
}

/// The answer of a query, and what is to be said about it.
#[derive(Clone, Debug)]
pub struct QueryOutcome {
    pub value: QueryValue,
    /// Each text once, in order of appearance; the source's warnings among them.
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
    pub stats: QueryStats,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The expression cannot be evaluated over this data (HTTP 422, `execution`).
    #[error("{0}")]
    Execution(String),
    /// The expression means nothing at these times, whatever the data (HTTP 400, `bad_data`).
    #[error("{0}")]
    BadQuery(String),
    /// HTTP 503, `timeout`.
    #[error("query timed out in {waiting_for}")]
    Timeout { waiting_for: String },
    /// HTTP 499 or 503, `canceled`.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// HTTP 422, `execution`, like Prometheus.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// The source failed (HTTP 422, `execution`, prefixed by `expanding series: `).
    #[error("expanding series: {0}")]
    Storage(SourceError),
}

impl From<SourceError> for QueryError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Timeout { waiting_for } => Self::Timeout { waiting_for },
            SourceError::Canceled => Self::Canceled,
            error @ (SourceError::Limit(_) | SourceError::Storage(_)) => Self::Storage(error),
        }
    }
}

/// Evaluates expressions. Cheap to clone and to share.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Self {
        Self { options }
    }

    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates `expr`, which the parser has type-checked. Places in annotations assume a text of one line.
    ///
    /// Blocks for as long as the source does.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn query(
        &self,
        source: &dyn Source,
        expr: &Expr,
        range: QueryRange,
        interrupt: &Interrupt,
    ) -> Result<QueryOutcome, QueryError> {
        self.run(source, None, expr, range, interrupt)
    }

    /// Like [`Engine::query`], with the text that `expr` was parsed from, for the places in annotations.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn query_text(
        &self,
        source: &dyn Source,
        text: &str,
        expr: &Expr,
        range: QueryRange,
        interrupt: &Interrupt,
    ) -> Result<QueryOutcome, QueryError> {
        self.run(source, Some(text), expr, range, interrupt)
    }

    fn run(
        &self,
        source: &dyn Source,
        text: Option<&str>,
        expr: &Expr,
        range: QueryRange,
        interrupt: &Interrupt,
    ) -> Result<QueryOutcome, QueryError> {
        interrupt.check()?;
        answer::evaluate(&self.options, source, text, expr, range, interrupt)
    }

    /// What [`Engine::query`] would select of a source that evaluates nothing itself: for whoever wants to open it before. With
    /// [`StatsOptions::operators`] the engine may select otherwise.
    ///
    /// # Errors
    /// If the expression cannot be planned, see [`QueryError`].
    pub fn selections(
        &self,
        expr: &Expr,
        range: QueryRange,
        interrupt: &Interrupt,
    ) -> Result<Vec<Selection>, QueryError> {
        answer::selections(&self.options, expr, range, interrupt)
    }

    /// The operators that [`Engine::query`] would run.
    ///
    /// # Errors
    /// If the expression cannot be planned, see [`QueryError`].
    pub fn explain(&self, expr: &Expr, range: QueryRange) -> Result<PlanNode, QueryError> {
        answer::explain(&self.options, None, expr, range)
    }

    /// The same, with what `source` would have evaluated elsewhere. Nobody is asked.
    ///
    /// # Errors
    /// As for [`Engine::explain`].
    pub fn explain_over(
        &self,
        source: &dyn Source,
        expr: &Expr,
        range: QueryRange,
    ) -> Result<PlanNode, QueryError> {
        answer::explain(&self.options, Some(source), expr, range)
    }
}
