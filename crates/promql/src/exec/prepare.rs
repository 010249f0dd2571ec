//! What is done to a series where it is decoded, while its samples are at hand: the engine then gets a row of steps, not the samples.
//!
//! Only for series of floats, and for what needs nothing of the query but its steps: no arguments, no annotations. Everything else
//! passes as it is, and its operator evaluates it. The outcome is the same either way.

use std::borrow::Cow;

use parallax_model::{FloatColumn, Labels, SeriesData};

use super::meter::Meter;
use super::range::live_floats;
use super::row::Steps;
use super::selector::Lookback;
use super::windows::Windows;
use crate::engine::{Interrupt, QueryError};
use crate::functions::floats;
use crate::source::{Delivered, SourceError};

/// Work that a source does on each series that it hands over. Equal ones do the same.
#[derive(Clone, Debug)]
pub struct Preparation {
    kernel: Kernel,
    interrupt: Interrupt,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kernel {
    /// A range function.
    Windows(Windows),
    /// An instant selector.
    Lookback(Lookback),
}

/// A series of which only the values at the steps of the query are left.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub labels: Labels,
    pub(crate) steps: Steps,
    /// Samples that were looked at, once for every step.
    pub(crate) looked_at: usize,
}

impl Prepared {
    /// How many steps have a value.
    pub fn len(&self) -> usize {
        self.steps.present.count()
    }

    pub fn is_empty(&self) -> bool {
        !self.steps.present.any()
    }
}

impl PartialEq for Preparation {
    fn eq(&self, other: &Self) -> bool {
        self.kernel == other.kernel
    }
}

impl Preparation {
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self { kernel, interrupt: Interrupt::none() }
    }

    /// Ends with the query that `interrupt` ends.
    pub(crate) fn set_interrupt(&mut self, interrupt: &Interrupt) {
        self.interrupt = interrupt.clone();
    }

    /// The series over the steps of the query, and the column that is of no more use to `leave`; or the series as it is if that is its operator's affair.
    ///
    /// # Errors
    /// If the query was canceled, or its deadline has passed.
    pub fn apply_and_leave(
        &self,
        series: SeriesData,
        leave: impl FnOnce(FloatColumn),
    ) -> Result<Delivered, SourceError> {
        if !series.histograms.is_empty() {
            return Ok(Delivered::Samples(series));
        }
        let SeriesData { labels, floats, .. } = series;
        let outcome = self.evaluate(labels, &floats);
        leave(floats);
        outcome.map(Delivered::Steps).map_err(|error| match error {
            QueryError::Timeout { waiting_for } => SourceError::Timeout { waiting_for },
            _ => SourceError::Canceled,
        })
    }

    fn evaluate(&self, labels: Labels, floats: &FloatColumn) -> Result<Prepared, QueryError> {
        let meter = Meter::new(&self.interrupt);
        match self.kernel {
            Kernel::Windows(windows) => {
                // What rises has no staleness marker, which is NaN.
                let rises = floats::rises(&floats.values);
                let (times_ms, values) = match rises {
                    true => (Cow::from(&floats.timestamps_ms), Cow::from(&floats.values)),
                    false => live_floats(floats),
                };
                let mut steps = Steps::empty(windows.grid.steps);
                meter.spend(windows.grid.steps + values.len())?;
                let slide = floats::FloatSlide {
                    windows,
                    times_ms: &times_ms,
                    values: &values,
                    rises,
                    meter: &meter,
                };
                let looked_at = match floats::extrapolate_risen(&slide, &mut steps.as_mut()) {
                    Some(looked_at) => looked_at,
                    None => {
                        let bounds = windows.bounds(&times_ms, 0, 0);
                        floats::without_arguments(&slide, &bounds, &mut steps.as_mut());
                        bounds.iter().map(|(lo, hi)| hi - lo).sum()
                    }
                };
                meter.stopped()?;
                Ok(Prepared { labels, steps, looked_at })
            }
            Kernel::Lookback(lookback) => {
                let mut steps = Steps::empty(lookback.grid.steps);
                meter.spend(lookback.grid.steps + floats.len())?;
                lookback.look_up(floats, &mut steps.as_mut());
                let looked_at = steps.present.count();
                Ok(Prepared { labels, steps, looked_at })
            }
        }
    }
}
