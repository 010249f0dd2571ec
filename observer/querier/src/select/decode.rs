//! From the chunks of whole series to samples, on several threads.
//!
//! A selection cuts its series into small jobs. While one of the [`Helpers`] is free, a thread of the runtime's blocking pool takes them, one after the other for as long
//! as there are some; what nobody has taken when its turn comes is done by the thread that waits for it. Jobs come back in their order, whoever did them. A canceled
//! query ends its jobs at their next series.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use parallax_dedup::{Chunk, Dedup, Error as DedupError, Samples, Scratch};
use parallax_model::{Labels, SeriesData};
use parallax_promql::source::{Delivered, Preparation, SourceError};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::budget::Held;

/// A job ends with the series that brings it to so many samples: half a millisecond of work, a megabyte when they are decoded.
const JOB_SAMPLES: usize = 1 << 16;

/// To hand over less than this would take about as long as to do it.
const MIN_SHARED_SAMPLES: usize = JOB_SAMPLES / 8;

/// Jobs that may be done, or under way, before the engine takes the first of them: what they hold is not counted by the engine yet.
const MAX_JOBS_AHEAD: usize = 8;

/// Threads besides those of queries that may decode at once, for all queries of a querier together. A clone shares them.
#[derive(Clone, Debug)]
pub struct Helpers(Arc<Semaphore>);

impl Helpers {
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads.min(Semaphore::MAX_PERMITS))))
    }

    /// One that is free.
    fn one(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

/// As many as there are processors.
impl Default for Helpers {
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, usize::from))
    }
}

/// What is done to the series of one selection.
pub(super) struct Work {
    pub dedup: Dedup,
    /// What the engine wants done while samples are at hand.
    pub preparation: Option<Preparation>,
    /// Whether a store may have kept back a chunk that is needed: then its series, and those after it, have to be asked for again.
    pub withholds: bool,
}

/// One series with all its chunks.
pub(super) struct Whole {
    pub labels: Labels,
    pub chunks: Vec<Chunk>,
}

/// What came of a job.
#[derive(Default)]
pub(super) struct Batch {
    pub series: Vec<Delivered>,
    /// What could not be decoded, and why.
    pub left_out: Vec<(Labels, String)>,
    /// The first series that lacks what a store kept back; neither it nor those after it are here.
    pub lacking: Option<Labels>,
}

type Decoded = Result<Batch, SourceError>;

/// Some series that are to be decoded.
struct Job {
    series: Vec<Whole>,
    samples: usize,
    /// What the chunks take.
    held: Vec<Arc<Held>>,
}

/// A job that nobody has taken yet.
struct Waiting {
    job: Job,
    work: Arc<Work>,
    outcome: oneshot::Sender<Decoded>,
}

/// In the order of the selection: the next to be taken is the first to be waited for. A clone shares them.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<VecDeque<Waiting>>>);

/// The jobs of one selection, in order.
pub(super) struct Decoder {
    work: Arc<Work>,
    runtime: Handle,
    helpers: Helpers,
    canceled: CancellationToken,
    /// The job that is still growing.
    open: Job,
    /// The last of those whose outcomes come.
    queue: Queue,
    outcomes: VecDeque<oneshot::Receiver<Decoded>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Waiting> {
        self.lock().pop_front()
    }

    /// Does one job after the other while there are some, and a helper to do them: another selection may want it in between.
    fn help(&self, helpers: &Helpers, canceled: &CancellationToken, permit: OwnedSemaphorePermit) {
        let mut permit = Some(permit);
        while permit.is_some()
            && let Some(Waiting { job, work, outcome }) = self.take()
        {
            let decoded = job.run(&work, canceled);
            drop(permit.take());
            // Nobody waits for the jobs of a query that has ended.
            let _ = outcome.send(decoded);
            permit = helpers.one();
        }
    }
}

impl Job {
    fn empty() -> Self {
        Self { series: Vec::new(), samples: 0, held: Vec::new() }
    }

    fn run(self, work: &Work, canceled: &CancellationToken) -> Decoded {
        let Work { dedup, preparation, withholds } = work;
        let mut batch = Batch { series: Vec::with_capacity(self.series.len()), ..Batch::default() };
        let mut scratch = Scratch::default();
        for Whole { labels, chunks } in self.series {
            if canceled.is_cancelled() {
                return Err(SourceError::Canceled);
            }
            let samples = match dedup.series_in(&chunks, &mut scratch) {
                Ok(samples) => samples,
                // Where one chunk is damaged, others count that a store had no reason to send.
                Err(error)
                    if *withholds
                        && (matches!(error, DedupError::Withheld { .. })
                            || chunks.iter().any(Chunk::is_withheld)) =>
                {
                    batch.lacking = Some(labels);
                    break;
                }
                Err(_) => readable(dedup, &labels, chunks, &mut batch.left_out),
            };
            if !samples.is_empty() {
                let (floats, histograms) = (samples.floats, samples.histograms);
                let series = SeriesData { labels, floats, histograms };
                let leave = |floats| scratch.give(floats);
                batch.series.push(Delivered::new_and_leave(series, preparation.as_ref(), leave)?);
            }
        }
        Ok(batch)
    }
}

