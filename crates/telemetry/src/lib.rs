//! What a process tells its operator: logs (one line per event, logfmt or JSON) and the metrics registry.
//!
//! Invariant: nothing here is a global of ours. A [`Metrics`] is made in `main` and passed by value (it is an `Arc` inside); only the log
//! subscriber is process-wide, because `tracing` is. Which events are worth a line, and which metrics exist, is left to whoever owns them.

#![forbid(unsafe_code)]

pub mod logging;
pub mod metrics;
mod process;

pub use logging::{LogFormat, LogLevel, init_logging};
pub use metrics::{METRICS_CONTENT_TYPE, Metrics};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A log level that is none of debug, info, warn, error.
    #[error("unknown log level {0:?}: use debug, info, warn or error")]
    UnknownLevel(String),
    /// A log format that is neither logfmt nor json.
    #[error("unknown log format {0:?}: use logfmt or json")]
    UnknownFormat(String),
    /// The filter text of the environment did not parse.
    #[error("log filter {filter:?} in PARALLAX_LOG: {reason}")]
    Filter { filter: String, reason: String },
    /// A subscriber is already there.
    #[error("logging is already set up in this process")]
    AlreadyInitialised,
    /// The text encoder refused a metric.
    #[error("encoding the metrics failed")]
    Encode(#[from] std::fmt::Error),
}
