//! One Series call: what is asked of Prometheus, and how its answer becomes that of the StoreAPI.
//!
//! One read holds one of the sidecar's permits from its start until its stream ends or is dropped, and the deadline of the
//! request covers all of that; dropping the stream ends the HTTP request beneath it.

use std::time::Instant;

use futures::{Stream, StreamExt};
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::encoded::{self, WireStream};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{AggrChunk, Series, SeriesRequest, SeriesResponse};
use parallax_storeapi::{
    FrameStream, Resorter, SeriesStream, ShardMatcher, chunks, deadline, deadline_of, frames, labels,
    matchers, resort,
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Request, Status};

use super::Scope;
use super::limits::Limits;
use crate::passing;
use crate::prometheus::MetadataCall;
use crate::prometheus::remote_read::{Answer, ReadCall, ReadChunk, ReadSeries, encoding};
use crate::state::State;
use crate::trouble::Troubles;
use crate::{Sidecar, SidecarError};

/// What Prometheus is asked for, and what is done to it.
pub(super) struct SeriesCall<'a> {
    sidecar: &'a Sidecar,
    request: SeriesRequest,
    deadline: Option<Instant>,
    matchers: Vec<Matcher>,
    range: TimeRange,
    shard: ShardMatcher,
    order: Order,
}

/// How series get their final labels, and into the order of those.
struct Order {
    /// Taken off the series as they come.
    removed: Vec<String>,
    resorter: Resorter,
    /// What is put onto them, if that is all that the resorter does.
    only_adds: Option<Labels>,
}

impl Order {
    fn of(state: &State, without: &[String]) -> Self {
        let external = &state.external_labels;
        if state.labels_collide() {
            // Which of two values a label has cannot be told, so nothing may be taken off before the external one is laid over it.
            let resorter = Resorter::holding_metrics(external, without);
            return Self { removed: Vec::new(), resorter, only_adds: None };
        }
        // Prometheus puts its external labels onto series that it sorted without them.
        let mut removed: Vec<String> = external.iter().map(|(name, _)| name.to_owned()).collect();
        if without.iter().any(|name| state.own_label_names.contains(name)) {
            return Self { removed, resorter: Resorter::new(external, without), only_adds: None };
        }
        // A label that is new since the last heartbeat: should it disturb the order, the resorter refuses to go on.
        removed.extend(without.iter().cloned());
        let only_adds = Some(external.without(without));
        Self { removed, resorter: Resorter::adding(external, without), only_adds }
    }
}

impl Sidecar {
    /// `None` if Prometheus can have nothing of what is asked for.
    pub(super) fn series_call(
        &self,
        request: Request<SeriesRequest>,
    ) -> Result<Option<SeriesCall<'_>>, Status> {
        self.metrics.series_requests.inc();
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let all = matchers::from_wire(&request.matchers)?;
        let (matchers, range, state) = match self.scope(&all, request.min_time, request.max_time)? {
            Scope::Nothing => return Ok(None),
            Scope::Ask { matchers, .. } if matchers.is_empty() => {
                return Err(Status::invalid_argument(
                    "no matcher is left once those on external labels are taken away; ask for a metric or a label of its own",
                ));
            }
            Scope::Ask { matchers, range, state } => (matchers, range, state),
        };
        let shard = ShardMatcher::new(request.shard_info.as_ref())?;
        let order = Order::of(&state, &request.without_replica_labels);
        Ok(Some(SeriesCall { sidecar: self, request, deadline, matchers, range, shard, order }))
    }
}

/// What Prometheus has.
enum Found {
    Labels(Vec<Labels>),
    Samples(Answer),
}

