//! Operators without rows beneath them: scalars, and what is the same at every step.

use super::row::Row;
use super::{Batch, Bitmap, BoxedOperator, Context, Operator, scalar_values};
use crate::engine::QueryError;

/// A scalar known while planning: a number, `pi()`, `time()`.
pub(crate) struct Values(Option<Vec<f64>>);

impl Values {
    pub fn new(values: Vec<f64>) -> Self {
        Self(Some(values))
    }
}

impl Operator for Values {
    fn next_batch(&mut self, _context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        Ok(self.0.take().map(|values| vec![Row::scalar(values)]))
    }
}

/// Repeats the only step of rows that do not depend on the step.
pub(crate) struct Broadcast {
    pub input: BoxedOperator,
    pub steps: usize,
}

impl Operator for Broadcast {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        let Some(batch) = self.input.next_batch(context)? else { return Ok(None) };
        let repeat = |row: Row| {
            context.spend(self.steps)?;
            let mut repeated = Row::empty(row.labels.clone(), self.steps);
            repeated.drop_name = row.drop_name;
            if let Some(value) = row.float(0) {
                repeated.floats.fill(value);
                repeated.present = Bitmap::full(self.steps);
            } else if let Some(histogram) = row.histogram(0) {
                repeated.histograms = (0..self.steps).map(|step| (step, histogram.clone())).collect();
            }
            repeated.charged(&context.budget)
        };
        batch.into_iter().map(repeat).collect::<Result<Batch, _>>().map(Some)
    }

    fn keeps_prefixes_together(&self) -> bool {
        self.input.keeps_prefixes_together()
    }
}

/// A scalar argument, evaluated when it is first needed.
pub(crate) struct LazyScalar {
    operator: BoxedOperator,
    values: Option<Vec<f64>>,
}

impl LazyScalar {
    pub fn new(operator: BoxedOperator) -> Self {
        Self { operator, values: None }
    }

    /// One value per step.
    pub fn values(&mut self, context: &Context<'_>) -> Result<&[f64], QueryError> {
        if self.values.is_none() {
            self.values = Some(scalar_values(self.operator.as_mut(), context)?);
        }
        Ok(self.values.as_deref().unwrap_or(&[]))
    }
}
