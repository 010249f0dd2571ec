//! How long range queries over decoded series take: `cargo bench -p parallax-promql [-- filter]`.
//!
//! 10,000 series of six hours at 15 s, asked for at 60 s steps. The data is made once; what is measured is the
//! engine. Not a test: it prints, and asserts nothing.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use parallax_model::{Labels, SeriesData};
use parallax_promql::engine::{Engine, Interrupt, QueryRange};
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::source::{Delivered, Preparation, Selection, SeriesStream, Source, SourceError};

const SCRAPE_MS: i64 = 15_000;
const HOURS: i64 = 6;
const BATCH_SERIES: usize = 128;

const QUERIES: [&str; 9] = [
    "x_total",
    "rate(x_total[5m])",
    "sum by (group) (rate(x_total[5m]))",
    "sum by (group) (rate(x_total[1h]))",
    "max_over_time(x_total[1h])",
    "avg_over_time(x_total[10m])",
    "x_total / x_total",
    "histogram_quantile(0.9, sum by (le, group) (rate(x_total[5m])))",
    "topk(10, x_total)",
];

/// Series in memory, handed out in clones of batches.
struct Prepared(Arc<Vec<Vec<SeriesData>>>);

struct Stream {
    batches: Arc<Vec<Vec<SeriesData>>>,
    next: usize,
    preparation: Option<Preparation>,
}

impl Source for Prepared {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        let preparation = selection.preparation.clone();
        Ok(Box::new(Stream { batches: self.0.clone(), next: 0, preparation }))
    }
}

impl SeriesStream for Stream {
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError> {
        self.next += 1;
        let Some(batch) = self.batches.get(self.next - 1) else { return Ok(None) };
        let deliver = |series: &SeriesData| Delivered::new(series.clone(), self.preparation.as_ref());
        batch.iter().map(deliver).collect::<Result<_, _>>().map(Some)
    }
}

fn prepared(count: usize) -> Prepared {
    let les = ["0.1", "0.5", "1", "5", "+Inf"];
    let series = (0..count).map(|number| {
        let labels = Labels::from_pairs([
            ("__name__", "x_total".to_owned()),
            ("cluster", "eu-1".to_owned()),
            ("group", (number / les.len() % 10).to_string()),
            ("instance", format!("10.0.0.{}:9100", number / les.len())),
            ("job", "api".to_owned()),
            ("le", les[number % les.len()].to_owned()),
        ]);
        let mut series = SeriesData { labels, ..SeriesData::default() };
        let mut value = number as f64;
        for sample in 0..(HOURS * 3_600_000 / SCRAPE_MS) {
            value += ((sample * 7 + number as i64) % 13) as f64;
            if (sample + number as i64) % 997 == 0 {
                value = 0.0;
            }
            series.floats.push(sample * SCRAPE_MS, value);
        }
        series
    });
    let series: Vec<SeriesData> = series.collect();
    Prepared(Arc::new(series.chunks(BATCH_SERIES).map(<[SeriesData]>::to_vec).collect()))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let count = std::env::var("BENCH_SERIES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let source = prepared(count);
    let engine = Engine::default();
    let range = QueryRange { start_ms: 3_600_000, end_ms: HOURS * 3_600_000, step_ms: 60_000 };
    for query in QUERIES.iter().filter(|q| arguments.is_empty() || arguments.iter().any(|a| q.contains(a))) {
        let expr = parse(query, &ParserOptions::default()).expect("a query");
        let mut best = f64::INFINITY;
        let mut samples = 0;
        for _ in 0..3 {
            let started = Instant::now();
            let outcome = engine.query(&source, &expr, range, &Interrupt::none()).expect("an answer");
            best = best.min(started.elapsed().as_secs_f64());
            samples = outcome.stats.total_samples;
            black_box(outcome);
        }
        println!("{:8.1} ms  {:6.1} M samples  {query}", best * 1e3, samples as f64 / 1e6);
    }
}
