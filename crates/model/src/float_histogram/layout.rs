//! Bucket layouts: spans and indexes, exponential and custom bounds, and how one layout becomes another.

use std::sync::LazyLock;

use crate::Span;
use crate::histogram::{CUSTOM_BUCKETS_SCHEMA, EXPONENTIAL_SCHEMA_MAX};

/// One side of a histogram: (bucket index, count), sorted by index.
pub(crate) type Side = Vec<(i32, f64)>;

/// A bucket index beyond this is the same bucket as this: no float lies between their bounds.
const MAX_EXPONENT: i32 = 1 << 20;

/// Reads spans and counts as indexed counts, as far as they fit each other.
pub(crate) fn side_of(spans: &[Span], buckets: &[f64]) -> Side {
    let mut side = Vec::with_capacity(buckets.len());
    let mut counts = buckets.iter();
    let mut index = 0i32;
    for span in spans {
        index = index.saturating_add(span.offset);
        for _ in 0..span.length {
            let Some(count) = counts.next() else { return side };
            side.push((index, *count));
            index = index.saturating_add(1);
        }
    }
    side
}

/// Stores indexed counts as spans and buckets, one span per run of neighbours.
pub(crate) fn from_side(side: &[(i32, f64)]) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut expected: Option<i32> = None;
    for (index, _) in side {
        match (spans.last_mut(), expected) {
            (Some(span), Some(next)) if next == *index => span.length += 1,
            (_, next) => {
                spans.push(Span { offset: index.saturating_sub(next.unwrap_or(0)), length: 1 });
            }
        }
        expected = Some(index.saturating_add(1));
    }
    (spans, side.iter().map(|(_, count)| *count).collect())
}

/// `mine + sign × theirs`, over the union of both sides' buckets.
pub(crate) fn merged(mine: Side, theirs: &[(i32, f64)], sign: f64) -> Side {
    let mut result = Vec::with_capacity(mine.len().max(theirs.len()));
    let mut mine = mine.into_iter().peekable();
    let mut theirs = theirs.iter().peekable();
    loop {
        let ((index, count), other) = match (mine.peek(), theirs.peek()) {
            (None, None) => return result,
            (Some(a), None) => (*a, None),
            (None, Some(b)) => ((b.0, 0.0), Some(b.1)),
            (Some(a), Some(b)) if a.0 < b.0 => (*a, None),
            (Some(a), Some(b)) if a.0 > b.0 => ((b.0, 0.0), Some(b.1)),
            (Some(a), Some(b)) => (*a, Some(b.1)),
        };
        mine.next_if(|a| a.0 == index);
        theirs.next_if(|b| b.0 == index);
        result.push((index, other.map_or(count, |other| count + sign * other)));
    }
}

/// The same counts in the coarser `target_schema`.
pub(crate) fn reduced(side: &[(i32, f64)], schema: i32, target_schema: i32) -> Side {
    let shift = schema.saturating_sub(target_schema).clamp(0, 31);
    let mut result: Side = Vec::new();
    for (index, count) in side {
        let target = (index.saturating_sub(1) >> shift) + 1;
        match result.last_mut() {
            Some(last) if last.0 == target => last.1 += count,
            _ => result.push((target, *count)),
        }
    }
    result
}

/// The buckets of an exponential schema that do not end within a zero bucket of width `threshold`.
pub(crate) fn outside_zero(mut side: Side, schema: i32, threshold: f64) -> Side {
    let outside = side.iter().position(|(index, _)| exponential_bound(*index, schema) > threshold);
    side.drain(..outside.unwrap_or(side.len()));
    side
}

/// The bounds that both sets have, in order.
pub(crate) fn intersected_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().copied().filter(|bound| b.contains(bound)).collect()
}

/// Counts per bucket of a layout with fewer `bounds` (a subset of `own_bounds`), the overflow bucket last.
pub(crate) fn map_to_bounds(side: &[(i32, f64)], own_bounds: &[f64], bounds: &[f64]) -> Vec<f64> {
    let mut counts = vec![0.0; bounds.len() + 1];
    for (index, count) in side {
        let own = usize::try_from(*index).ok().and_then(|index| own_bounds.get(index));
        let target = own.map_or(bounds.len(), |own| bounds.partition_point(|bound| bound < own));
        if let Some(slot) = counts.get_mut(target) {
            *slot += count;
        }
    }
    counts
}

/// The upper bound of bucket `index`, in absolute terms. Custom bounds run from −∞ (before the first) to +∞.
pub(crate) fn bound(index: i32, schema: i32, custom_values: &[f64]) -> f64 {
    if schema != CUSTOM_BUCKETS_SCHEMA {
        return exponential_bound(index, schema);
    }
    match usize::try_from(index) {
        Ok(index) => custom_values.get(index).copied().unwrap_or(f64::INFINITY),
        Err(_) => f64::NEG_INFINITY,
    }
}

