//! The hub over many clusters, which this process simulates: what it adds to a query, what it holds, what a cluster that hangs costs, and what crosses the border.
//!
//! `SPEED_CLUSTERS` (100) clusters behind mutual TLS, each of which takes 100 ms for an answer, under one `parallax observer`. Then one of them hangs. Then ten clusters of
//! `SPEED_HUB_SERIES` (10000) series each, over two `parallax query`: one reads series, one has the clusters' queriers evaluate. Bytes are those of messages before compression,
//! as the hub itself counts them for the query.

mod cluster;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parallax_model::Labels;
use parallax_net::Context;
use parallax_pki::{CredentialFiles, CredentialSource, Purpose};
use parallax_storeapi::Store;
use parallax_telemetry::Metrics;
use serde_json::{Value, json};

use crate::component::Component;
use crate::measure::{Table, cpu_ms, median, memory_mib, millis};
use cluster::{Cluster, SCRAPE_MS, counters, querier, serve};

const DELAY: Duration = Duration::from_millis(100);
/// How long the hub bears a cluster's silence: its budget.
const BUDGET: Duration = Duration::from_secs(1);
/// Queries of each kind.
const QUESTIONS: usize = 100;
/// More than it takes until all clusters were polled.
const PATIENCE: Duration = Duration::from_secs(30);
const START_MS: i64 = 1_700_000_000_000;
/// An hour, and what a rate looks back.
const SAMPLES: usize = 261;
const UP_SERIES: usize = 10;
const WIDE_CLUSTERS: usize = 10;
const SUM: &str = "sum by (cluster, namespace) (rate(http_requests_total[5m]))";

pub struct Options {
    pub parallax: PathBuf,
    pub clusters: usize,
    pub series: usize,
    pub rounds: usize,
}

pub async fn run(options: &Options) -> anyhow::Result<()> {
    let mut table = Table::new("The hub", &["target", "wanted", "measured", "met"]);
    let mut row = |target: &str, wanted: &str, measured: String, met: bool| {
        table.row(&[
            target.to_owned(),
            wanted.to_owned(),
            measured,
            if met { "yes" } else { "no" }.to_owned(),
        ]);
    };
    many_clusters(options, &mut row).await?;
    border(options, &mut row).await?;
    table.print();
    Ok(())
}

type Row<'a> = dyn FnMut(&str, &str, String, bool) + 'a;

