//! A store of one cluster's series, asked by matchers and time; and queriers over it whose evaluation can be tampered with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::proto::prometheus::{Sample, TimeSeries};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::query_range_response::Result as RangeFrame;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, QueryRangeRequest,
    QueryRangeResponse, QueryStats, Series, SeriesRequest, chunk,
};
use parallax_storeapi::{FrameStream, SeriesStream, SideServices, Store, chunks, frames, labels, matchers};
use parallax_tsdb::chunk::XorAppender;
use tonic::{Request, Status};

/// Samples in one chunk.
const CHUNK_SAMPLES: usize = 120;

/// Labels, and samples in order of time.
pub type SeriesOfFloats = (Labels, Vec<(i64, f64)>);

pub struct ClusterStore {
    pub label_sets: Vec<Labels>,
    pub series: Vec<SeriesOfFloats>,
    pub range: TimeRange,
    /// Series calls.
    pub calls: Arc<AtomicUsize>,
}

impl ClusterStore {
    pub fn new(label_sets: Vec<Labels>, mut series: Vec<SeriesOfFloats>) -> Self {
        series.sort_by(|a, b| a.0.cmp(&b.0));
        Self { label_sets, series, range: TimeRange::new(0, i64::MAX), calls: Arc::default() }
    }

    fn matching(&self, all: &[Matcher]) -> impl Iterator<Item = &Labels> {
        let is_wanted = |set: &&Labels| all.iter().all(|one| one.matches_labels(set));
        self.series.iter().map(|(set, _)| set).filter(is_wanted)
    }
}

#[async_trait]
impl Store for ClusterStore {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse {
            label_sets: self.label_sets.iter().map(labels::set_to_wire).collect(),
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                min_time: self.range.min_ms,
                max_time: self.range.max_ms,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let all: Vec<Matcher> = matchers::from_wire(&request.matchers)?;
        let matching = self.series.iter().filter(|(set, _)| all.iter().all(|one| one.matches_labels(set)));
        let answer = matching.filter_map(|(set, samples)| {
            let chunks: Vec<_> = samples
                .chunks(CHUNK_SAMPLES)
                .filter(|part| part[0].0 <= request.max_time && part[part.len() - 1].0 >= request.min_time)
                .map(|part| {
                    let mut appender = XorAppender::new();
                    part.iter().for_each(|(at, value)| appender.append(*at, *value).unwrap());
                    let data = chunks::chunk(chunk::Encoding::Xor, appender.into_bytes().into());
                    chunks::raw(part[0].0, part[part.len() - 1].0, data)
                })
                .collect();
            (!chunks.is_empty()).then(|| Ok(frames::series(Series { labels: labels::to_wire(set), chunks })))
        });
        Ok(frames::from_vec(answer.collect()))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let all = matchers::from_wire(&request.get_ref().matchers)?;
        let names = self.matching(&all).flat_map(|set| set.iter().map(|(name, _)| name.to_owned()));
        let names: BTreeSet<String> = names.collect();
        Ok(LabelNamesResponse { names: names.into_iter().collect(), ..LabelNamesResponse::default() })
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let request = request.into_inner();
        let all = matchers::from_wire(&request.matchers)?;
        let values = self.matching(&all).filter_map(|set| set.get(&request.label)).map(str::to_owned);
        let values: BTreeSet<String> = values.collect();
        Ok(LabelValuesResponse { values: values.into_iter().collect(), ..LabelValuesResponse::default() })
    }
}

/// How a querier answers queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// It offers the service and then does not have it.
    Unimplemented,
    /// As Thanos' querier when it fails.
    WithoutStats,
    /// The first series comes twice.
    Twice,
    /// Its groups say that they are of another cluster.
    Foreign,
    /// It has one group more, without the labels of a cluster.
    Nameless,
    Warns,
    Hangs,
    /// As a querier of Thanos, it does not say what its answers have.
    SaysNothing,
}

/// A querier in whose answers something is wrong.
pub struct Tampered {
    pub inner: Arc<dyn Store>,
    pub manner: Manner,
    pub queries: Arc<AtomicUsize>,
}

#[async_trait]
impl Store for Tampered {
    async fn info(&self) -> Result<InfoResponse, Status> {
        if self.manner == Manner::Hangs && self.queries.load(Ordering::SeqCst) > 0 {
            return futures::future::pending().await;
        }
        self.inner.info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        if self.manner == Manner::Hangs {
            return futures::future::pending().await;
        }
        self.inner.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.inner.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.inner.label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

fn text(name: &str, value: &str) -> parallax_storeapi::proto::thanos::Label {
    let bytes = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    parallax_storeapi::proto::thanos::Label { name: bytes(name), value: bytes(value) }
}

fn of_frame(frame: &mut RangeFrame) -> &mut [TimeSeries] {
    match frame {
        RangeFrame::Timeseries(one) => std::slice::from_mut(one),
        RangeFrame::TimeseriesBatch(batch) => &mut batch.series,
        RangeFrame::Warnings(_) | RangeFrame::Stats(_) => &mut [],
    }
}

#[async_trait]
impl SideServices for Tampered {
    async fn query_range(
        &self,
        mut request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        match self.manner {
            Manner::Unimplemented => return Err(Status::unimplemented("unknown service thanos.Query")),
            Manner::Hangs => return futures::future::pending().await,
            Manner::SaysNothing => {
                request.metadata_mut().remove("parallax-coverage");
            }
            _ => {}
        }
        let start_ms = request.get_ref().start_time_seconds * 1000;
        let mut stream = self.inner.side().query_range(request).await?;
        let mut all: Vec<RangeFrame> = Vec::new();
        while let Some(frame) = stream.next().await {
            all.extend(frame?.result);
        }
        let mut series: Vec<TimeSeries> = all.iter_mut().flat_map(|frame| of_frame(frame).to_vec()).collect();
        match self.manner {
            Manner::WithoutStats => all.retain(|frame| !matches!(frame, RangeFrame::Stats(_))),
            Manner::Twice => all.insert(0, RangeFrame::Timeseries(series.remove(0))),
            Manner::Foreign => {
                for label in all.iter_mut().flat_map(of_frame).flat_map(|one| &mut one.labels) {
                    if label.name == "cluster" {
                        label.value = bytes::Bytes::from_static(b"somewhere-else");
                    }
                }
            }
            Manner::Nameless => {
                let sample = Sample { value: 1.0, timestamp: start_ms };
                let one = TimeSeries {
                    labels: vec![text("job", "0")],
                    samples: vec![sample],
                    ..TimeSeries::default()
                };
                all.insert(0, RangeFrame::Timeseries(one));
                all.push(RangeFrame::Stats(QueryStats::default()));
            }
            Manner::Warns => {
                all.insert(0, RangeFrame::Warnings("PromQL warning: something is odd".to_owned()));
            }
            _ => {}
        }
        let frames = all.into_iter().map(|frame| Ok(QueryRangeResponse { result: Some(frame) }));
        Ok(Box::pin(futures::stream::iter(frames.collect::<Vec<_>>())))
    }
}
