//! Native histograms through the sidecar, beside the real Prometheus: what it was given comes out, and is what its own API says.
//!
//! `PROMETHEUS_BIN` names another Prometheus than the one on `PATH`. Samples come by remote write, which old and new servers take alike.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use parallax_model::{FloatHistogram, HistogramColumn, Labels, Matcher, TimeRange};
use parallax_net::{Context, HttpClient, HttpClientConfig};
use parallax_sidecar::{Sidecar, SidecarConfig};
use parallax_simulate::stand_in::now_ms;
use parallax_storeapi::proto::prometheus::histogram::{Count, ZeroCount};
use parallax_storeapi::proto::prometheus::{BucketSpan, Histogram, TimeSeries, WriteRequest};
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::proto::thanos::chunk::Encoding;
use parallax_storeapi::{Store, frames, labels, matchers};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use prost::Message;
use serde_json::{Value, json};
use tonic::Request;

const PATIENCE: Duration = Duration::from_secs(90);
const SAMPLES: i64 = 300;
const STEP_MS: i64 = 1_000;

/// A histogram that grows, with two runs of buckets and a negative one, and starts again now and then.
fn integer(number: i64, timestamp: i64) -> Histogram {
    let n = (number % 130) + 1;
    Histogram {
        timestamp,
        schema: 2,
        zero_threshold: 0.001,
        sum: n as f64 * 1.5,
        // Of the buckets: n, 2n, n; 3n; and those at zero.
        count: Some(Count::CountInt((8 * n) as u64)),
        zero_count: Some(ZeroCount::ZeroCountInt(n as u64)),
        positive_spans: vec![BucketSpan { offset: -1, length: 2 }, BucketSpan { offset: 3, length: 1 }],
        positive_deltas: vec![n, n, -n],
        negative_spans: vec![BucketSpan { offset: 0, length: 1 }],
        negative_deltas: vec![3 * n],
        ..Histogram::default()
    }
}

fn float(number: i64, timestamp: i64) -> Histogram {
    let n = (number % 130) as f64 + 0.5;
    Histogram {
        timestamp,
        schema: 1,
        zero_threshold: 0.001,
        sum: n * 2.0,
        count: Some(Count::CountFloat(n * 4.0)),
        zero_count: Some(ZeroCount::ZeroCountFloat(n)),
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
        positive_counts: vec![n, n * 2.0],
        ..Histogram::default()
    }
}

struct Server {
    url: String,
    context: Context,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

impl Server {
    /// `None` where there is no Prometheus.
    async fn start() -> Option<Self> {
        let program = program_or_leave_out("prometheus", "native histograms")?;
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.yml");
        let external = json!({"global": {"external_labels": {"cluster": "eu-1"}}});
        std::fs::write(&config, external.to_string()).unwrap();
        let port = free_port().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args([
                "--enable-feature=native-histograms",
                "--web.enable-remote-write-receiver",
                "--log.level=warn",
            ]);
        let mut process = Process::spawn(&mut command, &directory.path().join("log")).unwrap();
        process.wait_for_http(&format!("{url}/-/ready"), PATIENCE).await.unwrap();
        Some(Self { url, context: Context::for_test(), _process: process, _directory: directory })
    }

    fn client(&self) -> HttpClient {
        HttpClient::new(HttpClientConfig::new(&self.url)).unwrap()
    }

    async fn write(&self, series: Vec<TimeSeries>) {
        let message = WriteRequest { timeseries: series, ..WriteRequest::default() }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&message).unwrap();
        let headers = [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", "0.1.0"),
        ];
        let answer = self.client().post_bytes("/api/v1/write", &headers, Bytes::from(body)).await.unwrap();
        let (status, text) = (answer.status(), answer.text_prefix(1_000).await);
        assert!(status.is_success(), "{status}: {text}");
    }

