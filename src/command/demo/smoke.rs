//! `demo --smoke`: questions that need fresh data, history and dedup across both clusters, against known answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use parallax_simulate::stand_in::now_ms;

use super::layout::ClusterLayout;
use super::oracle;
use super::questions::{MACHINES_UP, Question, ask};
use super::start::Mesh;

/// Answers may differ from the oracle by this much, relative to them.
const TOLERANCE: f64 = 1e-9;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// How often a question is asked whose answer may become another, and how long after the one before.
const ATTEMPTS: u32 = 10;
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A question, and what each cluster's values have to be.
struct Check<'a> {
    what: &'static str,
    question: Question<'a>,
    expected: BTreeMap<String, Vec<f64>>,
    /// About this moment: a machine that is busy fails a scrape, and does better a second later. History is right or wrong.
    is_fresh: bool,
}

/// What an answer is worth.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Right,
    /// Asked again, it may be right: part of the mesh was late, or there was no answer, and that was said; or it is about another moment then.
    NotYet,
    Wrong,
}

/// Asks everything.
///
/// # Errors
/// If any answer is wrong, says how many.
pub async fn run(mesh: &Mesh) -> anyhow::Result<()> {
    mesh.wait_for_first_scrapes().await?;
    let mut wrong = 0;
    for number in 0..checks(mesh).len() {
        let mut verdict = Verdict::NotYet;
        for attempt in 0..ATTEMPTS {
            if verdict != Verdict::NotYet {
                break;
            }
            if attempt > 0 {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            // Made anew, for the moment of asking.
            let Some(check) = checks(mesh).into_iter().nth(number) else { break };
            verdict = judge(mesh, &check).await;
        }
        wrong += usize::from(verdict != Verdict::Right);
    }
    if wrong > 0 {
        bail!("{wrong} answers are wrong");
    }
    println!("smoke: every answer is right");
    Ok(())
}

/// Asks once, and prints what came.
async fn judge(mesh: &Mesh, check: &Check<'_>) -> Verdict {
    let started = Instant::now();
    let answer = ask(&mesh.http, &check.question).await;
    let took_ms = started.elapsed().as_secs_f64() * 1000.0;
    let unless_fresh = if check.is_fresh { Verdict::NotYet } else { Verdict::Wrong };
    let (text, verdict) = match &answer {
        Err(error) => (format!("WRONG: {error:#}"), Verdict::NotYet),
        Ok(answer) if !answer.warnings.is_empty() => {
            (format!("WRONG: warnings {:?}", answer.warnings), Verdict::NotYet)
        }
        Ok(answer) if !equal(&answer.by_cluster, &check.expected) => {
            let (found, expected) = (summary(&answer.by_cluster), summary(&check.expected));
            (format!("WRONG: {found}; it has to be {expected}"), unless_fresh)
        }
        Ok(answer) => (format!("ok: {}", summary(&answer.by_cluster)), Verdict::Right),
    };
    println!("{took_ms:8.1}ms  {}\n            {}\n            {text}", check.what, check.question.query);
    verdict
}

/// Both clusters' values, or the first and the number of points of a range.
fn summary(found: &BTreeMap<String, Vec<f64>>) -> String {
    let one = |(cluster, values): (&String, &Vec<f64>)| match values.as_slice() {
        [value] => format!("{cluster}={value}"),
        values => {
            let different = values.windows(2).filter(|pair| pair[0] != pair[1]).count();
            let first = values.first().unwrap_or(&f64::NAN);
            format!("{cluster}={first} at the first of {} points, {different} changes", values.len())
        }
    };
    found.iter().map(one).collect::<Vec<_>>().join("  ")
}

fn equal(found: &BTreeMap<String, Vec<f64>>, expected: &BTreeMap<String, Vec<f64>>) -> bool {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs());
    found.len() == expected.len()
        && found.iter().zip(expected).all(|((found_in, found), (expected_in, expected))| {
            found_in == expected_in && found.len() == expected.len() && found.iter().zip(expected).all(near)
        })
}

fn checks(mesh: &Mesh) -> Vec<Check<'static>> {
    let by_cluster = |value: &dyn Fn(&ClusterLayout) -> Vec<f64>| -> BTreeMap<String, Vec<f64>> {
        mesh.layout.clusters.iter().map(|cluster| (cluster.name.clone(), value(cluster))).collect()
    };
    let over_replicas = |cluster: &ClusterLayout, value: &dyn Fn(&parallax_simulate::Fleet) -> f64| {
        vec![cluster.fleets().map(|fleet| value(&fleet)).sum::<f64>()]
    };
    let machines = |cluster: &ClusterLayout| f64::from(cluster.instances);
    let now_ms = now_ms();
    // Older than what the sidecars serve: only the buckets have it.
    let old_ms = mesh.history.min_ms + 3 * HOUR_MS;
    let (start_ms, end_ms, step_ms) = (mesh.history.min_ms + 10 * MINUTE_MS, mesh.history.max_ms, 30_000);
    let points = usize::try_from((end_ms - start_ms) / step_ms + 1).unwrap_or(0);
    vec![
        Check {
            what: "fresh data of both clusters, replicas counted once",
            is_fresh: true,
            question: Question::instant(MACHINES_UP, now_ms, true),
            expected: by_cluster(&|cluster| vec![machines(cluster)]),
        },
        Check {
            what: "fresh values",
            is_fresh: true,
            question: Question::instant("sum by (cluster) (demo_capacity)", now_ms, true),
            expected: by_cluster(&|cluster| {
                let fleet = cluster.fleet(0);
                vec![(0..cluster.instances).map(|number| fleet.capacity(number)).sum()]
            }),
        },
        Check {
            what: "an old moment without dedup: every replica counts that was up",
            is_fresh: false,
            question: Question::instant("sum by (cluster) (demo_capacity)", old_ms, false),
            expected: by_cluster(&|cluster| {
                over_replicas(cluster, &|fleet| oracle::sum(fleet, "demo_capacity", old_ms))
            }),
        },
        Check {
            what: "history from the buckets, every sample of both replicas",
            is_fresh: false,
            question: Question::instant(
                "sum by (cluster) (sum_over_time(demo_temperature_celsius[2h]))",
                old_ms,
                false,
            ),
            expected: by_cluster(&|cluster| {
                over_replicas(cluster, &|fleet| {
                    oracle::sum_over_time(fleet, "demo_temperature_celsius", old_ms, 2 * HOUR_MS)
                })
            }),
        },
        Check {
            what: "rates with counter resets, from the buckets",
            is_fresh: false,
            question: Question::instant("sum by (cluster) (rate(demo_requests_total[2h]))", old_ms, false),
            expected: by_cluster(&|cluster| {
                over_replicas(cluster, &|fleet| {
                    oracle::rate(fleet, "demo_requests_total", old_ms, 2 * HOUR_MS)
                })
            }),
        },
        Check {
            what: "twelve hours without a gap: dedup fills one replica's holes from the other",
            is_fresh: false,
            question: Question::range(MACHINES_UP, start_ms, (end_ms, step_ms), true),
            expected: by_cluster(&|cluster| vec![machines(cluster); points]),
        },
    ]
}
