//! Whether an answer is honest: right where it calls itself complete, and about everything else not silent.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::Value;

use super::question::{Kind, Question};
use super::truth::Truth;

const TOLERANCE: f64 = 1e-9;

/// What an honest answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    Partial,
    /// An error that names what is missing.
    Refused,
    /// The caller's own timeout was too short for an answer at all.
    TimedOut,
}

/// How many answers of each kind there were, and faults beneath them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub whole: u64,
    pub partial: u64,
    pub refused: u64,
    pub timed_out: u64,
    pub faults: u64,
}

impl Tally {
    pub fn count(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Whole => &mut self.whole,
            Verdict::Partial => &mut self.partial,
            Verdict::Refused => &mut self.refused,
            Verdict::TimedOut => &mut self.timed_out,
        } += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.whole += other.whole;
        self.partial += other.partial;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.faults += other.faults;
    }
}

/// The numbers of one cluster, by what tells them apart within it.
type Numbers = BTreeMap<String, Vec<f64>>;

/// # Errors
/// The defect: a wrong number, or silence.
pub fn judge(
    clusters: &[Truth],
    question: &Question,
    troubled: &BTreeSet<String>,
    may_time_out: bool,
    (status, header, body): (StatusCode, &str, &Value),
) -> Result<Verdict, String> {
    if status != StatusCode::OK {
        let verdict = judge_error(question, status, body)?;
        let is_late = verdict == Verdict::TimedOut && !may_time_out;
        return if is_late { Err("nobody set a time".to_owned()) } else { Ok(verdict) };
    }
    let states = states(body)?;
    let warnings = body["warnings"].as_array().cloned().unwrap_or_default();
    let is_whole = states.values().all(|(state, _)| *state == "complete");
    let says_whole = body["coverage"]["state"] == "complete";
    if is_whole != says_whole || is_whole != header.starts_with("complete;") {
        return Err("the coverage, its clusters and the header do not agree".to_owned());
    }
    if is_whole != warnings.is_empty() {
        return Err("warnings and coverage do not agree".to_owned());
    }
    if !is_whole && !question.partial_response {
        return Err("a partial answer, and none was allowed".to_owned());
    }
    for cluster in clusters {
        match states.get(cluster.name.as_str()) {
            None if question.concerns(&cluster.name) => {
                return Err(format!("nothing is said of {}", cluster.name));
            }
            Some(_) if !question.concerns(&cluster.name) => {
                return Err(format!("{} has nothing to do with it", cluster.name));
            }
            Some((state, parts)) if *state != "complete" && !troubled.contains(&cluster.name) => {
                judge_fair_weather(&cluster.name, parts)?;
            }
            _ => {}
        }
    }
    let is_complete = |name: &str| states.get(name).is_some_and(|(state, _)| *state == "complete");
    let concerned: Vec<&Truth> = clusters.iter().filter(|one| question.concerns(&one.name)).collect();
    if question.kind == Kind::Total {
        judge_total(&concerned, &is_complete, body)?;
    } else {
        let mut found = numbers(question, body)?;
        for cluster in &concerned {
            let of_cluster = found.remove(&cluster.name).unwrap_or_default();
            judge_numbers(question.kind, cluster, is_complete(&cluster.name), &of_cluster)?;
        }
        if let Some(name) = found.keys().next() {
            return Err(format!("{name:?} was not asked for"));
        }
    }
    Ok(if is_whole { Verdict::Whole } else { Verdict::Partial })
}

fn judge_error(question: &Question, status: StatusCode, body: &Value) -> Result<Verdict, String> {
    let text = body["error"].as_str().unwrap_or_default();
    if status == StatusCode::SERVICE_UNAVAILABLE && body["errorType"] == "timeout" && !text.is_empty() {
        return Ok(Verdict::TimedOut);
    }
    if question.partial_response {
        return Err("an error, and a partial answer was allowed".to_owned());
    }
    let says_who = text.contains("cluster \"") || text.contains("half a disk");
    if status != StatusCode::UNPROCESSABLE_ENTITY || !says_who {
        return Err("an error that names nobody".to_owned());
    }
    Ok(Verdict::Refused)
}

/// The state of each cluster, and its parts if it is not complete.
fn states(body: &Value) -> Result<BTreeMap<&str, (&str, &[Value])>, String> {
    let clusters = body["coverage"]["clusters"].as_array().ok_or("there is no coverage")?;
    clusters
        .iter()
        .map(|one| {
            let name = one["cluster"].as_str().ok_or("a cluster without a name")?;
            let state = one["state"].as_str().ok_or("a cluster without a state")?;
            Ok((name, (state, one["parts"].as_array().map_or(&[][..], Vec::as_slice))))
        })
        .collect()
}