impl SeriesCall<'_> {
    pub(super) async fn answer(self) -> Result<SeriesStream, Status> {
        let (permit, found) = self.ask().await?;
        Ok(self.decoded(permit, found))
    }

    /// The answer in the form of the wire: nothing is taken apart that need not be.
    pub(super) async fn answer_encoded(self) -> Result<WireStream, Status> {
        let (permit, found) = self.ask().await?;
        // Shards and limits look at the series, and other orders than this at all of a metric.
        let is_looked_at = self.request.shard_info.is_some() || !Limits::of(self.sidecar).are_none();
        let added = self.order.only_adds.clone().filter(|_| !is_looked_at);
        match (found, added) {
            (Found::Samples(Answer::Streamed(frames)), Some(added)) => {
                let (removed, troubles) = (self.order.removed, self.sidecar.troubles.clone());
                let passed = passing::pass(frames, removed, &added, &self.request, troubles);
                Ok(watched(self.sidecar, passed, permit, self.deadline))
            }
            (found, _) => Ok(encoded::from_decoded(self.decoded(permit, found))),
        }
    }

    fn decoded(self, permit: OwnedSemaphorePermit, found: Found) -> SeriesStream {
        let Self { sidecar, request, deadline, mut shard, order, .. } = self;
        let troubles = sidecar.troubles.clone();
        let stream = match found {
            Found::Labels(all) => {
                let mut all: Vec<_> =
                    all.iter().map(|own| labels::to_wire(&own.without(&order.removed))).collect();
                all.sort_by(|a, b| labels::compare(a, b));
                let all = all.into_iter().map(|labels| Ok(ReadSeries { labels, chunks: Vec::new() }));
                to_frames(futures::stream::iter(all), troubles)
            }
            Found::Samples(answer) => to_frames(answer.into_series(order.removed), troubles),
        };
        let kept = resort(stream, order.resorter).filter(move |frame| {
            let keep = match frame {
                Ok(SeriesResponse { result: Some(Frame::Series(series)) }) => shard.matches(&series.labels),
                _ => true,
            };
            std::future::ready(keep)
        });
        let limited = Limits::of(sidecar).apply(Box::pin(kept));
        frames::respond(watched(sidecar, limited, permit, deadline), &request)
    }

    async fn ask(&self) -> Result<(OwnedSemaphorePermit, Found), Status> {
        let opening = async {
            let permit = self.sidecar.permit().await?;
            Ok((permit, self.open().await?))
        };
        self.sidecar.within(self.deadline, opening).await
    }

    async fn open(&self) -> Result<Found, SidecarError> {
        let Self { sidecar, request, matchers, .. } = self;
        let TimeRange { min_ms: min_time_ms, max_ms: max_time_ms } = self.range;
        if request.skip_chunks {
            // A limit is of the shard, and Prometheus knows nothing of shards.
            let limit = if request.shard_info.is_none() { request.limit } else { 0 };
            let limit = usize::try_from(limit).unwrap_or(0);
            let call = MetadataCall { matchers, min_time_ms, max_time_ms, limit };
            return sidecar.prometheus.series(&call).await.map(Found::Labels);
        }
        let hints = request.query_hints.as_ref();
        let call = ReadCall {
            matchers,
            min_time_ms,
            max_time_ms,
            step_ms: request.step,
            range_ms: request.range,
            function: hints.and_then(|hints| hints.func.as_ref()).map_or("", |function| &function.name),
            removed: &self.order.removed,
        };
        sidecar.prometheus.remote_read(&call).await.map(Found::Samples)
    }
}

/// Holds `permit` while there is a stream, and ends it at the deadline.
fn watched<T: 'static>(
    sidecar: &Sidecar,
    stream: FrameStream<T>,
    permit: OwnedSemaphorePermit,
    deadline: Option<Instant>,
) -> FrameStream<T> {
    let (troubles, url) = (sidecar.troubles.clone(), sidecar.prometheus.url().to_owned());
    Box::pin(deadline::until(stream, deadline).inspect(move |frame| {
        let _alive_with_the_stream = &permit;
        if frame.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded) {
            troubles.late(&url);
        }
    }))
}

/// Frames of single series; parts of one series that Prometheus sent apart stay apart and adjacent.
fn to_frames(
    series: impl Stream<Item = Result<ReadSeries, SidecarError>> + Send + 'static,
    troubles: Troubles,
) -> SeriesStream {
    Box::pin(series.map(move |item| {
        let series = item.map_err(|error| troubles.report(&error))?;
        let chunks = series.chunks.into_iter().map(to_wire).collect();
        Ok(frames::series(Series { labels: series.labels, chunks }))
    }))
}

fn to_wire(read: ReadChunk) -> AggrChunk {
    chunks::raw(read.min_time_ms, read.max_time_ms, chunks::chunk(encoding(read.encoding), read.data))
}