/// `2^(index · 2^−schema)`; the bucket that would end at 2^1024 ends at the largest float instead.
pub(crate) fn exponential_bound(index: i32, schema: i32) -> f64 {
    let (fraction, exponent) = if schema < 0 {
        let shift = schema.unsigned_abs().min(30);
        let exponent = index.clamp(-MAX_EXPONENT, MAX_EXPONENT).saturating_mul(1i32 << shift);
        (0.5, exponent.saturating_add(1))
    } else {
        let schema = schema.min(EXPONENTIAL_SCHEMA_MAX);
        let within = index & ((1 << schema) - 1);
        let fraction = usize::try_from(within << (EXPONENTIAL_SCHEMA_MAX - schema))
            .ok()
            .and_then(|position| FRACTIONS.get(position));
        (fraction.copied().unwrap_or(0.5), (index >> schema).saturating_add(1))
    };
    if fraction == 0.5 && exponent == 1025 {
        return f64::MAX;
    }
    scaled(fraction, exponent)
}

/// The 256 bounds of schema 8 within one power of two, halved: `2^(i/256) / 2`.
///
/// Prometheus has them in a table whose last digits are not all rounded to nearest. They show where bounds are
/// printed, so ours are the same bit by bit: square roots, which are exactly rounded everywhere, and [`ULPS`].
static FRACTIONS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let mut fractions = vec![0.5f64; 257];
    if let Some(last) = fractions.last_mut() {
        *last = 1.0;
    }
    let mut distance = 256;
    while distance > 1 {
        for start in (0..256).step_by(distance) {
            let (low, high) = (fractions[start], fractions[start + distance]);
            fractions[start + distance / 2] = (low * high).sqrt();
        }
        distance /= 2;
    }
    let corrected = |(fraction, ulps): (&f64, &u8)| {
        f64::from_bits(fraction.to_bits().wrapping_add_signed(i64::from(*ulps) - i64::from(b'e')))
    };
    fractions.iter().zip(ULPS).map(corrected).collect()
});

/// How far each of Prometheus' 256 bounds lies from the square roots, in units of the last place: `e` is 0.
const ULPS: &[u8; 256] = b"\
    eeefeedeeedeeeeeeeddffeeeeddddddeedeeeeeeeeeeeddeeddefeeeedeeedd\
    eeefefeeeeddeeddeedeeedeeeddeeeeeeeeefeedeccddccddcddeddddccdddc\
    ddddddcbccbbcdccccbcccbbbbbabcaaddddeddeddccdeccccbbccbcbcbcccbb\
    cdbcddcccdcccccccdccccbbbcbbccbbddddddcdcdccdecdddccdeccccbbccbb";

/// `fraction · 2^exponent` for a fraction in [0.5, 1), without overflowing on the way.
fn scaled(fraction: f64, exponent: i32) -> f64 {
    match exponent {
        1025.. => f64::INFINITY,
        ..-1080 => 0.0,
        _ => {
            let half = exponent / 2;
            fraction * 2f64.powi(half) * 2f64.powi(exponent - half)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two_where_they_should_be() {
        assert_eq!(exponential_bound(0, 0), 1.0);
        assert_eq!(exponential_bound(3, 0), 8.0);
        assert_eq!(exponential_bound(8, 3), 2.0);
        assert_eq!(exponential_bound(-8, 3), 0.5);
        assert_eq!(exponential_bound(1, -2), 16.0);
        assert_eq!(exponential_bound(1024, 0), f64::MAX);
        assert_eq!(exponential_bound(i32::MAX, 0), f64::INFINITY);
        assert_eq!(exponential_bound(i32::MIN, -4), 0.0);
        assert!((exponential_bound(1, 2) - 2f64.powf(0.25)).abs() < 1e-15);
    }

    #[test]
    fn spans_survive_the_way_to_a_side_and_back() {
        let spans = vec![Span { offset: -2, length: 2 }, Span { offset: 3, length: 1 }];
        let side = side_of(&spans, &[1.0, 2.0, 3.0]);
        assert_eq!(side, [(-2, 1.0), (-1, 2.0), (3, 3.0)]);
        assert_eq!(from_side(&side), (spans, vec![1.0, 2.0, 3.0]));
    }

    #[test]
    fn spans_that_promise_too_much_are_read_as_far_as_they_go() {
        assert_eq!(side_of(&[Span { offset: 0, length: u32::MAX }], &[1.0]), [(0, 1.0)]);
    }
}
