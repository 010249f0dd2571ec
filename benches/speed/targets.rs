//! The targets that the project set itself, each with the ratio that was measured: the last table of a run.
//!
//! Over a store there are as many series in two replicas, which a querier deduplicates; Prometheus, which knows no replicas, gets blocks in which
//! all series are different, and so does Parallax beside it.

use std::path::Path;

use crate::Options;
use crate::contender::{ALONE, Question};
use crate::data;
use crate::decode::Decoded;
use crate::measure::Table;
use crate::query::{Measured, compare, contenders, over_all};
use crate::stop;

const SUM: &str = "sum by (namespace) (rate(http_requests_total[5m]))";
const QUANTILE: &str =
    "histogram_quantile(0.9, sum by (namespace, le) (rate(http_request_duration_seconds_bucket[5m])))";
const EACH_QUANTILE: &str = "histogram_quantile(0.9, rate(http_request_duration_seconds_bucket[5m]))";
const PLAIN: &str = "http_requests_total";
const ONE: &str = r#"http_requests_total{instance="host-00042:9100",handler="/api/v1/handler-00"}"#;

/// What is wanted: of which query, how many times faster than Thanos, and than Prometheus.
const WANTED: [(&str, f64, f64); 5] =
    [(SUM, 10.0, 6.0), (QUANTILE, 5.0, 5.0), (EACH_QUANTILE, 5.0, 5.0), (PLAIN, 5.0, 5.0), (ONE, 1.0, 1.0)];

/// Samples that are decoded in a second on one core, in millions, and how many times Prometheus' rate that is.
const WANTED_DECODING: (f64, f64) = (150.0, 2.0);

/// Peak memory: how many times ours the others may at least need.
const WANTED_MEMORY: f64 = 3.0;

pub async fn run(options: &Options, dir: &Path, decoded: &[Decoded]) -> anyhow::Result<()> {
    let series = options.shape.series;
    let bucket = data::bucket(options.shape, 1, dir)?;
    let replicas = data::bucket(options.shape, 2, dir)?;
    let questions = |dedup: bool| -> Vec<Question> {
        WANTED.iter().map(|(query, _, _)| over_all(options, query, dedup)).collect()
    };
    let hours = options.shape.hours;
    let title = format!("Targets: {series} series in two replicas x {hours} h, step 60 s, dedup");
    let deduplicated = {
        let mut all = contenders(options, &replicas, false).await?;
        compare(options, &title, &questions(true), &mut all).await?
    };
    let title = format!("Targets: {series} series x {hours} h, step 60 s");
    let plain = {
        let mut all = contenders(options, &bucket, true).await?;
        compare(options, &title, &questions(false), &mut all).await?
    };
    let ours = deduplicated.first().and_then(|sum| sum.costs.first());
    if let Some((_, cost)) = ours {
        stop::run(options, &replicas, &over_all(options, SUM, true), cost.took_ms).await?;
    }
    summarise(decoded, &deduplicated, &plain);
    Ok(())
}

fn summarise(decoded: &[Decoded], deduplicated: &[Measured], plain: &[Measured]) {
    let mut table = Table::new("Targets, in short", &["target", "against", "wanted", "measured", "met"]);
    let mut row = |target: &str, against: &str, wanted: f64, unit: &str, measured: f64| {
        let met = if measured >= wanted { "yes" } else { "no" };
        table.row(&[
            target.to_owned(),
            against.to_owned(),
            format!("{wanted}{unit}"),
            format!("{measured:.2}{unit}"),
            met.to_owned(),
        ]);
    };
    for Decoded { set, ours, theirs } in decoded {
        let target = format!("XOR decoding, {set}");
        row(&target, "itself", WANTED_DECODING.0, " Msamples/s", *ours);
        row(&target, "Prometheus' iterator", WANTED_DECODING.1, "x", ours / theirs);
    }
    for (at, (query, over_thanos, over_prometheus)) in WANTED.iter().enumerate() {
        for (measured, wanted, prefix, data) in [
            (deduplicated.get(at), over_thanos, "Thanos", "two replicas"),
            (plain.get(at), over_prometheus, "Prometheus", "one replica"),
        ] {
            let Some(Measured { costs, .. }) = measured else { continue };
            // Whoever reads its own blocks in one process is compared with one process that does; and with two.
            for (form, ours) in costs.iter().filter(|(name, _)| name.starts_with("Parallax")) {
                for (name, theirs) in costs.iter().filter(|(name, _)| name.starts_with(prefix)) {
                    let against =
                        format!("{name}, {data}{}", if *form == ALONE { "; one process" } else { "" });
                    row(&format!("`{query}`"), &against, *wanted, "x", theirs.took_ms / ours.took_ms);
                    let ratio = theirs.memory_mib() / ours.memory_mib();
                    row(&format!("peak memory of `{query}`"), &against, WANTED_MEMORY, "x", ratio);
                }
            }
        }
    }
    table.print();
}
