//! Lines through samples, and exponential smoothing.

use super::kahan::KahanSum;

/// Slope per second and value at `intercept_ms` of the least-squares line. Not both lengths may be 0.
pub(crate) fn linear_regression(times_ms: &[i64], values: &[f64], intercept_ms: i64) -> (f64, f64) {
    let (mut sum_x, mut sum_y) = (KahanSum::default(), KahanSum::default());
    let (mut sum_xy, mut sum_xx) = (KahanSum::default(), KahanSum::default());
    for (time, value) in times_ms.iter().zip(values) {
        let x = (time - intercept_ms) as f64 / 1e3;
        sum_x.add(x);
        sum_y.add(*value);
        sum_xy.add(x * value);
        sum_xx.add(x * x);
    }
    let first = values.first().copied().unwrap_or(f64::NAN);
    if values.iter().skip(1).all(|value| *value == first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let n = values.len() as f64;
    let plain = |sum: KahanSum| sum.sum + sum.compensation;
    let (x, y, xy, xx) = (plain(sum_x), plain(sum_y), plain(sum_xy), plain(sum_xx));
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

/// Double exponential smoothing: the last smoothed value. At least two values.
pub(crate) fn double_exponential_smoothing(values: &[f64], smoothing: f64, trend: f64) -> Option<f64> {
    let (first, second) = (*values.first()?, *values.get(1)?);
    let (mut before, mut level, mut slope) = (0.0, first, second - first);
    for (index, value) in values.iter().enumerate().skip(1) {
        if index > 1 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        let next = smoothing * value + (1.0 - smoothing) * (level + slope);
        before = level;
        level = next;
    }
    Some(level)
}
