//! The reading end of a selection, on the engine's thread: frames in, whole series out. Decoding is shared with other threads (`decode`).
//!
//! Parts of one series are adjacent in the stream, so a series is whole once another begins. Series come in the order
//! of their labels; one that does not would be given out twice, so it is left out, and so is what cannot be decoded.

use std::collections::VecDeque;
use std::sync::Arc;

use parallax_dedup::{Chunk, ChunkEncoding, Content};
use parallax_model::Labels;
use parallax_promql::source::{Delivered, SeriesStream, SourceError};
use parallax_storeapi::proto::thanos::{Aggr, AggrChunk, Chunk as WireChunk, Label, Series, chunk};
use tokio::sync::{mpsc, watch};

use super::blame::Containment;
use super::budget::Held;
use super::decode::{Decoder, Whole};
use super::early::{Arrived, Brief};
use super::withholding::Asked;
use crate::coverage::Gap;
use crate::resolution::{ReadResolutions, ResolutionLog};

/// What travels from the request to the engine.
pub(super) enum Delivery {
    Series(Vec<Series>, Held),
    Warning(String),
    Failed(SourceError),
    End,
}

/// What is wanted of downsampled chunks, and where it is noted how coarse they were.
pub(super) struct Wanted {
    pub aggregates: &'static [Aggr],
    pub max_resolution_ms: i64,
    pub resolutions: ResolutionLog,
}

/// What is worth beginning with while more comes: more than a small answer has.
const ENOUGH_DELIVERIES: usize = 4;
const ENOUGH_BYTES: usize = 64 << 10;

pub(super) struct SelectedSeries {
    asked: Asked,
    queue: mpsc::Receiver<Delivery>,
    /// What was taken out of the queue before the engine came to it.
    arrived: VecDeque<Delivery>,
    /// Set where nothing may be waited for.
    brief: Option<Brief>,
    /// Where the series begin that are still to be handed on, if they are read again.
    from: Option<Labels>,
    /// Told when the engine begins to read.
    want: watch::Sender<bool>,
    decoder: Decoder,
    /// `None` if only raw data was asked for.
    wanted: Option<Wanted>,
    replica_labels: Vec<String>,
    containment: Containment,
    /// The series whose parts may still be coming.
    open: Option<Whole>,
    /// What the chunks of `open` take.
    held: Vec<Arc<Held>>,
    warnings: Vec<String>,
    /// What the series lack that came until they are read again.
    gaps: Vec<Gap>,
    is_done: bool,
}

impl SelectedSeries {
    pub(super) fn new(
        (asked, queue): (Asked, mpsc::Receiver<Delivery>),
        want: watch::Sender<bool>,
        decoder: Decoder,
        wanted: Option<Wanted>,
        replica_labels: Vec<String>,
        containment: Containment,
    ) -> Self {
        Self {
            asked,
            queue,
            arrived: VecDeque::new(),
            brief: None,
            from: None,
            want,
            decoder,
            wanted,
            replica_labels,
            containment,
            open: None,
            held: Vec::new(),
            warnings: Vec::new(),
            gaps: Vec::new(),
            is_done: false,
        }
    }

    /// Lets a request that was prepared go on right here, until all is there or as much as is worth beginning with. Gives what there is if it is all.
    pub(super) async fn arrive(&mut self) -> Option<Arrived> {
        self.want.send_replace(true);
        let Self { asked, queue, arrived, .. } = self;
        let mut so_far = Arrived::default();
        let mut is_enough = || {
            while let Ok(delivery) = queue.try_recv() {
                so_far.add(&delivery);
                arrived.push_back(delivery);
            }
            arrived.len() >= ENOUGH_DELIVERIES || so_far.data_bytes >= ENOUGH_BYTES
        };
        let is_whole = asked.go_on_here(&mut is_enough).await;
        is_enough();
        is_whole.then_some(so_far)
    }

    /// From here on nothing may be waited for, and nobody may be asked.
    pub(super) fn be_brief(&mut self, brief: Brief) {
        self.brief = Some(brief);
    }

