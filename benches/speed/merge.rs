//! `merge`: what a querier, ours and Thanos', spends on joining two replicas that come from two stores.
//!
//! `SPEED_SERIES` (20000) series over six hours, scraped every 15 s, in two replicas, each behind a store gateway of the same maker. CPU time is the querier's alone: of a Series call, where frames are
//! joined and passed on, and of a query that looks at each sample and gives one number, where they are deduplicated too. Both must give the same, or the bench ends.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::StreamExt as _;
use parallax_model::Matcher;
use parallax_net::GrpcTarget;
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::{Store as _, StoreClient, matchers};
use tonic::Request;

use crate::component::Component;
use crate::data::{HOUR_MS, START_MS, Uncompacted};
use crate::measure::{Table, cpu_ms, median, memory_mib, millis, reset_peak};

const REPLICAS: usize = 2;
const BLOCKS: usize = 3;
const HOURS: i64 = 2 * BLOCKS as i64;
const SCRAPES_PER_HOUR: i64 = 240;
const OURS: &str = "Parallax";
const QUERY: &str = "sum(count_over_time(http_requests_total[6h]))";
/// How many series a frame holds, at most; what Thanos' querier asks for.
const BATCH: i64 = 64;
/// How many times Thanos' samples per second of CPU time are wanted.
const WANTED_RATIO: f64 = 5.0;
/// How long a querier is left alone after an answer: a garbage collector that goes on works for it.
const AFTER: Duration = Duration::from_millis(300);

/// What this part needs to know.
pub struct Options {
    /// Of each replica.
    pub series: usize,
    pub rounds: usize,
    pub parallax: PathBuf,
    pub thanos: Option<PathBuf>,
}

struct Contender {
    name: &'static str,
    querier: Component,
    client: StoreClient<parallax_net::GrpcChannel>,
    _stores: Vec<Component>,
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Series,
    Query,
}

/// What was given, and what it took.
#[derive(Clone, Copy, Default)]
struct Round {
    /// Series and chunks of a Series call; the number of a query.
    given: (usize, usize),
    all_ms: f64,
    cpu_ms: f64,
    peak_mib: f64,
}

pub async fn run(options: &Options, dir: &Path) -> anyhow::Result<()> {
    let data = Uncompacted {
        series: options.series,
        replicas: REPLICAS,
        blocks: BLOCKS,
        length_ms: 2 * HOUR_MS,
        has_own_values: false,
    };
    let bucket = data.bucket(dir)?;
    let mut contenders = vec![contender(OURS, &options.parallax, &bucket).await?];
    if let Some(thanos) = &options.thanos {
        contenders.push(contender("Thanos", thanos, &bucket).await?);
    }
    let title = format!("Two stores, one replica of {} series x {HOURS} h each, one querier", options.series);
    let columns =
        ["work", "querier", "ms", "CPU ms of the querier", "million samples per CPU second", "peak MiB"];
    let mut table = Table::new(&title, &columns);
    let mut targets = Table::new("Targets of merging", &["target", "wanted", "measured", "met"]);
    let samples = (REPLICAS * options.series) as f64 * (HOURS * SCRAPES_PER_HOUR) as f64;
    for (what, work) in [("Series call", Work::Series), (QUERY, Work::Query)] {
        let summaries = measure(&contenders, work, options.rounds).await?;
        let per_second = |round: &Round| samples / round.cpu_ms / 1e3;
        for (contender, summary) in contenders.iter().zip(&summaries) {
            table.row(&[
                format!("`{what}`"),
                contender.name.to_owned(),
                format!("{:.0}", summary.all_ms),
                format!("{:.0}", summary.cpu_ms),
                format!("{:.0}", per_second(summary)),
                format!("{:.0}", summary.peak_mib),
            ]);
        }
        if let [ours, theirs] = &summaries[..] {
            let ratio = per_second(ours) / per_second(theirs);
            let met = if ratio >= WANTED_RATIO { "yes" } else { "no" };
            let target = format!("samples per CPU second of the querier, `{what}`");
            targets.row(&[target, format!("{WANTED_RATIO}x"), format!("{ratio:.2}x"), met.to_owned()]);
        }
    }
    table.print();
    targets.print();
    Ok(())
}