    /// Histograms by time, as the API shows them.
    async fn own(&self, name: &str, end_ms: i64) -> BTreeMap<i64, Shown> {
        let time = format!("{}.{:03}", end_ms / 1000, end_ms % 1000);
        let query = [("query", format!("{name}[1h]")), ("time", time)];
        let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let answer = self.client().get("/api/v1/query", &query).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes(64 << 20).await.unwrap()).unwrap();
        let result = &answer["data"]["result"];
        assert_eq!(result.as_array().unwrap().len(), 1, "{answer}");
        let number = |value: &Value| value.as_str().unwrap().parse::<f64>().unwrap();
        let one = |pair: &Value| {
            let time_ms = (pair[0].as_f64().unwrap() * 1000.0).round() as i64;
            let buckets = pair[1]["buckets"].as_array().unwrap().iter().map(|bucket| number(&bucket[3]));
            let shown = Shown {
                count: number(&pair[1]["count"]),
                sum: number(&pair[1]["sum"]),
                buckets: buckets.collect(),
            };
            (time_ms, shown)
        };
        result[0]["histograms"].as_array().unwrap().iter().map(one).collect()
    }
}

/// What Prometheus' API shows of a histogram: of the buckets, those that are not empty, from left to right.
#[derive(Debug, PartialEq)]
struct Shown {
    count: f64,
    sum: f64,
    buckets: Vec<f64>,
}

impl Shown {
    fn of(histogram: &FloatHistogram) -> Self {
        let negative = histogram.negative_buckets.iter().rev();
        let all = negative.chain([&histogram.zero_count]).chain(&histogram.positive_buckets);
        Self {
            count: histogram.count,
            sum: histogram.sum,
            buckets: all.copied().filter(|n| *n != 0.0).collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn native_histograms_of_both_kinds_are_those_of_prometheus() {
    let Some(server) = Server::start().await else { return };
    let end_ms = now_ms().div_euclid(STEP_MS) * STEP_MS;
    let times = || (0..SAMPLES).map(|number| (number, end_ms - (SAMPLES - 1 - number) * STEP_MS));
    let series = |name: &str, histograms: Vec<Histogram>| TimeSeries {
        labels: labels::to_wire(&Labels::from_pairs([("__name__", name), ("job", "demo")])),
        histograms,
        ..TimeSeries::default()
    };
    server.write(vec![series("ints", times().map(|(number, at)| integer(number, at)).collect())]).await;
    server.write(vec![series("floats", times().map(|(number, at)| float(number, at)).collect())]).await;

    let config =
        SidecarConfig { heartbeat_interval: Duration::from_millis(50), ..SidecarConfig::new(&server.url) };
    let (sidecar, _) = Sidecar::start(config, &server.context).unwrap();
    let mut readiness = server.context.readiness.subscribe();
    tokio::time::timeout(PATIENCE, readiness.wait_for(|ready| *ready)).await.unwrap().unwrap();
    for (name, encoding) in [("ints", Encoding::Histogram), ("floats", Encoding::FloatHistogram)] {
        let request = SeriesRequest {
            min_time: end_ms - SAMPLES * STEP_MS,
            max_time: end_ms,
            matchers: matchers::to_wire(&[Matcher::equal("__name__", name)]),
            ..SeriesRequest::default()
        };
        let found =
            frames::collect(sidecar.series(Request::new(request)).await.unwrap()).await.unwrap().series;
        let mut column = HistogramColumn::default();
        for series in &found {
            let expected = Labels::from_pairs([("__name__", name), ("cluster", "eu-1"), ("job", "demo")]);
            assert_eq!(labels::from_wire(&series.labels).unwrap(), expected);
            for chunk in series.chunks.iter().map(|chunk| chunk.raw.as_ref().unwrap()) {
                assert_eq!(chunk.r#type, encoding as i32);
                let decode = match encoding {
                    Encoding::Histogram => parallax_tsdb::chunk::decode_histogram,
                    _ => parallax_tsdb::chunk::decode_float_histogram,
                };
                decode(&chunk.data, TimeRange::ALL, &mut column).unwrap();
            }
        }
        let got: BTreeMap<i64, Shown> = column
            .timestamps_ms
            .iter()
            .copied()
            .zip(column.values.iter().map(|histogram| Shown::of(histogram)))
            .collect();
        assert_eq!(got.len(), SAMPLES as usize);
        assert_eq!(got, server.own(name, end_ms).await, "{name}");
    }
}
