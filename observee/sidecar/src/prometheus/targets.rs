//! Prometheus' `/api/v1/targets`.

use parallax_model::Labels;
use parallax_storeapi::proto::thanos::{ActiveTarget, DroppedTarget, TargetHealth};
use serde::Deserialize;

use super::Prometheus;
use super::json::{LabelMap, Moment};
use crate::SidecarError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetsAnswer {
    active_targets: Option<Vec<ActiveAnswer>>,
    dropped_targets: Option<Vec<DroppedAnswer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActiveAnswer {
    #[serde(default)]
    discovered_labels: LabelMap,
    #[serde(default)]
    labels: LabelMap,
    #[serde(default)]
    scrape_pool: String,
    scrape_url: String,
    #[serde(default)]
    global_url: String,
    #[serde(default)]
    last_error: String,
    #[serde(default)]
    last_scrape: Moment,
    #[serde(default)]
    last_scrape_duration: f64,
    health: Health,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DroppedAnswer {
    #[serde(default)]
    discovered_labels: LabelMap,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Up,
    Down,
    Unknown,
}

impl Prometheus {
    /// Targets in `state` (`active` or `dropped`; any if that is empty), with `external` labels among the discovered ones and those of the series.
    pub async fn targets(
        &self,
        state: &str,
        external: &Labels,
    ) -> Result<(Vec<ActiveTarget>, Vec<DroppedTarget>), SidecarError> {
        let mut parameters = Vec::new();
        if !state.is_empty() {
            parameters.push(("state", state.to_owned()));
        }
        let answer: TargetsAnswer = self.get_json("/api/v1/targets", &parameters).await?;
        let active = answer.active_targets.into_iter().flatten();
        let dropped = answer.dropped_targets.into_iter().flatten();
        Ok((
            active.map(|target| target.into_wire(external)).collect(),
            dropped
                .map(|target| DroppedTarget {
                    discovered_labels: Some(target.discovered_labels.with(external)),
                })
                .collect(),
        ))
    }
}

impl ActiveAnswer {
    fn into_wire(self, external: &Labels) -> ActiveTarget {
        let health = match self.health {
            Health::Up => TargetHealth::Up,
            Health::Down => TargetHealth::Down,
            Health::Unknown => TargetHealth::Unknown,
        };
        ActiveTarget {
            discovered_labels: Some(self.discovered_labels.with(external)),
            labels: Some(self.labels.with(external)),
            scrape_pool: self.scrape_pool,
            scrape_url: self.scrape_url,
            global_url: self.global_url,
            last_error: self.last_error,
            last_scrape: self.last_scrape.0,
            last_scrape_duration: self.last_scrape_duration,
            health: health.into(),
        }
    }
}
