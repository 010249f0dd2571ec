//! The layout of a histogram chunk: what all its samples share, written once before the first of them.
//!
//! A layout that was read is sane: spans do not go backwards, bucket indexes fit `i32`, custom bounds increase and are enough
//! for the spans. Prometheus refuses anything else when a sample is appended, so only damaged chunks are rejected for it, and
//! whoever computes with the histograms needs no checks of its own.

use std::sync::Arc;

use parallax_model::Span;
use parallax_model::histogram::CUSTOM_BUCKETS_SCHEMA;

use super::varbit::{read_varbit_int, read_varbit_uint, write_varbit_int, write_varbit_uint};
use crate::bits::{BitReader, BitWriter};
use crate::error::TsdbError;

/// The exponential schemas that a chunk may have. Above 8 the resolution is reduced when the chunk is read.
const KNOWN_EXPONENTIAL_SCHEMAS: std::ops::RangeInclusive<i64> = -9..=52;

/// Custom bounds up to this many thousandths are stored as integers.
const MAX_BOUND_THOUSANDTHS: f64 = 33_554_430.0;

/// Schema, zero threshold, spans and custom bounds.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) positive_spans: Vec<Span>,
    pub(crate) negative_spans: Vec<Span>,
    pub(crate) custom_values: Arc<[f64]>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            schema: 0,
            zero_threshold: 0.0,
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            custom_values: Arc::new([]),
        }
    }
}

impl Layout {
    /// Reads the layout at the start of the bits of a chunk, `what`.
    pub(crate) fn read(what: &str, reader: &mut BitReader<'_>) -> Result<Self, TsdbError> {
        let zero_threshold = read_zero_threshold(reader);
        let schema = read_varbit_int(reader);
        if schema != i64::from(CUSTOM_BUCKETS_SCHEMA) && !KNOWN_EXPONENTIAL_SCHEMAS.contains(&schema) {
            reader.check(what)?;
            return Err(TsdbError::unsupported(what, reader.position_bits() / 8, "histogram schema", schema));
        }
        let positive_spans = read_spans(what, reader)?;
        let negative_spans = read_spans(what, reader)?;
        let mut custom_values = Vec::new();
        if schema == i64::from(CUSTOM_BUCKETS_SCHEMA) {
            for _ in 0..read_varbit_uint(reader) {
                custom_values.push(read_custom_bound(reader));
                reader.check(what)?;
            }
        }
        reader.check(what)?;
        let layout = Self {
            schema: schema as i32,
            zero_threshold,
            positive_spans,
            negative_spans,
            custom_values: custom_values.into(),
        };
        layout.validate().map_err(|reason| TsdbError::corrupt(what, reader.position_bits() / 8, reason))?;
        Ok(layout)
    }

    pub(crate) fn write(&self, writer: &mut BitWriter) {
        write_zero_threshold(writer, self.zero_threshold);
        write_varbit_int(writer, i64::from(self.schema));
        for spans in [&self.positive_spans, &self.negative_spans] {
            write_varbit_uint(writer, spans.len() as u64);
            for span in spans {
                write_varbit_uint(writer, u64::from(span.length));
                write_varbit_int(writer, i64::from(span.offset));
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            write_varbit_uint(writer, self.custom_values.len() as u64);
            for bound in self.custom_values.iter() {
                write_custom_bound(writer, *bound);
            }
        }
    }

    /// Says what is wrong with the layout, if anything is.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let end = check_spans(&self.positive_spans)?;
        check_spans(&self.negative_spans)?;
        if self.schema != CUSTOM_BUCKETS_SCHEMA {
            return Ok(());
        }
        if !self.negative_spans.is_empty() {
            return Err("custom buckets cannot be negative");
        }
        if self.positive_spans.first().is_some_and(|span| span.offset < 0) {
            return Err("custom buckets start before the first bound");
        }
        // The last bucket reaches from the last bound to infinity.
        if end > self.custom_values.len() as i64 + 1 {
            return Err("there are more custom buckets than bounds");
        }
        let increasing = self.custom_values.windows(2).all(|pair| matches!(pair, [low, high] if low < high));
        if !increasing || self.custom_values.iter().any(|bound| bound.is_nan()) {
            return Err("custom bounds do not increase");
        }
        Ok(())
    }

    pub(crate) fn positive_buckets(&self) -> u64 {
        bucket_count(&self.positive_spans)
    }

    pub(crate) fn negative_buckets(&self) -> u64 {
        bucket_count(&self.negative_spans)
    }

    /// The numbers of positive and of negative buckets, where each takes at least `bits` bits of what is left to read.
    pub(crate) fn checked_bucket_counts(
        &self,
        what: &str,
        reader: &BitReader<'_>,
        bits: u64,
    ) -> Result<(usize, usize), TsdbError> {
        let (positive, negative) = (self.positive_buckets(), self.negative_buckets());
        let needed = (positive.saturating_add(negative)).saturating_mul(bits);
        let remaining = reader.remaining_bits();
        if needed > remaining {
            let offset = reader.position_bits() / 8;
            return Err(TsdbError::truncated(what, offset, (needed - remaining).div_ceil(8)));
        }
        Ok((positive as usize, negative as usize))
    }
}

/// The number of buckets that spans describe.
pub(crate) fn bucket_count(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.length)).sum()
}

/// Gives the index after the last bucket.
fn check_spans(spans: &[Span]) -> Result<i64, &'static str> {
    let mut end = 0i64;
    for (index, span) in spans.iter().enumerate() {
        if index > 0 && span.offset < 0 {
            return Err("a span goes backwards");
        }
        end += i64::from(span.offset) + i64::from(span.length);
        if end > i64::from(i32::MAX) {
            return Err("a bucket index does not fit 32 bits");
        }
    }
    Ok(end)
}

