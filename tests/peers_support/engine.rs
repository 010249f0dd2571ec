//! Our engine against Prometheus' on generated queries, over the blocks of one Prometheus.
//!
//! Ours is asked over HTTP, through querier and store gateway, on a bucket whose blocks claim no external labels, so that both
//! sides have the same series.

use std::path::Path;

use parallax_promql::ast::ValueType;
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::signature::FUNCTIONS;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::component::{Component, parallax};
use crate::golden::{Recorded, golden_dir};
use crate::peer::{Peer, program_or_leave_out};
use crate::question::{Question, Tally};
use crate::random_queries::QueryGenerator;

const DEFAULT_SEED: u64 = 20_260_701;
const DEFAULT_QUERIES: u64 = 6000;
/// How deep generated queries nest.
const FLOAT_DEPTH: usize = 3;
const HISTOGRAM_DEPTH: usize = 2;

/// Where questions lie: the golden blocks, and a little beyond either end.
const FIRST_MS: i64 = 1_782_863_700_000;
const LAST_MS: i64 = 1_782_886_200_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Copies the blocks that cluster eu-1's first replica wrote, and takes their external labels away.
fn copy_blocks_of_one_prometheus(bucket: &Path, target: &Path) {
    for entry in std::fs::read_dir(bucket).expect("a bucket") {
        let from = entry.expect("an entry").path();
        let Ok(text) = std::fs::read_to_string(from.join("meta.json")) else { continue };
        let mut meta: Value = serde_json::from_str(&text).expect("meta.json");
        let labels = &meta["thanos"]["labels"];
        if labels["cluster"] != "eu-1" || labels["prometheus_replica"] != "prometheus-0" {
            continue;
        }
        meta["thanos"]["labels"] = json!({});
        let to = target.join(from.file_name().expect("a name"));
        std::fs::create_dir_all(to.join("chunks")).expect("a directory");
        for file in ["index", "chunks/000001"] {
            std::fs::copy(from.join(file), to.join(file)).expect("a copy");
        }
        std::fs::write(to.join("meta.json"), meta.to_string()).expect("meta.json");
    }
}

/// A time for the query: an instant, or a range of at most 60 steps.
fn placed(generator: &mut QueryGenerator, query: &str) -> Question {
    let random = &mut generator.random;
    let start_ms = random.between(FIRST_MS, LAST_MS);
    if random.below(2) == 0 {
        return Question::instant(query, start_ms, false);
    }
    let step_ms = [15_000, 37_000, 60_000, 300_000, 1_000, 1_200_000][random.below(6)];
    let steps = random.between(1, 60);
    Question::range(query, start_ms, start_ms + steps * step_ms, step_ms, false)
}

/// An execution error names one of several offending series, and which one is chance: only the part before is compared.
fn without_offenders(mut answer: Recorded) -> Recorded {
    if let Some(error) = answer.response["error"].as_str() {
        let known = ["found duplicate series for the match group", "multiple matches for labels"];
        if let Some(text) = known.into_iter().find(|text| error.contains(text)) {
            answer.response["error"] = json!(text);
        }
    }
    answer
}

/// A mesh over the blocks of one Prometheus, and Prometheus' engine over the same.
struct Pair {
    ours: Component,
    prometheus: Peer,
    _store: Component,
    _bucket: TempDir,
}

impl Pair {
    async fn start(peers: &Path) -> Self {
        let bucket = tempfile::tempdir().expect("a directory");
        copy_blocks_of_one_prometheus(&golden_dir().join("bucket-short"), bucket.path());
        let store = Component::store(&parallax(), bucket.path(), &[]).await.expect("our store");
        let ours = Component::query(&parallax(), &[&store.grpc], &[]).await.expect("our querier");
        let prometheus = Peer::promql(peers, &[bucket.path()]).expect("Prometheus' engine");
        Self { ours, prometheus, _store: store, _bucket: bucket }
    }

