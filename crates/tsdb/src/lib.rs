//! Bytes of a block on disk: chunks, index, tombstones, index-header; readers and staged writers.
