//! Seeded series, history in real blocks, a stand-in Prometheus: used by `demo` and by tests.
//!
//! Everything here is a pure function of a [`Fleet`] and a time: the exporter that a real Prometheus scrapes, the
//! blocks of the past and the stand-in's answers all agree, and a test can compute what an answer has to be.

#![forbid(unsafe_code)]

pub mod exporter;
pub mod fleet;
pub mod history;
pub mod stand_in;

pub use fleet::{Fleet, SimulatedSeries};

/// What can go wrong while history is written.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    #[error("writing a block to {}: {source}", directory.display())]
    Block { directory: std::path::PathBuf, source: parallax_tsdb::error::TsdbError },
    #[error("{}: {source}", path.display())]
    File { path: std::path::PathBuf, source: std::io::Error },
}
