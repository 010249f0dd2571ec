//! Histograms with integer counts (encoding 2): every number is a delta of deltas, the sum is XORed.
//!
//! Buckets are themselves stored as deltas to the bucket before. All arithmetic wraps, as Prometheus' does.

use parallax_model::{CounterResetHint, FloatHistogram, Histogram};

use super::kind::{Kind, Misfit, Side};
use super::layout::Layout;
use super::varbit::{
    XorReading, XorWriting, read_varbit_int, read_varbit_uint, write_varbit_int, write_varbit_uint,
};
use crate::bits::{BitReader, BitWriter};
use crate::error::TsdbError;

/// A number and its difference to the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracked {
    value: i64,
    delta: i64,
}

impl Tracked {
    fn starting(value: i64) -> Self {
        Self { value, delta: 0 }
    }

    #[inline(always)]
    fn read(&mut self, reader: &mut BitReader<'_>) {
        self.delta = self.delta.wrapping_add(read_varbit_int(reader));
        self.value = self.value.wrapping_add(self.delta);
    }

    fn write(&mut self, writer: &mut BitWriter, value: i64) {
        let delta = value.wrapping_sub(self.value);
        write_varbit_int(writer, delta.wrapping_sub(self.delta));
        *self = Self { value, delta };
    }
}

#[derive(Clone, Debug)]
pub struct IntegerReading {
    count: Tracked,
    zero_count: Tracked,
    sum: XorReading,
    positive: Vec<Tracked>,
    negative: Vec<Tracked>,
}

#[derive(Clone, Debug)]
pub struct IntegerWriting {
    count: Tracked,
    zero_count: Tracked,
    sum: XorWriting,
    positive: Vec<Tracked>,
    negative: Vec<Tracked>,
}

impl Kind for Histogram {
    const WHAT: &'static str = "histogram chunk";
    type Reading = IntegerReading;
    type Writing = IntegerWriting;
    type Count = i64;

    fn read_first(reader: &mut BitReader<'_>, layout: &Layout) -> Result<IntegerReading, TsdbError> {
        let count = Tracked::starting(read_varbit_uint(reader) as i64);
        let zero_count = Tracked::starting(read_varbit_uint(reader) as i64);
        let sum = XorReading::starting(reader.read(64));
        let (positive, negative) = layout.checked_bucket_counts(Self::WHAT, reader, 1)?;
        let mut buckets = |len: usize| (0..len).map(|_| Tracked::starting(read_varbit_int(reader))).collect();
        Ok(IntegerReading {
            count,
            zero_count,
            sum,
            positive: buckets(positive),
            negative: buckets(negative),
        })
    }

    fn read_next(reading: &mut IntegerReading, reader: &mut BitReader<'_>) {
        reading.count.read(reader);
        reading.zero_count.read(reader);
        reading.sum.advance(reader);
        if parallax_model::float::is_stale(reading.sum.value()) {
            return;
        }
        for bucket in reading.positive.iter_mut().chain(&mut reading.negative) {
            bucket.read(reader);
        }
    }

    fn read_sum(reading: &IntegerReading) -> XorReading {
        reading.sum
    }

    fn is_broken(reading: &IntegerReading) -> bool {
        reading.sum.broken
    }

    fn build(reading: &IntegerReading, layout: &Layout, hint: CounterResetHint) -> Self {
        Self {
            counter_reset_hint: hint,
            schema: layout.schema,
            zero_threshold: layout.zero_threshold,
            zero_count: reading.zero_count.value as u64,
            count: reading.count.value as u64,
            sum: reading.sum.value(),
            positive_spans: layout.positive_spans.clone(),
            negative_spans: layout.negative_spans.clone(),
            positive_deltas: reading.positive.iter().map(|bucket| bucket.value).collect(),
            negative_deltas: reading.negative.iter().map(|bucket| bucket.value).collect(),
            custom_values: layout.custom_values.clone(),
        }
    }

    fn build_float(reading: &IntegerReading, layout: &Layout, hint: CounterResetHint) -> FloatHistogram {
        let floats = |buckets: &[Tracked]| running_sums(buckets).map(|count| count as f64).collect();
        FloatHistogram {
            counter_reset_hint: hint,
            schema: layout.schema,
            zero_threshold: layout.zero_threshold,
            zero_count: reading.zero_count.value as u64 as f64,
            count: reading.count.value as u64 as f64,
            sum: reading.sum.value(),
            positive_spans: layout.positive_spans.clone(),
            negative_spans: layout.negative_spans.clone(),
            positive_buckets: floats(&reading.positive),
            negative_buckets: floats(&reading.negative),
            custom_values: layout.custom_values.clone(),
        }
    }

