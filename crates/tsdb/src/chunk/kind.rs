//! What the two kinds of histogram chunks differ in, so that reading, appending and recoding are written once.

use parallax_model::{CounterResetHint, FloatHistogram};

use super::layout::Layout;
use super::varbit::XorReading;
use crate::bits::{BitReader, BitWriter};
use crate::error::TsdbError;

/// One of the two signs of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Positive,
    Negative,
}

/// Why a counter histogram cannot continue a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The chunk holds gauges.
    GaugeChunk,
    /// A counter fell, a used bucket is gone, or the sample says that there was a reset.
    Reset,
    /// The chunk ends with a staleness marker.
    AfterStale,
    /// Schema or zero threshold differ.
    OtherLayout,
}

/// A kind of histogram, and how its chunks store the numbers that are not in the layout or the timestamp.
///
/// (Public only in name: it stands in the signatures of [`super::Appender`] and [`super::SampleReader`].)
pub trait Kind: Clone + Sized {
    /// How errors call a chunk of this kind.
    const WHAT: &'static str;

    /// The state between two samples when reading.
    type Reading: Clone + std::fmt::Debug;
    /// The state between two samples when writing.
    type Writing: Clone + std::fmt::Debug;
    /// An absolute bucket count.
    type Count: Copy + PartialOrd + Default;

    fn read_first(reader: &mut BitReader<'_>, layout: &Layout) -> Result<Self::Reading, TsdbError>;
    fn read_next(reading: &mut Self::Reading, reader: &mut BitReader<'_>);
    /// The sum of the sample just read.
    fn read_sum(reading: &Self::Reading) -> XorReading;
    /// Whether any stored float was broken.
    fn is_broken(reading: &Self::Reading) -> bool;
    /// The sample just read, which is not stale.
    fn build(reading: &Self::Reading, layout: &Layout, hint: CounterResetHint) -> Self;
    /// The same with float counts.
    fn build_float(reading: &Self::Reading, layout: &Layout, hint: CounterResetHint) -> FloatHistogram;
    /// A sample that holds nothing but its sum: a staleness marker.
    fn only_sum(sum: f64) -> Self;

    fn hint(&self) -> CounterResetHint;
    fn sum(&self) -> f64;
    fn layout(&self) -> Layout;
    /// How many buckets there are, positive and negative.
    fn bucket_counts(&self) -> (usize, usize);
    fn absolute(&self, side: Side) -> Vec<Self::Count>;
    fn add(a: Self::Count, b: Self::Count) -> Self::Count;
    /// The same histogram with another layout and the counts that belong to it.
    fn with_buckets(&self, layout: &Layout, positive: Vec<Self::Count>, negative: Vec<Self::Count>) -> Self;

    fn write_first(&self, writer: &mut BitWriter) -> Self::Writing;
    /// `self` has the layout of the chunk, or is a staleness marker made by [`Self::only_sum`].
    fn write_next(&self, writing: &mut Self::Writing, writer: &mut BitWriter);
    fn written_sum(writing: &Self::Writing) -> f64;
    fn written_absolute(writing: &Self::Writing, side: Side) -> Vec<Self::Count>;
    /// Whether the count of observations is lower than the written one.
    fn count_fell(&self, writing: &Self::Writing) -> bool;
    fn zero_count_fell(&self, writing: &Self::Writing) -> bool;

    /// The header of a chunk that is begun because of a misfit.
    fn header_after(misfit: Misfit) -> CounterResetHint;
    /// The header of a chunk that follows another: the sample did or did not fit that one.
    fn header_following(misfit: Option<Misfit>) -> CounterResetHint;
}
