//! `gateway`: a store gateway as a process, ours and Thanos', over the same blocks, asked by the same client in this process, which only counts what it gets.
//!
//! Six blocks of `SPEED_GATEWAY_SERIES` (100000) series over two hours each, 48 million samples in each, in a directory; then one block of ten times the series, for
//! ours alone, whose peak of memory is the question. CPU time and memory are the gateway's own. Both must give the same series and chunks, or the bench ends.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::StreamExt as _;
use parallax_model::{MatchOp, Matcher};
use parallax_net::GrpcTarget;
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::{Store as _, StoreClient, matchers};
use tonic::Request;

use crate::component::Component;
use crate::data::{HOUR_MS, START_MS, Uncompacted};
use crate::measure::{Table, cpu_ms, median, memory_mib, millis, reset_peak};

/// How long a gateway is left alone before its idle memory is read.
const IDLE: Duration = Duration::from_secs(3);
/// How many series a frame holds, at most; what Thanos' querier asks for.
const BATCH: i64 = 64;
const BLOCKS: usize = 6;
/// The target for the peak of memory over the one large block.
const WANTED_PEAK_MIB: f64 = 512.0;
/// How many times better than Thanos' throughput, CPU and peak of memory are to be.
const WANTED_RATIO: f64 = 3.0;

/// What this part needs to know.
pub struct Options {
    /// Of each of the six blocks.
    pub series: usize,
    pub rounds: usize,
    pub parallax: PathBuf,
    pub thanos: Option<PathBuf>,
}

struct Contender {
    name: &'static str,
    store: Component,
    client: StoreClient<parallax_net::GrpcChannel>,
    ready_ms: f64,
    idle_mib: f64,
}

/// What is asked of a gateway.
struct Question {
    name: &'static str,
    matchers: Vec<Matcher>,
    skip_chunks: bool,
}

#[derive(Clone, Copy, Default)]
struct Round {
    series: usize,
    chunks: usize,
    megabytes: f64,
    first_frame_ms: f64,
    all_ms: f64,
    cpu_ms: f64,
    peak_mib: f64,
}

pub async fn run(options: &Options, dir: &Path) -> anyhow::Result<()> {
    let mut table = Table::new(
        "Store gateway: whole processes, one client",
        &[
            "blocks",
            "request",
            "store",
            "series",
            "chunks",
            "MB of chunks",
            "first frame ms",
            "all ms",
            "series/s",
            "CPU µs per series",
            "peak MiB",
        ],
    );
    let mut starts = Table::new("Store gateway: starts", &["blocks", "store", "ready ms", "idle MiB"]);
    let mut targets = Table::new("Targets of the store gateway", &["target", "wanted", "measured", "met"]);
    six_blocks(options, dir, &mut table, &mut starts, &mut targets).await?;
    one_large_block(options, dir, &mut table, &mut starts, &mut targets).await?;
    starts.print();
    table.print();
    targets.print();
    Ok(())
}

async fn six_blocks(
    options: &Options,
    dir: &Path,
    table: &mut Table,
    starts: &mut Table,
    targets: &mut Table,
) -> anyhow::Result<()> {
    let data = Uncompacted {
        series: options.series,
        replicas: 1,
        blocks: BLOCKS,
        length_ms: 2 * HOUR_MS,
        has_own_values: false,
    };
    let bucket = data.bucket(dir)?;
    let what = format!("{BLOCKS} x {} series x 2 h", options.series);
    let mut contenders = vec![contender("Parallax", &options.parallax, &bucket).await?];
    if let Some(thanos) = &options.thanos {
        contenders.push(contender("Thanos", thanos, &bucket).await?);
    }
    contenders.iter().for_each(|contender| started(starts, &what, contender));
    for question in questions() {
        let mut rounds: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::new()).collect();
        // One round to warm up.
        for round in 0..=options.rounds {
            for turn in 0..contenders.len() {
                let index = (turn + round) % contenders.len();
                let measured = ask(&contenders[index], &question).await?;
                if round > 0 {
                    rounds[index].push(measured);
                }
            }
        }
        let summaries: Vec<Round> = rounds.iter().map(|rounds| summary(rounds)).collect();
        for (contender, summary) in contenders.iter().zip(&summaries) {
            let ours = &summaries[0];
            ensure!(
                (summary.series, summary.chunks) == (ours.series, ours.chunks),
                "{}: {} gives {} series and {} chunks, Parallax {} and {}",
                question.name,
                contender.name,
                summary.series,
                summary.chunks,
                ours.series,
                ours.chunks
            );
            row(table, &what, &question, contender.name, summary);
        }
        if let [ours, theirs] = summaries[..] {
            compare(targets, &question, &ours, &theirs);
        }
    }
    Ok(())
}

async fn one_large_block(
    options: &Options,
    dir: &Path,
    table: &mut Table,
    starts: &mut Table,
    targets: &mut Table,
) -> anyhow::Result<()> {
    let series = options.series * 10;
    let data = Uncompacted { series, replicas: 1, blocks: 1, length_ms: 2 * HOUR_MS, has_own_values: false };
    let bucket = data.bucket(dir)?;
    let what = format!("1 x {series} series x 2 h");
    let ours = contender("Parallax", &options.parallax, &bucket).await?;
    started(starts, &what, &ours);
    let mut peak_mib: f64 = 0.0;
    for question in questions() {
        let measured = ask(&ours, &question).await?;
        peak_mib = peak_mib.max(measured.peak_mib);
        row(table, &what, &question, ours.name, &measured);
    }
    let target = format!("peak memory over a block of {series} series");
    let wanted = format!("at most {WANTED_PEAK_MIB} MiB");
    met(targets, &target, &wanted, peak_mib, peak_mib <= WANTED_PEAK_MIB);
    Ok(())
}