    fn only_sum(sum: f64) -> Self {
        Self { sum, ..Self::default() }
    }

    fn hint(&self) -> CounterResetHint {
        self.counter_reset_hint
    }

    fn sum(&self) -> f64 {
        self.sum
    }

    fn layout(&self) -> Layout {
        Layout {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            custom_values: self.custom_values.clone(),
        }
    }

    fn bucket_counts(&self) -> (usize, usize) {
        (self.positive_deltas.len(), self.negative_deltas.len())
    }

    fn absolute(&self, side: Side) -> Vec<i64> {
        let deltas = match side {
            Side::Positive => &self.positive_deltas,
            Side::Negative => &self.negative_deltas,
        };
        let mut count = 0i64;
        deltas
            .iter()
            .map(|delta| {
                count = count.wrapping_add(*delta);
                count
            })
            .collect()
    }

    fn add(a: i64, b: i64) -> i64 {
        a.wrapping_add(b)
    }

    fn with_buckets(&self, layout: &Layout, positive: Vec<i64>, negative: Vec<i64>) -> Self {
        Self {
            schema: layout.schema,
            positive_spans: layout.positive_spans.clone(),
            negative_spans: layout.negative_spans.clone(),
            positive_deltas: deltas(&positive),
            negative_deltas: deltas(&negative),
            ..self.clone()
        }
    }

    fn write_first(&self, writer: &mut BitWriter) -> IntegerWriting {
        write_varbit_uint(writer, self.count);
        write_varbit_uint(writer, self.zero_count);
        writer.write(self.sum.to_bits(), 64);
        let mut buckets = |deltas: &[i64]| {
            let start = |delta: &i64| {
                write_varbit_int(writer, *delta);
                Tracked::starting(*delta)
            };
            deltas.iter().map(start).collect()
        };
        IntegerWriting {
            positive: buckets(&self.positive_deltas),
            negative: buckets(&self.negative_deltas),
            count: Tracked::starting(self.count as i64),
            zero_count: Tracked::starting(self.zero_count as i64),
            sum: XorWriting::starting(self.sum),
        }
    }

    fn write_next(&self, writing: &mut IntegerWriting, writer: &mut BitWriter) {
        if self.is_stale() {
            // The counts of a staleness marker mean nothing: the shortest is stored, one zero bit each.
            writer.write(0, 2);
            writing.count = Tracked::default();
            writing.zero_count = Tracked::default();
            return writing.sum.append(writer, self.sum);
        }
        writing.count.write(writer, self.count as i64);
        writing.zero_count.write(writer, self.zero_count as i64);
        writing.sum.append(writer, self.sum);
        for (bucket, delta) in writing.positive.iter_mut().zip(&self.positive_deltas) {
            bucket.write(writer, *delta);
        }
        for (bucket, delta) in writing.negative.iter_mut().zip(&self.negative_deltas) {
            bucket.write(writer, *delta);
        }
    }

    fn written_sum(writing: &IntegerWriting) -> f64 {
        writing.sum.value()
    }

    fn written_absolute(writing: &IntegerWriting, side: Side) -> Vec<i64> {
        match side {
            Side::Positive => running_sums(&writing.positive).collect(),
            Side::Negative => running_sums(&writing.negative).collect(),
        }
    }

    fn count_fell(&self, writing: &IntegerWriting) -> bool {
        self.count < writing.count.value as u64
    }

    fn zero_count_fell(&self, writing: &IntegerWriting) -> bool {
        self.zero_count < writing.zero_count.value as u64
    }

    fn header_after(misfit: Misfit) -> CounterResetHint {
        match misfit {
            Misfit::GaugeChunk => CounterResetHint::NotReset,
            Misfit::Reset => CounterResetHint::Reset,
            Misfit::AfterStale | Misfit::OtherLayout => CounterResetHint::Unknown,
        }
    }

    fn header_following(misfit: Option<Misfit>) -> CounterResetHint {
        misfit.map_or(CounterResetHint::NotReset, Self::header_after)
    }
}

fn running_sums(buckets: &[Tracked]) -> impl Iterator<Item = i64> + '_ {
    buckets.iter().scan(0i64, |count, bucket| {
        *count = count.wrapping_add(bucket.value);
        Some(*count)
    })
}

fn deltas(counts: &[i64]) -> Vec<i64> {
    let mut before = 0;
    counts.iter().map(|count| count.wrapping_sub(std::mem::replace(&mut before, *count))).collect()
}
