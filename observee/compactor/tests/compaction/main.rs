//! The compactor on real buckets in temporary directories.

mod api;
mod bad_input;
mod bucket_faults;
mod cleaning;
mod clock;
mod covering;
mod downsampled;
mod fixture;
mod golden;
mod hooked;
mod leases;
mod limits;
mod marked;
mod one_to_one;
mod queries;
mod retention;
mod sharding;
mod sharing;
mod small_golden;
mod tombstones;
