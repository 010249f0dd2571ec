//! Walking decoded samples in order of time: what both merge algorithms stand on.
//!
//! A [`Side`] stands on a sample, or past its last one. It only goes forward.

use std::sync::Arc;

use parallax_model::{FloatHistogram, TimeRange};

use crate::Samples;

/// What a side stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Float,
    Histogram,
    /// Past the last sample; there is no time and no value.
    End,
}

pub(crate) trait Side {
    fn kind(&self) -> Kind;

    /// Of the current sample.
    fn time_ms(&self) -> i64;

    /// Of the current sample, if it is a float; otherwise meaningless.
    fn float(&self) -> f64;

    /// Of the current sample, if it is a histogram.
    fn histogram(&self) -> Option<&Arc<FloatHistogram>>;

    /// Goes to the first sample at or after `time_ms`, which may be the current one.
    fn seek(&mut self, time_ms: i64) -> Kind;

    /// Lifts all floats from here on by what the current one falls short of `last`.
    fn raise_to(&mut self, last: f64);
}

impl<S: Side + ?Sized> Side for Box<S> {
    fn kind(&self) -> Kind {
        (**self).kind()
    }

    fn time_ms(&self) -> i64 {
        (**self).time_ms()
    }

    fn float(&self) -> f64 {
        (**self).float()
    }

    fn histogram(&self) -> Option<&Arc<FloatHistogram>> {
        (**self).histogram()
    }

    fn seek(&mut self, time_ms: i64) -> Kind {
        (**self).seek(time_ms)
    }

    fn raise_to(&mut self, last: f64) {
        (**self).raise_to(last);
    }
}

/// How much a replica's floats are lifted; a type, so that gauges pay nothing.
pub(crate) trait Lift: Default {
    fn apply(&self, value: f64) -> f64;
    fn add(&mut self, amount: f64);
    /// Whether values stay as they are.
    fn is_none(&self) -> bool;
}

/// For everything that is not a counter.
#[derive(Default)]
pub(crate) struct NoLift;

impl Lift for NoLift {
    fn apply(&self, value: f64) -> f64 {
        value
    }

    fn add(&mut self, _amount: f64) {}

    fn is_none(&self) -> bool {
        true
    }
}

/// For counters.
#[derive(Default)]
pub(crate) struct CounterLift(f64);

impl Lift for CounterLift {
    fn apply(&self, value: f64) -> f64 {
        value + self.0
    }

    fn add(&mut self, amount: f64) {
        self.0 += amount;
    }

    fn is_none(&self) -> bool {
        self.0 == 0.0
    }
}

pub(crate) fn raise<L: Lift>(lift: &mut L, current: f64, last: f64) {
    if last > current {
        lift.add(last - current);
    }
}

/// One replica whose floats and histograms take turns.
pub(crate) struct MixedCursor<'a, L> {
    samples: &'a Samples,
    float_at: usize,
    histogram_at: usize,
    lift: L,
}

impl<'a, L: Lift> MixedCursor<'a, L> {
    pub(crate) fn new(samples: &'a Samples) -> Self {
        Self { samples, float_at: 0, histogram_at: 0, lift: L::default() }
    }

    fn times_ms(&self) -> (Option<i64>, Option<i64>) {
        (
            self.samples.floats.timestamps_ms.get(self.float_at).copied(),
            self.samples.histograms.timestamps_ms.get(self.histogram_at).copied(),
        )
    }

    pub(crate) fn advance(&mut self) -> Kind {
        match self.kind() {
            Kind::Float => self.float_at += 1,
            Kind::Histogram => self.histogram_at += 1,
            Kind::End => {}
        }
        self.kind()
    }
}

impl<L: Lift> Side for MixedCursor<'_, L> {
    fn kind(&self) -> Kind {
        match self.times_ms() {
            (Some(float), Some(histogram)) if histogram < float => Kind::Histogram,
            (Some(_), _) => Kind::Float,
            (None, Some(_)) => Kind::Histogram,
            (None, None) => Kind::End,
        }
    }

    fn time_ms(&self) -> i64 {
        match self.times_ms() {
            (Some(float), Some(histogram)) => float.min(histogram),
            (Some(time_ms), None) | (None, Some(time_ms)) => time_ms,
            (None, None) => i64::MAX,
        }
    }

    fn float(&self) -> f64 {
        self.lift.apply(self.samples.floats.values.get(self.float_at).copied().unwrap_or_default())
    }

    fn histogram(&self) -> Option<&Arc<FloatHistogram>> {
        self.samples.histograms.values.get(self.histogram_at)
    }

    fn seek(&mut self, time_ms: i64) -> Kind {
        while self.samples.floats.timestamps_ms.get(self.float_at).is_some_and(|t| *t < time_ms) {
            self.float_at += 1;
        }
        while self.samples.histograms.timestamps_ms.get(self.histogram_at).is_some_and(|t| *t < time_ms) {
            self.histogram_at += 1;
        }
        self.kind()
    }

    fn raise_to(&mut self, last: f64) {
        let current = self.float();
        raise(&mut self.lift, current, last);
    }
}

/// Adds what `side` stands on to `output`, if it lies in `range`; false once the range is passed.
pub(crate) fn emit<S: Side + ?Sized>(side: &S, range: TimeRange, output: &mut Samples) -> bool {
    let time_ms = side.time_ms();
    if time_ms > range.max_ms {
        return false;
    }
    if time_ms >= range.min_ms {
        match side.kind() {
            Kind::Float => output.floats.push(time_ms, side.float()),
            Kind::Histogram => {
                if let Some(histogram) = side.histogram() {
                    output.histograms.push(time_ms, histogram.clone());
                }
            }
            Kind::End => return false,
        }
    }
    true
}
