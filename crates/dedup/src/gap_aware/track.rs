//! One replica as the gap-aware algorithm walks it: floats that are decoded as they are wanted, or samples of both kinds that are all there.
//!
//! Positions count the samples of either kind together, in order of time. What is decoded stays where it is; more only comes behind it.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, FloatHistogram};

use crate::Samples;
use crate::follow::FloatFeed;

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

pub(super) trait Track {
    type Error;

    /// Of all that is decoded, strictly increasing.
    fn times_ms(&self) -> &[i64];

    /// As [`FloatFeed::decode_more`].
    fn decode_more(&mut self, from_ms: i64) -> Result<bool, Self::Error>;

    fn value(&self, at: usize) -> Option<Value<'_>>;

    /// Whether the sample is a staleness marker.
    fn is_marker(&self, at: usize) -> bool;

    /// Appends the samples at `positions` to `output`.
    fn copy(&self, positions: Range<usize>, output: &mut Samples);

    /// About how many samples there will be.
    fn expected(&self) -> usize;

    /// The samples at `positions`.
    fn into_samples(self, positions: Range<usize>) -> Samples;
}

/// A replica of floats.
pub(super) struct FloatTrack<F>(pub F);

impl<F: FloatFeed> Track for FloatTrack<F> {
    type Error = F::Error;

    fn times_ms(&self) -> &[i64] {
        &self.0.decoded().timestamps_ms
    }

    fn decode_more(&mut self, from_ms: i64) -> Result<bool, F::Error> {
        self.0.decode_more(from_ms)
    }

    fn value(&self, at: usize) -> Option<Value<'_>> {
        self.0.decoded().values.get(at).copied().map(Value::Float)
    }

    fn is_marker(&self, at: usize) -> bool {
        self.0.decoded().values.get(at).is_some_and(|value| is_stale(*value))
    }

    fn copy(&self, positions: Range<usize>, output: &mut Samples) {
        let FloatColumn { timestamps_ms, values } = self.0.decoded();
        let floats = &mut output.floats;
        if floats.is_empty() {
            let expected = self.expected();
            floats.timestamps_ms.reserve(expected);
            floats.values.reserve(expected);
        }
        floats.timestamps_ms.extend_from_slice(timestamps_ms.get(positions.clone()).unwrap_or_default());
        floats.values.extend_from_slice(values.get(positions).unwrap_or_default());
    }

    fn expected(&self) -> usize {
        self.0.expected()
    }

    fn into_samples(self, positions: Range<usize>) -> Samples {
        let mut floats = self.0.into_decoded();
        floats.timestamps_ms.truncate(positions.end);
        floats.values.truncate(positions.end);
        floats.timestamps_ms.drain(..positions.start.min(floats.timestamps_ms.len()));
        floats.values.drain(..positions.start.min(floats.values.len()));
        Samples { floats, ..Samples::default() }
    }
}

/// A replica that may have floats and histograms.
pub(super) struct MixedTrack<'a> {
    samples: &'a Samples,
    times_ms: Vec<i64>,
    places: Vec<Place>,
}

/// Where in its column a sample stands.
#[derive(Clone, Copy)]
enum Place {
    Float(usize),
    Histogram(usize),
}

impl<'a> MixedTrack<'a> {
    pub(super) fn new(samples: &'a Samples) -> Self {
        let (floats, histograms) = (&samples.floats.timestamps_ms, &samples.histograms.timestamps_ms);
        let mut times_ms = Vec::with_capacity(samples.len());
        let mut places = Vec::with_capacity(samples.len());
        let (mut float, mut histogram) = (0, 0);
        loop {
            let next = (floats.get(float).copied(), histograms.get(histogram).copied());
            let (time_ms, place) = match next {
                (Some(float_ms), other) if other.is_none_or(|other_ms| float_ms <= other_ms) => {
                    float += 1;
                    (float_ms, Place::Float(float - 1))
                }
                (_, Some(histogram_ms)) => {
                    histogram += 1;
                    (histogram_ms, Place::Histogram(histogram - 1))
                }
                (_, None) => break,
            };
            // Of two kinds at one time, the float.
            if times_ms.last() != Some(&time_ms) {
                times_ms.push(time_ms);
                places.push(place);
            }
        }
        Self { samples, times_ms, places }
    }
}

impl Track for MixedTrack<'_> {
    type Error = Infallible;

    fn times_ms(&self) -> &[i64] {
        &self.times_ms
    }

    fn decode_more(&mut self, _from_ms: i64) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn value(&self, at: usize) -> Option<Value<'_>> {
        match self.places.get(at)? {
            Place::Float(at) => self.samples.floats.values.get(*at).copied().map(Value::Float),
            Place::Histogram(at) => self.samples.histograms.values.get(*at).map(Value::Histogram),
        }
    }

    fn is_marker(&self, at: usize) -> bool {
        match self.value(at) {
            Some(Value::Float(value)) => is_stale(value),
            Some(Value::Histogram(histogram)) => histogram.is_stale(),
            None => false,
        }
    }

    fn copy(&self, positions: Range<usize>, output: &mut Samples) {
        for at in positions {
            match (self.times_ms.get(at), self.value(at)) {
                (Some(time_ms), Some(Value::Float(value))) => output.floats.push(*time_ms, value),
                (Some(time_ms), Some(Value::Histogram(histogram))) => {
                    output.histograms.push(*time_ms, Arc::clone(histogram));
                }
                _ => {}
            }
        }
    }

    fn expected(&self) -> usize {
        self.times_ms.len()
    }

    fn into_samples(self, positions: Range<usize>) -> Samples {
        let mut output = Samples::default();
        self.copy(positions, &mut output);
        output
    }
}
