//! Writing histogram chunks of both kinds, with Prometheus' rules for when a chunk must end or be rewritten.
//!
//! All samples of a chunk share one layout, and a counter chunk has no counter reset inside. A sample that brings new buckets
//! has the whole chunk rewritten with them; one that breaks a rule begins a new chunk, whose header says why. Source of the
//! rules: Prometheus `tsdb/chunkenc/{histogram,float_histogram}.go`.

use parallax_model::float::is_stale;
use parallax_model::histogram::{CUSTOM_BUCKETS_SCHEMA, EXPONENTIAL_SCHEMA_MAX};
use parallax_model::{CounterResetHint, FloatHistogram, Histogram};

use super::histogram::SampleReader;
use super::inserts::{Comparison, Insert, compare, expanded};
use super::kind::{Kind, Misfit, Side};
use super::layout::Layout;
use super::varbit::write_varbit_int;
use super::{HISTOGRAM_FLAGS_AT, HISTOGRAM_HEADER_SIZE_BYTES, MAX_SAMPLES};
use crate::bits::BitWriter;
use crate::error::TsdbError;

/// Exponential schemas that are written as they are; finer ones are only read.
const WRITABLE_EXPONENTIAL_SCHEMAS: std::ops::RangeInclusive<i32> = -9..=EXPONENTIAL_SCHEMA_MAX;

/// Writes histogram chunks with integer counts.
pub type HistogramAppender = Appender<Histogram>;

/// Writes float histogram chunks.
pub type FloatHistogramAppender = Appender<FloatHistogram>;

/// What became of a sample, and of the chunk it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It stands at the end of the chunk.
    InPlace,
    /// It stands at the end of the chunk, all of whose bytes were rewritten to make room for new buckets.
    Recoded,
    /// It is the first sample of a new chunk, which the appender now holds; these are the bytes of the finished one.
    NewChunk { finished: Vec<u8> },
}

/// Writes one chunk after the other from the histograms of a series.
#[derive(Clone, Debug)]
pub struct Appender<K: Kind> {
    writer: BitWriter,
    samples: u16,
    header: CounterResetHint,
    /// The appender of the chunk before, without its bytes: what it says of our first sample goes into our header.
    previous: Option<Box<Self>>,
    layout: Layout,
    timestamp: i64,
    delta: i64,
    state: Option<K::Writing>,
}

/// What a sample and the chunk lack of each other's positive and negative buckets.
struct Fit {
    positive: Comparison,
    negative: Comparison,
}

impl<K: Kind> Default for Appender<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kind> Appender<K> {
    pub fn new() -> Self {
        Self {
            writer: BitWriter::new(vec![0; HISTOGRAM_HEADER_SIZE_BYTES]),
            samples: 0,
            header: CounterResetHint::Unknown,
            previous: None,
            layout: Layout::default(),
            timestamp: 0,
            delta: 0,
            state: None,
        }
    }

    /// An appender for the chunk after that of `previous`, when that one is ended for its size or its time: its last sample
    /// decides whether the header of the new chunk tells of a counter reset.
    pub fn following(previous: &Self) -> Self {
        let previous = Self { writer: BitWriter::default(), previous: None, ..previous.clone() };
        Self { previous: Some(Box::new(previous)), ..Self::new() }
    }

    pub fn sample_count(&self) -> usize {
        usize::from(self.samples)
    }

    /// What the header of the chunk says about its first sample's predecessor.
    pub fn header(&self) -> CounterResetHint {
        self.header
    }

