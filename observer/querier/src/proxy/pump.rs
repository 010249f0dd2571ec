//! One endpoint's part of a Series answer: opens the stream, keeps its deadlines, and moves frames into the merge's queue.
//!
//! The time that counts is the endpoint's silence, not the time the merge takes to accept. A transport error before the first frame is tried again;
//! after it, what came stays and the rest is a gap. Series of old stores are sharded and re-sorted here, so that all deliver alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_model::Labels;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{Label, Series, SeriesRequest};
use parallax_storeapi::{Resorter, SeriesStream, ShardMatcher, labels};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{Call, ProxyConfig, gap_of, late};
use crate::coverage::{Gap, GapKind};
use crate::merge::Delivery;
use crate::store_selection::Selected;

/// First wait before a stream is opened again; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Pump {
    pub selected: Selected,
    pub request: SeriesRequest,
    pub call: Arc<Call>,
    pub config: ProxyConfig,
    pub queue: mpsc::Sender<Delivery>,
}

/// The merge does not want any more.
struct Unwanted;

/// Why a pump stopped early.
enum Stop {
    Gap(Gap),
    Unwanted,
}

impl From<Unwanted> for Stop {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

impl Pump {
    pub(super) async fn run(mut self) {
        let last = match self.pump().await {
            Ok(()) => Delivery::Done,
            Err(Stop::Gap(gap)) => Delivery::Failed(gap),
            Err(Stop::Unwanted) => return,
        };
        // If nobody listens any more, nobody misses it.
        let _ = self.queue.send(last).await;
    }

    async fn pump(&mut self) -> Result<(), Stop> {
        let mut shaper = Shaper::new(&self.selected, &self.request)
            .map_err(|status| Stop::Gap(self.gap(&status, false)))?;
        let (mut stream, mut next) = self.open(&shaper).await?;
        let mut frames = 0_u64;
        loop {
            match next {
                None => break,
                Some(Ok(frame)) => {
                    frames += 1;
                    self.accept(&mut shaper, frame.result).await?;
                }
                Some(Err(status)) => {
                    self.deliver(shaper.finish()?).await?;
                    return Err(Stop::Gap(self.gap(&status, frames > 0)));
                }
            }
            next = match self.within(self.call.silence_ends(), stream.next()).await {
                Ok(next) => next,
                Err(silence) => {
                    self.deliver(shaper.finish()?).await?;
                    return Err(Stop::Gap(self.late(silence, frames)));
                }
            };
        }
        let rest = shaper.finish()?;
        Ok(self.deliver(rest).await?)
    }

    /// Opens the stream and waits for its first frame, within one budget for all attempts.
    async fn open(&self, shaper: &Shaper) -> Result<(SeriesStream, Opened), Stop> {
        let budget_ends = self.call.silence_ends();
        let mut attempt = 0;
        loop {
            let opening = async {
                let request = self.call.outgoing(shaper.adapted(&self.request));
                let mut stream = self.selected.endpoint.store().series(request).await?;
                match stream.next().await {
                    // Nothing has come: opening it again repeats nothing.
                    Some(Err(status)) => Err(status),
                    first => Ok((stream, first)),
                }
            };
            let began = Instant::now();
            let status = match self.within(budget_ends, opening).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(status)) => status,
                Err(silence) => return Err(Stop::Gap(self.late(silence, 0))),
            };
            if status.code() == Code::Unavailable && began.elapsed() >= self.selected.endpoint.slow_failure()
            {
                // A connection attempt that ran into its own timeout: the next query need not wait for another.
                self.selected.endpoint.hung(status.message());
                return Err(Stop::Gap(self.gap(&status, false)));
            }
            if status.code() != Code::Unavailable || attempt >= self.config.max_retries {
                return Err(Stop::Gap(self.gap(&status, false)));
            }
            let pause = RETRY_PAUSE * 2_u32.saturating_pow(attempt);
            attempt += 1;
            if self.within(budget_ends, tokio::time::sleep(pause)).await.is_err() {
                return Err(Stop::Gap(self.gap(&status, false)));
            }
        }
    }

    /// Waits for `work`; the error is how long it was waited for in vain.
    async fn within<T>(&self, ends: Instant, work: impl Future<Output = T>) -> Result<T, Duration> {
        let began = Instant::now();
        tokio::time::timeout_at(ends.into(), work).await.map_err(|_| began.elapsed())
    }

    fn late(&self, silence: Duration, frames: u64) -> Gap {
        late(&self.selected.endpoint, &self.config, silence, frames)
    }

    fn gap(&self, status: &Status, something_came: bool) -> Gap {
        gap_of(&self.selected.endpoint, status, something_came)
    }

    async fn accept(&self, shaper: &mut Shaper, frame: Option<Frame>) -> Result<(), Stop> {
        match frame {
            Some(Frame::Series(series)) => self.deliver(shaper.shape(vec![series])?).await?,
            Some(Frame::Batch(batch)) => self.deliver(shaper.shape(batch.series)?).await?,
            Some(Frame::Warning(text)) => self.send(Delivery::Warning(text)).await?,
            Some(Frame::Hints(hints)) => self.send(Delivery::Hints(hints)).await?,
            None => {}
        }
        Ok(())
    }

    async fn deliver(&self, series: Vec<Series>) -> Result<(), Unwanted> {
        if series.is_empty() { Ok(()) } else { self.send(Delivery::Series(series)).await }
    }

    async fn send(&self, delivery: Delivery) -> Result<(), Unwanted> {
        self.queue.send(delivery).await.map_err(|_| Unwanted)
    }
}

