//! `/api/v1/rules` and `/api/v1/alerts`.
//!
//! Shapes are Prometheus'; `partialResponseStrategy` is Thanos'.

use std::sync::Arc;

use axum::extract::State;
use parallax_model::Labels;
use parallax_storeapi::SideService;
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::rules_request::Type;
use parallax_storeapi::proto::thanos::{
    Alert, AlertInstance, AlertState, PartialResponseStrategy, RecordingRule, Rule, RuleGroup, RulesRequest,
};
use serde::Serialize;

use super::Api;
use super::params::Params;
use super::respond::{ApiError, Finished};
use super::side::{SideQuestion, answer, shown_time};
use crate::side::rules::{Filter, merge, shown};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownGroups<'a> {
    groups: Vec<ShownGroup<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_next_token: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownGroup<'a> {
    name: &'a str,
    file: &'a str,
    rules: Vec<ShownRule<'a>>,
    interval: f64,
    limit: i64,
    evaluation_time: f64,
    last_evaluation: String,
    partial_response_strategy: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ShownRule<'a> {
    Alerting(ShownAlertingRule<'a>),
    Recording(ShownRecordingRule<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownAlertingRule<'a> {
    state: &'static str,
    name: &'a str,
    query: &'a str,
    duration: f64,
    keep_firing_for: f64,
    labels: Labels,
    annotations: Labels,
    alerts: Vec<ShownAlert<'a>>,
    health: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_error: &'a str,
    evaluation_time: f64,
    last_evaluation: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownRecordingRule<'a> {
    name: &'a str,
    query: &'a str,
    labels: Labels,
    health: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_error: &'a str,
    evaluation_time: f64,
    last_evaluation: String,
}

#[derive(Serialize)]
struct ShownAlerts<'a> {
    alerts: Vec<ShownAlert<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownAlert<'a> {
    labels: Labels,
    annotations: Labels,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_at: Option<String>,
    value: &'a str,
    partial_response_strategy: &'static str,
}

pub(super) async fn rules(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let kind = match params.get("type").unwrap_or_default().to_ascii_lowercase().as_str() {
        "" => Type::All,
        "alert" => Type::Alert,
        "record" => Type::Record,
        other => return Err(ApiError::bad_parameter("type", format!("not supported value {other:?}"))),
    };
    let page = Page::new(&params)?;
    let with_alerts = !params.bool("exclude_alerts", false)?;
    let question = SideQuestion::new(&api, &params, SideService::Rules)?;
    let (groups, warnings) = asked(&params, &question, kind).await?;
    let (groups, group_next_token) = page.of(&groups)?;
    let groups = groups.iter().map(|group| ShownGroup::new(group, with_alerts)).collect();
    answer(&ShownGroups { groups, group_next_token }, &warnings, question.covered(&api))
}

pub(super) async fn alerts(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let question = SideQuestion::new(&api, &params, SideService::Rules)?;
    let (groups, warnings) = asked(&params, &question, Type::Alert).await?;
    let mut alerts = Vec::new();
    for rule in groups.iter().flat_map(|group| &group.rules) {
        if let Some(Kind::Alert(alert)) = &rule.result {
            alerts.extend(alert.alerts.iter().map(ShownAlert::new));
        }
    }
    answer(&ShownAlerts { alerts }, &warnings, question.covered(&api))
}

/// The groups that a request asks for, merged.
async fn asked(
    params: &Params,
    question: &SideQuestion,
    kind: Type,
) -> Result<(Vec<RuleGroup>, Vec<String>), ApiError> {
    let all = |name| params.all(name).map(str::to_owned).collect();
    let request = RulesRequest {
        r#type: kind.into(),
        partial_response_strategy: question.strategy(),
        matcher_string: all("match[]"),
        rule_name: all("rule_name[]"),
        rule_group: all("rule_group[]"),
        file: all("file[]"),
    };
    let filter = Filter::new(&request).map_err(|error| ApiError::bad_parameter("match[]", error))?;
    let (groups, warnings) = question.ask(request.clone()).await?;
    let groups = groups.into_iter().filter_map(|group| filter.keep(group)).collect();
    Ok((merge(groups, &question.replica_labels), warnings))
}

/// Which groups are wanted: `group_limit` of them, from the one that `group_next_token` names.
struct Page {
    limit: Option<usize>,
    token: Option<String>,
}

