//! Operators: pulled from the top of a plan, each hands on batches of rows.
//!
//! A row is one series over all steps. An operator keeps no more than it needs: selectors, range functions,
//! maps and folds pass batches through; only what needs a whole side (`gather`) holds it.

pub(crate) mod aggregate;
pub(crate) mod analyze;
pub(crate) mod binary;
pub(crate) mod bitmap;
pub(crate) mod gather;
pub(crate) mod histogram_stats;
pub(crate) mod info;
pub(crate) mod leaf;
pub(crate) mod map;
pub(crate) mod range;
pub(crate) mod row;
pub(crate) mod selector;
pub(crate) mod set;
pub(crate) mod sort;
pub(crate) mod stream;
pub(crate) mod topk;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::annotations::Annotations;
use crate::engine::{EngineOptions, Interrupt, QueryError};
use analyze::SampleCounts;
use row::{Budget, Row};

pub(crate) use bitmap::Bitmap;
pub(crate) use row::Grid;

/// The rows of one batch.
pub(crate) type Batch = Vec<Row>;

/// How many samples are handled between two looks at the interrupt. The dearest (a histogram, a text made of a value) takes less
/// than a microsecond, so this is far below the tenth of a second in which a query has to end.
pub(crate) const WORK_PER_CHECK: usize = 1 << 14;

/// What all operators of one query share.
pub(crate) struct Context<'q> {
    pub options: &'q EngineOptions,
    pub interrupt: &'q Interrupt,
    pub budget: Rc<Budget>,
    pub annotations: RefCell<Annotations>,
    /// Samples looked at so far.
    pub samples: SampleCounts,
    /// Work done since the last look at the interrupt.
    unchecked: AtomicUsize,
    /// Whether such a look found the query interrupted.
    stopped: AtomicBool,
}

impl<'q> Context<'q> {
    pub fn new(options: &'q EngineOptions, interrupt: &'q Interrupt, samples: SampleCounts) -> Self {
        Self {
            options,
            interrupt,
            budget: Budget::new(options.max_samples),
            annotations: RefCell::default(),
            samples,
            unchecked: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Notes that so many samples, or as much work as they are, are about to be handled. Whatever loops over rows calls it, so that
    /// an interrupted query ends after at most [`WORK_PER_CHECK`] of them.
    ///
    /// # Errors
    /// If the query was interrupted.
    pub fn spend(&self, work: usize) -> Result<(), QueryError> {
        let unchecked = self.unchecked.load(Ordering::Relaxed).saturating_add(work).saturating_add(1);
        if unchecked < WORK_PER_CHECK {
            self.unchecked.store(unchecked, Ordering::Relaxed);
            return Ok(());
        }
        self.unchecked.store(0, Ordering::Relaxed);
        self.interrupt.check().inspect_err(|_| self.stopped.store(true, Ordering::Relaxed))
    }

    /// # Errors
    /// If [`Context::spend`] has found the query interrupted.
    pub fn stopped(&self) -> Result<(), QueryError> {
        if self.stopped.load(Ordering::Relaxed) { self.interrupt.check() } else { Ok(()) }
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
