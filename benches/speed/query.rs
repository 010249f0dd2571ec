//! Queries, measured: time, CPU and memory of everyone who is asked, answers compared before anything is timed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::Options;
use crate::contender::{Contender, Question, Summary};
use crate::data::START_MS;
use crate::measure::{Table, median, millis};

pub const STEP_MS: i64 = 60_000;

/// How long everyone is looked at before somebody is asked, how much CPU time in it is nothing, and how often that is tried.
const LOOK: Duration = Duration::from_millis(200);
const IDLE_MS: f64 = 20.0;
const MAX_LOOKS: usize = 50;

/// An answer within this time is short: how soon a machine that has just slept is awake would be a good part of one. So it is asked for again for as long, and
/// so often at most.
const SHORT: Duration = Duration::from_millis(20);
const SHORT_ROUND: Duration = Duration::from_millis(200);
const MAX_SHORT: usize = 100;

/// Queries over all series of one replica.
const QUERIES: [&str; 8] = [
    "sum(rate(http_requests_total[5m]))",
    "sum by (handler) (rate(http_requests_total[5m]))",
    "count(http_requests_total)",
    "quantile by (handler) (0.9, http_requests_total)",
    "max by (instance) (max_over_time(http_requests_total[10m]))",
    "topk(5, rate(http_requests_total[5m]))",
    "sum(rate(http_requests_total[1h]))",
    "http_requests_total{instance=\"host-00042:9100\"}",
];

/// What one contender needed for one question: the median time, and CPU per answer.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub took_ms: f64,
    pub cpu_ms: f64,
    /// The peak of each process while it answered.
    pub peaks_mib: Vec<f64>,
}

impl Cost {
    pub fn memory_mib(&self) -> f64 {
        self.peaks_mib.iter().sum()
    }
}

