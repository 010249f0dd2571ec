//! Operators: pulled from the top of a plan, each hands on batches of rows.
//!
//! A row is one series over all steps. An operator keeps no more than it needs: selectors, range functions,
//! maps and folds pass batches through; only what needs a whole side (`gather`) holds it.

pub(crate) mod aggregate;
pub(crate) mod analyze;
pub(crate) mod binary;
pub(crate) mod bitmap;
pub(crate) mod gather;
pub(crate) mod histogram_call;
pub(crate) mod histogram_stats;
pub(crate) mod info;
pub(crate) mod leaf;
pub(crate) mod map;
pub(crate) mod meter;
pub(crate) mod prepare;
pub(crate) mod pushed;
pub(crate) mod range;
pub(crate) mod row;
pub(crate) mod selector;
pub(crate) mod set;
pub(crate) mod sort;
pub(crate) mod stream;
pub(crate) mod topk;
pub(crate) mod windows;

use std::cell::RefCell;
use std::rc::Rc;

use crate::annotations::Annotations;
use crate::engine::{EngineOptions, Interrupt, QueryError};
use crate::source::Source;
use analyze::SampleCounts;
use meter::Meter;
use row::{Budget, Row};

pub(crate) use bitmap::Bitmap;

pub(crate) use row::Grid;

/// The rows of one batch.
pub(crate) type Batch = Vec<Row>;

/// What all operators of one query share.
pub(crate) struct Context<'q> {
    pub options: &'q EngineOptions,
    pub interrupt: &'q Interrupt,
    pub budget: Rc<Budget>,
    pub annotations: RefCell<Annotations>,
    /// Samples looked at so far.
    pub samples: SampleCounts,
    pub meter: Meter<'q>,
    /// For selections that are only opened if they are read.
    pub source: Option<&'q dyn Source>,
}

impl<'q> Context<'q> {
    pub fn new(options: &'q EngineOptions, interrupt: &'q Interrupt, samples: SampleCounts) -> Self {
        Self {
            options,
            interrupt,
            budget: Budget::new(options.max_samples),
            annotations: RefCell::default(),
            samples,
            meter: Meter::new(interrupt),
            source: None,
        }
    }

    pub fn with_source(self, source: &'q dyn Source) -> Self {
        Self { source: Some(source), ..self }
    }

    /// See [`Meter::spend`].
    ///
    /// # Errors
    /// If the query was interrupted.
    pub fn spend(&self, work: usize) -> Result<(), QueryError> {
        self.meter.spend(work)
    }

    /// # Errors
    /// If [`Context::spend`] has found the query interrupted.
    pub fn stopped(&self) -> Result<(), QueryError> {
        self.meter.stopped()
    }

    pub fn annotate(&self, note: impl FnOnce(&mut Annotations)) {
        note(&mut self.annotations.borrow_mut());
    }

    pub fn source_warnings(&self, warnings: Vec<String>) {
        self.annotate(|annotations| warnings.into_iter().for_each(|w| annotations.source_warning(w)));
    }
}

/// A node of a running plan.
pub(crate) trait Operator {
    /// The next rows, none of them empty; `None` at the end, and ever after. A batch may be empty.
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError>;

    /// Whether rows that begin with the same labels come together: after them, once one has come that begins otherwise, no more do. That is known of the rows handed on so far, and
    /// holds for them and all that are still to come.
    fn keeps_prefixes_together(&self) -> bool {
        false
    }
}

pub(crate) type BoxedOperator = Box<dyn Operator>;

/// All rows an operator has left.
pub(crate) fn drain(operator: &mut dyn Operator, context: &Context<'_>) -> Result<Vec<Row>, QueryError> {
    let mut rows = Vec::new();
    while let Some(batch) = operator.next_batch(context)? {
        context.interrupt.check()?;
        rows.extend(batch);
    }
    Ok(rows)
}

/// The values of a scalar expression, one per step.
pub(crate) fn scalar_values(
    operator: &mut dyn Operator,
    context: &Context<'_>,
) -> Result<Vec<f64>, QueryError> {
    Ok(drain(operator, context)?.into_iter().next().map(|row| row.floats).unwrap_or_default())
}

/// The error Prometheus gives when a result would hold one series twice.
pub(crate) fn duplicate_series() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".to_owned())
}
