//! Recorded questions and answers: reading them, asking a router, and telling whether two answers are the same.
//!
//! Numbers are compared with a relative tolerance of 1e-9; where they are equal to the bit, their text has to be, too.
//! Series are compared as a set, except where the outermost function sorts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::StatusCode;
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

/// The folder of golden data: the shared one, or else the small copy in the repository.
pub fn golden_dir() -> PathBuf {
    let mut workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    while !workspace.join("ARCHITECTURE.md").exists() {
        assert!(workspace.pop(), "this test runs in the workspace");
    }
    let shared = std::env::var_os("PARALLAX_SHARED").map(|shared| PathBuf::from(shared).join("golden"));
    [shared, Some(workspace.join("../shared/golden")), Some(workspace.join("tests/golden"))]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("queries").is_dir())
        .expect("golden data")
}

/// Those of `buckets` that are there: the copy in the repository has only the first.
pub fn bucket_dirs(golden: &Path, buckets: &[&str]) -> Vec<PathBuf> {
    buckets.iter().map(|bucket| golden.join(bucket)).filter(|dir| dir.is_dir()).collect()
}

/// One recorded question and its answer.
pub struct Recorded {
    pub path: String,
    pub params: Vec<(String, String)>,
    pub status: u16,
    pub response: Value,
}

impl Recorded {
    pub fn query(&self) -> &str {
        self.params.iter().find(|(name, _)| name == "query").map_or("", |(_, value)| value)
    }

    /// How failures name it.
    pub fn name(&self) -> String {
        let params: Vec<String> = self.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {}", self.path, params.join(" "))
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The questions of one file; none if the copy in the repository lacks it.
pub fn read(path: &Path) -> Vec<Recorded> {
    let Ok(lines) = std::fs::read_to_string(path) else {
        println!("left out: no {}", path.display());
        return Vec::new();
    };
    lines
        .lines()
        .map(|line| {
            let entry: Value = serde_json::from_str(line).expect("a line of JSON");
            let object = entry.as_object().expect("an object");
            let (path, params) = match object.get("path") {
                Some(path) => (text(path), object["params"].as_object().expect("params").clone()),
                None => {
                    let mut params = object.clone();
                    for name in ["api", "status", "response"] {
                        params.remove(name);
                    }
                    (format!("/api/v1/{}", text(&object["api"])), params)
                }
            };
            Recorded {
                path,
                params: params.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
                status: u16::try_from(object["status"].as_u64().expect("status")).expect("status"),
                response: object["response"].clone(),
            }
        })
        .collect()
}

/// Why an answer is not the recorded one, if it is not.
pub fn difference(recorded: &Recorded, status: StatusCode, answer: &Value) -> Option<String> {
    if status.as_u16() != recorded.status {
        return Some(format!("status {status}, recorded {}: {answer}", recorded.status));
    }
    let wanted = &recorded.response;
    for member in ["status", "errorType"] {
        if answer[member] != wanted[member] {
            return Some(format!("{member} {}, recorded {}", answer[member], wanted[member]));
        }
    }
    // Thanos leaves out what Prometheus puts before the parser's message.
    let error = |value: &Value| {
        let message = value["error"].as_str().unwrap_or_default();
        message.strip_prefix("invalid parameter \"query\": ").unwrap_or(message).to_owned()
    };
    if error(answer) != error(wanted) {
        return Some(format!("error {:?}, recorded {:?}", error(answer), error(wanted)));
    }
    for member in ["warnings", "infos"] {
        let texts = |value: &Value| {
            let listed = value[member].as_array().into_iter().flatten().map(text);
            let mut texts: Vec<String> = listed.map(|text| without_place(&text).to_owned()).collect();
            texts.sort();
            texts
        };
        if texts(answer) != texts(wanted) {
            return Some(format!("{member} {:?}, recorded {:?}", texts(answer), texts(wanted)));
        }
    }
    data_difference(&answer["data"], &wanted["data"], recorded.query().starts_with("sort"))
}

/// An annotation without where in the query it arose, ` (1:6)`, which Thanos does not say.
fn without_place(annotation: &str) -> &str {
    let place = annotation.rsplit_once(" (").and_then(|(text, place)| {
        let (line, column) = place.strip_suffix(')')?.split_once(':')?;
        (line.parse::<u32>().is_ok() && column.parse::<u32>().is_ok()).then_some(text)
    });
    place.unwrap_or(annotation)
}

fn data_difference(answer: &Value, wanted: &Value, is_sorted: bool) -> Option<String> {
    if answer["resultType"] != wanted["resultType"] {
        return Some(format!("type {}, recorded {}", answer["resultType"], wanted["resultType"]));
    }
    let (Some(ours), Some(theirs)) = (answer["result"].as_array(), wanted["result"].as_array()) else {
        return (answer != wanted).then(|| format!("data {answer}, recorded {wanted}"));
    };
    if !ours.iter().chain(theirs).all(Value::is_object) {
        return value_difference(&answer["result"], &wanted["result"]);
    }
    if is_sorted {
        let metrics =
            |list: &[Value]| list.iter().map(|series| series["metric"].to_string()).collect::<Vec<_>>();
        if metrics(ours) != metrics(theirs) {
            return Some(format!("order {:?}, recorded {:?}", metrics(ours), metrics(theirs)));
        }
    }
    let by_metric = |list: &[Value]| -> BTreeMap<String, Value> {
        list.iter().map(|series| (series["metric"].to_string(), series.clone())).collect()
    };
    let (ours, theirs) = (by_metric(ours), by_metric(theirs));
    if let Some(metric) = ours.keys().find(|metric| !theirs.contains_key(*metric)) {
        return Some(format!("series {metric} is not recorded"));
    }
    if let Some(metric) = theirs.keys().find(|metric| !ours.contains_key(*metric)) {
        return Some(format!("series {metric} is missing"));
    }
    theirs.iter().find_map(|(metric, wanted)| {
        value_difference(&ours[metric], wanted).map(|reason| format!("series {metric}: {reason}"))
    })
}

/// Compares lists and objects element by element, and texts as numbers.
fn value_difference(ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).find_map(|(a, b)| value_difference(a, b).map(|reason| place(a, reason)))
        }
        (Value::Object(ours), Value::Object(theirs)) if ours.len() == theirs.len() => {
            theirs.iter().find_map(|(name, wanted)| match ours.get(name) {
                Some(value) => value_difference(value, wanted),
                None => Some(format!("no {name}")),
            })
        }
        (Value::String(a), Value::String(b)) => match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(x), Ok(y)) if x.to_bits() == y.to_bits() => {
                (a != b).then(|| format!("text {a}, recorded {b}"))
            }
            (Ok(x), Ok(y)) => (!is_close(x, y)).then(|| format!("{a}, recorded {b}")),
            _ => (a != b).then(|| format!("{a}, recorded {b}")),
        },
        (Value::Number(a), Value::Number(b)) => {
            (a.as_f64() != b.as_f64()).then(|| format!("{a}, recorded {b}"))
        }
        _ => (ours != theirs).then(|| format!("{}, recorded {}", brief(ours), brief(theirs))),
    }
}