impl Page {
    fn new(params: &Params) -> Result<Self, ApiError> {
        let limit = match params.get("group_limit") {
            None => None,
            Some(text) => match text.parse::<usize>() {
                Ok(limit) if limit > 0 => Some(limit),
                _ => {
                    let reason = "group_limit needs to be a valid number and greater than 0";
                    return Err(ApiError::bad_parameter("group_limit", reason));
                }
            },
        };
        let token = params.get("group_next_token").map(str::to_owned);
        if token.is_some() && limit.is_none() {
            let reason = "group_limit needs to be present in order to paginate over the groups";
            return Err(ApiError::bad_parameter("group_next_token", reason));
        }
        Ok(Self { limit, token })
    }

    /// The page's groups, and the token of the next page if there is one.
    fn of<'a>(&self, groups: &'a [RuleGroup]) -> Result<(&'a [RuleGroup], Option<String>), ApiError> {
        let first = match &self.token {
            None => 0,
            Some(wanted) => groups.iter().position(|group| token_of(group) == *wanted).ok_or_else(|| {
                let reason = format!("invalid group_next_token '{wanted}'. were rule groups changed?");
                ApiError::bad_parameter("group_next_token", reason)
            })?,
        };
        let from = groups.get(first..).unwrap_or_default();
        match self.limit.and_then(|limit| from.split_at_checked(limit)) {
            Some((page, rest)) => Ok((page, rest.first().map(token_of))),
            None => Ok((from, None)),
        }
    }
}

/// File and name in hexadecimal digits: to a client, a token means nothing.
fn token_of(group: &RuleGroup) -> String {
    let text = format!("{};{}", group.file, group.name);
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

impl<'a> ShownGroup<'a> {
    fn new(group: &'a RuleGroup, with_alerts: bool) -> Self {
        Self {
            name: &group.name,
            file: &group.file,
            rules: group.rules.iter().filter_map(|rule| ShownRule::new(rule, with_alerts)).collect(),
            interval: group.interval,
            limit: group.limit,
            evaluation_time: group.evaluation_duration_seconds,
            last_evaluation: shown_time(&group.last_evaluation),
            partial_response_strategy: shown_strategy(group.partial_response_strategy),
        }
    }
}

impl<'a> ShownRule<'a> {
    fn new(rule: &'a Rule, with_alerts: bool) -> Option<Self> {
        Some(match rule.result.as_ref()? {
            Kind::Alert(alert) => Self::Alerting(ShownAlertingRule::new(alert, with_alerts)),
            Kind::Recording(recording) => Self::Recording(ShownRecordingRule::new(recording)),
        })
    }
}

impl<'a> ShownAlertingRule<'a> {
    fn new(alert: &'a Alert, with_alerts: bool) -> Self {
        Self {
            state: shown_state(alert.state),
            name: &alert.name,
            query: &alert.query,
            duration: alert.duration_seconds,
            keep_firing_for: alert.keep_firing_for_seconds,
            labels: shown(&alert.labels),
            annotations: shown(&alert.annotations),
            alerts: if with_alerts { alert.alerts.iter().map(ShownAlert::new).collect() } else { Vec::new() },
            health: &alert.health,
            last_error: &alert.last_error,
            evaluation_time: alert.evaluation_duration_seconds,
            last_evaluation: shown_time(&alert.last_evaluation),
        }
    }
}

impl<'a> ShownRecordingRule<'a> {
    fn new(recording: &'a RecordingRule) -> Self {
        Self {
            name: &recording.name,
            query: &recording.query,
            labels: shown(&recording.labels),
            health: &recording.health,
            last_error: &recording.last_error,
            evaluation_time: recording.evaluation_duration_seconds,
            last_evaluation: shown_time(&recording.last_evaluation),
        }
    }
}

impl<'a> ShownAlert<'a> {
    fn new(alert: &'a AlertInstance) -> Self {
        Self {
            labels: shown(&alert.labels),
            annotations: shown(&alert.annotations),
            state: shown_state(alert.state),
            active_at: alert.active_at.is_some().then(|| shown_time(&alert.active_at)),
            value: &alert.value,
            partial_response_strategy: shown_strategy(alert.partial_response_strategy),
        }
    }
}

fn shown_state(state: i32) -> &'static str {
    match AlertState::try_from(state) {
        Ok(AlertState::Inactive) => "inactive",
        Ok(AlertState::Pending) => "pending",
        Ok(AlertState::Firing) => "firing",
        Ok(AlertState::Unknown) | Err(_) => "unknown",
    }
}

fn shown_strategy(strategy: i32) -> &'static str {
    PartialResponseStrategy::try_from(strategy).unwrap_or_default().as_str_name()
}
