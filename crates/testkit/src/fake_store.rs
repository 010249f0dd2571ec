//! A `Store` in memory that does what the protocol asks, and misbehaves on demand.
//!
//! Series are given as labels and samples; external labels are added, and override. Faults can be changed while the store serves. It counts
//! what is asked of it, so that a test can say that a store was *not* asked. Nothing here panics on a request.

mod xor;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::conformance::{Known, KnownSeries};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
    SeriesResponse, chunk,
};
use parallax_storeapi::{SeriesStream, ShardMatcher, Store, async_trait, chunks, frames, labels, matchers};
use tonic::{Request, Status};

/// Samples in one chunk, as Prometheus cuts them.
const SAMPLES_PER_CHUNK: usize = 120;

/// What goes wrong with the next calls, until another fault is set.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Info and every call hang for ever.
    Hang,
    /// Info answers; a call hangs before its stream opens.
    HangBeforeOpen,
    /// A stream hangs after this many frames.
    HangAfter(usize),
    /// Info and every call fail.
    Down(Status),
    /// Info answers; calls fail before their streams open.
    FailOpen(Status),
    /// The next calls fail before their streams open; then the store is well again.
    FailOpens(usize, Status),
    /// A stream fails after this many frames.
    FailAfter(usize, Status),
    /// Every frame comes this late.
    Slow(Duration),
    /// Every answer begins with this warning.
    Warn(String),
}

/// How often each method was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub info: usize,
    pub series: usize,
    pub label_names: usize,
    pub label_values: usize,
}

/// The store; see the module.
#[derive(Debug)]
pub struct FakeStore {
    external: Labels,
    series: Vec<Stored>,
    component: String,
    range: Option<TimeRange>,
    supports_sharding: bool,
    supports_without_replica_labels: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    fault: Fault,
    calls: Calls,
    last_series_request: Option<SeriesRequest>,
}

#[derive(Clone, Debug)]
struct Stored {
    /// External labels included.
    labels: Labels,
    /// (milliseconds since the epoch, value), sorted.
    samples: Vec<(i64, f64)>,
}