/// The first item of a stream, `None` if it ended at once.
type Opened = Option<Result<parallax_storeapi::proto::thanos::SeriesResponse, Status>>;

/// Makes an endpoint's series what the merge expects: sorted, in the asked shard, without replica labels.
struct Shaper {
    endpoint: Selected,
    /// Only if the endpoint does not shard itself.
    shard: ShardMatcher,
    /// Only if the endpoint does not remove replica labels itself.
    resorter: Option<Resorter>,
    last: Vec<Label>,
}

impl Shaper {
    fn new(selected: &Selected, request: &SeriesRequest) -> Result<Self, Status> {
        let shard = request.shard_info.as_ref().filter(|_| !selected.supports_sharding());
        let removes = selected.supports_without_replica_labels() || request.without_replica_labels.is_empty();
        Ok(Self {
            endpoint: selected.clone(),
            shard: ShardMatcher::new(shard)?,
            resorter: (!removes).then(|| Resorter::new(&Labels::empty(), &request.without_replica_labels)),
            last: Vec::new(),
        })
    }

    /// The request for an endpoint that may do less: a limit would count series that are filtered out here.
    fn adapted(&self, request: &SeriesRequest) -> SeriesRequest {
        let mut request = request.clone();
        if self.shard.is_sharded() || self.resorter.is_some() {
            request.limit = 0;
        }
        request
    }

    fn shape(&mut self, series: Vec<Series>) -> Result<Vec<Series>, Stop> {
        let Some(resorter) = &mut self.resorter else { return self.check(series) };
        for one in series {
            resorter.push(one);
        }
        let released = self.release()?;
        self.check(released)
    }

    /// What is held back, once nothing more will come.
    fn finish(&mut self) -> Result<Vec<Series>, Stop> {
        if let Some(resorter) = &mut self.resorter {
            resorter.finish();
        }
        let released = self.release()?;
        self.check(released)
    }

    fn release(&mut self) -> Result<Vec<Series>, Stop> {
        let mut released = Vec::new();
        let Some(resorter) = &mut self.resorter else { return Ok(released) };
        loop {
            match resorter.pop() {
                Ok(Some(series)) => released.push(series),
                Ok(None) => return Ok(released),
                Err(error) => return Err(self.broken(error.to_string())),
            }
        }
    }

    /// Filters by shard and refuses series out of order: merged, they would come twice.
    fn check(&mut self, mut series: Vec<Series>) -> Result<Vec<Series>, Stop> {
        if self.shard.is_sharded() {
            series.retain(|one| self.shard.matches(&one.labels));
        }
        let mut before = &self.last;
        for one in &series {
            if labels::compare(before, &one.labels).is_gt() {
                return Err(self.broken(format!("series {} is out of order", labels::display(&one.labels))));
            }
            before = &one.labels;
        }
        if let Some(last) = series.last() {
            self.last.clone_from(&last.labels);
        }
        Ok(series)
    }

    fn broken(&self, reason: String) -> Stop {
        Stop::Gap(self.endpoint.endpoint.gap(GapKind::Partial, reason))
    }
}
