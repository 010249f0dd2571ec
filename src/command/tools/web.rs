//! `tools bucket web`: the blocks of a bucket as a page, and as Thanos' `/api/v1/blocks`.

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use parallax_block::Fetcher;
use parallax_bucket::{Access, Bucket};
use parallax_compactor::tools::{BlockRow, Inventory};
use parallax_net::Context;
use serde_json::{Value, json};

use super::{bucket, chosen_by, fetcher, now_ms, table};
use crate::flags::Values;
use crate::process::Failure;
use crate::serve;

/// No page shows more blocks; the API has all.
const MAX_ROWS: usize = 20_000;

/// What was read of the bucket last, and what went wrong since.
#[derive(Default)]
struct Shown {
    blocks: Vec<(Value, BlockRow)>,
    refreshed_ms: i64,
    error: Option<String>,
    label: String,
}

type Shared = Arc<RwLock<Shown>>;

pub async fn web(values: &Values, context: &Context) -> Result<(), Failure> {
    let interval = values.duration("refresh");
    if interval.is_zero() {
        return Err(Failure::usage(anyhow!("--refresh is 0")));
    }
    let bucket = bucket(values, Access::Read, context)?;
    let fetcher = fetcher(values, &bucket, context)?;
    let address = values.text("http-address").unwrap_or_default();
    let http = serve::bind_http(&address, values.path("http.config"), context).await?;
    let label = values.text("label").unwrap_or_default();
    let shared = Shared::new(RwLock::new(Shown { label, ..Shown::default() }));
    let router = Router::new()
        .route("/", get(page))
        .route("/blocks", get(page))
        .route("/api/v1/blocks", get(api))
        .with_state(Arc::clone(&shared));
    let condition = context.readiness.condition("bucket");
    let refreshing = async {
        let mut ready = Some(condition);
        loop {
            refresh(values, &bucket, &fetcher, &shared).await;
            if let Some(condition) = ready.take() {
                condition.ready();
            }
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        served = serve::serve_http(http, context, router) => served?,
        () = refreshing => {}
    }
    Ok(())
}

async fn refresh(values: &Values, bucket: &Bucket, fetcher: &Fetcher, shared: &Shared) {
    let timeout = values.duration("timeout").max(Duration::from_secs(1));
    let read = match tokio::time::timeout(timeout, chosen_by(fetcher, values, bucket)).await {
        Ok(Ok(found)) => metas(found),
        Ok(Err(failure)) => Err(failure.error),
        Err(_) => Err(anyhow!("the bucket was not read within {timeout:?}")),
    };
    let mut shown = shared.write().unwrap_or_else(PoisonError::into_inner);
    match read {
        Ok(blocks) => {
            (shown.blocks, shown.refreshed_ms, shown.error) = (blocks, now_ms(), None);
        }
        Err(error) => {
            tracing::warn!(%error, "the bucket was not read; what was read before is shown");
            shown.error = Some(format!("{error:#}"));
        }
    }
}

fn metas(found: Inventory) -> anyhow::Result<Vec<(Value, BlockRow)>> {
    let metas = found.blocks.into_values().map(|(meta, row)| {
        let json = meta.to_json().context("meta.json")?;
        Ok((serde_json::from_slice(&json)?, row))
    });
    metas.collect()
}

/// As Thanos answers.
async fn api(State(shared): State<Shared>) -> Response {
    let shown = shared.read().unwrap_or_else(PoisonError::into_inner);
    let blocks: Vec<&Value> = shown.blocks.iter().map(|(meta, _)| meta).collect();
    let data = json!({
        "label": shown.label, "blocks": blocks, "refreshedAt": table::time(shown.refreshed_ms), "err": shown.error,
    });
    axum::Json(json!({"status": "success", "data": data})).into_response()
}

async fn page(State(shared): State<Shared>) -> Html<String> {
    let shown = shared.read().unwrap_or_else(PoisonError::into_inner);
    Html(render(&shown))
}

/// One table for each value of the label, newest blocks first.
fn render(shown: &Shown) -> String {
    let mut text = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>Blocks</title><style>\
         body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}\
         td,th{border-bottom:1px solid #ccc;padding:.2em .6em;text-align:left}.error{color:#b00}</style><h1>Blocks</h1>",
    );
    // Writing to a text does not fail.
    let _ = write!(
        text,
        "<p>{} blocks, read at {}; as JSON: <a href=\"api/v1/blocks\">/api/v1/blocks</a></p>",
        shown.blocks.len(),
        escaped(&table::time(shown.refreshed_ms))
    );
    if let Some(error) = &shown.error {
        let _ = write!(text, "<p class=\"error\">{}</p>", escaped(error));
    }
    let group = |row: &BlockRow| row.labels.get(&shown.label).cloned().unwrap_or_default();
    let mut rows: Vec<&BlockRow> = shown.blocks.iter().map(|(_, row)| row).collect();
    rows.sort_by_key(|row| (group(row), std::cmp::Reverse(row.min_time_ms), row.ulid));
    for group_rows in
        rows.get(..rows.len().min(MAX_ROWS)).unwrap_or_default().chunk_by(|a, b| group(a) == group(b))
    {
        if let Some(first) = group_rows.first().filter(|_| !shown.label.is_empty()) {
            let _ = write!(text, "<h2>{}={}</h2>", escaped(&shown.label), escaped(&group(first)));
        }
        text.push_str(
            "<table><tr><th>Block<th>From<th>Until<th>Resolution<th>Level<th>Series<th>Samples<th>Labels<th>Source<th>Marks",
        );
        group_rows.iter().for_each(|row| render_row(row, &mut text));
        text.push_str("</table>");
    }
    if rows.len() > MAX_ROWS {
        let _ = write!(text, "<p>{} more blocks are not shown; the API has all.</p>", rows.len() - MAX_ROWS);
    }
    text
}

