//! The reading end of a selection, on the engine's thread: frames in, whole series out.
//!
//! Parts of one series are adjacent in the stream, so a series is whole once another begins. Series come in the order
//! of their labels; one that does not would be given out twice, so it ends the query.

use std::sync::Arc;

use parallax_dedup::{Chunk, ChunkEncoding, Content, Dedup};
use parallax_model::{Labels, SeriesData};
use parallax_promql::source::{SeriesStream, SourceError};
use parallax_storeapi::chunks;
use parallax_storeapi::proto::thanos::{Aggr, AggrChunk, Chunk as WireChunk, Label, Series, chunk};
use tokio::sync::mpsc;

use super::budget::{Budget, Held};

/// What travels from the request to the engine.
pub(super) enum Delivery {
    Series(Vec<Series>, Held),
    Warning(String),
    Failed(SourceError),
    End,
}

impl Delivery {
    pub(super) fn series(series: Vec<Series>, budget: &Arc<Budget>) -> Result<Self, SourceError> {
        let size_bytes = series.iter().map(chunks::series_size_bytes).sum();
        Ok(Self::Series(series, budget.hold(size_bytes)?))
    }
}

pub(super) struct SelectedSeries {
    queue: mpsc::Receiver<Delivery>,
    dedup: Dedup,
    /// The aggregates that downsampled chunks were asked for; `None` if only raw data was.
    wanted: Option<&'static [Aggr]>,
    replica_labels: Vec<String>,
    /// The series whose parts may still be coming.
    open: Option<(Labels, Vec<Chunk>)>,
    /// What the chunks of `open` take.
    held: Vec<Held>,
    warnings: Vec<String>,
    is_done: bool,
}

impl SelectedSeries {
    pub(super) fn new(
        queue: mpsc::Receiver<Delivery>,
        dedup: Dedup,
        wanted: Option<&'static [Aggr]>,
        replica_labels: Vec<String>,
    ) -> Self {
        Self {
            queue,
            dedup,
            wanted,
            replica_labels,
            open: None,
            held: Vec::new(),
            warnings: Vec::new(),
            is_done: false,
        }
    }

    fn accept(&mut self, series: Vec<Series>, held: Held) -> Result<Vec<SeriesData>, SourceError> {
        let mut batch = Vec::with_capacity(series.len());
        for part in series {
            let labels = labels_of(&part.labels, &self.replica_labels)?;
            let wanted = self.wanted;
            let chunks =
                part.chunks.into_iter().filter_map(|chunk| read_chunk(chunk, wanted, &labels).transpose());
            match &mut self.open {
                Some((open, collected)) if *open == labels => {
                    for chunk in chunks {
                        collected.push(chunk?);
                    }
                }
                Some((open, _)) if *open > labels => {
                    return Err(SourceError::Storage(format!("stores sent series {labels} after {open}")));
                }
                _ => {
                    let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
                    self.close(&mut batch)?;
                    self.open = Some((labels, chunks));
                }
            }
        }
        self.held.push(held);
        Ok(batch)
    }

    /// Decodes the open series, which has come to its end, into `batch`.
    fn close(&mut self, batch: &mut Vec<SeriesData>) -> Result<(), SourceError> {
        if let Some((labels, chunks)) = self.open.take() {
            let samples = self
                .dedup
                .series(chunks)
                .map_err(|error| SourceError::Storage(format!("series {labels}: {error}")))?;
            if !samples.is_empty() {
                batch.push(SeriesData { labels, floats: samples.floats, histograms: samples.histograms });
            }
        }
        self.held.clear();
        Ok(())
    }
}

impl SeriesStream for SelectedSeries {
    fn next_batch(&mut self) -> Result<Option<Vec<SeriesData>>, SourceError> {
        while !self.is_done {
            let batch = match self.queue.blocking_recv() {
                Some(Delivery::Series(series, held)) => self.accept(series, held)?,
                Some(Delivery::Warning(warning)) => {
                    if !self.warnings.contains(&warning) {
                        self.warnings.push(warning);
                    }
                    continue;
                }
                Some(Delivery::Failed(error)) => {
                    self.is_done = true;
                    return Err(error);
                }
                Some(Delivery::End) => {
                    self.is_done = true;
                    let mut batch = Vec::new();
                    self.close(&mut batch)?;
                    batch
                }
                // The request was dropped before its end: nobody waits for this query any more.
                None => return Err(SourceError::Canceled),
            };
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

/// The labels of a series off the wire, without `replica_labels`.
pub(crate) fn labels_of(labels: &[Label], replica_labels: &[String]) -> Result<Labels, SourceError> {
    let mut pairs = Vec::with_capacity(labels.len());
    for label in labels {
        let (Ok(name), Ok(value)) = (std::str::from_utf8(&label.name), std::str::from_utf8(&label.value))
        else {
            return Err(SourceError::Storage(format!(
                "stores sent label {:?} that is not UTF-8",
                label.name
            )));
        };
        if !replica_labels.iter().any(|replica_label| replica_label == name) {
            pairs.push((name, value));
        }
    }
    Ok(Labels::from_pairs(pairs))
}

/// What `wanted` needs of a chunk; `None` if it is downsampled and has nothing of it, as histograms have no minima and maxima:
/// the functions that ask for those ignore histograms in raw data too.
fn read_chunk(
    chunk: AggrChunk,
    wanted: Option<&[Aggr]>,
    labels: &Labels,
) -> Result<Option<Chunk>, SourceError> {
    let (min_time_ms, max_time_ms) = (chunk.min_time, chunk.max_time);
    let broken = |reason: &str| {
        SourceError::Storage(format!("series {labels}: chunk [{min_time_ms}, {max_time_ms}] {reason}"))
    };
    let (wire, content) = match (chunk.raw, wanted) {
        (Some(raw), _) => (Some(raw), Content::Raw),
        (None, None) => return Err(broken("is downsampled, though raw data was asked for")),
        (None, Some([Aggr::Count])) => (chunk.count.map(|part| *part), Content::Aggregate),
        (None, Some([Aggr::Sum])) => (chunk.sum.map(|part| *part), Content::Aggregate),
        (None, Some([Aggr::Min])) => (chunk.min.map(|part| *part), Content::Aggregate),
        (None, Some([Aggr::Max])) => (chunk.max.map(|part| *part), Content::Aggregate),
        (None, Some([Aggr::Counter])) => (chunk.counter.map(|part| *part), Content::Counter),
        (None, Some(_)) => match (chunk.sum, chunk.count) {
            (Some(sum), Some(count)) => {
                if encoding_of(&count) != Some(ChunkEncoding::Xor) {
                    return Err(broken("has counts that are no numbers"));
                }
                (Some(*sum), Content::Sums { counts: count.data })
            }
            (None, None) => (None, Content::Aggregate),
            _ => return Err(broken("has one of sums and counts, but not both")),
        },
    };
    let Some(wire) = wire else { return Ok(None) };
    let Some(encoding) = encoding_of(&wire) else { return Err(broken("has an unknown encoding")) };
    Ok(Some(Chunk { min_time_ms, max_time_ms, encoding, data: wire.data, content }))
}

fn encoding_of(chunk: &WireChunk) -> Option<ChunkEncoding> {
    match chunk::Encoding::try_from(chunk.r#type) {
        Ok(chunk::Encoding::Xor) => Some(ChunkEncoding::Xor),
        Ok(chunk::Encoding::Histogram) => Some(ChunkEncoding::Histogram),
        Ok(chunk::Encoding::FloatHistogram) => Some(ChunkEncoding::FloatHistogram),
        Err(_) => None,
    }
}
