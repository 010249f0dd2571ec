//! Chunks: runs of samples of one series, as bytes.
