//! `/api/v1/targets`.
//!
//! What Thanos' wire has no place for is not shown: intervals and timeouts of scrapes, pools and counts of dropped targets.

use std::sync::Arc;

use axum::extract::State;
use parallax_model::Labels;
use parallax_storeapi::SideService;
use parallax_storeapi::proto::thanos::targets_request::State as Wanted;
use parallax_storeapi::proto::thanos::{ActiveTarget, DroppedTarget, TargetHealth, TargetsRequest};
use serde::Serialize;

use super::Api;
use super::params::Params;
use super::respond::{ApiError, Finished};
use super::side::{SideQuestion, answer, shown_time};
use crate::side::rules::shown;
use crate::side::targets::merge;

/// The discovered label that a scrape pool's name is in.
const POOL_LABEL: &str = "job";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownTargets<'a> {
    active_targets: Vec<ShownTarget<'a>>,
    dropped_targets: Vec<ShownDropped>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownTarget<'a> {
    discovered_labels: Labels,
    labels: Labels,
    scrape_pool: &'a str,
    scrape_url: &'a str,
    global_url: &'a str,
    last_error: &'a str,
    last_scrape: String,
    last_scrape_duration: f64,
    health: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownDropped {
    discovered_labels: Labels,
}

pub(super) async fn targets(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let wanted = match params.get("state").unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "any" => Wanted::Any,
        "active" => Wanted::Active,
        "dropped" => Wanted::Dropped,
        other => return Err(ApiError::bad_parameter("state", format!("not supported value {other:?}"))),
    };
    let question = SideQuestion::new(&api, &params, SideService::Targets)?;
    let request = TargetsRequest { state: wanted.into(), partial_response_strategy: question.strategy() };
    let (parts, warnings) = question.ask(request).await?;
    let mut all = merge(parts, &question.replica_labels);
    if let Some(pool) = params.get("scrapePool") {
        all.active_targets.retain(|target| target.scrape_pool == pool);
        all.dropped_targets.retain(|target| shown(&target.discovered_labels).get(POOL_LABEL) == Some(pool));
    }
    let shown = ShownTargets {
        active_targets: match wanted {
            Wanted::Dropped => Vec::new(),
            _ => all.active_targets.iter().map(ShownTarget::new).collect(),
        },
        dropped_targets: match wanted {
            Wanted::Active => Vec::new(),
            _ => all.dropped_targets.iter().map(ShownDropped::new).collect(),
        },
    };
    answer(&shown, &warnings, question.covered(&api))
}

impl<'a> ShownTarget<'a> {
    fn new(target: &'a ActiveTarget) -> Self {
        Self {
            discovered_labels: shown(&target.discovered_labels),
            labels: shown(&target.labels),
            scrape_pool: &target.scrape_pool,
            scrape_url: &target.scrape_url,
            global_url: &target.global_url,
            last_error: &target.last_error,
            last_scrape: shown_time(&target.last_scrape),
            last_scrape_duration: target.last_scrape_duration,
            health: match TargetHealth::try_from(target.health) {
                Ok(TargetHealth::Down) => "down",
                Ok(TargetHealth::Up) => "up",
                Ok(TargetHealth::Unknown) | Err(_) => "unknown",
            },
        }
    }
}

impl ShownDropped {
    fn new(target: &DroppedTarget) -> Self {
        Self { discovered_labels: shown(&target.discovered_labels) }
    }
}
