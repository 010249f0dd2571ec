//! What can be wrong with a cache's configuration. A running cache has no errors, only misses.

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("cache configuration{}: {reason}", at_line(.line))]
    Config { line: Option<u64>, reason: String },
}

impl CacheError {
    pub fn config(reason: impl Into<String>) -> Self {
        Self::Config { line: None, reason: reason.into() }
    }
}

fn at_line(line: &Option<u64>) -> String {
    line.map(|line| format!(" line {line}")).unwrap_or_default()
}