/// One question, and the cost for each contender, ours first.
pub struct Measured {
    pub query: &'static str,
    pub costs: Vec<(&'static str, Cost)>,
}

pub async fn run(options: &Options, bucket: &Path) -> anyhow::Result<()> {
    let title =
        format!("Range queries, {} series x {} h, step 60 s", options.shape.series, options.shape.hours);
    let questions: Vec<Question> = QUERIES.iter().map(|query| over_all(options, query, false)).collect();
    let mut contenders = contenders(options, bucket, true).await?;
    compare(options, &title, &questions, &mut contenders).await?;
    Ok(())
}

/// A range query over all the data.
pub fn over_all(options: &Options, query: &'static str, dedup: bool) -> Question {
    let end_ms = options.shape.end_ms() - 1_000;
    Question { query, start_ms: START_MS, end_ms, step_ms: STEP_MS, dedup }
}

/// Everyone, ours first: real programs where they were given, and the stand-ins for those that were not.
pub async fn contenders(
    options: &Options,
    bucket: &Path,
    has_one_replica: bool,
) -> anyhow::Result<Vec<Contender>> {
    let mut all = vec![Contender::parallax(options, bucket).await?];
    match &options.thanos {
        Some(thanos) => {
            let names = [("Thanos", "prometheus"), ("Thanos, its own engine", "thanos")];
            for (name, engine) in names {
                all.push(Contender::thanos(name, engine, thanos, bucket).await?);
            }
        }
        None => all.push(Contender::thanos_peers(options, bucket)?),
    }
    if has_one_replica {
        all.push(Contender::parallax_alone(options, bucket).await?);
        all.push(match &options.prometheus {
            Some(prometheus) => Contender::prometheus(prometheus, bucket).await?,
            None => Contender::prometheus_peers(options, bucket)?,
        });
    }
    Ok(all)
}

/// Asks everyone everything, and prints the tables.
pub async fn compare(
    options: &Options,
    title: &str,
    questions: &[Question],
    contenders: &mut [Contender],
) -> anyhow::Result<Vec<Measured>> {
    let mut measured = Vec::with_capacity(questions.len());
    for question in questions {
        measured.push(measure(options, question, contenders).await?);
    }
    print(title, "ms", &measured, |cost| cost.took_ms);
    print(&format!("{title}: CPU of all processes"), "ms", &measured, |cost| cost.cpu_ms);
    print(&format!("{title}: peak memory of all processes"), "MiB", &measured, Cost::memory_mib);
    print_processes(title, &measured, contenders);
    Ok(measured)
}

/// Asks everyone one question.
pub async fn measure(
    options: &Options,
    question: &Question,
    contenders: &mut [Contender],
) -> anyhow::Result<Measured> {
    let mut summaries: Vec<Summary> = Vec::with_capacity(contenders.len());
    for contender in contenders.iter_mut() {
        summaries.push(contender.ask(question).await?);
        contender.reset_peaks();
    }
    for (contender, summary) in contenders.iter().zip(&summaries) {
        let ours = &summaries[0];
        ensure!(
            summary.agrees(ours),
            "{}: {} answers {summary:?}, Parallax {ours:?}",
            question.query,
            contender.name
        );
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    let mut cpu: Vec<f64> = vec![0.0; contenders.len()];
    for round in 0..options.rounds {
        for turn in 0..contenders.len() {
            let index = (turn + round) % contenders.len();
            settle(contenders).await?;
            let contender = &mut contenders[index];
            let before = contender.cpu_ms()?;
            times[index].extend(ask_in_turn(contender, question).await?);
            cpu[index] += contender.cpu_ms()? - before;
        }
    }
    let mut costs = Vec::with_capacity(contenders.len());
    for ((contender, times), cpu) in contenders.iter().zip(&times).zip(&cpu) {
        let (took_ms, cpu_ms) = (median(times), cpu / times.len().max(1) as f64);
        costs.push((contender.name, Cost { took_ms, cpu_ms, peaks_mib: contender.peaks_mib()? }));
    }
    Ok(Measured { query: question.query, costs })
}

/// Asks once, or as often as a turn has room for short answers; gives how long each took.
async fn ask_in_turn(contender: &mut Contender, question: &Question) -> anyhow::Result<Vec<f64>> {
    let began = Instant::now();
    let mut times = Vec::new();
    loop {
        let took = contender.time(question).await?;
        times.push(millis(took));
        if took > SHORT || began.elapsed() >= SHORT_ROUND || times.len() >= MAX_SHORT {
            return Ok(times);
        }
    }
}

/// Waits until nobody works any more: a garbage collector that goes on after its program has answered would take its time from who is asked next.
pub async fn settle(contenders: &[Contender]) -> anyhow::Result<()> {
    let total_ms = || contenders.iter().map(Contender::cpu_ms).sum::<anyhow::Result<f64>>();
    let mut before_ms = total_ms()?;
    for _ in 0..MAX_LOOKS {
        tokio::time::sleep(LOOK).await;
        let now_ms = total_ms()?;
        if now_ms - before_ms <= IDLE_MS {
            return Ok(());
        }
        before_ms = now_ms;
    }
    Ok(())
}

fn print(title: &str, unit: &str, measured: &[Measured], value: impl Fn(&Cost) -> f64) {
    let Some(first) = measured.first() else { return };
    let names: Vec<String> = first.costs.iter().map(|(name, _)| format!("{name} {unit}")).collect();
    let mut columns = vec!["query"];
    columns.extend(names.iter().map(String::as_str));
    columns.push("times Parallax");
    let mut table = Table::new(title, &columns);
    for one in measured {
        let values: Vec<f64> = one.costs.iter().map(|(_, cost)| value(cost)).collect();
        let mut row = vec![format!("`{}`", one.query)];
        row.extend(values.iter().map(|value| format!("{value:.1}")));
        let ratios: Vec<String> =
            values.iter().skip(1).map(|theirs| format!("{:.2}", theirs / values[0])).collect();
        row.push(ratios.join(" / "));
        table.row(&row);
    }
    table.print();
}

/// The peaks of the processes one by one, each that of the question that needed most.
fn print_processes(title: &str, measured: &[Measured], contenders: &[Contender]) {
    let mut table =
        Table::new(&format!("{title}: highest peak of each process"), &["contender", "process", "MiB"]);
    for (at, contender) in contenders.iter().enumerate() {
        for (number, (process, _)) in contender.processes.iter().enumerate() {
            let peaks = measured.iter().filter_map(|one| one.costs.get(at)?.1.peaks_mib.get(number));
            let highest = peaks.copied().fold(0.0, f64::max);
            table.row(&[contender.name.to_owned(), (*process).to_owned(), format!("{highest:.0}")]);
        }
    }
    table.print();
}
