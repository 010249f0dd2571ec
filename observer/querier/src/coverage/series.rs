//! `parallax_cluster_up` and `parallax_cluster_coverage_ratio` as series, so that a dashboard or an alert can ask for them.
//!
//! Only queries that ask for one of the two by name get them: they are not among the names and values of labels, nor in answers to queriers above, which
//! have their own. Source of the samples: [`CoverageBook`].

use std::sync::Arc;

use parallax_model::{Labels, MatchOp, Matcher};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
    SeriesResponse, chunk,
};
use parallax_storeapi::{
    SeriesStream, ShardMatcher, SideServices, Store, async_trait, chunks, frames, labels, matchers,
};
use parallax_tsdb::chunk::XorAppender;
use tonic::{Request, Status};

use super::book::{CoverageBook, Sample};

const UP: &str = "parallax_cluster_up";
const RATIO: &str = "parallax_cluster_coverage_ratio";

/// Samples in one chunk, as Prometheus cuts them.
const SAMPLES_PER_CHUNK: usize = 120;

/// A store, and the two series beside what it holds.
pub(crate) struct WithCoverageSeries<S> {
    inner: S,
    book: Arc<CoverageBook>,
    cluster_label: String,
}

impl<S> WithCoverageSeries<S> {
    pub(crate) fn new(inner: S, book: Arc<CoverageBook>, cluster_label: impl Into<String>) -> Self {
        Self { inner, book, cluster_label: cluster_label.into() }
    }

    fn answer(&self, request: &SeriesRequest, name: &str, all: &[Matcher]) -> Result<SeriesStream, Status> {
        let mut shard = ShardMatcher::new(request.shard_info.as_ref())?;
        let value = |sample: &Sample| if name == UP { sample.up } else { sample.ratio };
        let mut found: Vec<SeriesResponse> = Vec::new();
        for (cluster, samples) in self.book.samples(request.min_time, request.max_time) {
            let pairs = [("__name__", name), (self.cluster_label.as_str(), cluster.as_str())];
            let set = Labels::from_pairs(pairs);
            if !all.iter().all(|matcher| matcher.matches_labels(&set)) {
                continue;
            }
            let wire = labels::to_wire(&set.without(&request.without_replica_labels));
            if !shard.matches(&wire) {
                continue;
            }
            let chunks = samples.chunks(SAMPLES_PER_CHUNK).filter(|_| !request.skip_chunks);
            let chunks = chunks.map(|part| encoded(part, value)).collect::<Result<Vec<_>, Status>>()?;
            found.push(frames::series(Series { labels: wire, chunks }));
        }
        found.sort_by(|a, b| labels::compare(labels_of(a), labels_of(b)));
        Ok(frames::respond(frames::from_vec(found.into_iter().map(Ok).collect()), request))
    }
}

fn labels_of(frame: &SeriesResponse) -> &[parallax_storeapi::proto::thanos::Label] {
    use parallax_storeapi::proto::thanos::series_response::Result as Frame;
    match &frame.result {
        Some(Frame::Series(series)) => &series.labels,
        _ => &[],
    }
}

fn encoded(
    samples: &[Sample],
    value: impl Fn(&Sample) -> f64,
) -> Result<parallax_storeapi::proto::thanos::AggrChunk, Status> {
    let mut appender = XorAppender::new();
    for sample in samples {
        appender
            .append(sample.time_ms, value(sample))
            .map_err(|error| Status::internal(format!("encoding coverage: {error}")))?;
    }
    let min_ms = samples.first().map_or(0, |sample| sample.time_ms);
    let max_ms = samples.last().map_or(0, |sample| sample.time_ms);
    Ok(chunks::raw(min_ms, max_ms, chunks::chunk(chunk::Encoding::Xor, appender.into_bytes().into())))
}

/// Which of the two series a request names.
pub(crate) fn named(all: &[Matcher]) -> Option<&'static str> {
    let name = all.iter().find(|matcher| matcher.name() == "__name__" && matcher.op() == MatchOp::Equal)?;
    [UP, RATIO].into_iter().find(|known| name.value() == *known)
}

#[async_trait]
impl<S: Store> Store for WithCoverageSeries<S> {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.inner.info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let all = matchers::from_wire(&request.get_ref().matchers)?;
        match named(&all) {
            Some(name) => self.answer(request.get_ref(), name, &all),
            None => self.inner.series(request).await,
        }
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
        self.inner.side()
    }
}
