//! How cost grows: one query over more and more series, and over longer and longer time, drawn as a plot.
//!
//! The points of an answer stay as many (360 at most), as in a dashboard: what grows is what has to be read.

use std::path::Path;

use crate::Options;
use crate::contender::Question;
use crate::data::{self, START_MS, Shape};
use crate::measure::Table;
use crate::plot::{Chart, Line, draw};
use crate::query::{Cost, Measured, contenders, measure};

/// Series, over six hours.
const SERIES: [usize; 3] = [1_000, 10_000, 100_000];
const SERIES_HOURS: usize = 6;

/// Hours of a thousand series.
const HOURS: [usize; 3] = [1, 24, 14 * 24];
const HOURS_SERIES: usize = 1_000;

/// Most points of an answer.
const POINTS: i64 = 360;
const MIN_STEP_MS: i64 = 15_000;

/// A query, and for how many hours its windows leave no gap between two steps.
const QUERIES: [(usize, &str); 2] = [
    (24, "sum by (namespace) (rate(http_requests_total[5m]))"),
    (usize::MAX, "sum by (namespace) (rate(http_requests_total[1h]))"),
];

pub async fn run(options: &Options, dir: &Path, plot: &Path) -> anyhow::Result<()> {
    let shapes = SERIES.map(|series| Shape { series, hours: SERIES_HOURS });
    let title = format!("Growth with series, {SERIES_HOURS} h");
    let with_series = grow(options, dir, &title, "series", shapes.map(|shape| (shape, shape.series))).await?;
    let shapes = HOURS.map(|hours| Shape { series: HOURS_SERIES, hours });
    let title = format!("Growth with time, {HOURS_SERIES} series");
    let with_time = grow(options, dir, &title, "hours", shapes.map(|shape| (shape, shape.hours))).await?;
    let charts: Vec<Chart> = with_series.into_iter().chain(with_time).collect();
    std::fs::write(plot, draw(&charts))?;
    println!("plot written to {}\n", plot.display());
    Ok(())
}

/// Measures one question for each shape; gives the charts of time and memory over `size`.
async fn grow<const N: usize>(
    options: &Options,
    dir: &Path,
    title: &str,
    unit: &str,
    shapes: [(Shape, usize); N],
) -> anyhow::Result<[Chart; 2]> {
    let mut all: Vec<(usize, Measured)> = Vec::with_capacity(N);
    for (shape, size) in shapes {
        let bucket = data::requests(shape, dir)?;
        let mut asked = contenders(options, &bucket, true).await?;
        all.push((size, measure(options, &question(shape), &mut asked).await?));
    }
    print(title, unit, &all);
    let chart = |what: &str, value: fn(&Cost) -> f64| {
        let names =
            all.first().map(|(_, first)| first.costs.iter().map(|(name, _)| *name)).into_iter().flatten();
        let lines = names.enumerate().map(|(at, name)| Line {
            name: name.to_owned(),
            points: all
                .iter()
                .filter_map(|(size, measured)| Some((*size as f64, value(&measured.costs.get(at)?.1))))
                .collect(),
        });
        Chart { title: format!("{title}: {what}"), across: unit.to_owned(), lines: lines.collect() }
    };
    Ok([chart("ms", |cost| cost.took_ms), chart("peak MiB", Cost::memory_mib)])
}

fn question(shape: Shape) -> Question {
    let end_ms = shape.end_ms() - 1_000;
    let whole_steps = (end_ms - START_MS).div_euclid(POINTS * MIN_STEP_MS) + 1;
    let query = QUERIES.iter().find(|(hours, _)| shape.hours <= *hours).map_or("", |(_, query)| query);
    Question { query, start_ms: START_MS, end_ms, step_ms: whole_steps * MIN_STEP_MS, dedup: false }
}

fn print(title: &str, unit: &str, all: &[(usize, Measured)]) {
    let Some((_, first)) = all.first() else { return };
    let mut columns = vec![unit.to_owned()];
    for (name, _) in &first.costs {
        columns.extend([format!("{name} ms"), format!("{name} MiB")]);
    }
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(title, &columns);
    for (size, measured) in all {
        let mut row = vec![size.to_string()];
        for (_, cost) in &measured.costs {
            row.extend([format!("{:.1}", cost.took_ms), format!("{:.0}", cost.memory_mib())]);
        }
        table.row(&row);
    }
    table.print();
}
