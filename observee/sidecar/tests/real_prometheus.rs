//! The sidecar beside the real Prometheus: its answers are Prometheus' own, and its blocks arrive in the bucket unchanged.
//!
//! Prometheus runs over history that `simulate` wrote as blocks, and scrapes `simulate`'s exporter. Without the program the
//! tests are left out by name; in CI it has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, Labels, MatchOp, Matcher, TimeRange};
use parallax_net::{Context, HttpClient, HttpClientConfig, HttpServer};
use parallax_sidecar::{ShipperConfig, Sidecar, SidecarConfig};
use parallax_simulate::history::{self, BLOCK_RANGE_MS};
use parallax_simulate::stand_in::now_ms;
use parallax_simulate::{Fleet, exporter};
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use parallax_storeapi::{SeriesStream, Store, encoded, frames, labels, matchers, with_deadline};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use serde_json::Value;
use tonic::{Code, Request, Status};

/// Far more than anything here takes; only a test that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

type Samples = BTreeMap<Labels, Vec<(i64, f64)>>;

/// A Prometheus that may be stopped and started again.
struct Server {
    program: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    fleet: Fleet,
    history: TimeRange,
    blocks: Vec<BlockId>,
    exporter_port: u16,
    process: Option<Process>,
    context: Context,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

impl Server {
    /// `None` where there is no Prometheus. `blocks` blocks of history lie in its directory.
    async fn prepare(test: &str, blocks: i64) -> Option<Self> {
        let program = program_or_leave_out("prometheus", test)?;
        let directory = tempfile::tempdir().unwrap();
        let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 2, seed: 21 };
        let end_ms = now_ms().div_euclid(BLOCK_RANGE_MS) * BLOCK_RANGE_MS;
        let history = TimeRange::new(end_ms - blocks * BLOCK_RANGE_MS, end_ms - 1);
        let data = directory.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let blocks = history::write(&fleet, history, &data).unwrap();
        let context = Context::for_test();
        let http = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
        let exporter_port = http.local_addr().port();
        tokio::spawn(http.serve(exporter::router(fleet.clone()), context.shutdown.clone()));
        let port = free_port().unwrap();
        Some(Self { program, directory, port, fleet, history, blocks, exporter_port, process: None, context })
    }

    async fn started(test: &str, blocks: i64) -> Option<Self> {
        let mut server = Self::prepare(test, blocks).await?;
        server.configure(&server.fleet.external_labels(), true);
        server.start().await;
        Some(server)
    }

    fn configure(&self, external_labels: &Labels, scrape: bool) {
        let mut text = "global:\n  scrape_interval: 1s\n  external_labels:\n".to_owned();
        for (name, value) in external_labels {
            text.push_str(&format!("    {name}: \"{value}\"\n"));
        }
        if scrape {
            text.push_str("scrape_configs:\n- job_name: demo\n  static_configs:\n");
            for number in 0..self.fleet.instances {
                let (instance, path) = (Fleet::instance(number), exporter::metrics_path(number));
                text.push_str(&format!("  - targets: [\"127.0.0.1:{}\"]\n", self.exporter_port));
                text.push_str(&format!(
                    "    labels: {{instance: \"{instance}\", __metrics_path__: \"{path}\"}}\n"
                ));
            }
        }
        std::fs::write(self.directory.path().join("prometheus.yml"), text).unwrap();
    }