fn read_spans(what: &str, reader: &mut BitReader<'_>) -> Result<Vec<Span>, TsdbError> {
    let mut spans = Vec::new();
    for _ in 0..read_varbit_uint(reader) {
        let (length, offset) = (read_varbit_uint(reader), read_varbit_int(reader));
        // The number of spans comes from the bytes: this bounds it.
        reader.check(what)?;
        let (Ok(length), Ok(offset)) = (u32::try_from(length), i32::try_from(offset)) else {
            return Err(TsdbError::corrupt(what, reader.position_bits() / 8, "a span does not fit 32 bits"));
        };
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

/// One byte for zero and for powers of two from 2^-243 to 2^10, nine for everything else.
fn read_zero_threshold(reader: &mut BitReader<'_>) -> f64 {
    match reader.read(8) {
        0 => 0.0,
        255 => f64::from_bits(reader.read(64)),
        // The byte is the exponent plus 244, and a float's biased exponent is the exponent plus 1023.
        byte => f64::from_bits((byte + (1023 - 244)) << 52),
    }
}

fn write_zero_threshold(writer: &mut BitWriter, threshold: f64) {
    let bits = threshold.to_bits();
    // With the sign bit set the shifted number is too large.
    let byte = (bits >> 52).wrapping_sub(1023 - 244);
    if threshold == 0.0 {
        writer.write(0, 8);
    } else if bits.trailing_zeros() >= 52 && (1..=254).contains(&byte) {
        writer.write(byte, 8);
    } else {
        writer.write(255, 8);
        writer.write(bits, 64);
    }
}

/// Thousandths plus one as an integer, or a zero bit and the float.
fn read_custom_bound(reader: &mut BitReader<'_>) -> f64 {
    match read_varbit_uint(reader) {
        0 => f64::from_bits(reader.read(64)),
        thousandths => (thousandths - 1) as f64 / 1000.0,
    }
}

fn write_custom_bound(writer: &mut BitWriter, bound: f64) {
    let thousandths = bound * 1000.0;
    let rounded = thousandths.round();
    if (0.0..=MAX_BOUND_THOUSANDTHS).contains(&thousandths) && rounded / 1000.0 == bound {
        write_varbit_uint(writer, rounded as u64 + 1);
    } else {
        writer.write_bit(false);
        writer.write(bound.to_bits(), 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(layout: &Layout) -> Vec<u8> {
        let mut writer = BitWriter::default();
        layout.write(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn common_thresholds_take_one_byte() {
        for (threshold, first) in [
            (0.0, 0),
            (2f64.powi(-128), 116),
            (2f64.powi(-243), 1),
            (1024.0, 254),
            (2048.0, 255),
            (0.1, 255),
            (-1.0, 255),
        ] {
            let mut writer = BitWriter::default();
            write_zero_threshold(&mut writer, threshold);
            assert_eq!(writer.bytes()[0], first, "{threshold}");
            assert_eq!(writer.bytes().len(), if first == 255 { 9 } else { 1 });
            assert_eq!(read_zero_threshold(&mut BitReader::new(writer.bytes(), 0)), threshold);
        }
    }

    proptest! {
        #[test]
        fn floats_of_a_layout_come_back_bit_by_bit(bits: u64, thousandths in 0u32..40_000_000) {
            for value in [f64::from_bits(bits), f64::from(thousandths) / 1000.0, f64::from(thousandths)] {
                let mut writer = BitWriter::default();
                write_zero_threshold(&mut writer, value);
                write_custom_bound(&mut writer, value);
                let mut reader = BitReader::new(writer.bytes(), 0);
                let canonical = if value == 0.0 { 0.0 } else { value };
                prop_assert_eq!(read_zero_threshold(&mut reader).to_bits(), f64::to_bits(canonical));
                prop_assert_eq!(read_custom_bound(&mut reader).to_bits(), f64::to_bits(canonical));
            }
        }
    }

    #[test]
    fn layouts_that_make_no_sense_are_corrupt() {
        let custom = |bounds: &[f64], spans: &[Span]| Layout {
            schema: CUSTOM_BUCKETS_SCHEMA,
            positive_spans: spans.to_vec(),
            custom_values: bounds.into(),
            ..Layout::default()
        };
        let spans = |spans: &[(i32, u32)]| -> Vec<Span> {
            spans.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
        };
        let bad = [
            Layout { positive_spans: spans(&[(0, 1), (-1, 1)]), ..Layout::default() },
            Layout { negative_spans: spans(&[(i32::MAX, 1)]), ..Layout::default() },
            custom(&[1.0, 2.0], &spans(&[(0, 4)])),
            custom(&[2.0, 1.0], &spans(&[(0, 1)])),
            custom(&[f64::NAN], &spans(&[(0, 1)])),
            custom(&[1.0], &spans(&[(-1, 1)])),
        ];
        for layout in &bad {
            let bytes = written(layout);
            let error = Layout::read("chunk", &mut BitReader::new(&bytes, 0)).unwrap_err();
            assert!(matches!(error, TsdbError::Corrupt { .. }), "{error}");
        }
        let good = custom(&[1.0, 2.0], &spans(&[(0, 3)]));
        assert!(Layout::read("chunk", &mut BitReader::new(&written(&good), 0)).is_ok());
        let unknown = written(&Layout { schema: 53, ..Layout::default() });
        let error = Layout::read("chunk", &mut BitReader::new(&unknown, 0)).unwrap_err();
        assert!(matches!(error, TsdbError::Unsupported { value: 53, .. }), "{error}");
    }
}
