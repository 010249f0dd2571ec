//! The compactor on real buckets in temporary directories.

mod bad_input;
mod bucket_faults;
mod fixture;
mod golden;
mod marked;
mod one_to_one;
