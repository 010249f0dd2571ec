//! Who is asked: a querier with the store beneath it, or Prometheus, which has none; each a process or two whose memory and CPU are read.
//!
//! Parallax and real binaries are asked over HTTP; the stand-ins of `tests/peers` answer on a pipe, with the response written as the HTTP
//! API writes it. A time is that from question to the answer's last byte.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Options;
use crate::component::Component;
use crate::measure::{cpu_ms, memory_mib, reset_peak};
use crate::peer::Peer;

/// Parallax in one process.
pub const ALONE: &str = "Parallax, one process";

/// More than any answer takes.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// One query over the range that the bucket covers.
#[derive(Clone, Copy)]
pub struct Question {
    pub query: &'static str,
    pub start_ms: i64,
    pub end_ms: i64,
    /// 0 for an instant query at the end.
    pub step_ms: i64,
    pub dedup: bool,
}

/// What an answer says, for comparing answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub series: usize,
    /// Of all values.
    pub sum: f64,
}

impl Summary {
    /// Whether both are the same but for the last digits.
    pub fn agrees(&self, other: &Self) -> bool {
        self.series == other.series && (self.sum - other.sum).abs() <= 1e-6 * other.sum.abs()
    }
}

enum Asked {
    Process(Box<Component>),
    Peer(Peer),
}

/// One of those that are compared.
pub struct Contender {
    pub name: &'static str,
    asked: Asked,
    /// More parameters of a query over HTTP.
    more: Vec<(String, String)>,
    /// The store beneath, kept alive.
    _store: Option<Asked>,
    /// The processes: what they are, and their ids.
    pub processes: Vec<(&'static str, u32)>,
}

impl Contender {
    pub async fn parallax(options: &Options, bucket: &Path) -> anyhow::Result<Self> {
        let store = Component::store(&options.parallax, bucket, &[]).await?;
        let max_samples = ["--query.max-samples=500000000".to_owned()];
        let querier = Component::query(&options.parallax, &[&store.grpc], &max_samples).await?;
        Ok(Self::over_store("Parallax", querier, store))
    }

    /// Querier and store gateway in one process, as Prometheus is one.
    pub async fn parallax_alone(options: &Options, bucket: &Path) -> anyhow::Result<Self> {
        let observer = Component::observer(&options.parallax, bucket).await?;
        let processes = vec![("observer", observer.id())];
        let asked = Asked::Process(Box::new(observer));
        Ok(Self { name: ALONE, asked, more: Vec::new(), _store: None, processes })
    }

    /// The real `thanos store` and `thanos query`, with the engine that `engine` names.
    pub async fn thanos(
        name: &'static str,
        engine: &str,
        program: &Path,
        bucket: &Path,
    ) -> anyhow::Result<Self> {
        let store = Component::store(program, bucket, &[]).await?;
        let querier = Component::query(program, &[&store.grpc], &[]).await?;
        let mut thanos = Self::over_store(name, querier, store);
        thanos.more.push(("engine".to_owned(), engine.to_owned()));
        Ok(thanos)
    }

    /// Thanos' parts in `tests/peers`.
    pub fn thanos_peers(options: &Options, bucket: &Path) -> anyhow::Result<Self> {
        let (store, address) = Peer::store(&options.peers, bucket)?;
        let querier = Peer::query(&options.peers, &[&address])?;
        let processes = vec![("store", store.id()), ("querier", querier.id())];
        Ok(Self {
            name: "Thanos (peers)",
            asked: Asked::Peer(querier),
            more: Vec::new(),
            _store: Some(Asked::Peer(store)),
            processes,
        })
    }

    /// The real `prometheus` on the same blocks.
    pub async fn prometheus(program: &Path, bucket: &Path) -> anyhow::Result<Self> {
        let more = ["--query.max-samples=500000000".to_owned()];
        let prometheus = Component::prometheus(program, bucket, &more).await?;
        let processes = vec![("prometheus", prometheus.id())];
        let asked = Asked::Process(Box::new(prometheus));
        Ok(Self { name: "Prometheus (binary)", asked, more: Vec::new(), _store: None, processes })
    }

    /// Prometheus' engine in `tests/peers`, on the blocks.
    pub fn prometheus_peers(options: &Options, bucket: &Path) -> anyhow::Result<Self> {
        let engine = Peer::promql(&options.peers, &[bucket])?;
        let processes = vec![("engine", engine.id())];
        let (name, asked) = ("Prometheus (peers)", Asked::Peer(engine));
        Ok(Self { name, asked, more: Vec::new(), _store: None, processes })
    }

    fn over_store(name: &'static str, querier: Component, store: Component) -> Self {
        let processes = vec![("store", store.id()), ("querier", querier.id())];
        let asked = Asked::Process(Box::new(querier));
        Self { name, asked, more: Vec::new(), _store: Some(Asked::Process(Box::new(store))), processes }
    }

