//! A cluster that exists in this process only: its series, behind a gRPC server, with a delay, and with a querier of its own if that is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parallax_model::{Labels, Matcher};
use parallax_net::{Context, GrpcServer, GrpcServerConfig};
use parallax_pki::CredentialSource;
use parallax_querier::{Connection, EndpointConfig, Querier, QuerierConfig};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
    chunk,
};
use parallax_storeapi::{SeriesStream, Store, async_trait, chunks, frames, labels, matchers};
use parallax_tsdb::chunk::XorAppender;
use tonic::{Request, Status};

/// Samples in one chunk, as Prometheus cuts them.
const CHUNK_SAMPLES: usize = 120;
pub const SCRAPE_MS: i64 = 15_000;

/// A chunk, and the time that it covers.
#[derive(Clone)]
pub struct Part {
    min_ms: i64,
    max_ms: i64,
    data: Bytes,
}

/// One cluster's store.
pub struct Cluster {
    name: String,
    delay: Duration,
    /// Labels without that of the cluster, and which of `parts` it has.
    series: Arc<Vec<(Labels, usize)>>,
    /// Chunks that series of all clusters share: what is measured is how they travel.
    parts: Arc<Vec<Vec<Part>>>,
    /// Whether it says nothing any more.
    pub hangs: AtomicBool,
}

impl Cluster {
    pub fn new(
        name: &str,
        delay: Duration,
        series: &Arc<Vec<(Labels, usize)>>,
        parts: &Arc<Vec<Vec<Part>>>,
    ) -> Arc<Self> {
        let (series, parts) = (Arc::clone(series), Arc::clone(parts));
        Arc::new(Self { name: name.to_owned(), delay, series, parts, hangs: AtomicBool::new(false) })
    }

    async fn comes_to_it(&self) {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.delay).await;
    }
}

/// Counters with jitter, from `start_ms` on: as many different ones as asked for.
pub fn counters(different: u64, start_ms: i64, samples: usize) -> anyhow::Result<Vec<Vec<Part>>> {
    let mut all = Vec::new();
    for number in 0..different {
        let (mut state, mut value) = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, 0.0);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut points = Vec::with_capacity(samples);
        for step in 0..samples {
            value += random(1000) as f64 / 8.0;
            let at_ms = start_ms + i64::try_from(step)? * SCRAPE_MS + i64::try_from(random(5))?;
            points.push((at_ms, value));
        }
        let mut parts = Vec::new();
        for points in points.chunks(CHUNK_SAMPLES) {
            let mut appender = XorAppender::new();
            for (at_ms, value) in points {
                appender.append(*at_ms, *value)?;
            }
            let (min_ms, max_ms) = (points[0].0, points[points.len() - 1].0);
            parts.push(Part { min_ms, max_ms, data: appender.into_bytes().into() });
        }
        all.push(parts);
    }
    Ok(all)
}

#[async_trait]
impl Store for Cluster {
    async fn info(&self) -> Result<InfoResponse, Status> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(InfoResponse {
            label_sets: vec![labels::set_to_wire(&Labels::from_pairs([("cluster", self.name.as_str())]))],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                min_time: 0,
                max_time: i64::MAX,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.comes_to_it().await;
        let request = request.into_inner();
        let own = Labels::from_pairs([("cluster", self.name.as_str())]);
        let all: Option<Vec<Matcher>> =
            matchers::without_external(&matchers::from_wire(&request.matchers)?, &own);
        let Some(all) = all else { return Ok(frames::from_vec(Vec::new())) };
        let (series, parts) = (Arc::clone(&self.series), Arc::clone(&self.parts));
        let answer = (0..series.len()).filter_map(move |at| {
            let (set, which) = series.get(at)?;
            if !all.iter().all(|matcher| matcher.matches_labels(set)) {
                return None;
            }
            let overlaps = |part: &&Part| part.min_ms <= request.max_time && part.max_ms >= request.min_time;
            let chunks = parts.get(*which)?.iter().filter(overlaps).map(|part| {
                chunks::raw(part.min_ms, part.max_ms, chunks::chunk(chunk::Encoding::Xor, part.data.clone()))
            });
            let labels = labels::to_wire(&set.overlaid_with(&own));
            Some(Ok(frames::series(Series { labels, chunks: chunks.collect() })))
        });
        Ok(frames::batched(Box::pin(futures::stream::iter(answer)), request.response_batch_size))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Ok(LabelNamesResponse::default())
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        Ok(LabelValuesResponse::default())
    }
}

/// A querier over the cluster, as it runs in the cluster itself.
pub fn querier(cluster: &Arc<Cluster>, context: &Context) -> anyhow::Result<Arc<Querier>> {
    let store: Arc<dyn Store> = Arc::clone(cluster) as Arc<dyn Store>;
    let endpoints = vec![EndpointConfig::new("sidecar", Connection::Local(store))];
    let config = QuerierConfig { name: cluster.name.clone(), endpoints, ..QuerierConfig::default() };
    Ok(Querier::start(config, context.scoped([("cluster", cluster.name.as_str())]))?)
}

/// Serves it, and says where.
pub async fn serve(
    store: Arc<dyn Store>,
    tls: Option<CredentialSource>,
    context: &Context,
) -> anyhow::Result<String> {
    let config = GrpcServerConfig { tls, ..GrpcServerConfig::new("127.0.0.1:0") };
    let server = GrpcServer::bind(config, &context.metrics.scoped([("server", "simulated")])).await?;
    let address = server.local_addr().to_string();
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let serving = server.serve(parallax_storeapi::routes(store, readiness)?, context.shutdown.clone());
    tokio::spawn(async move {
        let _kept_while_serving = ready;
        serving.await
    });
    Ok(address)
}