fn questions() -> [Question; 4] {
    let all = || Matcher::equal("__name__", "http_requests_total");
    // An expression of a bench is well-formed.
    let some = Matcher::new(MatchOp::Regex, "instance", "host-.*3:9100").into_iter();
    [
        Question { name: "all", matchers: vec![all()], skip_chunks: false },
        Question { name: "all, labels only", matchers: vec![all()], skip_chunks: true },
        Question {
            name: "one in ten, by regex",
            matchers: [all()].into_iter().chain(some).collect(),
            skip_chunks: false,
        },
        Question {
            name: "one host",
            matchers: vec![all(), Matcher::equal("instance", "host-00042:9100")],
            skip_chunks: false,
        },
    ]
}

async fn contender(name: &'static str, program: &Path, bucket: &Path) -> anyhow::Result<Contender> {
    let began = Instant::now();
    let store = Component::store(program, bucket, &[]).await?;
    let ready_ms = millis(began.elapsed());
    let client = StoreClient::new(parallax_net::connect(&GrpcTarget::plain(&store.grpc))?);
    tokio::time::sleep(IDLE).await;
    let idle_mib = memory_mib(store.id(), "VmRSS")?;
    Ok(Contender { name, store, client, ready_ms, idle_mib })
}

async fn ask(contender: &Contender, question: &Question) -> anyhow::Result<Round> {
    let request = SeriesRequest {
        min_time: START_MS,
        max_time: START_MS + BLOCKS as i64 * 2 * HOUR_MS,
        matchers: matchers::to_wire(&question.matchers),
        skip_chunks: question.skip_chunks,
        response_batch_size: BATCH,
        ..SeriesRequest::default()
    };
    let process = contender.store.id();
    reset_peak(process);
    let (cpu_before, began) = (cpu_ms(process)?, Instant::now());
    let mut stream = contender.client.series(Request::new(request)).await?;
    let mut round = Round::default();
    while let Some(frame) = stream.next().await {
        if round.first_frame_ms == 0.0 {
            round.first_frame_ms = millis(began.elapsed());
        }
        let all = match frame?.result {
            Some(Frame::Series(series)) => vec![series],
            Some(Frame::Batch(batch)) => batch.series,
            Some(Frame::Warning(warning)) => anyhow::bail!("{}: {warning}", contender.name),
            _ => Vec::new(),
        };
        round.series += all.len();
        let chunks = all.iter().flat_map(|series| &series.chunks).filter_map(|chunk| chunk.raw.as_ref());
        for chunk in chunks {
            round.chunks += 1;
            round.megabytes += chunk.data.len() as f64 / 1e6;
        }
    }
    round.all_ms = millis(began.elapsed());
    round.cpu_ms = cpu_ms(process)? - cpu_before;
    round.peak_mib = memory_mib(process, "VmHWM")?;
    ensure!(round.series > 0, "{}: nothing for {:?}", contender.name, question.name);
    Ok(round)
}

/// Medians; of memory the most of all rounds: a bound is a bound.
fn summary(rounds: &[Round]) -> Round {
    let of = |value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    Round {
        first_frame_ms: of(|round| round.first_frame_ms),
        all_ms: of(|round| round.all_ms),
        cpu_ms: of(|round| round.cpu_ms),
        peak_mib: rounds.iter().map(|round| round.peak_mib).fold(0.0, f64::max),
        ..rounds.last().copied().unwrap_or_default()
    }
}

fn cpu_us_per_series(round: &Round) -> f64 {
    round.cpu_ms * 1e3 / round.series as f64
}

fn started(table: &mut Table, what: &str, contender: &Contender) {
    let (ready, idle) = (format!("{:.0}", contender.ready_ms), format!("{:.0}", contender.idle_mib));
    table.row(&[what.to_owned(), contender.name.to_owned(), ready, idle]);
}

fn row(table: &mut Table, what: &str, question: &Question, name: &str, round: &Round) {
    table.row(&[
        what.to_owned(),
        question.name.to_owned(),
        name.to_owned(),
        round.series.to_string(),
        round.chunks.to_string(),
        format!("{:.0}", round.megabytes),
        format!("{:.1}", round.first_frame_ms),
        format!("{:.0}", round.all_ms),
        format!("{:.0}", round.series as f64 / round.all_ms * 1e3),
        format!("{:.1}", cpu_us_per_series(round)),
        format!("{:.0}", round.peak_mib),
    ]);
}

/// The target is of everything with its chunks; the others show where it comes from.
fn compare(targets: &mut Table, question: &Question, ours: &Round, theirs: &Round) {
    for (what, ratio) in [
        ("series throughput", theirs.all_ms / ours.all_ms),
        ("peak memory", theirs.peak_mib / ours.peak_mib),
        ("CPU per series", cpu_us_per_series(theirs) / cpu_us_per_series(ours)),
    ] {
        let target = format!("{what}, {}", question.name);
        met(targets, &target, &format!("{WANTED_RATIO}x"), ratio, ratio >= WANTED_RATIO);
    }
}

fn met(targets: &mut Table, what: &str, wanted: &str, measured: f64, is_met: bool) {
    let met = if is_met { "yes" } else { "no" };
    targets.row(&[what.to_owned(), wanted.to_owned(), format!("{measured:.2}"), met.to_owned()]);
}
