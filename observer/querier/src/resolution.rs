//! How coarse the data of a query may be: what the caller allows, what a function can bear, and how far back to look; and how coarse what it read was.
//!
//! Blocks are downsampled to one sample per 5 minutes and per hour. A request states the coarsest resolution that it takes; the
//! store gateway answers with the coarsest blocks within it, and fills the rest from finer ones. Rules as Thanos has them
//! (`pkg/query/querier.go`, `cmd/thanos/query.go`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parallax_model::Resolution;
use parallax_storeapi::proto::thanos::{AggrChunk, Chunk};

/// Functions that give nothing for a range with a single sample in it.
const NEED_TWO_SAMPLES: [&str; 9] = [
    "rate",
    "irate",
    "increase",
    "delta",
    "idelta",
    "deriv",
    "predict_linear",
    "holt_winters",
    "double_exponential_smoothing",
];

/// The coarsest resolution for one selector: where `function` needs two samples, its range must hold two.
pub(crate) fn for_selector(max_resolution_ms: i64, function: &str, range_ms: i64) -> i64 {
    if range_ms > 0 && NEED_TWO_SAMPLES.contains(&function) {
        max_resolution_ms.min(range_ms / 2)
    } else {
        max_resolution_ms
    }
}

/// The lookback delta for a query that allows `max_resolution_ms`: at least the distance of two samples of the coarsest
/// resolution that can be met.
pub(crate) fn lookback_ms(configured_ms: i64, max_resolution_ms: i64) -> i64 {
    let levels = [Resolution::Raw, Resolution::FiveMinutes, Resolution::OneHour].map(Resolution::millis);
    // From the coarsest on: a level can be met if the one below it, or the lookback that there is, is finer than what is allowed.
    for pair in levels.windows(2).rev() {
        let [finer_ms, level_ms] = pair else { continue };
        if (*finer_ms).max(configured_ms) < max_resolution_ms {
            return configured_ms.max(*level_ms);
        }
    }
    configured_ms
}

/// Of which resolutions the data of one query was, noted while it comes. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResolutionLog(Arc<AtomicU8>);

/// Resolutions that were read. Empty if nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadResolutions(u8);

/// Samples of downsampled data that lie further apart than this are an hour's.
const BETWEEN_LEVELS_MS: i64 = 30 * 60_000;

impl ResolutionLog {
    pub fn note(&self, read: ReadResolutions) {
        if read.0 & !self.0.load(Ordering::Relaxed) != 0 {
            self.0.fetch_or(read.0, Ordering::Relaxed);
        }
    }

    pub fn read(&self) -> ReadResolutions {
        ReadResolutions(self.0.load(Ordering::Relaxed))
    }
}

impl ReadResolutions {
    const RAW: u8 = 1;
    const FIVE_MINUTES: u8 = 2;
    const ONE_HOUR: u8 = 4;

    /// Adds that of a chunk, which the wire does not say: it shows in the distance of its samples. A downsampled chunk of one sample shows nothing, unless
    /// nothing coarser than five minutes was allowed.
    pub(crate) fn add(&mut self, chunk: &AggrChunk, max_resolution_ms: i64) {
        if chunk.raw.is_some() {
            self.0 |= Self::RAW;
            return;
        }
        if max_resolution_ms < Resolution::OneHour.millis() {
            self.0 |= Self::FIVE_MINUTES;
            return;
        }
        let plain = [&chunk.count, &chunk.sum, &chunk.min, &chunk.max];
        // A counter's last value is there twice.
        let samples = plain.into_iter().flatten().next().map(|part| samples(part));
        let samples = samples.or_else(|| chunk.counter.as_ref().map(|part| samples_of_counter(part)));
        let steps = i64::from(samples.unwrap_or(0)).saturating_sub(1);
        if steps > 0 {
            let distance_ms = chunk.max_time.saturating_sub(chunk.min_time) / steps;
            self.0 |= if distance_ms > BETWEEN_LEVELS_MS { Self::ONE_HOUR } else { Self::FIVE_MINUTES };
        }
    }

    /// From the finest on, as `max_source_resolution` writes them.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let levels = [(Self::RAW, "raw"), (Self::FIVE_MINUTES, "5m"), (Self::ONE_HOUR, "1h")];
        levels.into_iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| name).collect()
    }
}

/// Every encoding begins with how many samples there are.
fn samples(chunk: &Chunk) -> u16 {
    chunk.data.first_chunk().map_or(0, |count| u16::from_be_bytes(*count))
}

fn samples_of_counter(chunk: &Chunk) -> u16 {
    samples(chunk).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolution_of_chunks_shows_in_the_distance_of_their_samples() {
        let part = |samples: u16| {
            let data = bytes::Bytes::copy_from_slice(&samples.to_be_bytes());
            Some(Box::new(Chunk { data, ..Chunk::default() }))
        };
        let hours = |count: i64| AggrChunk { max_time: count * 60 * MINUTE_MS, ..AggrChunk::default() };
        let read = |chunk: &AggrChunk, allowed_ms: i64| {
            let mut read = ReadResolutions::default();
            read.add(chunk, allowed_ms);
            read.names()
        };
        let hour_ms = 60 * MINUTE_MS;
        assert_eq!(read(&AggrChunk { raw: Some(Chunk::default()), ..hours(1) }, hour_ms), ["raw"]);
        assert_eq!(read(&AggrChunk { sum: part(25), ..hours(2) }, hour_ms), ["5m"]);
        assert_eq!(read(&AggrChunk { sum: part(3), ..hours(2) }, hour_ms), ["1h"]);
        assert_eq!(read(&AggrChunk { counter: part(4), ..hours(2) }, hour_ms), ["1h"]);
        assert!(read(&AggrChunk { count: part(1), ..hours(0) }, hour_ms).is_empty());
        assert_eq!(read(&AggrChunk { count: part(1), ..hours(0) }, 5 * MINUTE_MS), ["5m"]);
        assert!(read(&hours(1), hour_ms).is_empty());
        let log = ResolutionLog::default();
        log.note(ReadResolutions(ReadResolutions::ONE_HOUR));
        log.clone().note(ReadResolutions(ReadResolutions::RAW));
        assert_eq!(log.read().names(), ["raw", "1h"]);
    }

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn a_range_that_needs_two_samples_caps_the_resolution_at_half_of_it() {
        assert_eq!(for_selector(60 * MINUTE_MS, "rate", 30 * MINUTE_MS), 15 * MINUTE_MS);
        assert_eq!(for_selector(5 * MINUTE_MS, "rate", 30 * MINUTE_MS), 5 * MINUTE_MS);
        assert_eq!(for_selector(60 * MINUTE_MS, "max_over_time", 30 * MINUTE_MS), 60 * MINUTE_MS);
        assert_eq!(for_selector(60 * MINUTE_MS, "rate", 0), 60 * MINUTE_MS);
    }

    #[test]
    fn the_lookback_reaches_over_a_window_of_the_coarsest_data_allowed() {
        let lookback = |configured: i64, allowed: i64| {
            lookback_ms(configured * MINUTE_MS, allowed * MINUTE_MS) / MINUTE_MS
        };
        assert_eq!(lookback(5, 0), 5);
        assert_eq!(lookback(5, 5), 5);
        // What is more than 5 m counts as leave for 1 h.
        assert_eq!(lookback(5, 6), 60);
        assert_eq!(lookback(1, 2), 5);
        assert_eq!(lookback(90, 60), 90);
        assert_eq!(lookback(30, 20), 30);
    }
}
