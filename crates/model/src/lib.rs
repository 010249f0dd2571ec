//! The words everything else uses: labels, matchers, samples, histograms, time ranges, resolutions.
//!
//! Nothing here does I/O, knows a wire format or a file format. A value that exists is valid: labels are
//! sorted and unique, a matcher's expression is compiled, a range is not inverted.

pub mod budget;
pub mod columns;
pub mod float;
pub mod float_histogram;
pub mod go_regex;
pub mod histogram;
pub mod labels;
pub mod matcher;
pub mod time;

pub use budget::{Budget, BudgetLimits, OverQuota, Quota};
pub use columns::{FloatColumn, HistogramColumn, SeriesData};
pub use go_regex::GoRegex;
pub use histogram::{CounterResetHint, FloatHistogram, Histogram, Span};
pub use labels::{Labels, LabelsBuilder, METRIC_NAME};
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use time::{Resolution, TimeRange, parse_duration_ms};
