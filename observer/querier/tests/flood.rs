//! Bad input 20: one series without its cluster's label among very many. Alone in its file, because the memory of the process is looked at.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parallax_model::{Labels, Matcher};
use parallax_querier::{Connection, EndpointConfig, EndpointOptions, EndpointSet, Gap, Proxy, ProxyConfig};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, Store, frames, labels, matchers};
use parallax_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

const SERIES: usize = 1_000_000;
/// The one that does not say whose it is.
const ODD: usize = 700_001;
/// All of them together would take ten times as much.
const MOST_BYTES: u64 = 40 << 20;

struct Flood;

#[parallax_storeapi::async_trait]
impl Store for Flood {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse {
            label_sets: vec![labels::set_to_wire(&Labels::from_pairs([("cluster", "eu-1")]))],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                max_time: i64::MAX,
                supports_sharding: true,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let path = "/a/path/that/makes/each/of/them/as/long/as/series/of/real/programs/are";
        let frame = move |number: usize| {
            let instance = format!("{number:08}");
            let mut pairs = vec![("__name__", "up"), ("instance", instance.as_str()), ("path", path)];
            if number != ODD {
                pairs.push(("cluster", "eu-1"));
            }
            let labels = labels::to_wire(&Labels::from_pairs(pairs));
            Ok(frames::series(Series { labels, chunks: Vec::new() }))
        };
        Ok(Box::pin(futures::stream::iter((0..SERIES).map(frame))))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Ok(LabelNamesResponse::default())
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        Ok(LabelValuesResponse::default())
    }
}

/// The most memory that this process ever had, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn bad_input_20_one_series_of_a_million_without_its_cluster_is_left_out_told_and_counted() {
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let options = EndpointOptions { info_interval: Duration::from_secs(3600), ..EndpointOptions::default() };
    let configs = vec![EndpointConfig::new("flood", Connection::Local(Arc::new(Flood))).with_cluster("eu-1")];
    let endpoints = EndpointSet::start(configs, options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    let proxy = Proxy::new(endpoints, ProxyConfig::default(), &metrics);
    let request = SeriesRequest {
        max_time: 1000,
        matchers: matchers::to_wire(&[Matcher::equal("__name__", "up")]),
        ..SeriesRequest::default()
    };
    let before = peak_bytes();
    let mut stream = frames::unbatched(proxy.series(Request::new(request)).await.unwrap());
    let (mut series, mut warnings) = (0, Vec::new());
    while let Some(frame) = stream.next().await {
        match frame.unwrap().result {
            Some(Frame::Series(_)) => series += 1,
            Some(Frame::Warning(text)) => warnings.push(text),
            _ => {}
        }
    }
    let grown = peak_bytes() - before;
    assert_eq!(series, SERIES - 1);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let gap = Gap::parse(&warnings[0]).unwrap();
    assert!(gap.reason.contains("00700001") && gap.reason.contains("does not say cluster"), "{gap}");
    let text = metrics.encode().unwrap();
    assert!(text.contains("parallax_querier_foreign_labels_total{endpoint=\"flood\"} 1\n"), "{text}");
    assert!(grown < MOST_BYTES, "{grown} bytes more");
    shutdown.cancel();
}
