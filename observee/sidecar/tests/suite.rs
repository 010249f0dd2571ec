//! The tests of the sidecar in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod faults;
mod http_client;
mod native_histograms;
mod real_prometheus;
mod reloader;
mod side_faults;
mod side_real;
mod stand_in;
