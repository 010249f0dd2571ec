//! The StoreAPI over one Prometheus.
//!
//! Matchers on external labels are checked here and never reach Prometheus; what remains goes out as one remote read,
//! whose series get the external labels as they pass. Only series whose order the external labels disturb are held.
//!
//! One read holds one of the sidecar's permits from its start until its stream ends or is dropped, and the deadline of the
//! request covers all of that; dropping the stream ends the HTTP request beneath it.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use parallax_model::{Budget, BudgetLimits, Matcher, OverQuota, TimeRange};
use parallax_storeapi::ShardMatcher;
use parallax_storeapi::proto::thanos::info::{
    ExemplarsInfo, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, StoreInfo, TargetsInfo, TsdbInfo,
};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{
    AggrChunk, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series,
    SeriesRequest, SeriesResponse, chunk,
};
use parallax_storeapi::{Resorter, resort};
use parallax_storeapi::{
    SeriesStream, SideServices, Store, chunks, deadline, deadline_of, frames, labels, matchers,
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Request, Status};

use crate::prometheus::MetadataCall;
use crate::prometheus::remote_read::{ReadCall, ReadChunk, ReadSeries};
use crate::state::State;
use crate::trouble::Troubles;
use crate::{Sidecar, SidecarConfig, SidecarError};

/// What Info calls this component.
const COMPONENT: &str = "sidecar";

/// What of a call concerns Prometheus.
enum Scope {
    /// It cannot have anything that was asked for.
    Nothing,
    Ask {
        matchers: Vec<Matcher>,
        range: TimeRange,
        state: State,
    },
}

impl Sidecar {
    pub(crate) fn known(&self) -> Result<State, Status> {
        self.state.borrow().clone().ok_or_else(|| {
            let waiting = || format!("prometheus {} was not ready yet", self.prometheus.url());
            let cause = self.failure.borrow().clone().unwrap_or_else(waiting);
            Status::unavailable(format!("sidecar: {cause}"))
        })
    }

    /// Cuts a call down to what Prometheus has.
    fn scope(&self, all: &[Matcher], min_time_ms: i64, max_time_ms: i64) -> Result<Scope, Status> {
        let state = self.known()?;
        let range = TimeRange::new(min_time_ms, max_time_ms).intersect(&state.range);
        let Some(matchers) = matchers::without_external(all, &state.external_labels) else {
            return Ok(Scope::Nothing);
        };
        if range.is_empty() {
            return Ok(Scope::Nothing);
        }
        Ok(Scope::Ask { matchers, range, state })
    }

    /// A place among the reads at once. The wait is bounded: who opens several streams before reading any may wait for itself.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit, SidecarError> {
        let SidecarConfig { max_concurrent_reads, max_read_wait, .. } = self.config;
        match tokio::time::timeout(max_read_wait, Arc::clone(&self.reads).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(SidecarError::Busy {
                url: self.prometheus.url().to_owned(),
                reads: max_concurrent_reads,
                waited_seconds: max_read_wait.as_secs_f64(),
            }),
        }
    }

    /// The outcome of `work` before `deadline`; what fails is counted and logged.
    pub(crate) async fn within<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = Result<T, SidecarError>>,
    ) -> Result<T, Status> {
        let done = match deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
                Ok(done) => done,
                Err(_) => return Err(self.troubles.late(self.prometheus.url())),
            },
        };
        done.map_err(|error| self.troubles.report(&error))
    }

    /// The series of a call, without the labels `removed`, in order of what remains.
    async fn read(
        &self,
        request: &SeriesRequest,
        matchers: &[Matcher],
        range: TimeRange,
        removed: &[String],
    ) -> Result<SeriesStream, SidecarError> {
        let TimeRange { min_ms: min_time_ms, max_ms: max_time_ms } = range;
        if request.skip_chunks {
            // A limit is of the shard, and Prometheus knows nothing of shards.
            let limit = if request.shard_info.is_none() { request.limit } else { 0 };
            let limit = usize::try_from(limit).unwrap_or(0);
            let found =
                self.prometheus.series(&MetadataCall { matchers, min_time_ms, max_time_ms, limit }).await?;
            let mut found: Vec<_> = found.iter().map(|own| labels::to_wire(&own.without(removed))).collect();
            found.sort_by(|a, b| labels::compare(a, b));
            let series = found.into_iter().map(|labels| Ok(ReadSeries { labels, chunks: Vec::new() }));
            return Ok(to_frames(futures::stream::iter(series), self.troubles.clone()));
        }
        let hints = request.query_hints.as_ref();
        let call = ReadCall {
            matchers,
            min_time_ms,
            max_time_ms,
            step_ms: request.step,
            range_ms: request.range,
            function: hints.and_then(|hints| hints.func.as_ref()).map_or("", |function| &function.name),
            removed,
        };
        Ok(to_frames(self.prometheus.remote_read(&call).await?, self.troubles.clone()))
    }
}