    /// Asks, and reads what comes to its end: the time is the answer's.
    pub async fn time(&mut self, question: &Question) -> anyhow::Result<Duration> {
        let (path, params) = self.request(question);
        let started = Instant::now();
        match &mut self.asked {
            Asked::Peer(peer) => peer.ask_for_line(&peer_question(question)).map(drop)?,
            Asked::Process(querier) => {
                let response = querier.answer(path, &params).await?;
                let status = response.status();
                let mut body = response.into_stream();
                while let Some(piece) = body.next().await {
                    piece?;
                }
                ensure!(status == http::StatusCode::OK, "{}: {status}", self.name);
            }
        }
        Ok(started.elapsed())
    }

    /// Asks, and looks at the answer.
    pub async fn ask(&mut self, question: &Question) -> anyhow::Result<Summary> {
        let (path, params) = self.request(question);
        let summary = match &mut self.asked {
            Asked::Peer(peer) => {
                let line = peer.ask_for_line(&peer_question(question))?;
                serde_json::from_str::<PeerAnswer<'_>>(&line)?.response.summary()
            }
            Asked::Process(querier) => {
                let body = querier.answer(path, &params).await?.bytes(MAX_ANSWER_BYTES).await?;
                serde_json::from_slice::<Answer<'_>>(&body)?.summary()
            }
        };
        summary.with_context(|| self.name)
    }

    /// Asks with a `timeout`, and tells how long it took until the answer, or the error, was there.
    pub async fn time_of_timeout(&self, question: &Question, timeout: Duration) -> anyhow::Result<Duration> {
        let Asked::Process(querier) = &self.asked else { bail!("{} takes no timeout", self.name) };
        let (path, mut params) = self.request(question);
        params.push(("timeout".to_owned(), format!("{}ms", timeout.as_millis())));
        let started = Instant::now();
        querier.answer(path, &params).await?.bytes(MAX_ANSWER_BYTES).await?;
        Ok(started.elapsed())
    }

    fn request(&self, question: &Question) -> (&'static str, Vec<(String, String)>) {
        let seconds = |ms: i64| format!("{}", ms / 1000);
        let mut params = vec![("query".to_owned(), question.query.to_owned())];
        let path = if question.step_ms == 0 {
            params.push(("time".to_owned(), seconds(question.end_ms)));
            "/api/v1/query"
        } else {
            params.push(("start".to_owned(), seconds(question.start_ms)));
            params.push(("end".to_owned(), seconds(question.end_ms)));
            params.push(("step".to_owned(), seconds(question.step_ms)));
            "/api/v1/query_range"
        };
        params.push(("dedup".to_owned(), question.dedup.to_string()));
        params.extend_from_slice(&self.more);
        (path, params)
    }

    /// Forgets how much memory was in use at most.
    pub fn reset_peaks(&self) {
        self.processes.iter().for_each(|(_, id)| reset_peak(*id));
    }

    /// The most memory that each process had, in MiB.
    pub fn peaks_mib(&self) -> anyhow::Result<Vec<f64>> {
        self.processes.iter().map(|(_, id)| memory_mib(*id, "VmHWM")).collect()
    }

    /// CPU time of all processes so far.
    pub fn cpu_ms(&self) -> anyhow::Result<f64> {
        self.processes.iter().map(|(_, id)| cpu_ms(*id)).sum()
    }
}

fn peer_question(question: &Question) -> Value {
    let start_ms = if question.step_ms == 0 { question.end_ms } else { question.start_ms };
    json!({
        "query": question.query, "start_ms": start_ms, "end_ms": question.end_ms, "step_ms": question.step_ms,
        "dedup": question.dedup, "replica_labels": ["prometheus_replica"],
    })
}

#[derive(Deserialize)]
struct PeerAnswer<'a> {
    #[serde(borrow)]
    response: Answer<'a>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    result: Vec<Series<'a>>,
}

#[derive(Deserialize)]
struct Series<'a> {
    #[serde(borrow, default)]
    values: Vec<(f64, &'a str)>,
    #[serde(borrow, default)]
    value: Option<(f64, &'a str)>,
}

impl Answer<'_> {
    fn summary(self) -> anyhow::Result<Summary> {
        let Some(data) = self.data else { bail!("{}", self.error.unwrap_or_default()) };
        let mut summary = Summary { series: data.result.len(), sum: 0.0 };
        for series in &data.result {
            for (_, value) in series.values.iter().chain(&series.value) {
                let value: f64 = value.parse()?;
                summary.sum += if value.is_finite() { value } else { 0.0 };
            }
        }
        Ok(summary)
    }
}
