//! Operators that change rows one by one.

use std::collections::HashMap;

use parallax_model::Labels;

use super::row::{Row, without_metadata};
use super::{Batch, BoxedOperator, Context, Operator, drain, duplicate_series};
use crate::engine::QueryError;

pub(crate) type RowFunction = Box<dyn FnMut(Row, &Context<'_>) -> Result<Option<Row>, QueryError>>;

/// Applies a function to every row.
pub(crate) struct Map {
    pub input: BoxedOperator,
    pub function: RowFunction,
    /// Rows may come out with equal labels and must become one: that takes all of them.
    pub merge: bool,
}

impl Operator for Map {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        if !self.merge {
            let Some(batch) = self.input.next_batch(context)? else { return Ok(None) };
            return self.apply(batch, context).map(Some);
        }
        let rows = drain(self.input.as_mut(), context)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let rows = self.apply(rows, context)?;
        merge_rows(rows, context).map(Some)
    }
}

impl Map {
    fn apply(&mut self, rows: Vec<Row>, context: &Context<'_>) -> Result<Batch, QueryError> {
        let mut changed = Vec::with_capacity(rows.len());
        for row in rows {
            context.spend(row.steps())?;
            if let Some(row) = (self.function)(row, context)?
                && !row.is_empty()
            {
                changed.push(row);
            }
        }
        Ok(changed)
    }
}

/// Takes the metric's name off a row, now or at the end of the query.
pub(crate) fn drop_name(row: &mut Row, context: &Context<'_>) {
    if !context.options.delayed_name_removal {
        row.labels = without_metadata(&row.labels);
    }
    row.drop_name = true;
}

/// Makes one row of those with equal labels, in the place of the first.
///
/// # Errors
/// If two of them have a sample at the same step, or the query was interrupted.
pub(crate) fn merge_rows(rows: Vec<Row>, context: &Context<'_>) -> Result<Vec<Row>, QueryError> {
    let mut by_labels: HashMap<Labels, usize> = HashMap::with_capacity(rows.len());
    let mut merged: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        context.spend(row.steps())?;
        match by_labels.get(&row.labels).and_then(|at| merged.get_mut(*at)) {
            Some(first) => {
                if !first.absorb(&row) {
                    return Err(duplicate_series());
                }
            }
            None => {
                by_labels.insert(row.labels.clone(), merged.len());
                merged.push(row);
            }
        }
    }
    Ok(merged)
}