/// What is taken off the series of Prometheus as they come, and how the rest gets into order.
fn order(state: &State, without: &[String]) -> (Vec<String>, Resorter) {
    let external = &state.external_labels;
    if state.labels_collide() {
        // Which of two values a label has cannot be told, so nothing may be taken off before the external one is laid over it.
        return (Vec::new(), Resorter::holding_metrics(external, without));
    }
    // Prometheus puts its external labels onto series that it sorted without them.
    let mut removed: Vec<String> = external.iter().map(|(name, _)| name.to_owned()).collect();
    if without.iter().any(|name| state.own_label_names.contains(name)) {
        return (removed, Resorter::new(external, without));
    }
    // A label that is new since the last heartbeat: should it disturb the order, the resorter refuses to go on.
    removed.extend(without.iter().cloned());
    (removed, Resorter::adding(external, without))
}

#[async_trait]
impl Store for Sidecar {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let state = self.known()?;
        let set = labels::set_to_wire(&state.external_labels);
        let (min_time, max_time) = (state.range.min_ms, state.range.max_ms);
        Ok(InfoResponse {
            label_sets: vec![set.clone()],
            component_type: COMPONENT.to_owned(),
            store: Some(StoreInfo {
                min_time,
                max_time,
                supports_sharding: true,
                supports_without_replica_labels: true,
                tsdb_infos: vec![TsdbInfo { labels: Some(set), min_time, max_time }],
                ..StoreInfo::default()
            }),
            metric_metadata: Some(MetricMetadataInfo {}),
            rules: Some(RulesInfo {}),
            targets: Some(TargetsInfo {}),
            exemplars: Some(ExemplarsInfo { min_time, max_time }),
            status: Some(StatusInfo {}),
            query: None,
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.metrics.series_requests.inc();
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let all = matchers::from_wire(&request.matchers)?;
        let (matchers, range, state) = match self.scope(&all, request.min_time, request.max_time)? {
            Scope::Nothing => return Ok(frames::from_vec(Vec::new())),
            Scope::Ask { matchers, .. } if matchers.is_empty() => {
                return Err(Status::invalid_argument(
                    "no matcher is left once those on external labels are taken away; ask for a metric or a label of its own",
                ));
            }
            Scope::Ask { matchers, range, state } => (matchers, range, state),
        };
        let mut shard = ShardMatcher::new(request.shard_info.as_ref())?;
        let (removed, resorter) = order(&state, &request.without_replica_labels);
        let opening = async {
            let permit = self.permit().await?;
            Ok((permit, self.read(&request, &matchers, range, &removed).await?))
        };
        let (permit, stream) = self.within(deadline, opening).await?;
        let kept = resort(stream, resorter).filter(move |frame| {
            let keep = match frame {
                Ok(SeriesResponse { result: Some(Frame::Series(series)) }) => shard.matches(&series.labels),
                _ => true,
            };
            std::future::ready(keep)
        });
        let limited = deadline::until(Limits::of(self).apply(Box::pin(kept)), deadline);
        let (troubles, url) = (self.troubles.clone(), self.prometheus.url().to_owned());
        let held: SeriesStream = Box::pin(limited.inspect(move |frame| {
            let _alive_with_the_stream = &permit;
            if frame.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded) {
                troubles.late(&url);
            }
        }));
        Ok(frames::respond(held, &request))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let all = matchers::from_wire(&request.matchers)?;
        let Scope::Ask { matchers, range, state } = self.scope(&all, request.start, request.end)? else {
            return Ok(LabelNamesResponse::default());
        };
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let call =
            MetadataCall { matchers: &matchers, min_time_ms: range.min_ms, max_time_ms: range.max_ms, limit };
        let found = self.within(deadline, self.prometheus.label_names(&call)).await?;
        let mut names: Vec<String> = found;
        // External labels stand on every series there is.
        if !names.is_empty() || matchers.is_empty() {
            names.extend(state.external_labels.iter().map(|(name, _)| name.to_owned()));
        }
        names.retain(|name| !request.without_replica_labels.contains(name));
        Ok(LabelNamesResponse { names: sorted(names, limit), ..LabelNamesResponse::default() })
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        if request.label.is_empty() {
            return Err(Status::invalid_argument("label values: the label's name is empty"));
        }
        let all = matchers::from_wire(&request.matchers)?;
        let scope = self.scope(&all, request.start, request.end)?;
        let Scope::Ask { matchers, range, state } = scope else { return Ok(LabelValuesResponse::default()) };
        if request.without_replica_labels.contains(&request.label) {
            return Ok(LabelValuesResponse::default());
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let call =
            MetadataCall { matchers: &matchers, min_time_ms: range.min_ms, max_time_ms: range.max_ms, limit };
        let values = match state.external_labels.get(&request.label) {
            None => self.within(deadline, self.prometheus.label_values(&request.label, &call)).await?,
            Some(value) if matchers.is_empty() => vec![value.to_owned()],
            Some(value) => {
                // Only if there is a series that matches does the external label have a value.
                let one = MetadataCall { limit: 1, ..call };
                let found = self.within(deadline, self.prometheus.series(&one)).await?;
                if found.is_empty() { Vec::new() } else { vec![value.to_owned()] }
            }
        };
        Ok(LabelValuesResponse { values: sorted(values, limit), ..LabelValuesResponse::default() })
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

fn sorted(mut texts: Vec<String>, limit: usize) -> Vec<String> {
    texts.sort_unstable();
    texts.dedup();
    if limit > 0 {
        texts.truncate(limit);
    }
    texts
}

/// The limits of one Series answer, used up as it passes.
struct Limits {
    budget: Budget,
    last: Option<Vec<parallax_storeapi::proto::thanos::Label>>,
}

impl Limits {
    fn of(sidecar: &Sidecar) -> Self {
        let SidecarConfig { max_series, max_samples, .. } = sidecar.config;
        let limits = BudgetLimits {
            series: max_series as u64,
            samples: max_samples as u64,
            ..BudgetLimits::default()
        };
        Self { budget: Budget::new(limits), last: None }
    }

    /// Ends the stream with an error where a limit is passed.
    fn apply(mut self, stream: SeriesStream) -> SeriesStream {
        if self.budget.series.limit() == 0 && self.budget.samples.limit() == 0 {
            return stream;
        }
        Box::pin(stream.scan(false, move |passed, frame| {
            if *passed {
                return std::future::ready(None);
            }
            let counted = match &frame {
                Ok(SeriesResponse { result: Some(Frame::Series(series)) }) => self.take(series),
                _ => Ok(()),
            };
            *passed = counted.is_err();
            std::future::ready(Some(counted.map_err(|error| error.to_status()).and(frame)))
        }))
    }

    /// Counts a series; parts of one count once.
    fn take(&mut self, series: &Series) -> Result<(), SidecarError> {
        let over = |over: OverQuota| {
            SidecarError::Limit(format!("the answer has more than {} {}", over.limit, over.what))
        };
        if self.last.as_ref() != Some(&series.labels) {
            self.budget.series.take(1).map_err(over)?;
            self.last = Some(series.labels.clone());
        }
        let data = series.chunks.iter().filter_map(|chunk| chunk.raw.as_ref()).map(|chunk| &chunk.data);
        let samples: usize = data.map(|data| parallax_tsdb::chunk::sample_count(data).unwrap_or(0)).sum();
        self.budget.samples.take(samples as u64).map_err(over)
    }
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
    // The StoreAPI counts encodings from zero, Prometheus from one.
    let encoding = match read.encoding {
        2 => chunk::Encoding::Histogram,
        3 => chunk::Encoding::FloatHistogram,
        _ => chunk::Encoding::Xor,
    };
    chunks::raw(read.min_time_ms, read.max_time_ms, chunks::chunk(encoding, read.data))
}
