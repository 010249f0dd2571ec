//! What PromQL's functions compute, apart from how rows come and go.
//!
//! Range functions take the windows of a series (`floats` for series without histograms, `mixed` for the rest,
//! `extended` for `anchored` and `smoothed`); the others work on a value, a histogram or a set of buckets.

pub(crate) mod arithmetic;
pub(crate) mod calendar;
pub(crate) mod extended;
pub(crate) mod floats;
pub(crate) mod histogram_rate;
pub(crate) mod histograms;
pub(crate) mod kahan;
pub(crate) mod math;
pub(crate) mod mixed;
pub(crate) mod natural;
pub(crate) mod quantile;
pub(crate) mod range_function;
pub(crate) mod regression;