fn render_row(row: &BlockRow, text: &mut String) {
    let labels: Vec<String> = row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let marks: Vec<String> = row.marks.iter().map(|(kind, why)| format!("{kind} ({why})")).collect();
    let cells = [
        row.ulid.to_string(),
        table::time(row.min_time_ms),
        table::time(row.max_time_ms),
        table::duration(row.resolution_ms),
        row.level.to_string(),
        row.series.to_string(),
        row.samples.to_string(),
        labels.join(", "),
        row.source.clone(),
        marks.join(", "),
    ];
    text.push_str("<tr>");
    for cell in cells {
        let _ = write!(text, "<td>{}", escaped(&cell));
    }
}

/// For HTML text: labels may hold anything.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn blocks_are_grouped_by_a_label_and_labels_are_text() {
        let row = |cluster: &str, number: u32| BlockRow {
            ulid: format!("01{number:024}").parse().unwrap(),
            min_time_ms: i64::from(number),
            max_time_ms: i64::from(number) + 1,
            resolution_ms: 0,
            level: 1,
            failed: false,
            series: 1,
            samples: 1,
            chunks: 1,
            sources: 1,
            source: "test".to_owned(),
            labels: BTreeMap::from([("cluster".to_owned(), cluster.to_owned())]),
            marks: BTreeMap::new(),
        };
        let rows = [row("<b>", 1), row("a", 2), row("a", 3)];
        let shown = Shown {
            blocks: rows.map(|row| (Value::Null, row)).to_vec(),
            label: "cluster".to_owned(),
            ..Shown::default()
        };
        let page = render(&shown);
        assert_eq!(page.matches("<h2>").count(), 2);
        assert!(page.contains("cluster=&lt;b&gt;") && !page.contains("<b>"), "{page}");
        let newest_first = page.find(&format!("01{:024}", 3)) < page.find(&format!("01{:024}", 2));
        assert!(newest_first, "{page}");
    }
}
