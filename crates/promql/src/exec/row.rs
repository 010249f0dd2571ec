//! Rows: one series over all steps of a query, the unit that operators hand on.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use parallax_model::{FloatHistogram, Labels, METRIC_NAME};

use super::bitmap::{Bitmap, WORD_BITS};
use crate::engine::QueryError;
use crate::value::Sample;

/// The steps an expression is evaluated at: `start_ms`, `start_ms + step_ms`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub start_ms: i64,
    /// Positive, whatever the number of steps.
    pub step_ms: i64,
    pub steps: usize,
}

impl Grid {
    /// All multiples of the step from `start_ms` that are not after `end_ms`.
    pub fn new(start_ms: i64, end_ms: i64, step_ms: i64) -> Self {
        let step_ms = step_ms.max(1);
        let span_ms = end_ms.saturating_sub(start_ms);
        let steps = if span_ms < 0 { 0 } else { span_ms / step_ms + 1 };
        Self { start_ms, step_ms, steps: usize::try_from(steps).unwrap_or(usize::MAX) }
    }

    pub fn time_ms(&self, step: usize) -> i64 {
        self.start_ms.saturating_add(self.step_ms.saturating_mul(step as i64))
    }

    /// Only the first step.
    pub fn first_step(&self) -> Self {
        Self { steps: self.steps.min(1), ..*self }
    }
}

/// Counts the samples a query holds.
#[derive(Debug)]
pub(crate) struct Budget {
    held: Cell<usize>,
    peak: Cell<usize>,
    limit: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { held: Cell::new(0), peak: Cell::new(0), limit })
    }

    pub fn peak(&self) -> usize {
        self.peak.get()
    }

    /// Samples held until the charge is dropped.
    ///
    /// # Errors
    /// If the query would then hold more than it may.
    pub fn charge(self: &Rc<Self>, samples: usize) -> Result<Charge, QueryError> {
        let held = self.held.get().saturating_add(samples);
        if held > self.limit {
            return Err(QueryError::TooManySamples);
        }
        self.held.set(held);
        self.peak.set(self.peak.get().max(held));
        Ok(Charge { budget: Some(self.clone()), samples })
    }
}

/// Samples that count against a budget for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    budget: Option<Rc<Budget>>,
    samples: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.held.set(budget.held.get().saturating_sub(self.samples));
        }
    }
}

/// Floats over the steps of a query: one where `present` says so.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    pub floats: Vec<f64>,
    pub present: Bitmap,
}

/// The same, to be filled.
pub(crate) struct StepsMut<'a> {
    floats: &'a mut [f64],
    present: &'a mut Bitmap,
}

impl Steps {
    pub fn empty(steps: usize) -> Self {
        Self { floats: vec![0.0; steps], present: Bitmap::empty(steps) }
    }

    pub fn as_mut(&mut self) -> StepsMut<'_> {
        StepsMut { floats: &mut self.floats, present: &mut self.present }
    }
}

impl StepsMut<'_> {
    /// Asks for the float of each step, in order. What was there is gone.
    #[inline]
    pub fn fill(&mut self, mut float: impl FnMut(usize) -> Option<f64>) {
        let mut step = 0;
        for (floats, word) in self.floats.chunks_mut(WORD_BITS).zip(self.present.words_mut()) {
            let mut present = 0;
            for (bit, slot) in floats.iter_mut().enumerate() {
                if let Some(value) = float(step) {
                    *slot = value;
                    present |= 1 << bit;
                }
                step += 1;
            }
            *word = present;
        }
    }

    #[inline]
    pub fn set_float(&mut self, step: usize, value: f64) {
        if let Some(slot) = self.floats.get_mut(step) {
            *slot = value;
            self.present.set(step);
        }
    }
}

/// One series over all steps: a float where `present` says so, a histogram where `histograms` has one (sorted
/// by step), nothing elsewhere. No step has both.
#[derive(Debug)]
pub(crate) struct Row {
    pub labels: Labels,
    /// With delayed name removal: the metric's name goes at the end of the query.
    pub drop_name: bool,
    pub present: Bitmap,
    /// As long as there are steps.
    pub floats: Vec<f64>,
    pub histograms: Vec<(usize, Arc<FloatHistogram>)>,
    pub charge: Charge,
}

impl Row {
    pub fn empty(labels: Labels, steps: usize) -> Self {
        Self {
            labels,
            drop_name: false,
            present: Bitmap::empty(steps),
            floats: vec![0.0; steps],
            histograms: Vec::new(),
            charge: Charge::default(),
        }
    }

