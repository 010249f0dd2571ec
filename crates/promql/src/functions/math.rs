//! Functions of one float: `abs`, `ln`, `sin`, … by name.

use std::f64::consts::PI;

/// The function of this name, if it maps floats to floats and takes no further arguments.
pub(crate) fn by_name(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "rad" => |value| value * PI / 180.0,
        "deg" => |value| value * 180.0 / PI,
        "sgn" => sign,
        _ => return None,
    })
}

/// −1, 0 or 1; zeros and NaN stay what they are.
fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// The nearest multiple of `nearest`, halves upwards.
pub(crate) fn round(value: f64, nearest: f64) -> f64 {
    // With the inverse there are fewer surprises for fractions like 0.1.
    let inverse = 1.0 / nearest;
    (value * inverse + 0.5).floor() / inverse
}

/// `value` held between the bounds.
pub(crate) fn clamp(value: f64, min: f64, max: f64) -> f64 {
    larger(min, smaller(max, value))
}

/// As Go's `math.Max`: infinity is stronger than NaN, and of two zeros 0 is larger than −0.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else {
        a.max(b)
    }
}

/// As Go's `math.Min`.
pub(crate) fn smaller(a: f64, b: f64) -> f64 {
    -larger(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::{larger, smaller};

    #[test]
    fn the_larger_and_the_smaller_are_those_of_go() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for (a, b, max, min) in [
            (1.0, 2.0, 2.0, 1.0),
            (0.0, -0.0, 0.0, -0.0),
            (-0.0, -0.0, -0.0, -0.0),
            (0.0, 0.0, 0.0, 0.0),
            (nan, 1.0, nan, nan),
            (nan, inf, inf, nan),
            (nan, -inf, nan, -inf),
        ] {
            for (a, b) in [(a, b), (b, a)] {
                for (found, wanted) in [(larger(a, b), max), (smaller(a, b), min)] {
                    let is_same = found.to_bits() == wanted.to_bits() || (found.is_nan() && wanted.is_nan());
                    assert!(is_same, "{a} and {b}: {found}, not {wanted}");
                }
            }
        }
    }
}
