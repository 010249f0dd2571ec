//! One query as both sides are asked it, and what tells two answers apart.

use http::StatusCode;
use serde_json::{Value, json};

use crate::component::Component;
use crate::golden::{Recorded, difference};
use crate::peer::Peer;

/// A query; instant if `step_ms` is zero, at `start_ms`.
#[derive(Clone, Debug)]
pub struct Question {
    pub query: String,
    pub start_ms: i64,
    pub end_ms: i64,
    pub step_ms: i64,
    pub dedup: bool,
}

/// The label that tells the replicas of the golden buckets apart.
const REPLICA_LABEL: &str = "prometheus_replica";

impl Question {
    pub fn instant(query: &str, at_ms: i64, dedup: bool) -> Self {
        Self { query: query.to_owned(), start_ms: at_ms, end_ms: at_ms, step_ms: 0, dedup }
    }

    pub fn range(query: &str, start_ms: i64, end_ms: i64, step_ms: i64, dedup: bool) -> Self {
        Self { query: query.to_owned(), start_ms, end_ms, step_ms, dedup }
    }

    fn for_peer(&self) -> Value {
        json!({
            "query": self.query, "start_ms": self.start_ms, "end_ms": self.end_ms, "step_ms": self.step_ms,
            "dedup": self.dedup, "replica_labels": [REPLICA_LABEL],
        })
    }

    pub fn path(&self) -> &'static str {
        if self.step_ms == 0 { "/api/v1/query" } else { "/api/v1/query_range" }
    }

    pub fn params(&self) -> Vec<(String, String)> {
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let mut params = vec![("query", self.query.clone())];
        if self.step_ms == 0 {
            params.push(("time", seconds(self.start_ms)));
        } else {
            params.push(("start", seconds(self.start_ms)));
            params.push(("end", seconds(self.end_ms)));
            params.push(("step", seconds(self.step_ms)));
        }
        params.push(("dedup", self.dedup.to_string()));
        params.push(("partial_response", "false".to_owned()));
        params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The peer's answer, as one that is recorded.
    pub fn ask_peer(&self, peer: &mut Peer) -> Recorded {
        let answer = peer.ask(&self.for_peer()).expect("an answer of the peer");
        let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        Recorded {
            path: self.path().to_owned(),
            params: self.params(),
            status: status.expect("a status"),
            response: answer["response"].clone(),
        }
    }

    /// Why our answer is not `wanted`, if it is not.
    pub async fn compare(&self, wanted: &Recorded, ours: &Component) -> Option<String> {
        match ours.ask(self.path(), &self.params()).await {
            Ok((status, answer)) => difference(wanted, status, &answer),
            Err(error) => Some(format!("no answer: {error:#}")),
        }
    }
}

/// Why two peers' answers differ, if they do.
pub fn compare_peers(wanted: &Recorded, answer: &Recorded) -> Option<String> {
    let status = StatusCode::from_u16(answer.status).expect("a status");
    difference(wanted, status, &answer.response)
}

/// Why a difference is one that we know and live with.
fn excuse(wanted: &Recorded, difference: &str) -> Option<&'static str> {
    let error = wanted.response["error"].as_str().unwrap_or_default();
    if error.contains("runtime error") {
        // predict_linear of a window without samples.
        return Some("Prometheus' engine crashed on it");
    }
    difference.contains(": text ").then_some("the same number, written with another last digit")
}

/// Counts answers, and tells all that differ at the end.
#[derive(Default)]
pub struct Tally {
    pub asked: usize,
    pub with_series: usize,
    pub with_error: usize,
    excused: usize,
    failures: Vec<String>,
}

impl Tally {
    pub fn count(&mut self, question: &Question, wanted: &Recorded, difference: Option<String>) {
        self.asked += 1;
        let result = &wanted.response["data"]["result"];
        self.with_series += usize::from(result.as_array().is_some_and(|result| !result.is_empty()));
        self.with_error += usize::from(wanted.status != 200);
        let Some(reason) = difference else { return };
        if let Some(excuse) = excuse(wanted, &reason) {
            self.excused += 1;
            println!("excused, {excuse}: {question:?}");
        } else {
            let reason: String = reason.chars().take(400).collect();
            self.failures.push(format!("{question:?}: {reason}"));
        }
    }

    /// # Panics
    /// If any answer differed.
    pub fn conclude(self, what: &str) {
        println!(
            "{what}: {} questions, {} answers with series, {} with an error, {} excused, {} differ",
            self.asked,
            self.with_series,
            self.with_error,
            self.excused,
            self.failures.len()
        );
        for failure in self.failures.iter().take(60) {
            println!("{what}: {failure}");
        }
        assert!(self.failures.is_empty(), "{what}: {} of {} answers differ", self.failures.len(), self.asked);
    }
}