    /// A row without labels that has a float at every step: what a scalar is.
    pub fn scalar(floats: Vec<f64>) -> Self {
        let present = Bitmap::full(floats.len());
        Self { present, floats, ..Self::empty(Labels::empty(), 0) }
    }

    /// A row of floats that are there already.
    pub fn of_steps(labels: Labels, steps: Steps) -> Self {
        let Steps { floats, present } = steps;
        let (histograms, charge) = (Vec::new(), Charge::default());
        Self { labels, drop_name: false, present, floats, histograms, charge }
    }

    /// Its floats, to be filled.
    pub fn steps_mut(&mut self) -> StepsMut<'_> {
        StepsMut { floats: &mut self.floats, present: &mut self.present }
    }

    pub fn steps(&self) -> usize {
        self.floats.len()
    }

    pub fn is_empty(&self) -> bool {
        self.histograms.is_empty() && !self.present.any()
    }

    /// Samples at all steps, histograms by their weight.
    pub fn weight(&self) -> usize {
        self.present.count() + self.histograms.iter().map(|(_, h)| h.sample_weight()).sum::<usize>()
    }

    /// Lets the row count against the budget with what it holds now.
    pub fn charged(mut self, budget: &Rc<Budget>) -> Result<Self, QueryError> {
        self.charge = Charge::default();
        self.charge = budget.charge(self.weight())?;
        Ok(self)
    }

    pub fn set_float(&mut self, step: usize, value: f64) {
        self.steps_mut().set_float(step, value);
    }

    /// Steps must come in ascending order.
    pub fn push_sample(&mut self, step: usize, sample: Sample) {
        match sample {
            Sample::Float(value) => self.set_float(step, value),
            Sample::Histogram(histogram) => self.histograms.push((step, histogram)),
        }
    }

    pub fn float(&self, step: usize) -> Option<f64> {
        self.present.get(step).then(|| self.floats.get(step).copied()).flatten()
    }

    pub fn histogram(&self, step: usize) -> Option<&Arc<FloatHistogram>> {
        if self.histograms.is_empty() {
            return None;
        }
        let at = self.histograms.binary_search_by_key(&step, |(step, _)| *step).ok()?;
        self.histograms.get(at).map(|(_, histogram)| histogram)
    }

    pub fn sample(&self, step: usize) -> Option<Sample> {
        match self.float(step) {
            Some(value) => Some(Sample::Float(value)),
            None => self.histogram(step).map(|histogram| Sample::Histogram(histogram.clone())),
        }
    }

    /// The steps that have a float or a histogram.
    pub fn occupied(&self) -> Bitmap {
        let mut steps = self.present.clone();
        self.histograms.iter().for_each(|(step, _)| steps.set(*step));
        steps
    }

    /// Only the samples at `steps`.
    pub fn keep(&mut self, steps: &Bitmap) {
        self.present.intersect_with(steps);
        self.histograms.retain(|(step, _)| steps.get(*step));
    }

    /// Without the samples at `steps`.
    pub fn remove(&mut self, steps: &Bitmap) {
        self.present.subtract(steps);
        self.histograms.retain(|(step, _)| !steps.get(*step));
    }

    /// Changes every float; what is at absent steps does not matter.
    pub fn map_floats(&mut self, change: impl Fn(f64) -> f64) {
        self.floats.iter_mut().for_each(|value| *value = change(*value));
    }

    /// The same labels and samples, under its own charge.
    pub fn duplicate(&self) -> Self {
        Self {
            labels: self.labels.clone(),
            drop_name: self.drop_name,
            present: self.present.clone(),
            floats: self.floats.clone(),
            histograms: self.histograms.clone(),
            charge: Charge::default(),
        }
    }

    /// Takes in the samples of `other`. False, and nothing done, if both have one at the same step.
    pub fn absorb(&mut self, other: &Row) -> bool {
        let (mine, theirs) = (self.occupied(), other.occupied());
        if mine.first_common(&theirs).is_some() {
            return false;
        }
        for step in other.present.ones() {
            self.set_float(step, other.floats.get(step).copied().unwrap_or_default());
        }
        self.histograms.extend(other.histograms.iter().cloned());
        self.histograms.sort_by_key(|(step, _)| *step);
        true
    }
}

/// The labels that say what a metric is; they go when a value no longer is that metric's.
pub(crate) const METADATA_LABELS: [&str; 3] = [METRIC_NAME, "__type__", "__unit__"];

/// `labels` without name, type and unit.
pub(crate) fn without_metadata(labels: &Labels) -> Labels {
    labels.without(&METADATA_LABELS)
}