/// A cluster with nothing but fair weather before it can be late, on a machine that is busy, and left alone for that; nothing else.
fn judge_fair_weather(name: &str, parts: &[Value]) -> Result<(), String> {
    let excused = |part: &Value| {
        let is_left_alone = part["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("not asked: ") || reason.contains("within"));
        matches!(part["state"].as_str(), Some("complete" | "late")) || is_left_alone
    };
    match parts.iter().find(|part| !excused(part)) {
        Some(part) => Err(format!("{name} has fair weather, and is said to be {part}")),
        None => Ok(()),
    }
}

fn judge_total(
    concerned: &[&Truth],
    is_complete: &impl Fn(&str) -> bool,
    body: &Value,
) -> Result<(), String> {
    let most: f64 = concerned.iter().map(|cluster| cluster.sum()).sum();
    let least: f64 =
        concerned.iter().filter(|cluster| is_complete(&cluster.name)).map(|cluster| cluster.sum()).sum();
    let rows = body["data"]["result"].as_array().ok_or("no result")?;
    let total = match rows.as_slice() {
        [] => 0.0,
        [row] => number(&row["value"])?,
        _ => return Err("more than one total".to_owned()),
    };
    if is_at_most(least, total) && is_at_most(total, most) {
        return Ok(());
    }
    Err(format!("the total is {total}; what is complete makes {least}, everything {most}"))
}

/// What an answer has of each cluster.
fn numbers(question: &Question, body: &Value) -> Result<BTreeMap<String, Numbers>, String> {
    let mut found: BTreeMap<String, Numbers> = BTreeMap::new();
    let mut add = |cluster: &str, key: &str, values: Vec<f64>| {
        let former = found.entry(cluster.to_owned()).or_default().insert(key.to_owned(), values);
        former.map_or(Ok(()), |_| Err(format!("{key} of {cluster} is there twice")))
    };
    match question.kind {
        Kind::Values => {
            let only = question.only.as_deref().unwrap_or_default();
            for value in body["data"].as_array().ok_or("no values")? {
                add(only, value.as_str().ok_or("no text")?, Vec::new())?;
            }
        }
        Kind::LabelSets => {
            for set in body["data"].as_array().ok_or("no label sets")? {
                let key = set["instance"].as_str().ok_or("no instance")?;
                add(set["cluster"].as_str().unwrap_or_default(), key, Vec::new())?;
            }
        }
        _ => {
            for row in body["data"]["result"].as_array().ok_or("no result")? {
                let metric = &row["metric"];
                let key = metric["instance"].as_str().unwrap_or_default();
                let values = match row["values"].as_array() {
                    Some(all) => all.iter().map(number).collect::<Result<Vec<f64>, String>>()?,
                    None => vec![number(&row["value"])?],
                };
                add(metric["cluster"].as_str().unwrap_or_default(), key, values)?;
            }
        }
    }
    Ok(found)
}

/// Of `[time, "value"]`.
fn number(point: &Value) -> Result<f64, String> {
    point[1].as_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{point} is no number"))
}

fn judge_numbers(kind: Kind, cluster: &Truth, is_complete: bool, found: &Numbers) -> Result<(), String> {
    let one = |value: f64, times: usize| BTreeMap::from([(String::new(), vec![value; times])]);
    let (truth, is_folded): (Numbers, bool) = match kind {
        Kind::Series => {
            (cluster.values().into_iter().map(|(key, value)| (key, vec![value])).collect(), false)
        }
        Kind::LabelSets | Kind::Values => {
            (cluster.values().into_keys().map(|key| (key, Vec::new())).collect(), false)
        }
        Kind::Count => (one(cluster.values().len() as f64, 1), true),
        Kind::Rates => (one(cluster.sum_of_rates(), 1), true),
        Kind::SumOverTime => (one(cluster.sum(), 5), true),
        Kind::Sum | Kind::Joined | Kind::Total => (one(cluster.sum(), 1), true),
    };
    let fits = |found: &f64, truth: &f64| {
        is_at_most(*found, *truth) && ((is_folded && !is_complete) || is_at_most(*truth, *found))
    };
    for (key, values) in found {
        let Some(true_values) = truth.get(key) else {
            return Err(format!("{} never had {key:?}", cluster.name));
        };
        let as_long = values.len() == true_values.len() || (is_folded && !is_complete);
        if !as_long || !values.iter().zip(true_values).all(|(found, truth)| fits(found, truth)) {
            return Err(format!("{} has {key:?} {true_values:?}, not {values:?}", cluster.name));
        }
    }
    if is_complete && found.len() < truth.len() {
        let lost: Vec<&String> = truth.keys().filter(|key| !found.contains_key(*key)).collect();
        return Err(format!("{} is said to be complete, and lacks {lost:?}", cluster.name));
    }
    Ok(())
}

fn is_at_most(a: f64, b: f64) -> bool {
    a <= b + TOLERANCE * b.abs()
}
