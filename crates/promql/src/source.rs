//! The seam between the engine and the data: selections go out, batches of decoded series come in.
//!
//! The engine runs on a CPU thread and may block on a source; a source that waits for the network does so on
//! its own threads and hands over through a bounded queue. Nothing passes this seam one sample at a time.

use parallax_model::{FloatColumn, Labels, Matcher, SeriesData, TimeRange};

pub use crate::cut::{Cut, Partition, Question};
pub use crate::exec::prepare::{Preparation, Prepared};

/// What one selector of a query needs, said before any data is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    pub matchers: Vec<Matcher>,
    /// The samples this selector can need, lookback, range, offset and `@` already applied. Closed.
    pub range: TimeRange,
    /// The whole query's range, over all of its selectors. Closed.
    pub query_range: TimeRange,
    /// The query's step; 0 for an instant query.
    pub step_ms: i64,
    /// The range of a range selector (`[5m]`), 0 for an instant selector.
    pub range_ms: i64,
    /// The function or aggregation directly around the selector, or empty: `rate`, `sum`, `max_over_time`.
    pub function: String,
    /// The labels of the aggregation directly around the selector, and whether they came with `by`.
    pub grouping: Vec<String>,
    pub grouping_by: bool,
    /// What may be done to each series before it is handed over, by whichever thread has decoded it. A source that hands over samples
    /// only is as right, and slower.
    pub preparation: Option<Preparation>,
    /// Whose series are wanted.
    pub scope: Scope,
}

/// Which part of what a source has. A number is that of a [`Pushed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    All,
    /// What no partition of it holds.
    Rest(u64),
    /// What those of its partitions hold that did not answer. Opened when the answers are in, and only if it is read.
    Declined(u64),
}

/// A series as it is handed over.
#[derive(Clone, Debug)]
pub enum Delivered {
    Samples(SeriesData),
    /// What the selection's preparation made of one.
    Steps(Prepared),
}

impl From<SeriesData> for Delivered {
    fn from(series: SeriesData) -> Self {
        Self::Samples(series)
    }
}

impl Delivered {
    pub fn labels(&self) -> &Labels {
        match self {
            Self::Samples(series) => &series.labels,
            Self::Steps(prepared) => &prepared.labels,
        }
    }

    /// Prepares a series, if it is to be.
    ///
    /// # Errors
    /// If the query was canceled, or its deadline has passed.
    pub fn new(series: SeriesData, preparation: Option<&Preparation>) -> Result<Self, SourceError> {
        Self::new_and_leave(series, preparation, |_| {})
    }

    /// As [`Self::new`]; the column of a series of which only the steps are handed over goes to `leave`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn new_and_leave(
        series: SeriesData,
        preparation: Option<&Preparation>,
        leave: impl FnOnce(FloatColumn),
    ) -> Result<Self, SourceError> {
        match preparation {
            Some(preparation) => preparation.apply_and_leave(series, leave),
            None => Ok(Self::Samples(series)),
        }
    }
}

/// A place series come from.
pub trait Source: Send + Sync {
    /// Starts reading. All selectors of a query are started before the first one is read, so that they wait
    /// together; therefore this must not block on data.
    ///
    /// # Errors
    /// If the selection cannot be served at all; a partial failure is a warning of the stream.
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError>;

    /// Offers to have an aggregation evaluated where the data is. `None` if there is nobody to do it. It asks nobody yet.
    fn push_down(&self, _: &Cut) -> Option<Box<dyn Pushed>> {
        None
    }
}

/// An aggregation of which some partitions of the data are aggregated elsewhere.
///
/// What these partitions hold, what [`Scope::Rest`] selects and what [`Scope::Declined`] selects have no series in common, and are together all that
/// [`Scope::All`] selects. Partitions whose answers do not come, or are not to be trusted, have to be read through `Declined`.
pub trait Pushed: Send {
    fn number(&self) -> u64;

    /// What is asked, and whom, for those who look at the plan.
    fn questions(&self) -> Vec<String>;

    /// Begins to ask, without waiting. `query_range` is that of the selections.
    fn start(&mut self, query_range: TimeRange);

    /// The next answer, in any order; `None` once all have answered or declined. Blocks.
    ///
    /// # Errors
    /// If the deadline passed, or the caller went away.
    fn next_answer(&mut self) -> Result<Option<PushedAnswer>, SourceError>;

    /// Whether some declined; settled once there are no more answers.
    fn has_declined(&self) -> bool;
}

/// What one partition answered. Its series have passed [`Question::check`].
#[derive(Clone, Debug, Default)]
pub struct PushedAnswer {
    /// Which of [`Pushed::questions`] it answers.
    pub question: usize,
    pub partition: Partition,
    /// Of the source, word by word.
    pub warnings: Vec<String>,
}

/// The series of one selection, in strictly ascending order of their labels over all batches: so a series is whole in one batch, and no series comes twice. The engine relies on that
/// order: what no series to come can add to it evaluates at once, and gives up.
pub trait SeriesStream: Send {
    /// The next series; `None` at the end. Blocks until there are some.
    ///
    /// # Errors
    /// If the rest cannot be read, the deadline passed, or a budget is spent.
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError>;

    /// Warnings gathered so far, taken out; complete once `next_batch` gave `None`.
    fn take_warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Why a source gave up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The query's deadline passed while waiting for `waiting_for`.
    #[error("query timed out while waiting for {waiting_for}")]
    Timeout { waiting_for: String },
    /// The caller went away.
    #[error("query was canceled")]
    Canceled,
    /// A limit on samples, series or bytes was hit.
    #[error("{0}")]
    Limit(String),
    /// Stores failed and the query did not allow a partial answer, or the data was unreadable.
    #[error("{0}")]
    Storage(String),
}
