//! Questions to an HTTP API, and their answers as tests look at them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parallax_net::{HttpClient, HttpClientConfig, HttpResponse};
use serde_json::Value;

const MAX_ANSWER_BYTES: usize = 64 << 20;

/// An answer, and how long it took.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub took: Duration,
}

impl Answer {
    async fn read(response: HttpResponse, began: Instant) -> Self {
        let status = response.status().as_u16();
        let bytes = response.bytes(MAX_ANSWER_BYTES).await.unwrap();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Self { status, body, took: began.elapsed() }
    }

    pub fn data(&self) -> &Value {
        &self.body["data"]
    }

    pub fn warnings(&self) -> Vec<String> {
        texts(&self.body["warnings"])
    }

    /// The warning about an expected cluster.
    pub fn warning_about(&self, cluster: &str) -> Option<String> {
        let quoted = format!("cluster \"{cluster}\"");
        self.warnings().into_iter().find(|warning| warning.contains(&quoted))
    }

    /// The values of an instant vector by one of its labels.
    pub fn by(&self, label: &str) -> BTreeMap<String, f64> {
        let series = self.data()["result"].as_array().unwrap_or_else(|| panic!("no result: {self:?}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        series
            .iter()
            .map(|one| (text(&one["metric"][label]), text(&one["value"][1]).parse().unwrap()))
            .collect()
    }
}

pub fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// As patient as the tests are: whether a program answers in time is for a test to say, by what it took.
fn client(url: &str) -> HttpClient {
    let patience = super::program::PATIENCE;
    let config = HttpClientConfig {
        connect_timeout: patience,
        response_timeout: patience,
        ..HttpClientConfig::new(url)
    };
    HttpClient::new(config).unwrap()
}

pub async fn get(url: &str, path: &str, parameters: &[(&str, &str)]) -> Answer {
    let began = Instant::now();
    Answer::read(client(url).get(path, parameters).await.unwrap(), began).await
}

pub async fn post(url: &str, path: &str, form: &[(&str, &str)]) -> Answer {
    let began = Instant::now();
    Answer::read(client(url).post_form(path, form).await.unwrap(), began).await
}

/// An instant query, now.
pub async fn ask(url: &str, query: &str) -> Answer {
    get(url, "/api/v1/query", &[("query", query)]).await
}

/// Asks until the warnings say all of `parts`: on a machine that is busy, a connection may first be given up for lasting too long. No answer may have data.
pub async fn ask_until_refused(url: &str, query: &str, parts: &[&str]) {
    ask_until(url, query, |answer| {
        assert!(answer.by("cluster").is_empty(), "{answer:?}");
        let warnings = answer.warnings().join("\n");
        assert!(!warnings.is_empty(), "{answer:?}");
        parts.iter().all(|part| warnings.contains(part))
    })
    .await;
}

/// Asks until the answer is as wanted; at the end of the patience the last answer fails the test.
pub async fn ask_until(url: &str, query: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let began = Instant::now();
    loop {
        let answer = ask(url, query).await;
        // An error has no result to look at.
        if answer.status == 200 && wanted(&answer) {
            return answer;
        }
        assert!(
            began.elapsed() < super::program::PATIENCE,
            "{query} is never answered as wanted, at last: {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