/// The samples of the chunks that can be decoded.
fn readable(
    dedup: &Dedup,
    labels: &Labels,
    mut chunks: Vec<Chunk>,
    left_out: &mut Vec<(Labels, String)>,
) -> Samples {
    // A replica alone is decoded as far as the output goes, and beside others as far as the query goes.
    let mut alone = dedup.clone();
    let mut outcome = Ok(Samples::default());
    for range in [dedup.output_range, dedup.query_range] {
        alone.output_range = range;
        chunks.retain(|chunk| match alone.series(std::slice::from_ref(chunk)) {
            Ok(_) => true,
            Err(error) => {
                left_out.push((labels.clone(), error.to_string()));
                false
            }
        });
        outcome = dedup.series(&chunks);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.unwrap_or_else(|error| {
        left_out.push((labels.clone(), error.to_string()));
        Samples::default()
    })
}

impl Decoder {
    pub(super) fn new(work: Work, runtime: Handle, helpers: Helpers, canceled: CancellationToken) -> Self {
        let (work, open) = (Arc::new(work), Job::empty());
        let (queue, outcomes) = (Queue::default(), VecDeque::new());
        Self { work, runtime, helpers, canceled, open, queue, outcomes }
    }

    /// Forgets every job, for all series come again, and then with everything. Waits for those that are under way, which hold their chunks until they end.
    pub(super) fn restart(&mut self) {
        let Work { dedup, preparation, .. } = &*self.work;
        let (dedup, preparation) = (dedup.clone(), preparation.clone());
        self.work = Arc::new(Work { dedup, preparation, withholds: false });
        self.open = Job::empty();
        let waiting = std::mem::take(&mut *self.queue.lock());
        let mut under_way = std::mem::take(&mut self.outcomes);
        under_way.truncate(under_way.len().saturating_sub(waiting.len()));
        drop(waiting);
        for outcome in under_way {
            let _ = outcome.blocking_recv();
        }
    }

    /// Whether more series are of use now.
    pub(super) fn has_room(&self) -> bool {
        self.outcomes.len() < MAX_JOBS_AHEAD
    }

    /// Adds a series. What its chunks take is `held` until they are decoded.
    pub(super) fn push(&mut self, series: Whole, held: &[Arc<Held>]) {
        self.open.samples += series.chunks.iter().map(samples_of).sum::<usize>();
        self.open.series.push(series);
        for one in held {
            if self.open.held.last().is_none_or(|last| !Arc::ptr_eq(last, one)) {
                self.open.held.push(one.clone());
            }
        }
        if self.open.samples >= JOB_SAMPLES {
            self.close();
        }
    }

    /// Lets the series that were pushed so far be decoded, however few they are.
    pub(super) fn close(&mut self) {
        if self.open.series.is_empty() {
            return;
        }
        let job = std::mem::replace(&mut self.open, Job::empty());
        // The engine will wait for this one at once, and can as well do it.
        let is_own = self.outcomes.is_empty() && job.samples < MIN_SHARED_SAMPLES;
        let (outcome, receiver) = oneshot::channel();
        self.outcomes.push_back(receiver);
        self.queue.lock().push_back(Waiting { job, work: self.work.clone(), outcome });
        if let Some(permit) = (!is_own).then(|| self.helpers.one()).flatten() {
            let (queue, helpers, canceled) =
                (self.queue.clone(), self.helpers.clone(), self.canceled.clone());
            self.runtime.spawn_blocking(move || queue.help(&helpers, &canceled, permit));
        }
    }

    /// The samples of the first job, once they are there; `None` if there is no job.
    pub(super) fn next(&mut self) -> Option<Decoded> {
        let outcome = self.outcomes.pop_front()?;
        let own = {
            let mut queue = self.queue.lock();
            // Nobody has taken it if as many wait as there are.
            if queue.len() > self.outcomes.len() { queue.pop_front() } else { None }
        };
        Some(match own {
            Some(Waiting { job, work, .. }) => job.run(&work, &self.canceled),
            // A job that breaks off was canceled with its runtime.
            None => outcome.blocking_recv().unwrap_or(Err(SourceError::Canceled)),
        })
    }
}

impl Drop for Decoder {
    /// What nobody waits for any more need not be done.
    fn drop(&mut self) {
        self.queue.lock().clear();
    }
}

/// How many samples a chunk says it has, and at least one: every encoding begins with their number.
fn samples_of(chunk: &Chunk) -> usize {
    chunk.data.first_chunk().map_or(1, |count| usize::from(u16::from_be_bytes(*count)).max(1))
}

#[cfg(test)]
mod tests {
    use parallax_dedup::{ChunkEncoding, Content};
    use parallax_model::TimeRange;
    use parallax_tsdb::chunk::encode_xor;

    use super::*;
    use crate::select::Budget;

    fn decoder(runtime: &Handle, helpers: usize) -> Decoder {
        let dedup = Dedup::new(None, "", TimeRange::ALL, TimeRange::ALL);
        let work = Work { dedup, preparation: None, withholds: false };
        Decoder::new(work, runtime.clone(), Helpers::new(helpers), CancellationToken::new())
    }

    /// A series that makes half a job.
    fn whole(number: usize) -> Whole {
        let samples: Vec<(i64, f64)> = (0..JOB_SAMPLES as i64 / 2).map(|at| (at, number as f64)).collect();
        let chunk = Chunk {
            min_time_ms: 0,
            max_time_ms: samples.len() as i64 - 1,
            encoding: ChunkEncoding::Xor,
            data: encode_xor(&samples).unwrap().into(),
            content: Content::Raw,
        };
        Whole { labels: Labels::from_pairs([("n", format!("{number:03}"))]), chunks: vec![chunk] }
    }

    #[test]
    fn of_two_replicas_a_chunk_is_left_out_that_is_damaged_behind_the_output() {
        let chunk = |times_ms: std::ops::RangeInclusive<i64>| {
            let samples: Vec<(i64, f64)> =
                times_ms.step_by(10_000).map(|time_ms| (time_ms, time_ms as f64)).collect();
            Chunk {
                min_time_ms: samples[0].0,
                max_time_ms: samples[samples.len() - 1].0,
                encoding: ChunkEncoding::Xor,
                data: encode_xor(&samples).unwrap().into(),
                content: Content::Raw,
            }
        };
        let (left, right) = (chunk(0..=90_000), chunk(3_000..=403_000));
        let mut damaged = chunk(100_000..=400_000);
        damaged.data.truncate(damaged.data.len() - 2);
        let query_range = TimeRange::new(0, 1_000_000);
        let dedup =
            Dedup::new(Some(parallax_dedup::Algorithm::Penalty), "", query_range, TimeRange::new(0, 100_000));
        assert!(
            dedup.series(std::slice::from_ref(&damaged)).is_ok(),
            "alone it is read no further than that"
        );

        let mut left_out = Vec::new();
        let chunks = vec![left.clone(), damaged, right.clone()];
        let samples = readable(&dedup, &Labels::empty(), chunks, &mut left_out);
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(left_out[0].1.contains("[100000, 400000]"), "{left_out:?}");
        assert_eq!(samples, dedup.series(&[left, right]).unwrap());
        assert_eq!(samples.len(), 10);
    }

    #[test]
    fn jobs_come_back_in_their_order_whoever_does_them() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        for helpers in [0, 1, 3] {
            let mut decoder = decoder(runtime.handle(), helpers);
            let (mut pushed, mut given) = (0, Vec::new());
            loop {
                while decoder.has_room() && pushed < 50 {
                    decoder.push(whole(pushed), &[]);
                    pushed += 1;
                }
                let Some(batch) = decoder.next() else { break };
                given.extend(batch.unwrap().series.iter().map(|one| one.labels().to_string()));
            }
            let expected: Vec<String> = (0..50).map(|number| whole(number).labels.to_string()).collect();
            assert_eq!(given, expected, "{helpers} helpers");
        }
    }

    #[test]
    fn who_begins_anew_is_given_nothing_of_before() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let mut decoder = decoder(runtime.handle(), 1);
        (0..8).for_each(|number| decoder.push(whole(number), &[]));
        decoder.restart();
        (10..12).for_each(|number| decoder.push(whole(number), &[]));
        let batch = decoder.next().unwrap().unwrap();
        let given: Vec<Labels> = batch.series.iter().map(|one| one.labels().clone()).collect();
        assert_eq!(given, [whole(10).labels, whole(11).labels]);
        assert!(decoder.next().is_none());
    }

    #[test]
    fn who_begins_anew_has_given_back_all_that_was_held_before() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let mut decoder = decoder(runtime.handle(), 0);
        let budget = Budget::new(100);
        for number in 0..4 {
            decoder.push(whole(number), &[Arc::new(budget.hold(25).unwrap())]);
        }
        // One of two jobs is under way, and ends after the other one was forgotten.
        let queue = decoder.queue.clone();
        let Waiting { job, outcome, .. } = queue.take().unwrap();
        let helper = std::thread::spawn(move || {
            while !queue.lock().is_empty() {
                std::thread::yield_now();
            }
            drop(job);
            let _ = outcome.send(Ok(Batch::default()));
        });
        decoder.restart();
        assert!(budget.hold(100).is_ok());
        helper.join().unwrap();
    }
}
