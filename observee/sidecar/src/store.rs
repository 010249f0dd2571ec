//! The StoreAPI over one Prometheus.
//!
//! Matchers on external labels are checked here and never reach Prometheus; what remains goes out as one remote read,
//! whose series get the external labels as they pass. Only series whose order the external labels disturb are held.

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::ShardMatcher;
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo, TsdbInfo};
use parallax_storeapi::proto::thanos::{
    AggrChunk, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series,
    SeriesRequest, SeriesResponse, chunk,
};
use parallax_storeapi::{Resorter, resort};
use parallax_storeapi::{SeriesStream, Store, chunks, deadline_of, frames, labels, matchers};
use tonic::{Request, Status};

use crate::prometheus::MetadataCall;
use crate::prometheus::remote_read::{ReadCall, ReadChunk, ReadSeries};
use crate::state::State;
use crate::{Sidecar, SidecarError};

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
    fn known(&self) -> Result<State, Status> {
        self.state.borrow().clone().ok_or_else(|| {
            Status::unavailable(format!("sidecar: prometheus {} was not ready yet", self.prometheus.url()))
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

    async fn read(
        &self,
        request: &SeriesRequest,
        matchers: &[Matcher],
        range: TimeRange,
        added: Labels,
    ) -> Result<SeriesStream, SidecarError> {
        if request.skip_chunks {
            let call = MetadataCall {
                matchers,
                min_time_ms: range.min_ms,
                max_time_ms: range.max_ms,
                limit: usize::try_from(request.limit).unwrap_or(0),
            };
            let mut found = self.prometheus.series(&call).await?;
            found.sort();
            let series = found.into_iter().map(|own| ReadSeries { labels: own, chunks: Vec::new() });
            return Ok(to_frames(futures::stream::iter(series.map(Ok)), Limits::of(self), added));
        }
        let hints = request.query_hints.as_ref();
        let call = ReadCall {
            matchers,
            min_time_ms: range.min_ms,
            max_time_ms: range.max_ms,
            step_ms: request.step,
            range_ms: request.range,
            function: hints.and_then(|hints| hints.func.as_ref()).map_or("", |function| &function.name),
        };
        Ok(to_frames(self.prometheus.remote_read(&call).await?, Limits::of(self), added))
    }
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
            ..InfoResponse::default()
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
        let _permit =
            self.reads.acquire().await.map_err(|_| Status::unavailable("sidecar: shutting down"))?;
        // Prometheus puts its external labels onto series that it sorted without them.
        let collide = state.labels_collide();
        let added = if collide { Labels::empty() } else { state.external_labels.clone() };
        let read = self.read(&request, &matchers, range, added);
        let stream = within(deadline, self.prometheus.url(), read).await?;
        let without = &request.without_replica_labels;
        let resorter = if collide {
            Resorter::holding_metrics(&state.external_labels, without)
        } else if without.iter().any(|name| state.own_label_names.contains(name)) {
            Resorter::new(&state.external_labels, without)
        } else {
            Resorter::adding(&state.external_labels, without)
        };
        let sorted = resort(stream, resorter);
        let kept = sorted.filter(move |frame| {
            use parallax_storeapi::proto::thanos::series_response::Result as Frame;
            let keep = match frame {
                Ok(SeriesResponse { result: Some(Frame::Series(series)) }) => shard.matches(&series.labels),
                _ => true,
            };
            std::future::ready(keep)
        });
        Ok(frames::respond(Box::pin(kept), &request))
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
        let found = within(deadline, self.prometheus.url(), self.prometheus.label_names(&call)).await?;
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
            None => {
                within(deadline, self.prometheus.url(), self.prometheus.label_values(&request.label, &call))
                    .await?
            }
            Some(value) if matchers.is_empty() => vec![value.to_owned()],
            Some(value) => {
                // Only if there is a series that matches does the external label have a value.
                let one = MetadataCall { limit: 1, ..call };
                let found = within(deadline, self.prometheus.url(), self.prometheus.series(&one)).await?;
                if found.is_empty() { Vec::new() } else { vec![value.to_owned()] }
            }
        };
        Ok(LabelValuesResponse { values: sorted(values, limit), ..LabelValuesResponse::default() })
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

async fn within<T>(
    deadline: Option<std::time::Instant>,
    url: &str,
    work: impl Future<Output = Result<T, SidecarError>>,
) -> Result<T, Status> {
    let Some(deadline) = deadline else { return work.await.map_err(|error| error.to_status()) };
    match tokio::time::timeout_at(deadline.into(), work).await {
        Ok(result) => result.map_err(|error| error.to_status()),
        Err(_) => Err(Status::deadline_exceeded(format!("prometheus {url} did not answer in time"))),
    }
}

/// The limits of one Series answer, used up as it is read.
struct Limits {
    max_series: usize,
    max_samples: usize,
    series: usize,
    samples: usize,
}

impl Limits {
    fn of(sidecar: &Sidecar) -> Self {
        let config = &sidecar.config;
        Self { max_series: config.max_series, max_samples: config.max_samples, series: 0, samples: 0 }
    }

    fn take(&mut self, series: &ReadSeries) -> Result<(), SidecarError> {
        self.series += 1;
        let counts =
            series.chunks.iter().map(|chunk| parallax_tsdb::chunk::sample_count(&chunk.data).unwrap_or(0));
        self.samples += counts.sum::<usize>();
        if self.max_series > 0 && self.series > self.max_series {
            return Err(SidecarError::Limit(format!("the answer has more than {} series", self.max_series)));
        }
        if self.max_samples > 0 && self.samples > self.max_samples {
            return Err(SidecarError::Limit(format!(
                "the answer has more than {} samples",
                self.max_samples
            )));
        }
        Ok(())
    }
}

/// Frames of single series; parts of one series that Prometheus sent apart stay apart and adjacent. Labels named in `added` are
/// taken off again.
fn to_frames(
    series: impl Stream<Item = Result<ReadSeries, SidecarError>> + Send + 'static,
    mut limits: Limits,
    added: Labels,
) -> SeriesStream {
    let added: Vec<String> = added.iter().map(|(name, _)| name.to_owned()).collect();
    let frames = series.map(move |item| {
        let series = item
            .and_then(|series| limits.take(&series).map(|()| series))
            .map_err(|error| error.to_status())?;
        let mut own = labels::to_wire(&series.labels);
        labels::remove(&mut own, &added);
        Ok(frames::series(Series { labels: own, chunks: series.chunks.into_iter().map(to_wire).collect() }))
    });
    // After an error nothing follows.
    Box::pin(frames.scan(false, |failed, item: Result<SeriesResponse, Status>| {
        let before = std::mem::replace(failed, item.is_err());
        std::future::ready((!before).then_some(item))
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
