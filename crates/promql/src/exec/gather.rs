//! Operators that need all rows of their inputs before they can give any.

use parallax_model::Labels;

use super::row::Row;
use super::{Batch, Bitmap, BoxedOperator, Context, Operator, drain};
use crate::engine::QueryError;

/// What makes rows of all rows of all inputs, in the order of the inputs.
pub(crate) type GatherFunction = Box<dyn FnOnce(Vec<Vec<Row>>, &Context<'_>) -> Result<Vec<Row>, QueryError>>;

/// Reads all inputs, one after the other, and hands on one batch.
pub(crate) struct Gather {
    inputs: Vec<BoxedOperator>,
    function: Option<GatherFunction>,
}

impl Gather {
    pub fn new(inputs: Vec<BoxedOperator>, function: GatherFunction) -> Self {
        Self { inputs, function: Some(function) }
    }
}

impl Operator for Gather {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        let Some(function) = self.function.take() else { return Ok(None) };
        let mut sides = Vec::with_capacity(self.inputs.len());
        for input in &mut self.inputs {
            sides.push(drain(input.as_mut(), context)?);
        }
        let rows = function(sides, context)?;
        let charged = |row: Row| row.charged(&context.budget);
        rows.into_iter().filter(|row| !row.is_empty()).map(charged).collect::<Result<Batch, _>>().map(Some)
    }
}

/// `absent`: 1 at the steps where no row has a sample.
///
/// # Errors
/// If the query was interrupted.
pub(crate) fn absent(
    rows: &[Row],
    labels: Labels,
    steps: usize,
    context: &Context<'_>,
) -> Result<Row, QueryError> {
    let mut missing = Bitmap::full(steps);
    for row in rows {
        context.spend(row.steps())?;
        missing.subtract(&row.occupied());
    }
    let mut row = Row::empty(labels, steps);
    row.floats.fill(1.0);
    row.present = missing;
    Ok(row)
}