    async fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--config.file={}", self.directory.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.data().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .args(["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"])
            .args(["--storage.tsdb.retention.time=30d", "--log.level=warn"]);
        let mut process = Process::spawn(&mut command, &self.directory.path().join("log")).unwrap();
        process.wait_for_http(&format!("{}/-/ready", self.url()), PATIENCE).await.unwrap();
        self.process = Some(process);
    }

    async fn stop(&mut self) {
        self.process.take().unwrap().terminate(PATIENCE).await.unwrap();
    }

    fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn config(&self) -> SidecarConfig {
        SidecarConfig { heartbeat_interval: Duration::from_millis(100), ..SidecarConfig::new(self.url()) }
    }

    /// A sidecar that is ready.
    async fn sidecar(&self, config: SidecarConfig) -> Arc<Sidecar> {
        let (sidecar, _) = Sidecar::start(config, &self.context).unwrap();
        self.readiness_is(true).await;
        sidecar
    }

    async fn readiness_is(&self, wanted: bool) {
        let mut readiness = self.context.readiness.subscribe();
        let changed = readiness.wait_for(|ready| *ready == wanted);
        let changed = tokio::time::timeout(PATIENCE, changed).await;
        assert!(changed.is_ok(), "not {wanted}: {:?}", self.context.readiness.reasons());
    }

    /// `data` of an answer of Prometheus' own API.
    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let client = HttpClient::new(HttpClientConfig::new(self.url())).unwrap();
        let body = client.get(path, query).await.unwrap().bytes(256 << 20).await.unwrap();
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].take()
    }

    async fn api_texts(&self, path: &str) -> BTreeSet<String> {
        serde_json::from_value(self.api(path, &[]).await).unwrap()
    }

    /// Every sample up to `end_ms` that Prometheus has, by its labels.
    async fn own_samples(&self, end_ms: i64) -> Samples {
        let time = format!("{}.{:03}", end_ms / 1000, end_ms % 1000);
        let data = self.api("/api/v1/query", &[("query", "{__name__=~\".+\"}[10d]"), ("time", &time)]).await;
        let one = |series: &Value| {
            let metric: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
            let sample = |pair: &Value| {
                let time_ms = (pair[0].as_f64().unwrap() * 1000.0).round() as i64;
                (time_ms, pair[1].as_str().unwrap().parse::<f64>().unwrap())
            };
            (Labels::from_pairs(metric), series["values"].as_array().unwrap().iter().map(sample).collect())
        };
        data["result"].as_array().unwrap().iter().map(one).collect()
    }

    /// A moment by which every machine was scraped, and before which no further sample will come.
    async fn scraped(&self) -> i64 {
        self.scraped_since(now_ms()).await;
        let settled = now_ms();
        self.scraped_since(settled + 1_000).await;
        settled
    }

    /// Waits until the last sample of every machine is from after `since_ms`.
    async fn scraped_since(&self, since_ms: i64) {
        let query = "(min(timestamp(demo_capacity)) * 1000) and (count(demo_capacity) == 2)";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let data = self.api("/api/v1/query", &[("query", query)]).await;
            let oldest: f64 =
                data["result"][0]["value"][1].as_str().map_or(0.0, |text| text.parse().unwrap());
            if oldest as i64 > since_ms {
                return;
            }
            assert!(Instant::now() < deadline, "nothing is scraped: {}", self.process().output());
            tokio::time::sleep(POLL).await;
        }
    }
}

fn everything() -> Matcher {
    Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap()
}

fn all_series(range: TimeRange) -> SeriesRequest {
    SeriesRequest {
        min_time: range.min_ms,
        max_time: range.max_ms,
        matchers: matchers::to_wire(&[everything()]),
        ..SeriesRequest::default()
    }
}

/// What the Store API answers, checked for order.
async fn ask(sidecar: &Sidecar, request: SeriesRequest) -> Result<Samples, Status> {
    let end_ms = request.max_time;
    samples_of(sidecar.series(Request::new(request)).await?, end_ms).await
}