    /// Prometheus' answer, and why ours is not the same, if it is not.
    async fn ask(&mut self, question: &Question) -> (Recorded, Option<String>) {
        let wanted = without_offenders(question.ask_peer(&mut self.prometheus));
        let difference = match self.ours.ask(question.path(), &question.params()).await {
            Ok((status, response)) => {
                let params = question.params();
                let answer = Recorded { path: String::new(), params, status: status.as_u16(), response };
                crate::golden::difference(&wanted, status, &without_offenders(answer).response)
            }
            Err(error) => Some(format!("no answer: {error:#}")),
        };
        (wanted, difference)
    }
}

async fn run(what: &str, next: impl Fn(&mut QueryGenerator) -> String) {
    let Some(peers) = program_or_leave_out(what) else { return };
    let mut pair = Pair::start(&peers).await;
    let seed = number("PARALLAX_SEED", DEFAULT_SEED);
    println!("{what}: PARALLAX_SEED={seed}");
    let mut generator = QueryGenerator::new(seed);
    let mut tally = Tally::default();
    for _ in 0..number("PARALLAX_QUERIES", DEFAULT_QUERIES) {
        let query = next(&mut generator);
        let question = placed(&mut generator, &query);
        let (wanted, difference) = pair.ask(&question).await;
        tally.count(&question, &wanted, difference);
    }
    assert!(tally.with_series * 2 > tally.asked, "most queries should select something");
    tally.conclude(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_queries_on_floats_have_prometheus_answers() {
    run("generated queries on floats", |generator| generator.floats(FLOAT_DEPTH)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_queries_on_histograms_have_prometheus_answers() {
    run("generated queries on histograms", |generator| generator.histograms(HISTOGRAM_DEPTH)).await;
}

/// Neither more nor fewer than Prometheus has, of the same types, and the same ones behind the feature flag.
#[test]
fn functions_and_aggregations_are_those_of_prometheus() {
    let Some(peers) = program_or_leave_out("functions of Prometheus") else { return };
    let theirs = Peer::language(&peers).expect("what Prometheus' parser knows");
    let short = |of: ValueType| match of {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
    };
    let ours: Vec<Value> = FUNCTIONS
        .iter()
        .map(|function| {
            let arguments: Vec<&str> = function.arguments.iter().map(|argument| short(*argument)).collect();
            json!({
                "name": function.name, "arguments": arguments, "variadic": function.variadic,
                "returns": short(function.returns), "experimental": function.experimental,
            })
        })
        .collect();
    assert_eq!(theirs["functions"].as_array().expect("functions"), &ours);
    let aggregations = theirs["aggregations"].as_array().expect("aggregations");
    assert!(aggregations.len() >= 14, "{aggregations:?}");
    for aggregation in aggregations {
        let name = aggregation["name"].as_str().expect("a name");
        let parses = |options: &ParserOptions| {
            ["up", "1, up", "\"value\", up"].iter().any(|of| parse(&format!("{name}({of})"), options).is_ok())
        };
        assert!(parses(&ParserOptions::all_features()), "{name}");
        assert_eq!(parses(&ParserOptions::default()), aggregation["experimental"] == false, "{name}");
    }
}

/// What we are known to answer otherwise, and why.
const KNOWN_DIFFERENCES: [(&str, &str); 1] =
    [("ln(vector(5e-324))", "Go's logarithm of a subnormal number is wrong on amd64, ours is right")];

#[tokio::test(flavor = "multi_thread")]
async fn known_differences_from_prometheus_are_all_listed_and_real() {
    let Some(peers) = program_or_leave_out("known differences from Prometheus") else { return };
    let mut pair = Pair::start(&peers).await;
    let mut alike = Vec::new();
    for (query, reason) in KNOWN_DIFFERENCES {
        match pair.ask(&Question::instant(query, FIRST_MS, false)).await {
            (_, Some(difference)) => println!("{query}: {difference} ({reason})"),
            (_, None) => alike.push(query),
        }
    }
    assert!(alike.is_empty(), "answered as Prometheus does, take them off the list: {alike:?}");
}
