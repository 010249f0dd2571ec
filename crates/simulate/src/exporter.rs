//! The fleet's machines as scrape targets: `/instance/<number>/metrics` in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::Fleet;
use crate::fleet::FAMILIES;

/// The path of machine `number`, for a scrape configuration.
pub fn metrics_path(number: u32) -> String {
    format!("/instance/{number}/metrics")
}

/// Serves every machine of the fleet.
pub fn router(fleet: Fleet) -> Router {
    Router::new().route("/instance/{number}/metrics", get(scrape)).with_state(fleet)
}

async fn scrape(State(fleet): State<Fleet>, Path(number): Path<u32>) -> Response {
    if number >= fleet.instances {
        return (StatusCode::NOT_FOUND, format!("there is no machine {number}\n")).into_response();
    }
    ([("content-type", "text/plain; version=0.0.4")], exposition(&fleet, number, crate::stand_in::now_ms()))
        .into_response()
}

/// The text of one scrape. `up`, `job` and `instance` are Prometheus' own to add.
fn exposition(fleet: &Fleet, number: u32, now_ms: i64) -> String {
    let mut families: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for series in fleet.series_of(number) {
        let name = series.labels.metric_name().to_owned();
        if name == "up" {
            continue;
        }
        let labels = series.labels.without(&["__name__", "instance", "job"]);
        let pairs: Vec<String> = labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
        families.entry(name.clone()).or_default().push(format!(
            "{name}{{{}}} {}",
            pairs.join(","),
            series.value_at(now_ms)
        ));
    }
    let mut text = String::new();
    let mut last = None;
    for (series_name, lines) in &families {
        let family = FAMILIES.iter().find(|(name, ..)| series_name.starts_with(name));
        if let Some((name, kind, help)) = family.filter(|_| family != last) {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            last = family;
        }
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_every_series_but_up() {
        let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 2, seed: 0 };
        let text = exposition(&fleet, 1, 1_000_000);
        assert!(text.contains("demo_capacity{} 200\n"), "{text}");
        assert!(text.contains("demo_requests_total{code=\"200\",method=\"get\"} "));
        assert!(!text.contains("up"));
        assert_eq!(text.matches("# TYPE demo_request_duration_seconds histogram\n").count(), 1);
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples, fleet.series_of(1).len() - 1);
        assert_eq!(text.lines().count(), samples + 2 * FAMILIES.len());
    }
}