impl FakeStore {
    /// An empty sidecar-like store whose series have the labels `external`.
    pub fn new<'a>(external: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self {
            external: Labels::from_pairs(external),
            series: Vec::new(),
            component: "sidecar".to_owned(),
            range: None,
            supports_sharding: true,
            supports_without_replica_labels: true,
            state: Mutex::default(),
        }
    }

    /// Adds a series; `samples` are (milliseconds since the epoch, value) in order of time.
    #[must_use]
    pub fn with_series<'a>(
        mut self,
        own: impl IntoIterator<Item = (&'a str, &'a str)>,
        samples: impl IntoIterator<Item = (i64, f64)>,
    ) -> Self {
        let labels = Labels::from_pairs(own).overlaid_with(&self.external);
        self.series.push(Stored { labels, samples: samples.into_iter().collect() });
        self.series.sort_by(|a, b| a.labels.cmp(&b.labels));
        self
    }

    /// What Info calls this store; `sidecar` unless said otherwise.
    #[must_use]
    pub fn with_component(mut self, component: &str) -> Self {
        self.component = component.to_owned();
        self
    }

    /// The time range Info claims, instead of that of the samples.
    #[must_use]
    pub fn with_range(mut self, range: TimeRange) -> Self {
        self.range = Some(range);
        self
    }

    /// A store that does not shard, as old ones.
    #[must_use]
    pub fn without_sharding(mut self) -> Self {
        self.supports_sharding = false;
        self
    }

    /// A store that leaves replica labels where they are, as old ones.
    #[must_use]
    pub fn without_replica_label_removal(mut self) -> Self {
        self.supports_without_replica_labels = false;
        self
    }

    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        self.set_fault(fault);
        self
    }

    pub fn set_fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    /// The latest request for series.
    pub fn last_series_request(&self) -> Option<SeriesRequest> {
        self.state().last_series_request.clone()
    }

    /// What the conformance suite has to find here.
    pub fn known(&self) -> Known {
        let series = self
            .series
            .iter()
            .filter_map(|stored| {
                let (first, last) = (stored.samples.first()?, stored.samples.last()?);
                Some(KnownSeries { labels: stored.labels.clone(), range: TimeRange::new(first.0, last.0) })
            })
            .collect();
        Known { series, external: self.external.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn range(&self) -> TimeRange {
        let times = || self.series.iter().flat_map(|stored| &stored.samples).map(|(time, _)| *time);
        self.range
            .unwrap_or_else(|| TimeRange::new(times().min().unwrap_or(0), times().max().unwrap_or(i64::MAX)))
    }

    /// Waits or fails before a call is answered, as the fault wants.
    async fn enter(&self, fault: &Fault) -> Result<(), Status> {
        match fault {
            Fault::Hang | Fault::HangBeforeOpen => std::future::pending().await,
            Fault::Down(status) | Fault::FailOpen(status) | Fault::FailOpens(_, status) => {
                Err(status.clone())
            }
            _ => Ok(()),
        }
    }

    /// The fault of this call; one that is counted is used up by it.
    fn fault_of_call(&self, count: impl FnOnce(&mut Calls)) -> Fault {
        let mut state = self.state();
        count(&mut state.calls);
        let fault = state.fault.clone();
        if let Fault::FailOpens(left, status) = &fault {
            state.fault = match left {
                0 | 1 => Fault::None,
                left => Fault::FailOpens(left - 1, status.clone()),
            };
        }
        fault
    }

    fn matching(&self, matchers: &[Matcher], range: TimeRange) -> impl Iterator<Item = &Stored> {
        self.series.iter().filter(move |stored| {
            matchers.iter().all(|matcher| matcher.matches_labels(&stored.labels))
                && stored.samples.iter().any(|(time, _)| range.contains(*time))
        })
    }

    fn answer(&self, request: &SeriesRequest) -> Result<Vec<SeriesResponse>, Status> {
        let matchers = matchers::from_wire(&request.matchers)?;
        let mut shard = ShardMatcher::new(request.shard_info.as_ref().filter(|_| self.supports_sharding))?;
        let without: &[String] =
            if self.supports_without_replica_labels { &request.without_replica_labels } else { &[] };
        let range = TimeRange::new(request.min_time, request.max_time);
        let mut answer: Vec<Series> = self
            .matching(&matchers, range)
            .map(|stored| Series {
                labels: labels::to_wire(&stored.labels.without(without)),
                chunks: if request.skip_chunks { Vec::new() } else { stored.chunks(range) },
            })
            .filter(|series| shard.matches(&series.labels))
            .collect();
        answer.sort_by(|a, b| labels::compare(&a.labels, &b.labels));
        Ok(answer.into_iter().map(frames::series).collect())
    }
}

impl Stored {
    fn chunks(&self, range: TimeRange) -> Vec<parallax_storeapi::proto::thanos::AggrChunk> {
        self.samples
            .chunks(SAMPLES_PER_CHUNK)
            .filter_map(|samples| {
                let (first, last) = (samples.first()?.0, samples.last()?.0);
                let data = Bytes::from(xor::encode(samples));
                range
                    .overlaps(&TimeRange::new(first, last))
                    .then(|| chunks::raw(first, last, chunks::chunk(chunk::Encoding::Xor, data)))
            })
            .collect()
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let fault = {
            let mut state = self.state();
            state.calls.info += 1;
            state.fault.clone()
        };
        match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Down(status) => return Err(status),
            _ => {}
        }
        let range = self.range();
        let has_external = !self.external.is_empty();
        Ok(InfoResponse {
            label_sets: has_external.then(|| labels::set_to_wire(&self.external)).into_iter().collect(),
            component_type: self.component.clone(),
            store: Some(StoreInfo {
                min_time: range.min_ms,
                max_time: range.max_ms,
                supports_sharding: self.supports_sharding,
                supports_without_replica_labels: self.supports_without_replica_labels,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let fault = self.fault_of_call(|calls| calls.series += 1);
        self.state().last_series_request = Some(request.get_ref().clone());
        self.enter(&fault).await?;
        let request = request.into_inner();
        let mut answer = self.answer(&request)?;
        if let Fault::Warn(text) = &fault {
            answer.insert(0, frames::warning(text.clone()));
        }
        let stream = frames::respond(frames::from_vec(answer.into_iter().map(Ok).collect()), &request);
        Ok(with_stream_fault(stream, fault))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let fault = self.fault_of_call(|calls| calls.label_names += 1);
        self.enter(&fault).await?;
        let request = request.into_inner();
        let matchers = matchers::from_wire(&request.matchers)?;
        let without: &[String] =
            if self.supports_without_replica_labels { &request.without_replica_labels } else { &[] };
        let names: BTreeSet<String> = self
            .matching(&matchers, TimeRange::new(request.start, request.end))
            .flat_map(|stored| stored.labels.iter().map(|(name, _)| name.to_owned()))
            .filter(|name| !without.contains(name))
            .collect();
        Ok(LabelNamesResponse {
            names: limited(names, request.limit),
            warnings: fault_warning(fault),
            ..LabelNamesResponse::default()
        })
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let fault = self.fault_of_call(|calls| calls.label_values += 1);
        self.enter(&fault).await?;
        let request = request.into_inner();
        let matchers = matchers::from_wire(&request.matchers)?;
        let values: BTreeSet<String> = self
            .matching(&matchers, TimeRange::new(request.start, request.end))
            .filter_map(|stored| stored.labels.get(&request.label).map(str::to_owned))
            .collect();
        Ok(LabelValuesResponse {
            values: limited(values, request.limit),
            warnings: fault_warning(fault),
            ..LabelValuesResponse::default()
        })
    }
}

fn with_stream_fault(stream: SeriesStream, fault: Fault) -> SeriesStream {
    match fault {
        Fault::HangAfter(frames) => Box::pin(stream.take(frames).chain(futures::stream::pending())),
        Fault::FailAfter(frames, status) => {
            Box::pin(stream.take(frames).chain(futures::stream::iter([Err(status)])))
        }
        Fault::Slow(delay) => Box::pin(stream.then(move |frame| async move {
            tokio::time::sleep(delay).await;
            frame
        })),
        _ => stream,
    }
}

fn fault_warning(fault: Fault) -> Vec<String> {
    match fault {
        Fault::Warn(text) => vec![text],
        _ => Vec::new(),
    }
}

fn limited(all: BTreeSet<String>, limit: i64) -> Vec<String> {
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    all.into_iter().take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> FakeStore {
        let samples = |offset: i64| (0..300).map(move |i| (offset + i * 15_000, i as f64));
        FakeStore::new([("cluster", "eu-1"), ("replica", "0")])
            .with_series([("__name__", "up"), ("job", "a"), ("instance", "1")], samples(0))
            .with_series([("__name__", "up"), ("job", "b")], samples(1_000_000))
            .with_series([("__name__", "up"), ("zone", "z")], samples(0))
            .with_series([("__name__", "requests_total"), ("job", "a"), ("cluster", "own")], samples(0))
    }

    #[tokio::test]
    async fn the_fake_conforms() {
        let store = store();
        let known = store.known();
        assert_eq!(parallax_storeapi::conformance::check(&store, &known).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_fake_conforms_over_grpc_too() {
        let store = std::sync::Arc::new(store());
        let known = store.known();
        let (_ready, readiness) = tokio::sync::watch::channel(true);
        let routes = parallax_storeapi::routes(store, readiness).unwrap();
        let client = parallax_storeapi::StoreClient::new(routes);
        assert_eq!(parallax_storeapi::conformance::check(&client, &known).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn info_over_grpc_follows_readiness() {
        let (ready, readiness) = tokio::sync::watch::channel(false);
        let routes = parallax_storeapi::routes(std::sync::Arc::new(store()), readiness).unwrap();
        let client = parallax_storeapi::StoreClient::new(routes);
        assert_eq!(client.info().await.unwrap_err().code(), tonic::Code::Unavailable);
        ready.send(true).unwrap();
        assert_eq!(client.info().await.unwrap().component_type, "sidecar");
    }

    #[tokio::test]
    async fn a_hung_store_over_grpc_costs_no_more_than_the_deadline() {
        let store = std::sync::Arc::new(store().with_fault(Fault::HangAfter(1)));
        let (_ready, readiness) = tokio::sync::watch::channel(true);
        let client =
            parallax_storeapi::StoreClient::new(parallax_storeapi::routes(store, readiness).unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(1);
        let request = SeriesRequest { max_time: i64::MAX, ..SeriesRequest::default() };
        let request = parallax_storeapi::with_deadline(request, Some(deadline));
        let items: Vec<_> = client.series(request).await.unwrap().collect().await;
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn counted_faults_are_used_up() {
        let store = store().with_fault(Fault::FailOpens(2, Status::unavailable("not yet")));
        let ask = || store.series(Request::new(SeriesRequest { max_time: i64::MAX, ..Default::default() }));
        assert!(ask().await.is_err());
        assert!(ask().await.is_err());
        assert!(ask().await.is_ok());
        assert_eq!(store.calls().series, 3);
    }
}
