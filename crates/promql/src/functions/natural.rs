//! Natural order of label values: `b2` before `b10`. Source: the order Prometheus' `sort_by_label` uses.

use std::cmp::Ordering;

/// Compares runs of digits as numbers and everything else as text; a prefix comes first.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (chunk_a, rest_a) = split_chunk(left);
        let (chunk_b, rest_b) = split_chunk(right);
        let order = match (chunk_a.parse::<i64>(), chunk_b.parse::<i64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => chunk_a.cmp(chunk_b),
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (rest_a, rest_b);
    }
    left.len().cmp(&right.len())
}

/// The leading run of digits or of anything else, and the rest.
fn split_chunk(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_count_as_numbers() {
        let mut values = ["b10", "b2", "a", "b", "b2c", "10", "9"];
        values.sort_by(|a, b| compare(a, b));
        assert_eq!(values, ["9", "10", "a", "b", "b2", "b2c", "b10"]);
    }
}