async fn many_clusters(options: &Options, row: &mut Row<'_>) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (server, client) = certificates(&options.parallax, dir.path())?;
    let context = Context::new(Metrics::new());
    let credentials = CredentialSource::from_files(CredentialFiles::in_directory(&server), Purpose::Server)?;
    let up = |number: usize| Labels::from_pairs([("__name__", "up"), ("instance", &format!("{number:03}"))]);
    let series = Arc::new((0..UP_SERIES).map(|number| (up(number), 0)).collect());
    let parts = Arc::new(counters(1, START_MS, SAMPLES)?);
    let (mut clusters, mut sections) = (Vec::new(), Vec::new());
    for number in 0..options.clusters.max(2) {
        let name = format!("c-{number:03}");
        let cluster = Cluster::new(&name, DELAY, &series, &parts);
        let address =
            serve(Arc::clone(&cluster) as Arc<dyn Store>, Some(credentials.clone()), &context).await?;
        // One certificate for all of them: by its name, whoever it identifies.
        sections
            .push(json!({"name": name, "address": address, "server_name": "localhost", "identity": "dns"}));
        clusters.push(cluster);
    }
    let tls = |file: &str| client.join(file).display().to_string();
    let file = json!({
        "tls": {"cert": tls("tls.crt"), "key": tls("tls.key"), "ca": tls("ca.crt")},
        "response_timeout": format!("{}ms", BUDGET.as_millis()),
        "clusters": sections,
    });
    let hub = Component::observer_of(&options.parallax, &file).await?;
    all_answer(&hub, clusters.len()).await?;

    let took = ask_often(&hub, clusters.len(), QUESTIONS).await?;
    let added = median(&took) - millis(DELAY);
    let what = format!("{} clusters behind mTLS, each 100 ms", clusters.len());
    let measured = format!("{added:.1} ms (p99 {:.1} ms)", p99(&took) - millis(DELAY));
    row(&format!("{what}: added to an up-query"), "at most 150 ms", measured, added <= 150.0);
    let (now, peak) = (memory_mib(hub.id(), "VmRSS")?, memory_mib(hub.id(), "VmHWM")?);
    let measured = format!("{now:.1} MiB (peak {peak:.1} MiB)");
    row(&format!("{what}: memory of the hub"), "under 150 MB", measured, peak * 1.048_576 < 150.0);

    let hung = clusters.first().context("no cluster")?;
    hung.hangs.store(true, Ordering::Relaxed);
    let first = ask_often(&hub, clusters.len() - 1, 1).await?;
    let later = ask_often(&hub, clusters.len() - 1, QUESTIONS).await?;
    let limit = millis(BUDGET) + 300.0;
    let at_first = first.iter().copied().fold(0.0, f64::max);
    let budget = format!("at most its budget, {} ms, + 300 ms", BUDGET.as_millis());
    row("one cluster hung: the first query", &budget, format!("{at_first:.1} ms"), at_first <= limit);
    let (before, after) = (p99(&took), p99(&later));
    let measured = format!("p99 {after:.1} ms (before: {before:.1} ms)");
    row("one cluster hung: once its breaker is open", "unaffected", measured, after <= before + 50.0);
    context.shutdown.cancel();
    Ok(())
}