fn place(value: &Value, reason: String) -> String {
    match value.as_array().and_then(|point| point.first()) {
        Some(Value::Number(time)) => format!("at {time}: {reason}"),
        _ => reason,
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(200).collect()
}

fn is_close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// A query that is known to be answered otherwise.
pub struct Exception {
    pub query: &'static str,
    pub reason: &'static str,
}

/// Asks all of `recorded` and requires at least `floor` of the answers (of a whole file) to be the same, and all others
/// to be excused.
pub async fn run(
    file: &str,
    ask: impl AsyncFn(&Recorded) -> (StatusCode, Value),
    recorded: &[Recorded],
    floor: usize,
    exceptions: &[Exception],
) {
    let mut passed = 0;
    let mut excused = 0;
    let mut failures = Vec::new();
    for question in recorded {
        let (status, answer) = ask(question).await;
        match difference(question, status, &answer) {
            None => passed += 1,
            Some(reason) => match exceptions.iter().find(|exception| exception.query == question.query()) {
                Some(exception) => {
                    excused += 1;
                    println!("{file}: excused, {}: {}: {reason}", exception.reason, question.name());
                }
                None => failures.push(format!("{}: {}", question.name(), brief(&Value::String(reason)))),
            },
        }
    }
    println!("{file}: {passed} of {} answers are the recorded ones, {excused} excused", recorded.len());
    for failure in failures.iter().take(40) {
        println!("{file}: {failure}");
    }
    let floor = floor.min(recorded.len());
    assert!(passed >= floor, "{file}: {passed} answers are right, the floor is {floor}");
    assert!(failures.is_empty(), "{file}: {} answers differ without excuse", failures.len());
}
