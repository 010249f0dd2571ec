//! Prometheus' `/api/v1/rules`.

use parallax_model::Labels;
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::{
    Alert, AlertInstance, AlertState, PartialResponseStrategy, RecordingRule, Rule, RuleGroup,
};
use serde::Deserialize;

use super::Prometheus;
use super::json::{LabelMap, Moment};
use crate::SidecarError;

#[derive(Deserialize)]
struct GroupsAnswer {
    groups: Option<Vec<GroupAnswer>>,
}

/// What servers before 3.x do not say is zero.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupAnswer {
    name: String,
    #[serde(default)]
    file: String,
    rules: Option<Vec<RuleAnswer>>,
    #[serde(default)]
    interval: f64,
    #[serde(default)]
    limit: i64,
    #[serde(default)]
    evaluation_time: f64,
    #[serde(default)]
    last_evaluation: Moment,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum RuleAnswer {
    Alerting(AlertingAnswer),
    Recording(RecordingAnswer),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlertingAnswer {
    state: State,
    name: String,
    query: String,
    #[serde(default)]
    duration: f64,
    #[serde(default)]
    keep_firing_for: f64,
    #[serde(default)]
    labels: LabelMap,
    #[serde(default)]
    annotations: LabelMap,
    alerts: Option<Vec<AlertAnswer>>,
    #[serde(default)]
    health: String,
    #[serde(default)]
    last_error: String,
    #[serde(default)]
    evaluation_time: f64,
    #[serde(default)]
    last_evaluation: Moment,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordingAnswer {
    name: String,
    query: String,
    #[serde(default)]
    labels: LabelMap,
    #[serde(default)]
    health: String,
    #[serde(default)]
    last_error: String,
    #[serde(default)]
    evaluation_time: f64,
    #[serde(default)]
    last_evaluation: Moment,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlertAnswer {
    #[serde(default)]
    labels: LabelMap,
    #[serde(default)]
    annotations: LabelMap,
    state: State,
    active_at: Option<Moment>,
    #[serde(default)]
    value: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Unknown,
    Inactive,
    Pending,
    Firing,
}

impl From<State> for i32 {
    fn from(state: State) -> Self {
        match state {
            State::Unknown => AlertState::Unknown,
            State::Inactive => AlertState::Inactive,
            State::Pending => AlertState::Pending,
            State::Firing => AlertState::Firing,
        }
        .into()
    }
}

/// Prometheus knows no partial answers.
const STRATEGY: PartialResponseStrategy = PartialResponseStrategy::Abort;

impl Prometheus {
    /// The groups with the rules of `kind` (`alert` or `record`; all if that is empty), `external` labels on each rule and each active alert.
    pub async fn rules(&self, kind: &str, external: &Labels) -> Result<Vec<RuleGroup>, SidecarError> {
        let mut parameters = Vec::new();
        if !kind.is_empty() {
            parameters.push(("type", kind.to_owned()));
        }
        let answer: GroupsAnswer = self.get_json("/api/v1/rules", &parameters).await?;
        Ok(answer.groups.into_iter().flatten().map(|group| group.into_wire(external)).collect())
    }
}

impl GroupAnswer {
    fn into_wire(self, external: &Labels) -> RuleGroup {
        let rule = |rule: RuleAnswer| Rule { result: Some(rule.into_wire(external)) };
        RuleGroup {
            name: self.name,
            file: self.file,
            rules: self.rules.into_iter().flatten().map(rule).collect(),
            interval: self.interval,
            evaluation_duration_seconds: self.evaluation_time,
            last_evaluation: self.last_evaluation.0,
            partial_response_strategy: STRATEGY.into(),
            limit: self.limit,
        }
    }
}

impl RuleAnswer {
    fn into_wire(self, external: &Labels) -> Kind {
        match self {
            Self::Alerting(rule) => Kind::Alert(Alert {
                state: rule.state.into(),
                name: rule.name,
                query: rule.query,
                duration_seconds: rule.duration,
                labels: Some(rule.labels.with(external)),
                annotations: Some(rule.annotations.with(&Labels::empty())),
                alerts: rule.alerts.into_iter().flatten().map(|alert| alert.into_wire(external)).collect(),
                health: rule.health,
                last_error: rule.last_error,
                evaluation_duration_seconds: rule.evaluation_time,
                last_evaluation: rule.last_evaluation.0,
                keep_firing_for_seconds: rule.keep_firing_for,
            }),
            Self::Recording(rule) => Kind::Recording(RecordingRule {
                name: rule.name,
                query: rule.query,
                labels: Some(rule.labels.with(external)),
                health: rule.health,
                last_error: rule.last_error,
                evaluation_duration_seconds: rule.evaluation_time,
                last_evaluation: rule.last_evaluation.0,
            }),
        }
    }
}

impl AlertAnswer {
    fn into_wire(self, external: &Labels) -> AlertInstance {
        AlertInstance {
            labels: Some(self.labels.with(external)),
            annotations: Some(self.annotations.with(&Labels::empty())),
            state: self.state.into(),
            active_at: self.active_at.and_then(|moment| moment.0),
            value: self.value,
            partial_response_strategy: STRATEGY.into(),
        }
    }
}
