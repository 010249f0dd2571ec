//! Histograms with float counts (encoding 3): every number but the timestamp is XORed with the one before.

use parallax_model::{CounterResetHint, FloatHistogram};

use super::kind::{Kind, Misfit, Side};
use super::layout::Layout;
use super::varbit::{XorReading, XorWriting};
use crate::bits::{BitReader, BitWriter};
use crate::error::TsdbError;

#[derive(Clone, Debug)]
pub struct FloatReading {
    count: XorReading,
    zero_count: XorReading,
    sum: XorReading,
    positive: Vec<XorReading>,
    negative: Vec<XorReading>,
}

impl FloatReading {
    fn buckets(&self) -> impl Iterator<Item = &XorReading> {
        self.positive.iter().chain(&self.negative)
    }
}

#[derive(Clone, Debug)]
pub struct FloatWriting {
    count: XorWriting,
    zero_count: XorWriting,
    sum: XorWriting,
    positive: Vec<XorWriting>,
    negative: Vec<XorWriting>,
}

impl Kind for FloatHistogram {
    const WHAT: &'static str = "float histogram chunk";
    type Reading = FloatReading;
    type Writing = FloatWriting;
    type Count = f64;

    fn read_first(reader: &mut BitReader<'_>, layout: &Layout) -> Result<FloatReading, TsdbError> {
        let mut raw = || XorReading::starting(reader.read(64));
        let (count, zero_count, sum) = (raw(), raw(), raw());
        let (positive, negative) = layout.checked_bucket_counts(Self::WHAT, reader, 64)?;
        let mut buckets = |len: usize| (0..len).map(|_| XorReading::starting(reader.read(64))).collect();
        Ok(FloatReading { count, zero_count, sum, positive: buckets(positive), negative: buckets(negative) })
    }

    fn read_next(reading: &mut FloatReading, reader: &mut BitReader<'_>) {
        for number in [&mut reading.count, &mut reading.zero_count, &mut reading.sum] {
            number.advance(reader);
        }
        if parallax_model::float::is_stale(reading.sum.value()) {
            return;
        }
        for bucket in reading.positive.iter_mut().chain(&mut reading.negative) {
            bucket.advance(reader);
        }
    }

    fn read_sum(reading: &FloatReading) -> XorReading {
        reading.sum
    }

    fn is_broken(reading: &FloatReading) -> bool {
        let numbers = [&reading.count, &reading.zero_count, &reading.sum];
        numbers.into_iter().chain(reading.buckets()).any(|number| number.broken)
    }

    fn build(reading: &FloatReading, layout: &Layout, hint: CounterResetHint) -> Self {
        Self {
            counter_reset_hint: hint,
            schema: layout.schema,
            zero_threshold: layout.zero_threshold,
            zero_count: reading.zero_count.value(),
            count: reading.count.value(),
            sum: reading.sum.value(),
            positive_spans: layout.positive_spans.clone(),
            negative_spans: layout.negative_spans.clone(),
            positive_buckets: reading.positive.iter().map(XorReading::value).collect(),
            negative_buckets: reading.negative.iter().map(XorReading::value).collect(),
            custom_values: layout.custom_values.clone(),
        }
    }

    fn build_float(reading: &FloatReading, layout: &Layout, hint: CounterResetHint) -> FloatHistogram {
        Self::build(reading, layout, hint)
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
        (self.positive_buckets.len(), self.negative_buckets.len())
    }

    fn absolute(&self, side: Side) -> Vec<f64> {
        match side {
            Side::Positive => self.positive_buckets.clone(),
            Side::Negative => self.negative_buckets.clone(),
        }
    }

    fn add(a: f64, b: f64) -> f64 {
        a + b
    }

    fn with_buckets(&self, layout: &Layout, positive: Vec<f64>, negative: Vec<f64>) -> Self {
        Self {
            schema: layout.schema,
            positive_spans: layout.positive_spans.clone(),
            negative_spans: layout.negative_spans.clone(),
            positive_buckets: positive,
            negative_buckets: negative,
            ..self.clone()
        }
    }

    fn write_first(&self, writer: &mut BitWriter) -> FloatWriting {
        let mut raw = |value: f64| {
            writer.write(value.to_bits(), 64);
            XorWriting::starting(value)
        };
        FloatWriting {
            count: raw(self.count),
            zero_count: raw(self.zero_count),
            sum: raw(self.sum),
            positive: self.positive_buckets.iter().map(|count| raw(*count)).collect(),
            negative: self.negative_buckets.iter().map(|count| raw(*count)).collect(),
        }
    }

    fn write_next(&self, writing: &mut FloatWriting, writer: &mut BitWriter) {
        writing.count.append(writer, self.count);
        writing.zero_count.append(writer, self.zero_count);
        writing.sum.append(writer, self.sum);
        for (bucket, count) in writing.positive.iter_mut().zip(&self.positive_buckets) {
            bucket.append(writer, *count);
        }
        for (bucket, count) in writing.negative.iter_mut().zip(&self.negative_buckets) {
            bucket.append(writer, *count);
        }
    }

    fn written_sum(writing: &FloatWriting) -> f64 {
        writing.sum.value()
    }

    fn written_absolute(writing: &FloatWriting, side: Side) -> Vec<f64> {
        let buckets = match side {
            Side::Positive => &writing.positive,
            Side::Negative => &writing.negative,
        };
        buckets.iter().map(XorWriting::value).collect()
    }

    fn count_fell(&self, writing: &FloatWriting) -> bool {
        self.count < writing.count.value()
    }

    fn zero_count_fell(&self, writing: &FloatWriting) -> bool {
        self.zero_count < writing.zero_count.value()
    }

    fn header_after(misfit: Misfit) -> CounterResetHint {
        match misfit {
            Misfit::Reset => CounterResetHint::Reset,
            Misfit::GaugeChunk | Misfit::AfterStale | Misfit::OtherLayout => CounterResetHint::Unknown,
        }
    }

    fn header_following(misfit: Option<Misfit>) -> CounterResetHint {
        match misfit {
            Some(Misfit::Reset) => CounterResetHint::Reset,
            _ => CounterResetHint::NotReset,
        }
    }
}
