//! The seam between the engine and the data: selections go out, batches of decoded series come in.
//!
//! The engine runs on a CPU thread and may block on a source; a source that waits for the network does so on
//! its own threads and hands over through a bounded queue. Nothing passes this seam one sample at a time.

use parallax_model::{Matcher, SeriesData, TimeRange};

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
    /// Prepares a series, if it is to be.
    ///
    /// # Errors
    /// If the query was canceled, or its deadline has passed.
    pub fn new(series: SeriesData, preparation: Option<&Preparation>) -> Result<Self, SourceError> {
        match preparation {
            Some(preparation) => preparation.apply(series),
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
}

/// The series of one selection. A series is whole in one batch, and no series comes twice.
pub trait SeriesStream: Send {
    /// The next series, in the order of their labels; `None` at the end. Blocks until there are some.
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
