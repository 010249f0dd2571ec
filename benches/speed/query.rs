//! Queries: our querier over our store, Thanos' querier over Thanos' store, and Prometheus' engine on the blocks themselves.
//!
//! Ours and a real Thanos are asked over HTTP; the peers answer on a pipe, with the response written as the HTTP API writes it. A time is that
//! from question to whole answer. Answers are compared roughly before anything is measured.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::Options;
use crate::component::Component;
use crate::data::HOUR_MS;
use crate::measure::{Table, median, memory_mib, timed_ms};
use crate::peer::Peer;

const STEP_MS: i64 = 60_000;

/// Queries over all series of the bucket.
const QUERIES: [&str; 8] = [
    "sum(rate(bench_requests_total[5m]))",
    "sum by (handler) (rate(bench_requests_total[5m]))",
    "count(bench_requests_total)",
    "quantile by (handler) (0.9, bench_requests_total)",
    "max by (instance) (max_over_time(bench_requests_total[10m]))",
    "topk(5, rate(bench_requests_total[5m]))",
    "sum(rate(bench_requests_total[1h]))",
    "bench_requests_total{instance=\"host-00042:9100\"}",
];

const DEDUP_QUERIES: [&str; 2] =
    ["sum by (handler) (rate(bench_requests_total[5m]))", "count(bench_requests_total)"];

struct Question {
    query: &'static str,
    start_ms: i64,
    end_ms: i64,
    dedup: bool,
}

enum Asked {
    Process(Box<Component>),
    Peer(Peer),
}

struct Target {
    name: &'static str,
    asked: Asked,
}

impl Target {
    async fn ask(&mut self, question: &Question) -> anyhow::Result<Value> {
        let (start_ms, end_ms) = (question.start_ms, question.end_ms);
        match &mut self.asked {
            Asked::Peer(peer) => {
                let answer = peer.ask(&json!({
                    "query": question.query, "start_ms": start_ms, "end_ms": end_ms, "step_ms": STEP_MS,
                    "dedup": question.dedup, "replica_labels": ["prometheus_replica"],
                }))?;
                ensure!(answer["status"] == 200, "{}: {answer}", self.name);
                Ok(answer["response"]["data"]["result"].clone())
            }
            Asked::Process(querier) => {
                let seconds = |ms: i64| format!("{}", ms / 1000);
                let params = [
                    ("query", question.query.to_owned()),
                    ("start", seconds(start_ms)),
                    ("end", seconds(end_ms)),
                    ("step", seconds(STEP_MS)),
                    ("dedup", question.dedup.to_string()),
                ];
                let params = params.map(|(name, value)| (name.to_owned(), value));
                let (status, answer) = querier.ask("/api/v1/query_range", &params).await?;
                ensure!(status == http::StatusCode::OK, "{}: {answer}", self.name);
                Ok(answer["data"]["result"].clone())
            }
        }
    }

    fn process(&self) -> u32 {
        match &self.asked {
            Asked::Process(process) => process.id(),
            Asked::Peer(peer) => peer.id(),
        }
    }
}

pub async fn run(options: &Options, bucket: &Path, replicas: &Path) -> anyhow::Result<()> {
    let hours = options.shape.hours;
    let title = format!("Range queries, {} series x {hours} h, step 60 s", options.shape.series);
    compare(options, bucket, &title, &QUERIES, false).await?;
    let title = format!("The same data in two replicas, dedup on ({} series each)", options.shape.series / 2);
    compare(options, replicas, &title, &DEDUP_QUERIES, true).await
}