async fn samples_of(stream: SeriesStream, end_ms: i64) -> Result<Samples, Status> {
    let series = frames::collect(stream).await?.series;
    assert!(series.is_sorted_by(|a, b| labels::compare(&a.labels, &b.labels).is_le()));
    let mut found: BTreeMap<Labels, FloatColumn> = BTreeMap::new();
    for one in &series {
        let column = found.entry(labels::from_wire(&one.labels).unwrap()).or_default();
        for chunk in &one.chunks {
            assert!(chunk.min_time <= end_ms, "a chunk outside of what was asked for");
            parallax_tsdb::chunk::decode_xor(&chunk.raw.as_ref().unwrap().data, column).unwrap();
        }
    }
    // A scrape that a busy machine makes late leaves staleness markers, which Prometheus' own API does not show.
    let is_shown = |(time, value): &(i64, f64)| *time <= end_ms && !is_stale(*value);
    let samples = |column: FloatColumn| column.iter().filter(is_shown).collect();
    Ok(found.into_iter().map(|(labels, column)| (labels, samples(column))).collect())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Prometheus 3 writes whole bounds of buckets as floats when it scrapes them.
fn as_3_scrapes(labels: &Labels) -> Labels {
    let whole = labels.get("le").filter(|bound| bound.bytes().all(|byte| byte.is_ascii_digit()));
    match whole {
        Some(bound) => labels.overlaid_with(&Labels::from_pairs([("le", format!("{bound}.0").as_str())])),
        None => labels.clone(),
    }
}

/// A run with `PROMETHEUS_BIN` has to be one with that program, not with the one that is installed.
#[tokio::test(flavor = "multi_thread")]
async fn the_prometheus_beside_the_sidecar_is_the_one_that_was_named() {
    let Some(server) =
        Server::started("the_prometheus_beside_the_sidecar_is_the_one_that_was_named", 1).await
    else {
        return;
    };
    let running = std::fs::read_link(format!("/proc/{}/exe", server.process().id())).unwrap();
    if let Some(named) = std::env::var_os("PROMETHEUS_BIN") {
        assert_eq!(running, std::fs::canonicalize(named).unwrap());
    }
    let printed = Command::new(&running).arg("--version").output().unwrap();
    let printed = String::from_utf8_lossy(&[printed.stdout, printed.stderr].concat()).into_owned();
    let version = server.api("/api/v1/status/buildinfo", &[]).await["version"].as_str().unwrap().to_owned();
    assert!(printed.contains(&format!("version {version}")), "{version} answers, not {printed}");
    println!("beside prometheus {version} ({})", running.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn series_and_labels_are_those_of_prometheus_with_external_labels() {
    let Some(server) = Server::started("series_and_labels_are_those_of_prometheus", 3).await else { return };
    let sidecar = server.sidecar(server.config()).await;
    let external = server.fleet.external_labels();
    let end_ms = server.scraped().await;
    let own = server.own_samples(end_ms).await;

    // The history that was written as blocks is there, sample for sample.
    for series in server.fleet.series() {
        let written: Vec<(i64, f64)> =
            server.fleet.scrapes(server.history).map(|time| (time, series.value_at(time))).collect();
        let found: Vec<_> =
            own[&series.labels].iter().filter(|(t, _)| server.history.contains(*t)).copied().collect();
        assert_eq!(found, written, "{}", series.labels);
        let scraped = |labels: &Labels| own.get(labels).is_some_and(|all| all.last() > written.last());
        assert!(
            scraped(&series.labels) || scraped(&as_3_scrapes(&series.labels)),
            "{} was not scraped",
            series.labels
        );
    }

    let expected: Samples = own.iter().map(|(own, s)| (own.overlaid_with(&external), s.clone())).collect();
    let got = ask(&sidecar, all_series(TimeRange::new(i64::MIN, end_ms))).await.unwrap();
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (labels, samples) in &expected {
        assert!(got[labels] == *samples, "{labels} has other samples");
    }
    // And so it leaves the process, in frames of one and of many series.
    for response_batch_size in [0, 64] {
        let request = SeriesRequest { response_batch_size, ..all_series(TimeRange::new(i64::MIN, end_ms)) };
        let sent = sidecar.series_encoded(Request::new(request)).await.unwrap();
        assert!(
            samples_of(encoded::decoded(sent), end_ms).await.unwrap() == got,
            "{response_batch_size} in a frame"
        );
    }
    let skipping = SeriesRequest { skip_chunks: true, ..all_series(TimeRange::ALL) };
    let got = ask(&sidecar, skipping).await.unwrap();
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());

    let info = sidecar.info().await.unwrap();
    assert_eq!(info.store.unwrap().min_time, server.history.min_ms);
    assert_eq!(labels::set_from_wire(&info.label_sets[0]).unwrap(), external);

    let mut names = server.api_texts("/api/v1/labels").await;
    names.extend(external.iter().map(|(name, _)| name.to_owned()));
    let asked = LabelNamesRequest { start: i64::MIN, end: i64::MAX, ..LabelNamesRequest::default() };
    let got = sidecar.label_names(Request::new(asked)).await.unwrap().names;
    assert_eq!(got, names.iter().cloned().collect::<Vec<_>>());
    for name in names {
        let expected = match external.get(&name) {
            Some(value) => BTreeSet::from([value.to_owned()]),
            None => server.api_texts(&format!("/api/v1/label/{name}/values")).await,
        };
        for matchers in [vec![], vec![everything()], vec![Matcher::equal("no_such_label", "")]] {
            let asked = LabelValuesRequest {
                label: name.clone(),
                start: i64::MIN,
                end: i64::MAX,
                matchers: matchers::to_wire(&matchers),
                ..LabelValuesRequest::default()
            };
            let got = sidecar.label_values(Request::new(asked)).await.unwrap().values;
            assert_eq!(
                got,
                expected.iter().cloned().collect::<Vec<_>>(),
                "values of {name} where {matchers:?}"
            );
        }
    }
    // More matchers than fit into a URL.
    let many = format!("up|{}", vec!["x".repeat(50); 2_000].join("|"));
    let wide = Matcher::new(MatchOp::Regex, "__name__", many).unwrap();
    let asked = SeriesRequest {
        matchers: matchers::to_wire(&[wide]),
        skip_chunks: true,
        ..all_series(TimeRange::ALL)
    };
    assert_eq!(ask(&sidecar, asked).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_prometheus_are_shipped_unchanged_and_damaged_ones_are_not() {
    let Some(server) = Server::started("blocks_of_prometheus_are_shipped_unchanged", 4).await else { return };
    let bucket_directory = server.directory.path().join("bucket");
    let bucket = Bucket::open(&BucketConfig::filesystem(&bucket_directory), Access::Write).unwrap();
    // Behind Prometheus' back: one segment has a wrong bit, another one stops early.
    let segment = |id: BlockId| server.data().join(id.to_string()).join("chunks/000001");
    let replace = |path: &Path, change: fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        // A new file, for Prometheus has mapped the old one.
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    replace(&segment(server.blocks[0]), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    replace(&segment(server.blocks[2]), |bytes| bytes.truncate(bytes.len() / 2));
    let mut config = server.config();
    config.shipper = Some(ShipperConfig {
        interval: Duration::from_millis(100),
        ..ShipperConfig::new(bucket, server.data())
    });
    let _sidecar = server.sidecar(config).await;
    let shows = |line: &str| server.context.metrics.encode().unwrap().lines().any(|found| found == line);
    eventually("two blocks are not uploaded", || shows("thanos_shipper_uploads_total 2")).await;
    eventually("rounds do not go on", || !shows("thanos_shipper_dir_syncs_total 0")).await;
    assert!(shows("thanos_shipper_corrupted_blocks_total 2"));
    assert!(shows("thanos_shipper_upload_failures_total 0"));

    let whole = [server.blocks[1], server.blocks[3]];
    for id in server.blocks.iter().filter(|id| !whole.contains(id)) {
        assert!(!bucket_directory.join(id.to_string()).exists(), "damaged block {id} went up");
    }
    for id in whole {
        for file in ["index", "chunks/000001"] {
            let local = std::fs::read(server.data().join(id.to_string()).join(file)).unwrap();
            assert!(
                std::fs::read(bucket_directory.join(id.object(file))).unwrap() == local,
                "{id}: {file} differs"
            );
        }
        let meta = BlockMeta::parse_of(id, &std::fs::read(bucket_directory.join(id.meta_object())).unwrap())
            .unwrap();
        assert_eq!(meta.external_labels(), server.fleet.external_labels());
        assert_eq!(meta.compaction.level, 1);
        let thanos = meta.thanos.unwrap();
        assert_eq!((thanos.source.as_str(), thanos.segment_files), ("sidecar", vec!["000001".to_owned()]));
    }
    let journal = std::fs::read(server.data().join("thanos.shipper.json")).unwrap();
    let journal: Value = serde_json::from_slice(&journal).unwrap();
    assert_eq!(journal, serde_json::json!({"version": 1, "uploaded": whole.map(|id| id.to_string())}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_outlives_prometheus_and_says_that_it_is_gone() {
    let Some(mut server) = Server::started("the_sidecar_outlives_prometheus", 1).await else { return };
    let sidecar = server.sidecar(server.config()).await;
    let known = sidecar.info().await.unwrap();
    let series = ask(&sidecar, all_series(server.history)).await.unwrap().len();
    assert_eq!(series, server.fleet.series().len());

    // Hung: connections open, nothing answers, and the deadline holds.
    server.process().suspend().unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    let hung = sidecar.series(with_deadline(all_series(server.history), Some(deadline))).await;
    assert_eq!(hung.err().map(|status| status.code()), Some(Code::DeadlineExceeded));
    server.process().resume().unwrap();
    assert_eq!(ask(&sidecar, all_series(server.history)).await.unwrap().len(), series);

    server.stop().await;
    server.readiness_is(false).await;
    let reasons = server.context.readiness.reasons().join("");
    assert!(reasons.contains(&server.url()), "{reasons}");
    assert_eq!(sidecar.info().await.unwrap(), known);
    let status = ask(&sidecar, all_series(server.history)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&server.url()), "{status}");
    assert!(server.context.metrics.encode().unwrap().contains("thanos_sidecar_prometheus_up 0"));

    server.start().await;
    server.readiness_is(true).await;
    assert_eq!(ask(&sidecar, all_series(server.history)).await.unwrap().len(), series);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_external_labels_the_sidecar_waits_until_they_are_configured() {
    let Some(mut server) = Server::prepare("without_external_labels_the_sidecar_waits", 0).await else {
        return;
    };
    server.configure(&Labels::empty(), false);
    server.start().await;
    let (sidecar, _) = Sidecar::start(server.config(), &server.context).unwrap();
    let reasons = || server.context.readiness.reasons().join("");
    eventually("no reason is given", || {
        reasons().contains("has no external labels; set global.external_labels")
    })
    .await;
    assert_eq!(sidecar.info().await.unwrap_err().code(), Code::Unavailable);

    server.configure(&server.fleet.external_labels(), false);
    server.process().reload().unwrap();
    server.readiness_is(true).await;
    // Nothing is stored yet, so nothing bounds the time: Prometheus gets the ends of time themselves.
    assert_eq!(sidecar.info().await.unwrap().store.unwrap().min_time, i64::MIN);
    assert!(ask(&sidecar, all_series(TimeRange::ALL)).await.unwrap().is_empty());
    let asked = LabelNamesRequest { start: i64::MIN, end: i64::MAX, ..LabelNamesRequest::default() };
    let names = sidecar.label_names(Request::new(asked)).await.unwrap().names;
    assert_eq!(names, ["cluster", "prometheus", "prometheus_replica"]);
}
