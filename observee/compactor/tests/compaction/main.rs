//! The compactor on real buckets in temporary directories.

mod fixture;
mod one_to_one;
