//! Replicas into one series, at sample level: what a querier does with the chunks of one label set.
//!
//! [`Dedup::series`] takes every chunk that stores returned for one label set (replica labels already taken off),
//! tells the replicas apart by their overlap in time, decodes each once into columns and merges them with one of
//! three algorithms. Penalty and chain are exact with Thanos' `pkg/dedup`, so that an answer does not change when
//! a querier is replaced; the third, gap-aware, is our own. Output columns are strictly increasing in time, whatever
//! the chunks held.
//!
//! | algorithm | gives | at a missed scrape | counters |
//! |---|---|---|---|
//! | `penalty` | the samples of one replica, until it has a gap | a hole of up to three intervals | resets are taken out, and each switch may raise them |
//! | `chain` | every sample of every replica | nothing is missing | resets are taken out of each replica; differences between replicas stay |
//! | `gap-aware` | the samples of one replica, until it misses a scrape | the other replica's sample, 0.4 to 1.4 intervals after the last one | as they are, resets too; a switch neither lowers nor jumps |
//!
//! It knows nothing of stores, streams or label sets, and nothing of chunk-level dedup, which the compactor does.

#![forbid(unsafe_code)]

mod chain;
mod chunks;
mod cursor;
mod downsampled;
mod follow;
mod gap_aware;
mod penalty;
mod replica;
mod scratch;

use std::fmt;
use std::str::FromStr;

use parallax_model::{FloatColumn, HistogramColumn, TimeRange};
use parallax_tsdb::error::TsdbError;

use gap_aware::Counters;
use replica::{LazyReplica, decode_replica_in};

pub use chunks::{Chunk, Content, MAX_REPLICAS, split_overlaps};
pub use parallax_tsdb::chunk::ChunkEncoding;
pub use replica::{DecodedChunk, decode_replica, join};
pub use scratch::Scratch;

/// The samples of one series or replica: each column strictly increasing in time, no timestamp in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    pub floats: FloatColumn,
    pub histograms: HistogramColumn,
}

impl Samples {
    pub fn len(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.histograms.is_empty()
    }
}

/// Why the samples of a series could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A store sent bytes that are no chunk. Asking again will not help.
    #[error("decode {encoding:?} chunk [{min_time_ms}, {max_time_ms}]: {source}")]
    Chunk { encoding: ChunkEncoding, min_time_ms: i64, max_time_ms: i64, source: TsdbError },
    /// A store sent sums and counts of downsampled data that do not belong together.
    #[error("average of chunk [{min_time_ms}, {max_time_ms}]: sums and counts have different timestamps")]
    Misaligned { min_time_ms: i64, max_time_ms: i64 },
    /// A store kept back the data of a chunk (`parallax_storeapi::withhold`), and it turned out to be needed. Asked for everything, it will send it.
    #[error("chunk [{min_time_ms}, {max_time_ms}] came without its data")]
    Withheld { min_time_ms: i64, max_time_ms: i64 },
    /// Stores sent more chunks for the same time than there are replicas of anything.
    #[error("more than {MAX_REPLICAS} overlapping chunks at {time_ms} ms: no series has so many replicas")]
    TooManyReplicas { time_ms: i64 },
}

