//! Sorting that can be interrupted: a million label sets take longer to sort than a query has to end.

use std::cmp::Ordering;

use super::Context;
use crate::engine::QueryError;

/// As many elements are sorted without a look at the interrupt.
const RUN: usize = 1 << 12;

/// Sorts stably: short runs first, which are then merged.
///
/// # Errors
/// If the query was interrupted.
pub(crate) fn sort_by<T>(
    items: Vec<T>,
    context: &Context<'_>,
    order: impl Fn(&T, &T) -> Ordering,
) -> Result<Vec<T>, QueryError> {
    let mut runs: Vec<Vec<T>> = Vec::with_capacity(items.len().div_ceil(RUN));
    let mut rest = items.into_iter();
    loop {
        context.spend(RUN)?;
        let mut run: Vec<T> = rest.by_ref().take(RUN).collect();
        if run.is_empty() {
            break;
        }
        run.sort_by(&order);
        runs.push(run);
    }
    while runs.len() > 1 {
        let mut merged = Vec::with_capacity(runs.len().div_ceil(2));
        let mut pairs = runs.into_iter();
        while let Some(left) = pairs.next() {
            merged.push(match pairs.next() {
                Some(right) => merge(left, right, context, &order)?,
                None => left,
            });
        }
        runs = merged;
    }
    Ok(runs.pop().unwrap_or_default())
}

/// Equal elements of `left` come before those of `right`.
fn merge<T>(
    left: Vec<T>,
    right: Vec<T>,
    context: &Context<'_>,
    order: impl Fn(&T, &T) -> Ordering,
) -> Result<Vec<T>, QueryError> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        context.spend(1)?;
        let takes_left = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => order(a, b) != Ordering::Greater,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return Ok(merged),
        };
        merged.extend(if takes_left { left.next() } else { right.next() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineOptions, Interrupt};
    use crate::exec::analyze::SampleCounts;

    #[test]
    fn long_lists_are_sorted_stably() {
        let (options, interrupt) = (EngineOptions::default(), Interrupt::none());
        let context = Context::new(&options, &interrupt, SampleCounts::default());
        for length in [0, 1, RUN - 1, RUN, RUN + 1, 3 * RUN + 7] {
            let items: Vec<(usize, usize)> = (0..length).map(|at| (at * 7919 % 101, at)).collect();
            let mut wanted = items.clone();
            wanted.sort_by_key(|(key, _)| *key);
            let sorted = sort_by(items, &context, |a, b| a.0.cmp(&b.0)).unwrap();
            assert_eq!(sorted, wanted, "{length}");
        }
    }
}
