//! Aggregating floats.

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::aggregate::Aggregate;

use super::batch::{Aggregator, FloatParts, each_window};

/// A time in milliseconds and a value.
pub(super) type FloatSample = (i64, f64);

/// What is known of the present window, and of the counter since the beginning.
#[derive(Clone, Debug)]
pub(super) struct FloatAggregator {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// The counter without its resets.
    pub(super) counter: f64,
    last: Option<f64>,
}

impl Default for FloatAggregator {
    fn default() -> Self {
        // The largest finite floats, not infinities: what Thanos starts from shows when a window holds nothing but infinities.
        Self { count: 0, sum: 0.0, min: f64::MAX, max: f64::MIN, counter: 0.0, last: None }
    }
}

impl Aggregator for FloatAggregator {
    type Sample = FloatSample;

    fn begin(&mut self) {
        *self = Self { counter: self.counter, last: self.last, ..Self::default() };
    }

    fn add(&mut self, (_, value): &FloatSample) {
        let value = *value;
        match self.last {
            None => self.counter = value,
            Some(last) if value < last => self.counter += value,
            Some(last) => self.counter += value - last,
        }
        self.last = Some(value);
        self.sum += value;
        self.count += 1;
        if value < self.min {
            self.min = value;
        }
        if value > self.max {
            self.max = value;
        }
    }

    /// The same operations in the same order, on numbers that stay where they are.
    fn add_all(&mut self, samples: &[FloatSample]) {
        let Some((first, others)) = samples.split_first() else { return };
        self.add(first);
        let mut last = first.1;
        let Self { mut sum, mut min, mut max, mut counter, .. } = *self;
        for (_, value) in others {
            let value = *value;
            counter += if value < last { value } else { value - last };
            last = value;
            sum += value;
            min = if value < min { value } else { min };
            max = if value > max { value } else { max };
        }
        let count = self.count + others.len() as u64;
        *self = Self { count, sum, min, max, counter, last: Some(last) };
    }
}

/// One aggregate chunk of raw samples, none of which is NaN.
pub(super) fn float_batch(samples: &[FloatSample], window_ms: i64) -> Result<Option<BlockChunk>, TsdbError> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Ok(None) };
    let mut parts = FloatParts::default();
    parts.append_raw(Aggregate::Counter, first.0, first.1)?;
    let mut aggregator = FloatAggregator::default();
    let stamp = each_window(
        samples,
        |sample| sample.0,
        window_ms,
        &mut aggregator,
        |stamp, window| {
            parts.append(Aggregate::Sum, stamp, window.sum)?;
            parts.append(Aggregate::Min, stamp, window.min)?;
            parts.append(Aggregate::Max, stamp, window.max)?;
            parts.append(Aggregate::Count, stamp, window.count as f64)?;
            parts.append(Aggregate::Counter, stamp, window.counter)
        },
    )?;
    if let Some(stamp) = stamp {
        parts.append_raw(Aggregate::Counter, stamp, last.1)?;
    }
    parts.finish()
}

#[cfg(test)]
mod tests {
    use parallax_tsdb::chunk::XorReader;
    use parallax_tsdb::chunk::aggregate::Parts;

    use super::*;

    fn parts_of(samples: &[FloatSample]) -> Vec<Vec<FloatSample>> {
        let chunk = float_batch(samples, 100).unwrap().unwrap();
        let parts = Parts::decode(&chunk.chunk.data).unwrap();
        Aggregate::ALL
            .iter()
            .map(|which| XorReader::new(parts.get(*which).unwrap().1).unwrap().map(Result::unwrap).collect())
            .collect()
    }

    #[test]
    fn a_batch_has_five_aggregates_and_the_counter_keeps_both_raw_ends() {
        let parts = parts_of(&[
            (20, 1.0),
            (40, 2.0),
            (60, 3.0),
            (80, 1.0),
            (100, 2.0),
            (120, 5.0),
            (180, 10.0),
            (250, 1.0),
        ]);
        assert_eq!(parts[0], [(99, 4.0), (199, 3.0), (250, 1.0)]);
        assert_eq!(parts[1], [(99, 7.0), (199, 17.0), (250, 1.0)]);
        assert_eq!(parts[2], [(99, 1.0), (199, 2.0), (250, 1.0)]);
        assert_eq!(parts[3], [(99, 3.0), (199, 10.0), (250, 1.0)]);
        assert_eq!(parts[4], [(20, 1.0), (99, 4.0), (199, 13.0), (250, 14.0), (250, 1.0)]);
    }

    #[test]
    fn many_samples_at_once_are_as_one_by_one() {
        let values = [3.0, 5.0, -1.0, f64::INFINITY, 7.5, 7.5, 0.1, -0.0, 0.0, 2.0];
        let samples: Vec<FloatSample> = (0..).zip(values).collect();
        for cut in 0..samples.len() {
            let (mut at_once, mut one_by_one) = (FloatAggregator::default(), FloatAggregator::default());
            for part in [&samples[..cut], &samples[cut..]] {
                at_once.begin();
                at_once.add_all(part);
                one_by_one.begin();
                part.iter().for_each(|sample| one_by_one.add(sample));
                assert_eq!(format!("{at_once:?}"), format!("{one_by_one:?}"), "cut at {cut}");
            }
        }
    }

    #[test]
    fn infinities_alone_leave_the_smallest_at_the_largest_finite_float() {
        let parts = parts_of(&[(1, f64::INFINITY)]);
        assert_eq!(parts[2], [(1, f64::MAX)]);
        assert_eq!(parts[3], [(1, f64::INFINITY)]);
    }
}