/// How replicas become one series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Follow one replica, and switch only when it has a gap: never more samples than one replica has.
    #[default]
    Penalty,
    /// Every sample of every replica; of equal timestamps one.
    Chain,
    /// Follow one replica, and switch when it misses a scrape, by the interval that its samples show.
    GapAware,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::Penalty, Self::Chain, Self::GapAware];

    /// As flags, files and URLs have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Penalty => "penalty",
            Self::Chain => "chain",
            Self::GapAware => "gap-aware",
        }
    }

    /// Whether counters lose their resets before they are merged, as in Thanos.
    const fn flattens_counters(self) -> bool {
        match self {
            Self::Penalty | Self::Chain => true,
            Self::GapAware => false,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no algorithm has; says which ones there are.
#[derive(Debug, thiserror::Error)]
#[error("there is no such algorithm, use penalty, chain or gap-aware")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

/// What one selector does to its series. Without [`Dedup::algorithm`] nothing is altered.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// `None`: no dedup. Then overlapping chunks of one series are chained, and counters stay as they are.
    pub algorithm: Option<Algorithm>,
    /// Counters lose their resets (and NaN samples) before they are merged.
    flattens_counters: bool,
    /// A switch of replica raises counters, so that they do not fall.
    raises_counters: bool,
    /// The whole query's range: merging starts with the first returned sample in it.
    pub query_range: TimeRange,
    /// What the caller reads: output is cut to it, after merging.
    pub output_range: TimeRange,
}

impl Dedup {
    /// For the selector inside `function` (empty if there is none).
    pub fn new(
        algorithm: Option<Algorithm>,
        function: &str,
        query_range: TimeRange,
        output_range: TimeRange,
    ) -> Self {
        let is_counter = matches!(function, "rate" | "irate" | "increase" | "resets");
        // Thanos asks for counter aggregates for these two as well, but does not raise them on a switch.
        let is_extended = matches!(function, "xrate" | "xincrease");
        Self {
            algorithm,
            flattens_counters: algorithm.is_some_and(Algorithm::flattens_counters)
                && (is_counter || is_extended),
            raises_counters: is_counter,
            query_range,
            output_range,
        }
    }

    /// The one series that `chunks` hold together, from whatever number of replicas and stores they come.
    ///
    /// Of replicas that hold floats, those that are not followed are decoded only as far as they are looked at: of two with penalty, of any number if gap-aware.
    ///
    /// # Errors
    /// If a chunk that is needed cannot be decoded or has no data, or there are more than [`MAX_REPLICAS`].
    pub fn series(&self, chunks: &[Chunk]) -> Result<Samples, Error> {
        self.series_in(chunks, &mut Scratch::default())
    }

    /// As [`Self::series`], in memory that was used before.
    ///
    /// # Errors
    /// As [`Self::series`].
    pub fn series_in(&self, chunks: &[Chunk], scratch: &mut Scratch) -> Result<Samples, Error> {
        // A counter aggregate repeats a timestamp, so it makes sense only flattened, with or without dedup.
        let flattens = self.flattens_counters || chunks.iter().any(|chunk| chunk.content == Content::Counter);
        let replicas = split_overlaps(chunks)?;
        let bounds = match replicas.len() {
            1 => self.query_range.intersect(&self.output_range),
            _ => self.query_range,
        };
        let mut lazy = |chunks| LazyReplica::new(chunks, bounds, flattens, scratch.take());
        let has_only_floats = replicas.iter().flatten().all(|chunk| chunk.encoding == ChunkEncoding::Xor);
        match (self.algorithm, replicas.as_slice()) {
            (Some(Algorithm::Penalty), [left, right]) if has_only_floats => {
                let (left, right) = (lazy(left), lazy(right));
                return follow::merge(left, right, self.raises_counters, self.output_range, scratch);
            }
            (Some(Algorithm::GapAware), [_, _, ..]) if has_only_floats => {
                let feeds = replicas.iter().map(|chunks| match self.raises_counters {
                    // What a replica had before it is switched to is looked at.
                    true => lazy(chunks).without_skipping(),
                    false => lazy(chunks),
                });
                return gap_aware::merge_floats(feeds, self.counters(flattens), self.output_range);
            }
            _ => {}
        }
        let decoded: Result<Vec<Samples>, Error> = replicas
            .iter()
            .map(|chunks| decode_replica_in(chunks, bounds, flattens, scratch.take()))
            .collect();
        Ok(self.merge_as(decoded?, self.counters(flattens)))
    }

    fn counters(&self, are_flattened: bool) -> Counters {
        match (self.raises_counters, are_flattened) {
            (false, _) => Counters::No,
            (true, false) => Counters::WithResets,
            (true, true) => Counters::WithoutResets,
        }
    }

    /// The one series that `replicas` make, in their order: the first one is preferred. Counters come as [`decode_replica`] leaves them: flattened for penalty
    /// and chain, with their resets for gap-aware.
    pub fn merge(&self, replicas: Vec<Samples>) -> Samples {
        self.merge_as(replicas, self.counters(self.flattens_counters))
    }

    fn merge_as(&self, mut replicas: Vec<Samples>, counters: Counters) -> Samples {
        if replicas.len() < 2 {
            return replicas.pop().map(|only| cut(only, self.output_range)).unwrap_or_default();
        }
        match self.algorithm {
            Some(Algorithm::Penalty) => penalty::merge(&replicas, self.raises_counters, self.output_range),
            Some(Algorithm::GapAware) => gap_aware::merge(&replicas, counters, self.output_range),
            Some(Algorithm::Chain) | None => chain::merge(&replicas, self.output_range),
        }
    }
}

/// `samples` without those outside of `range`; moves nothing if none is.
fn cut(mut samples: Samples, range: TimeRange) -> Samples {
    fn keep(timestamps_ms: &[i64], range: TimeRange) -> std::ops::Range<usize> {
        let start = timestamps_ms.partition_point(|t| *t < range.min_ms);
        let end = timestamps_ms.partition_point(|t| *t <= range.max_ms);
        start..end.max(start)
    }
    let floats = keep(&samples.floats.timestamps_ms, range);
    if floats.len() < samples.floats.len() {
        samples.floats.timestamps_ms = samples.floats.timestamps_ms.drain(floats.clone()).collect();
        samples.floats.values = samples.floats.values.drain(floats).collect();
    }
    let histograms = keep(&samples.histograms.timestamps_ms, range);
    if histograms.len() < samples.histograms.len() {
        samples.histograms.timestamps_ms =
            samples.histograms.timestamps_ms.drain(histograms.clone()).collect();
        samples.histograms.values = samples.histograms.values.drain(histograms).collect();
    }
    samples
}