async fn compare(
    options: &Options,
    bucket: &Path,
    title: &str,
    queries: &[&'static str],
    dedup: bool,
) -> anyhow::Result<()> {
    let max_samples = ["--query.max-samples=500000000".to_owned()];
    let our_store = Component::store(&options.parallax, bucket, &[]).await?;
    let ours = Component::query(&options.parallax, &[&our_store.grpc], &max_samples).await?;
    let (their_store, address) = Peer::store(&options.peers, bucket)?;
    let theirs = Peer::query(&options.peers, &[&address])?;
    let mut stores = vec![("Parallax", our_store.id()), ("Thanos (peers)", their_store.id())];
    let mut targets = vec![
        Target { name: "Parallax", asked: Asked::Process(Box::new(ours)) },
        Target { name: "Thanos (peers)", asked: Asked::Peer(theirs) },
    ];
    let mut real_store = None;
    if let Some(thanos) = &options.thanos {
        let store = real_store.insert(Component::store(thanos, bucket, &[]).await?);
        let querier = Component::query(thanos, &[&store.grpc], &max_samples).await?;
        stores.push(("Thanos (binary)", store.id()));
        targets.push(Target { name: "Thanos (binary)", asked: Asked::Process(Box::new(querier)) });
    }
    if !dedup {
        let prometheus = Peer::promql(&options.peers, &[bucket])?;
        targets.push(Target { name: "Prometheus (engine on blocks)", asked: Asked::Peer(prometheus) });
    }
    let names: Vec<String> = targets.iter().map(|target| format!("{} ms", target.name)).collect();
    let mut columns = vec!["query"];
    columns.extend(names.iter().map(String::as_str));
    columns.push("Parallax is faster by");
    let mut table = Table::new(title, &columns);
    for query in queries {
        let (start_ms, end_ms) =
            (options.shape.end_ms() - options.shape.hours as i64 * HOUR_MS, options.shape.end_ms());
        let question = Question { query, start_ms, end_ms: end_ms - 1_000, dedup };
        table.row(&measure(options, &question, &mut targets).await?);
    }
    table.print();
    let mut memory = Table::new("Peak memory after these queries", &["process", "MiB"]);
    for (name, process) in stores {
        memory.row(&[format!("{name}, store"), format!("{:.0}", memory_mib(process, "VmHWM")?)]);
    }
    for target in &targets {
        memory.row(&[
            format!("{}, querier", target.name),
            format!("{:.0}", memory_mib(target.process(), "VmHWM")?),
        ]);
    }
    memory.print();
    Ok(())
}

async fn measure(
    options: &Options,
    question: &Question,
    targets: &mut [Target],
) -> anyhow::Result<Vec<String>> {
    let mut times: Vec<Vec<f64>> = targets.iter().map(|_| Vec::new()).collect();
    let mut sums = vec![(0, 0.0); targets.len()];
    for round in 0..=options.rounds {
        for turn in 0..targets.len() {
            let index = (turn + round) % targets.len();
            let (took_ms, answer) = timed_ms(targets[index].ask(question)).await;
            let answer = answer?;
            if round > 0 {
                times[index].push(took_ms);
            } else {
                sums[index] = summary(&answer);
            }
        }
    }
    for (target, (series, sum)) in targets.iter().zip(&sums) {
        let (our_series, our_sum) = sums[0];
        ensure!(
            *series == our_series && (sum - our_sum).abs() <= 1e-6 * our_sum.abs(),
            "{}: {} answers {series} series with the sum {sum}, Parallax {our_series} with {our_sum}",
            question.query,
            target.name
        );
    }
    let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
    let mut row = vec![format!("`{}`", question.query)];
    row.extend(medians.iter().map(|median| format!("{median:.0}")));
    let ratios: Vec<String> =
        medians[1..].iter().map(|theirs| format!("{:.2}", theirs / medians[0])).collect();
    row.push(ratios.join(" / "));
    Ok(row)
}

/// How many series an answer has, and the sum of all values.
fn summary(result: &Value) -> (usize, f64) {
    let series = result.as_array().map_or(&[][..], Vec::as_slice);
    let values = series.iter().flat_map(|series| series["values"].as_array().into_iter().flatten());
    let sum = values.filter_map(|point| point[1].as_str()?.parse::<f64>().ok()).sum();
    (series.len(), sum)
}