fn p99(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// An authority, a leaf for all clusters and one for the hub.
fn certificates(parallax: &Path, dir: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let path = |name: &str| dir.join(name).display().to_string();
    let state = format!("file:{}", path("state"));
    let (server, client) = (path("server"), path("client"));
    for words in [
        vec!["init", "--state", &state, "--trust-domain", "mesh.test", "--no-encrypt"],
        vec!["issue", "--state", &state, "--observee", "all", "--dns", "localhost", "--out", &server],
        vec!["issue", "--state", &state, "--observer", "hub", "--out", &client],
    ] {
        let output = Command::new(parallax).arg("pki").args(&words).output()?;
        ensure!(output.status.success(), "pki {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok((server.into(), client.into()))
}

fn up_at() -> Vec<(String, String)> {
    let at_s = START_MS / 1000 + 1800;
    vec![("query".to_owned(), "up".to_owned()), ("time".to_owned(), at_s.to_string())]
}

/// Waits until every cluster is in an answer.
async fn all_answer(hub: &Component, clusters: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let (_, answer) = hub.ask("/api/v1/query", &up_at()).await?;
        let series = answer["data"]["result"].as_array().map_or(0, Vec::len);
        if series == clusters * UP_SERIES && answer.get("warnings").is_none() {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{series} series of {clusters} clusters: {}", answer["warnings"]);
        tokio::time::sleep(DELAY).await;
    }
}

/// How long each of so many queries took, in milliseconds; each has to have the series of all those clusters.
async fn ask_often(hub: &Component, clusters: usize, times: usize) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        let (_, answer) = hub.ask("/api/v1/query", &up_at()).await?;
        took.push(millis(began.elapsed()));
        let series = answer["data"]["result"].as_array().map_or(0, Vec::len);
        ensure!(series == clusters * UP_SERIES, "{series} series of {clusters} clusters");
    }
    Ok(took)
}

/// Ten wide clusters, read and asked to evaluate.
async fn border(options: &Options, row: &mut Row<'_>) -> anyhow::Result<()> {
    let context = Context::new(Metrics::new());
    let requests = |number: usize| {
        let (namespace, instance) =
            (format!("namespace-{}", number % 10), format!("host-{:05}:9100", number / 10));
        Labels::from_pairs([
            ("__name__", "http_requests_total"),
            ("code", "200"),
            ("handler", "/api/v1/query_range"),
            ("instance", &instance),
            ("job", "kubernetes-service-endpoints"),
            ("method", "GET"),
            ("namespace", &namespace),
        ])
    };
    let mut series: Vec<(Labels, usize)> =
        (0..options.series).map(|number| (requests(number), number % 100)).collect();
    series.sort_by(|a, b| a.0.cmp(&b.0));
    let (series, parts) = (Arc::new(series), Arc::new(counters(100, START_MS, SAMPLES)?));
    let mut addresses = Vec::new();
    for number in 0..WIDE_CLUSTERS {
        let cluster = Cluster::new(&format!("wide-{number}"), Duration::ZERO, &series, &parts);
        addresses.push(serve(querier(&cluster, &context)?, None, &context).await?);
    }
    let endpoints: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let reading = Component::query(&options.parallax, &endpoints, &[]).await?;
    let asking =
        Component::query(&options.parallax, &endpoints, &["--query.mode=distributed".to_owned()]).await?;
    let read = wide(&reading, options.rounds).await?;
    let asked = wide(&asking, options.rounds).await?;
    ensure!(read.series == asked.series, "{} and {} series", read.series, asked.series);
    ensure!(asked.read_bytes == 0.0, "the distributed hub read {} bytes of series", asked.read_bytes);
    let ratio = read.bytes / asked.bytes.max(1.0);
    let measured = format!(
        "{ratio:.0}x ({:.2} MB, {:.3} MB; {:.0} ms, {:.0} ms; CPU of the hub {:.0} ms, {:.0} ms)",
        read.bytes / 1e6,
        asked.bytes / 1e6,
        read.took_ms,
        asked.took_ms,
        read.cpu_ms,
        asked.cpu_ms
    );
    let what = format!("`{SUM}` over {WIDE_CLUSTERS} clusters of {} series, 1 h, step 60 s", options.series);
    row(
        &format!("{what}: bytes across the border, series to results"),
        "200x fewer",
        measured,
        ratio >= 200.0,
    );
    context.shutdown.cancel();
    Ok(())
}

struct Wide {
    series: usize,
    /// All that came.
    bytes: f64,
    /// What of it was series.
    read_bytes: f64,
    took_ms: f64,
    cpu_ms: f64,
}

async fn wide(hub: &Component, rounds: usize) -> anyhow::Result<Wide> {
    let (start_s, span_s) = ((START_MS + 300_000) / 1000, SCRAPE_MS * 240 / 1000);
    let params = [
        ("query", SUM.to_owned()),
        ("start", start_s.to_string()),
        ("end", (start_s + span_s).to_string()),
        ("step", "60".to_owned()),
        ("stats", "true".to_owned()),
        ("partial_response", "0".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let (mut took, mut cpu) = (Vec::new(), Vec::new());
    let mut last = Value::Null;
    for _ in 0..rounds {
        let (cpu_before, began) = (cpu_ms(hub.id())?, Instant::now());
        let (status, answer) = hub.ask("/api/v1/query_range", &params).await?;
        ensure!(status.is_success(), "{answer}");
        took.push(millis(began.elapsed()));
        cpu.push(cpu_ms(hub.id())? - cpu_before);
        last = answer;
    }
    let received = last["data"]["stats"]["received"].as_array().cloned().unwrap_or_default();
    ensure!(received.len() == WIDE_CLUSTERS, "bytes of {} clusters: {received:?}", received.len());
    let sum = |field: &str| received.iter().filter_map(|one| one[field].as_f64()).sum::<f64>();
    Ok(Wide {
        series: last["data"]["result"].as_array().map_or(0, Vec::len),
        bytes: sum("seriesBytes") + sum("queryBytes"),
        read_bytes: sum("seriesBytes"),
        took_ms: median(&took),
        cpu_ms: median(&cpu),
    })
}