/// Medians for each contender; of memory the most of all rounds.
async fn measure(contenders: &[Contender], work: Work, rounds: usize) -> anyhow::Result<Vec<Round>> {
    let mut measured: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::new()).collect();
    // One round to warm up.
    for round in 0..=rounds {
        for turn in 0..contenders.len() {
            let index = (turn + round) % contenders.len();
            let one = ask(&contenders[index], work).await?;
            if round > 0 {
                measured[index].push(one);
            }
        }
    }
    let summary = |rounds: &Vec<Round>| {
        let of = |value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
        Round {
            given: rounds.last().map(|round| round.given).unwrap_or_default(),
            all_ms: of(|round| round.all_ms),
            cpu_ms: of(|round| round.cpu_ms),
            peak_mib: rounds.iter().map(|round| round.peak_mib).fold(0.0, f64::max),
        }
    };
    let summaries: Vec<Round> = measured.iter().map(summary).collect();
    for (contender, summary) in contenders.iter().zip(&summaries) {
        let ours = summaries[0].given;
        ensure!(summary.given == ours, "{} gives {:?}, Parallax {ours:?}", contender.name, summary.given);
    }
    Ok(summaries)
}

async fn contender(name: &'static str, program: &Path, bucket: &Path) -> anyhow::Result<Contender> {
    let mut stores = Vec::with_capacity(REPLICAS);
    for replica in 0..REPLICAS {
        let keep = serde_json::json!([
            {"action": "keep", "source_labels": ["prometheus_replica"], "regex": format!("prometheus-{replica}")},
        ]);
        stores.push(Component::store(program, bucket, &[format!("--selector.relabel-config={keep}")]).await?);
    }
    let endpoints: Vec<&str> = stores.iter().map(|store| store.grpc.as_str()).collect();
    // Thanos has no such bound.
    let bound = (name == OURS).then(|| "--query.max-samples=500000000".to_owned());
    let querier = Component::query(program, &endpoints, bound.as_slice()).await?;
    let client = StoreClient::new(parallax_net::connect(&GrpcTarget::plain(&querier.grpc))?);
    Ok(Contender { name, querier, client, _stores: stores })
}

async fn ask(contender: &Contender, work: Work) -> anyhow::Result<Round> {
    let process = contender.querier.id();
    tokio::time::sleep(AFTER).await;
    reset_peak(process);
    let (cpu_before, began) = (cpu_ms(process)?, Instant::now());
    let given = match work {
        Work::Series => series(contender).await?,
        Work::Query => query(contender).await?,
    };
    let all_ms = millis(began.elapsed());
    tokio::time::sleep(AFTER).await;
    let peak_mib = memory_mib(process, "VmHWM")?;
    Ok(Round { given, all_ms, cpu_ms: cpu_ms(process)? - cpu_before, peak_mib })
}

async fn series(contender: &Contender) -> anyhow::Result<(usize, usize)> {
    let request = SeriesRequest {
        min_time: START_MS,
        max_time: START_MS + HOURS * HOUR_MS,
        matchers: matchers::to_wire(&[Matcher::equal("__name__", "http_requests_total")]),
        without_replica_labels: vec!["prometheus_replica".to_owned()],
        response_batch_size: BATCH,
        ..SeriesRequest::default()
    };
    let mut stream = contender.client.series(Request::new(request)).await?;
    let (mut count, mut chunks) = (0, 0);
    while let Some(frame) = stream.next().await {
        let all = match frame?.result {
            Some(Frame::Series(series)) => vec![series],
            Some(Frame::Batch(batch)) => batch.series,
            Some(Frame::Warning(warning)) => anyhow::bail!("{}: {warning}", contender.name),
            _ => Vec::new(),
        };
        count += all.len();
        chunks += all.iter().map(|series| series.chunks.len()).sum::<usize>();
    }
    Ok((count, chunks))
}

/// One sample: the number of samples.
async fn query(contender: &Contender) -> anyhow::Result<(usize, usize)> {
    let time = (START_MS + HOURS * HOUR_MS) / 1000 - 1;
    let params = [("query", QUERY.to_owned()), ("time", time.to_string())];
    let params: Vec<(String, String)> =
        params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let (status, answer) = contender.querier.ask("/api/v1/query", &params).await?;
    let number = answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| anyhow::anyhow!("{}: {status} {answer}", contender.name))?;
    Ok((1, number))
}
