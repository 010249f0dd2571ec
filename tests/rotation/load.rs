//! Callers that ask a hub for everything, all the while, and judge every answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use parallax_simulate::stand_in::now_ms;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::question::{Answer, get};
use crate::sides::{MACHINES, MACHINES_UP};

const CALLERS: usize = 3;

/// Callers that ask everything again and again, and what was wrong with any answer.
pub struct Load {
    stop: Arc<AtomicBool>,
    moment: Arc<Mutex<String>>,
    callers: JoinSet<(BTreeMap<&'static str, u64>, Vec<String>)>,
}

impl Load {
    /// Asks at `url` about these clusters, in the order of their names.
    pub fn start(url: &str, clusters: &[&'static str]) -> Self {
        let (stop, moment) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new("begin".to_owned())));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (url, stop, moment) = (url.to_owned(), Arc::clone(&stop), Arc::clone(&moment));
            let clusters = clusters.to_vec();
            callers.spawn(async move {
                let (mut asked, mut faults) = (BTreeMap::new(), Vec::new());
                // Not all of them the same at the same time.
                let mut questions = QUESTIONS.iter().cycle().skip(caller * 3);
                while let Some((question, parameters)) =
                    questions.next().filter(|_| !stop.load(Ordering::Relaxed))
                {
                    let (now, before) = (now_ms() / 1000, now_ms() / 1000 - 1800);
                    let times = [("start", before.to_string()), ("end", now.to_string())];
                    let times = times.iter().map(|(name, time)| (*name, time.as_str()));
                    let is_range = *question == "/api/v1/query_range";
                    let parameters: Vec<(&str, &str)> =
                        parameters.iter().copied().chain(times.filter(|_| is_range)).collect();
                    let answer = get(&url, question, &parameters).await;
                    *asked.entry(*question).or_default() += 1;
                    if let Some(fault) = fault(question, &answer, &clusters) {
                        let moment = moment.lock().unwrap().clone();
                        faults.push(format!("at {moment:?}, {question}: {fault}"));
                    }
                }
                (asked, faults)
            });
        }
        Self { stop, moment, callers }
    }

    /// What is being done now, for the text of faults.
    pub fn say(&self, moment: &str) {
        *self.moment.lock().unwrap() = moment.to_owned();
    }

    /// How often each question was asked, once nothing is asked any more; no answer may have had a fault.
    pub async fn finish(mut self) -> BTreeMap<&'static str, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut asked, mut faults) = (BTreeMap::<&str, u64>::new(), Vec::new());
        while let Some(result) = self.callers.join_next().await {
            let (one, more) = result.unwrap();
            one.into_iter().for_each(|(question, count)| *asked.entry(question).or_default() += count);
            faults.extend(more);
        }
        println!("asked: {asked:?}");
        assert!(faults.is_empty(), "{} of {asked:?} had a fault, first:\n{}", faults.len(), first(&faults));
        asked
    }
}

fn first(faults: &[String]) -> String {
    faults.iter().take(5).cloned().collect::<Vec<_>>().join("\n")
}

/// Paths with their parameters.
pub const QUESTIONS: [(&str, &[(&str, &str)]); 8] = [
    ("/api/v1/query", &[("query", MACHINES_UP)]),
    ("/api/v1/query_range", &[("query", "sum by (cluster) (rate(demo_requests_total[5m]))"), ("step", "60")]),
    ("/api/v1/series", &[("match[]", "up")]),
    ("/api/v1/labels", &[]),
    ("/api/v1/label/cluster/values", &[]),
    ("/api/v1/targets", &[("state", "active")]),
    ("/api/v1/metadata", &[]),
    ("/api/v1/rules", &[]),
];

/// What is wrong with an answer; every one has to be whole.
fn fault(question: &str, answer: &Answer, clusters: &[&str]) -> Option<String> {
    let data = answer.data();
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    let is_whole = match question {
        "/api/v1/query" => {
            let by = answer.by("cluster");
            clusters.iter().all(|cluster| by.get(*cluster) == Some(&MACHINES))
        }
        "/api/v1/query_range" => count(&data["result"]) == clusters.len(),
        "/api/v1/series" => count(data) == 2 * clusters.len(),
        "/api/v1/label/cluster/values" => *data == json!(clusters),
        "/api/v1/targets" => count(&data["activeTargets"]) as f64 == MACHINES * clusters.len() as f64,
        "/api/v1/metadata" => data["demo_requests_total"].is_array(),
        "/api/v1/rules" => data["groups"].is_array(),
        _ => count(data) > 5,
    };
    // An observee is a querier over its sidecars, and what it answers to these says in warnings alone what is missing.
    let is_side = ["/api/v1/targets", "/api/v1/metadata", "/api/v1/rules"].contains(&question);
    let state = &answer.body["coverage"]["state"];
    let is_covered = state.is_null() || state == "complete" || (is_side && state == "unattested");
    let is_good = answer.status == 200 && answer.warnings().is_empty() && is_whole && is_covered;
    (!is_good).then(|| answer.body.to_string().chars().take(1500).collect())
}