    /// The chunk so far; always whole.
    pub fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.writer.into_bytes()
    }

    /// Appends a sample, to this chunk or to a new one. Time may stand still but not go back.
    ///
    /// A histogram that contradicts itself (spans and buckets that do not match, say) and a full chunk are errors, and then
    /// nothing has changed.
    pub fn append(&mut self, timestamp_ms: i64, histogram: &K) -> Result<Appended, TsdbError> {
        self.accept(timestamp_ms, histogram)?;
        if self.state.is_none() {
            self.header = self.first_header(histogram);
            self.write(timestamp_ms, histogram);
            return Ok(Appended::InPlace);
        }
        match self.fit(histogram) {
            Ok(None) => {
                self.write(timestamp_ms, histogram);
                Ok(Appended::InPlace)
            }
            Ok(Some(fit)) => self.write_fitting(timestamp_ms, histogram, &fit),
            Err(misfit) => {
                let mut fresh = Self::new();
                fresh.header = match histogram.hint() {
                    CounterResetHint::Gauge => CounterResetHint::Gauge,
                    _ => K::header_after(misfit),
                };
                fresh.write(timestamp_ms, histogram);
                let finished = std::mem::replace(self, fresh).into_bytes();
                Ok(Appended::NewChunk { finished })
            }
        }
    }

    /// Refuses what no chunk can hold.
    fn accept(&self, timestamp_ms: i64, histogram: &K) -> Result<(), TsdbError> {
        if self.sample_count() == MAX_SAMPLES {
            return Err(TsdbError::invalid(K::WHAT, "it is full"));
        }
        if self.samples > 0 && timestamp_ms < self.timestamp {
            return Err(TsdbError::out_of_order(
                K::WHAT,
                format!("a sample at {timestamp_ms} ms follows one at {} ms", self.timestamp),
            ));
        }
        if is_stale(histogram.sum()) {
            return Ok(());
        }
        let layout = histogram.layout();
        let schema = layout.schema;
        if schema != CUSTOM_BUCKETS_SCHEMA && !WRITABLE_EXPONENTIAL_SCHEMAS.contains(&schema) {
            return Err(TsdbError::invalid(K::WHAT, format!("schema {schema} is not known")));
        }
        layout.validate().map_err(|reason| TsdbError::invalid(K::WHAT, reason))?;
        let (positive, negative) = histogram.bucket_counts();
        if (layout.positive_buckets(), layout.negative_buckets()) != (positive as u64, negative as u64) {
            return Err(TsdbError::invalid(K::WHAT, "spans and buckets do not match"));
        }
        Ok(())
    }

    fn first_header(&self, histogram: &K) -> CounterResetHint {
        match (histogram.hint(), &self.previous) {
            (hint @ (CounterResetHint::Gauge | CounterResetHint::Reset), _) => hint,
            (_, Some(previous)) => K::header_following(previous.fit(histogram).err()),
            (_, None) => CounterResetHint::Unknown,
        }
    }

    /// Whether the sample can follow the last one, and what either lacks then; a staleness marker lacks nothing.
    fn fit(&self, histogram: &K) -> Result<Option<Fit>, Misfit> {
        let Some(last) = &self.state else {
            return Ok(None);
        };
        let gauge = histogram.hint() == CounterResetHint::Gauge;
        if gauge != (self.header == CounterResetHint::Gauge) {
            return Err(Misfit::GaugeChunk);
        }
        if histogram.hint() == CounterResetHint::Reset {
            return Err(Misfit::Reset);
        }
        if is_stale(histogram.sum()) {
            return Ok(None);
        }
        if is_stale(K::written_sum(last)) {
            return Err(Misfit::AfterStale);
        }
        if !gauge && histogram.count_fell(last) {
            return Err(Misfit::Reset);
        }
        let layout = histogram.layout();
        if layout.schema != self.layout.schema || layout.zero_threshold != self.layout.zero_threshold {
            return Err(Misfit::OtherLayout);
        }
        let custom = layout.schema == CUSTOM_BUCKETS_SCHEMA;
        if custom && layout.custom_values != self.layout.custom_values {
            return Err(Misfit::Reset);
        }
        if !gauge && histogram.zero_count_fell(last) {
            return Err(Misfit::Reset);
        }
        let compare_side = |side, old: &[_], new: &[_]| {
            let counts = (K::written_absolute(last, side), histogram.absolute(side));
            let counts = (!gauge).then_some((counts.0.as_slice(), counts.1.as_slice()));
            compare(old, new, counts).ok_or(Misfit::Reset)
        };
        Ok(Some(Fit {
            positive: compare_side(Side::Positive, &self.layout.positive_spans, &layout.positive_spans)?,
            negative: compare_side(Side::Negative, &self.layout.negative_spans, &layout.negative_spans)?,
        }))
    }

    /// Writes a sample after giving it and the chunk the buckets that they lack.
    fn write_fitting(&mut self, timestamp_ms: i64, histogram: &K, fit: &Fit) -> Result<Appended, TsdbError> {
        let Fit { positive, negative } = fit;
        let chunk_lacks = !positive.into_old.is_empty() || !negative.into_old.is_empty();
        let sample_lacks = !positive.into_new.is_empty() || !negative.into_new.is_empty();
        let mut layout = histogram.layout();
        let mut whole = None;
        if sample_lacks {
            // Which spans describe the same buckets is Prometheus' choice, and is seen in the bytes.
            let gauge = self.header == CounterResetHint::Gauge;
            if !gauge && !chunk_lacks {
                layout.positive_spans.clone_from(&self.layout.positive_spans);
                layout.negative_spans.clone_from(&self.layout.negative_spans);
            } else {
                if gauge || !positive.into_new.is_empty() {
                    layout.positive_spans.clone_from(&positive.union);
                }
                if gauge || !negative.into_new.is_empty() {
                    layout.negative_spans.clone_from(&negative.union);
                }
            }
            whole = Some(widened(histogram, &layout, &positive.into_new, &negative.into_new));
        }
        if chunk_lacks {
            self.recode(&layout, &positive.into_old, &negative.into_old)?;
        }
        self.write(timestamp_ms, whole.as_ref().unwrap_or(histogram));
        Ok(if chunk_lacks { Appended::Recoded } else { Appended::InPlace })
    }

    /// Rewrites the chunk with more buckets.
    fn recode(&mut self, layout: &Layout, positive: &[Insert], negative: &[Insert]) -> Result<(), TsdbError> {
        let mut fresh = Self { header: self.header, ..Self::new() };
        let mut reader = SampleReader::<K>::new(self.bytes())?;
        while let Some(timestamp_ms) = reader.advance()? {
            let histogram = reader.histogram();
            if is_stale(histogram.sum()) {
                fresh.write(timestamp_ms, &histogram);
            } else {
                fresh.write(timestamp_ms, &widened(&histogram, layout, positive, negative));
            }
        }
        *self = fresh;
        Ok(())
    }

    /// Writes a sample that has the layout of the chunk, or gives the chunk its layout.
    fn write(&mut self, timestamp_ms: i64, histogram: &K) {
        let marker = is_stale(histogram.sum()).then(|| K::only_sum(histogram.sum()));
        let histogram = marker.as_ref().unwrap_or(histogram);
        match &mut self.state {
            None => {
                self.layout = histogram.layout();
                self.layout.write(&mut self.writer);
                write_varbit_int(&mut self.writer, timestamp_ms);
                self.state = Some(histogram.write_first(&mut self.writer));
            }
            Some(state) => {
                let delta = timestamp_ms.wrapping_sub(self.timestamp);
                write_varbit_int(&mut self.writer, delta.wrapping_sub(self.delta));
                self.delta = delta;
                histogram.write_next(state, &mut self.writer);
            }
        }
        self.timestamp = timestamp_ms;
        self.samples += 1;
        self.writer.patch(0, &self.samples.to_be_bytes());
        self.writer.patch(HISTOGRAM_FLAGS_AT, &[header_byte(self.header)]);
    }
}

fn widened<K: Kind>(histogram: &K, layout: &Layout, positive: &[Insert], negative: &[Insert]) -> K {
    let positive = expanded(&histogram.absolute(Side::Positive), positive);
    let negative = expanded(&histogram.absolute(Side::Negative), negative);
    histogram.with_buckets(layout, positive, negative)
}

fn header_byte(header: CounterResetHint) -> u8 {
    match header {
        CounterResetHint::Unknown => 0b00 << 6,
        CounterResetHint::NotReset => 0b01 << 6,
        CounterResetHint::Reset => 0b10 << 6,
        CounterResetHint::Gauge => 0b11 << 6,
    }
}
