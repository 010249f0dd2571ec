//! The two special NaN bit patterns of Prometheus, and comparing floats by bits.
//!
//! Source: Prometheus `model/value`. Both are quiet NaNs, so arithmetic keeps working; only the exact bits tell.

/// The NaN that says "this series ended here": a sample, but never a value of an answer.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The NaN that a plain `NaN` value carries when it is written by Prometheus.
pub const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// The staleness marker as a value.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether `value` is the staleness marker (an ordinary NaN is not).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}
