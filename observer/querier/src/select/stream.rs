//! The reading end of a selection, on the engine's thread: frames in, whole series out.
//!
//! Parts of one series are adjacent in the stream, so a series is whole once another begins. Series come in the order
//! of their labels; one that does not would be given out twice, so it is left out, and so is what cannot be decoded.

use parallax_dedup::{Chunk, ChunkEncoding, Content, Dedup};
use parallax_model::{Labels, SeriesData};
use parallax_promql::source::{SeriesStream, SourceError};
use parallax_storeapi::proto::thanos::{Aggr, AggrChunk, Chunk as WireChunk, Label, Series, chunk};
use tokio::sync::{mpsc, watch};

use super::blame::Containment;
use super::budget::Held;

/// What travels from the request to the engine.
pub(super) enum Delivery {
    Series(Vec<Series>, Held),
    Warning(String),
    Failed(SourceError),
    End,
}

pub(super) struct SelectedSeries {
    queue: mpsc::Receiver<Delivery>,
    /// Told when the engine begins to read.
    want: watch::Sender<bool>,
    dedup: Dedup,
    /// The aggregates that downsampled chunks were asked for; `None` if only raw data was.
    wanted: Option<&'static [Aggr]>,
    replica_labels: Vec<String>,
    containment: Containment,
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
        want: watch::Sender<bool>,
        dedup: Dedup,
        wanted: Option<&'static [Aggr]>,
        replica_labels: Vec<String>,
        containment: Containment,
    ) -> Self {
        Self {
            queue,
            want,
            dedup,
            wanted,
            replica_labels,
            containment,
            open: None,
            held: Vec::new(),
            warnings: Vec::new(),
            is_done: false,
        }
    }

    fn accept(&mut self, series: Vec<Series>, held: Held) -> Result<Vec<SeriesData>, SourceError> {
        let mut batch = Vec::with_capacity(series.len());
        for part in series {
            let labels = match labels_of(&part.labels, &self.replica_labels) {
                Ok(labels) => labels,
                Err(error) => {
                    self.leave_out(&Labels::empty(), &error.to_string())?;
                    continue;
                }
            };
            if let Some((open, _)) = &self.open
                && *open > labels
            {
                let reason = format!("it came after {open}");
                self.leave_out(&labels, &reason)?;
                continue;
            }
            let is_next = self.open.as_ref().is_none_or(|(open, _)| *open != labels);
            if is_next {
                self.close(&mut batch)?;
            }
            let mut chunks = Vec::with_capacity(part.chunks.len());
            for chunk in part.chunks {
                match read_chunk(chunk, self.wanted) {
                    Ok(chunk) => chunks.extend(chunk),
                    Err(reason) => self.leave_out(&labels, &reason)?,
                }
            }
            match &mut self.open {
                Some((_, collected)) => collected.append(&mut chunks),
                None => self.open = Some((labels, chunks)),
            }
        }
        self.held.push(held);
        Ok(batch)
    }

    /// Decodes the open series, which has come to its end, into `batch`.
    fn close(&mut self, batch: &mut Vec<SeriesData>) -> Result<(), SourceError> {
        if let Some((labels, chunks)) = self.open.take() {
            // The copy shares the chunks' bytes; it is what is left when one of them cannot be read.
            let samples = match self.dedup.series(chunks.clone()) {
                Ok(samples) => Some(samples),
                Err(_) => self.readable(&labels, chunks)?,
            };
            if let Some(samples) = samples.filter(|samples| !samples.is_empty()) {
                batch.push(SeriesData { labels, floats: samples.floats, histograms: samples.histograms });
            }
        }
        self.held.clear();
        Ok(())
    }

    /// The samples of the chunks that can be decoded.
    fn readable(
        &mut self,
        labels: &Labels,
        mut chunks: Vec<Chunk>,
    ) -> Result<Option<parallax_dedup::Samples>, SourceError> {
        let mut reasons = Vec::new();
        chunks.retain(|chunk| match self.dedup.series(vec![chunk.clone()]) {
            Ok(_) => true,
            Err(error) => {
                reasons.push(error.to_string());
                false
            }
        });
        for reason in reasons {
            self.leave_out(labels, &reason)?;
        }
        match self.dedup.series(chunks) {
            Ok(samples) => Ok(Some(samples)),
            Err(error) => self.leave_out(labels, &error.to_string()).map(|()| None),
        }
    }

    fn leave_out(&mut self, labels: &Labels, reason: &str) -> Result<(), SourceError> {
        let warning = self.containment.leave_out(labels, reason)?;
        warning.into_iter().for_each(|warning| self.warn(warning));
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

impl SeriesStream for SelectedSeries {
    fn next_batch(&mut self) -> Result<Option<Vec<SeriesData>>, SourceError> {
        self.want.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        while !self.is_done {
            let batch = match self.queue.blocking_recv() {
                Some(Delivery::Series(series, held)) => self.accept(series, held)?,
                Some(Delivery::Warning(warning)) => {
                    self.warn(warning);
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
                    let summary = self.containment.summary();
                    summary.into_iter().for_each(|summary| self.warn(summary));
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
fn read_chunk(chunk: AggrChunk, wanted: Option<&[Aggr]>) -> Result<Option<Chunk>, String> {
    let (min_time_ms, max_time_ms) = (chunk.min_time, chunk.max_time);
    let broken = |reason: &str| format!("chunk [{min_time_ms}, {max_time_ms}] {reason}");
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
