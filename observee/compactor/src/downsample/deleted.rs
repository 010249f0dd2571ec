//! Leaving out windows of an aggregate chunk.

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};

use super::HistogramSample;
use super::batch::FloatParts;
use super::float::FloatSample;
use super::histogram::{HistogramWindow, encode_windows};
use super::raw::{read_floats, read_histograms};

/// Appends what is left of a chunk without the windows whose times are deleted.
pub(crate) fn without_windows(
    chunk: &BlockChunk,
    is_deleted: impl Fn(i64) -> bool,
    out: &mut Vec<BlockChunk>,
) -> Result<(), TsdbError> {
    let parts = Parts::decode(&chunk.chunk.data)?;
    if parts.get(Aggregate::Counter).is_some_and(|(encoding, _)| encoding.is_histogram()) {
        return without_histograms(&parts, is_deleted, out);
    }
    let mut left = FloatParts::default();
    for aggregate in [Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max] {
        let Some((_, data)) = parts.get(aggregate) else { continue };
        let mut windows: Vec<FloatSample> = Vec::new();
        read_floats(data, &mut windows)?;
        for (time_ms, value) in windows.into_iter().filter(|window| !is_deleted(window.0)) {
            left.append(aggregate, time_ms, value)?;
        }
    }
    if let Some((_, data)) = parts.get(Aggregate::Counter) {
        let mut counter: Vec<FloatSample> = Vec::new();
        read_floats(data, &mut counter)?;
        for (time_ms, value) in counter_without(&counter, is_deleted) {
            left.append_raw(Aggregate::Counter, time_ms, value)?;
        }
    }
    out.extend(left.finish()?);
    Ok(())
}

/// A counter begins with the first raw sample, which belongs to the first window, and ends with the last raw value under the last window's time. Where the last
/// window goes, the value of the one before stands in.
fn counter_without(counter: &[FloatSample], is_deleted: impl Fn(i64) -> bool) -> Vec<FloatSample> {
    let mut left = Vec::with_capacity(counter.len());
    if let [first, window, ..] = counter
        && !is_deleted(window.0)
    {
        left.push(*first);
    }
    left.extend(counter.iter().skip(1).filter(|window| !is_deleted(window.0)).copied());
    if let [.., before, last] = left.as_slice()
        && before.0 != last.0
    {
        left.push(*last);
    }
    left
}

fn without_histograms(
    parts: &Parts<'_>,
    is_deleted: impl Fn(i64) -> bool,
    out: &mut Vec<BlockChunk>,
) -> Result<(), TsdbError> {
    let mut counts: Vec<FloatSample> = Vec::new();
    let (mut sums, mut counters): (Vec<HistogramSample>, Vec<HistogramSample>) = (Vec::new(), Vec::new());
    for (aggregate, histograms) in [(Aggregate::Sum, &mut sums), (Aggregate::Counter, &mut counters)] {
        if let Some((_, data)) = parts.get(aggregate) {
            read_histograms(data, histograms)?;
        }
    }
    if let Some((_, data)) = parts.get(Aggregate::Count) {
        read_floats(data, &mut counts)?;
    }
    let aligned = counts.len() == sums.len()
        && counts.len() == counters.len()
        && counts.iter().zip(&sums).zip(&counters).all(|((a, b), c)| a.0 == b.0 && a.0 == c.0);
    if !aligned {
        return Err(TsdbError::invalid("aggregate chunk", "its aggregates are not of the same windows"));
    }
    let windows = counts.into_iter().zip(sums).zip(counters);
    let windows: Vec<HistogramWindow> = windows
        .filter(|((count, _), _)| !is_deleted(count.0))
        .map(|(((stamp_ms, count), (_, sum)), (_, counter))| HistogramWindow {
            stamp_ms,
            count,
            sum,
            counter,
        })
        .collect();
    encode_windows(&windows, out)
}

#[cfg(test)]
mod tests {
    use parallax_tsdb::chunk::XorReader;

    use super::*;
    use crate::downsample::float::float_batch;

    /// Windows of 100 ms: two samples each, a reset between the second and the third window.
    fn chunk() -> BlockChunk {
        let samples = [(10, 1.0), (60, 5.0), (110, 6.0), (160, 9.0), (210, 2.0), (260, 3.0)];
        float_batch(&samples, 100).unwrap().unwrap()
    }

    fn parts_without(deleted: std::ops::RangeInclusive<i64>) -> Option<(BlockChunk, [Vec<FloatSample>; 5])> {
        let mut out = Vec::new();
        without_windows(&chunk(), |time_ms| deleted.contains(&time_ms), &mut out).unwrap();
        let chunk = out.pop()?;
        let parts = Parts::decode(&chunk.chunk.data).unwrap();
        let read = |which| -> Vec<FloatSample> {
            XorReader::new(parts.get(which).unwrap().1).unwrap().map(Result::unwrap).collect()
        };
        let parts = Aggregate::ALL.map(read);
        Some((chunk, parts))
    }

    #[test]
    fn windows_go_from_all_aggregates_and_the_counter_keeps_its_ends() {
        let (whole, parts) = parts_without(1000..=1000).unwrap();
        assert_eq!(whole, chunk());
        assert_eq!(parts[4], [(10, 1.0), (99, 5.0), (199, 9.0), (260, 12.0), (260, 3.0)]);
        let (middle, parts) = parts_without(100..=200).unwrap();
        assert_eq!((middle.min_time_ms, middle.max_time_ms), (99, 260));
        assert_eq!(parts[0], [(99, 2.0), (260, 2.0)]);
        assert_eq!(parts[1], [(99, 6.0), (260, 5.0)]);
        assert_eq!(parts[4], [(10, 1.0), (99, 5.0), (260, 12.0), (260, 3.0)]);
        let (_, parts) = parts_without(0..=150).unwrap();
        assert_eq!(parts[3], [(199, 9.0), (260, 3.0)]);
        assert_eq!(parts[4], [(199, 9.0), (260, 12.0), (260, 3.0)]);
        let (_, parts) = parts_without(200..=300).unwrap();
        assert_eq!(parts[4], [(10, 1.0), (99, 5.0), (199, 9.0), (199, 9.0)]);
        assert_eq!(parts_without(0..=300), None);
    }
}