    fn try_recv(&mut self) -> Result<Delivery, mpsc::error::TryRecvError> {
        self.arrived.pop_front().map_or_else(|| self.queue.try_recv(), Ok)
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), SourceError> {
        match delivery {
            Delivery::Series(series, held) => self.accept(series, held)?,
            Delivery::Warning(warning) => {
                if self.asked.withholds() {
                    self.gaps.extend(Gap::parse(&warning));
                }
                self.warn(warning);
            }
            Delivery::Failed(error) => {
                self.is_done = true;
                return Err(error);
            }
            Delivery::End => {
                self.is_done = true;
                self.close();
            }
        }
        Ok(())
    }

    fn accept(&mut self, series: Vec<Series>, held: Held) -> Result<(), SourceError> {
        let held = Arc::new(held);
        if let Some(wanted) = &self.wanted {
            let mut read = ReadResolutions::default();
            for chunk in series.iter().flat_map(|part| &part.chunks) {
                read.add(chunk, wanted.max_resolution_ms);
            }
            wanted.resolutions.note(read);
        }
        for part in series {
            let labels = match labels_of(&part.labels, &self.replica_labels) {
                Ok(labels) => labels,
                Err(error) => {
                    self.leave_out(&Labels::empty(), &error.to_string())?;
                    continue;
                }
            };
            if self.from.as_ref().is_some_and(|from| labels < *from) {
                continue;
            }
            self.from = None;
            if let Some(open) = &self.open
                && open.labels > labels
            {
                let reason = format!("it came after {}", open.labels);
                self.leave_out(&labels, &reason)?;
                continue;
            }
            let is_next = self.open.as_ref().is_none_or(|open| open.labels != labels);
            if is_next {
                self.close();
            }
            let mut chunks = Vec::with_capacity(part.chunks.len());
            for chunk in part.chunks {
                match read_chunk(chunk, self.wanted.as_ref().map(|wanted| wanted.aggregates)) {
                    Ok(chunk) => chunks.extend(chunk),
                    Err(reason) => self.leave_out(&labels, &reason)?,
                }
            }
            match &mut self.open {
                Some(open) => open.chunks.append(&mut chunks),
                None => self.open = Some(Whole { labels, chunks }),
            }
            if self.held.last().is_none_or(|last| !Arc::ptr_eq(last, &held)) {
                self.held.push(held.clone());
            }
        }
        Ok(())
    }

    /// Hands on the open series, which has come to its end.
    fn close(&mut self) {
        if let Some(series) = self.open.take() {
            self.decoder.push(series, &self.held);
        }
        self.held.clear();
    }

    /// Asks again, for everything: a store kept back what is needed of the series `from`.
    fn read_again(&mut self, from: Labels) -> Result<(), SourceError> {
        self.asked.lacks();
        if let Some(brief) = &self.brief {
            return Err(brief.give_up());
        }
        // What lies before `from` is not read again: what it lacks stays missing.
        self.asked.stays_without(&std::mem::take(&mut self.gaps));
        // What is held of the first request is given back before the second one holds anything.
        self.arrived.clear();
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
        self.decoder.restart();
        self.open = None;
        self.held.clear();
        self.queue = self.asked.begin_again();
        self.is_done = false;
        self.from = Some(from);
        Ok(())
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
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError> {
        self.want.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        loop {
            while !self.is_done && self.decoder.has_room() {
                match self.try_recv() {
                    Ok(delivery) => self.take(delivery)?,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    // The request was dropped before its end: nobody waits for this query any more.
                    Err(mpsc::error::TryRecvError::Disconnected) => return Err(SourceError::Canceled),
                }
            }
            // Series that are there do not wait for those to come.
            self.decoder.close();
            match self.decoder.next().transpose()? {
                Some(decoded) => {
                    for (labels, reason) in decoded.left_out {
                        self.leave_out(&labels, &reason)?;
                    }
                    if let Some(from) = decoded.lacking {
                        self.read_again(from)?;
                    }
                    if !decoded.series.is_empty() {
                        return Ok(Some(decoded.series));
                    }
                }
                None if self.is_done => {
                    let summary = self.containment.summary();
                    summary.into_iter().for_each(|summary| self.warn(summary));
                    return Ok(None);
                }
                None => {
                    if let Some(brief) = &self.brief {
                        return Err(brief.give_up());
                    }
                    let delivery = self.queue.blocking_recv().ok_or(SourceError::Canceled)?;
                    self.take(delivery)?;
                }
            }
        }
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
    let is_sorted = pairs.is_sorted_by(|a, b| a.0 < b.0);
    Ok(if is_sorted { Labels::from_sorted(pairs) } else { Labels::from_pairs(pairs) })
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
