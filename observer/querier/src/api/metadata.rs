//! `/api/v1/series`, `/api/v1/labels` and `/api/v1/label/<name>/values`.
//!
//! As in Thanos, only `series` deduplicates: replica labels are among the names and values of labels.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use futures::StreamExt;
use futures::future::try_join_all;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_promql::source::SourceError;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use parallax_storeapi::{Store, with_deadline};
use tonic::Request;

use super::Api;
use super::json::{write_labels, write_list, write_strings};
use super::names::unescape_label_name;
use super::params::{ALL_TIME, Params};
use super::respond::{ApiError, ErrorKind, Finished, Success};
use crate::coverage::CoverageLog;
use crate::query::Slot;
use crate::select::{Budget, Held, StoreMatchers, labels_of, source_error, strategy, wire_matchers};

/// Most selectors in one request: each is a fan-out.
const MAX_SELECTORS: usize = 64;

/// What the three endpoints have in common.
struct Question {
    /// As whoever asks sees it.
    store: Arc<dyn Store>,
    selectors: Vec<Vec<Matcher>>,
    range: TimeRange,
    partial_response: bool,
    store_matchers: Vec<Vec<Matcher>>,
    limit: usize,
    deadline: Instant,
    /// Of all the selectors together.
    budget: Arc<Budget>,
    coverage: CoverageLog,
    /// Held as long as the question is open: it is as much work for the stores as a query.
    _slot: Slot,
}

impl Question {
    /// Waits for a slot, once the parameters are found to be good.
    async fn new(api: &Api, params: &Params) -> Result<Self, ApiError> {
        let limit = params.limit()?;
        let range = time_range(api, params)?;
        let selectors = params.selectors("match[]")?;
        if selectors.len() > MAX_SELECTORS {
            return Err(ApiError::new(
                ErrorKind::BadData,
                format!("more than {MAX_SELECTORS} match[] parameters in one request"),
            ));
        }
        if selectors.iter().any(|matchers| matchers.iter().all(Matcher::matches_empty)) {
            return Err(ApiError::bad_parameter(
                "match[]",
                "match[] must contain at least one non-empty matcher",
            ));
        }
        let deadline = api.runner.deadline(params.positive_duration("timeout")?);
        let partial_response = params.bool("partial_response", api.options.partial_response)?;
        let store_matchers = params.selectors("storeMatch[]")?;
        Ok(Self {
            store: api.store(&params.caller),
            selectors,
            range,
            partial_response,
            store_matchers,
            limit,
            deadline: api.runner.store_deadline(deadline),
            budget: Budget::new(api.runner.limits().max_held_bytes),
            coverage: CoverageLog::default(),
            _slot: api.runner.slot(deadline).await?,
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = with_deadline(message, Some(self.deadline));
        request.extensions_mut().insert(Arc::clone(&self.budget));
        request.extensions_mut().insert(self.coverage.entry());
        if !self.store_matchers.is_empty() {
            request.extensions_mut().insert(StoreMatchers(self.store_matchers.clone()));
        }
        request
    }

    /// One more than is wanted, so that it shows whether there is more.
    fn wire_limit(&self) -> i64 {
        if self.limit == 0 { 0 } else { i64::try_from(self.limit).map_or(0, |limit| limit.saturating_add(1)) }
    }

    /// The selectors, or one that selects everything.
    fn selectors_or_all(&self) -> Vec<&[Matcher]> {
        if self.selectors.is_empty() { vec![&[]] } else { self.selectors.iter().map(Vec::as_slice).collect() }
    }

    /// Waits for `answer`, for as long as the question may take.
    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        match tokio::time::timeout_at(self.deadline.into(), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(SourceError::Timeout { waiting_for: "stores".to_owned() }.into()),
        }
    }
}

fn time_range(api: &Api, params: &Params) -> Result<TimeRange, ApiError> {
    let span = api.options.default_metadata_range;
    let default = if span.is_zero() {
        ALL_TIME
    } else {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        TimeRange::new(now_ms.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)), now_ms)
    };
    let range = TimeRange::new(
        params.time("start")?.unwrap_or(default.min_ms),
        params.time("end")?.unwrap_or(default.max_ms),
    );
    if range.is_empty() {
        return Err(ApiError::new(ErrorKind::BadData, "end timestamp must not be before start time"));
    }
    Ok(range)
}

pub(super) async fn label_names(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let question = Question::new(&api, &params).await?;
    let asked = question.selectors_or_all().into_iter().map(|matchers| {
        question.store.label_names(question.request(LabelNamesRequest {
            partial_response_disabled: !question.partial_response,
            partial_response_strategy: strategy(question.partial_response).into(),
            start: question.range.min_ms,
            end: question.range.max_ms,
            matchers: wire_matchers(matchers),
            limit: question.wire_limit(),
            ..LabelNamesRequest::default()
        }))
    });
    let answers = question.in_time(async { try_join_all(asked).await.map_err(to_api_error) }).await?;
    Ok(texts(&api, &question, answers.into_iter().map(|answer| (answer.names, answer.warnings))))
}

pub(super) async fn label_values(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Finished, ApiError> {
    let name = unescape_label_name(&name);
    let question = Question::new(&api, &params).await?;
    let asked = question.selectors_or_all().into_iter().map(|matchers| {
        question.store.label_values(question.request(LabelValuesRequest {
            label: name.clone(),
            partial_response_disabled: !question.partial_response,
            partial_response_strategy: strategy(question.partial_response).into(),
            start: question.range.min_ms,
            end: question.range.max_ms,
            matchers: wire_matchers(matchers),
            limit: question.wire_limit(),
            ..LabelValuesRequest::default()
        }))
    });
    let answers = question.in_time(async { try_join_all(asked).await.map_err(to_api_error) }).await?;
    Ok(texts(&api, &question, answers.into_iter().map(|answer| (answer.values, answer.warnings))))
}

/// The sorted union of some answers.
fn texts(
    api: &Api,
    question: &Question,
    answers: impl Iterator<Item = (Vec<String>, Vec<String>)>,
) -> Finished {
    let mut union = BTreeSet::new();
    let mut warnings = Vec::new();
    for (texts, more) in answers {
        union.extend(texts);
        add_new(&mut warnings, more);
    }
    let wanted = cut(question, union.len(), &mut warnings);
    let mut success = Success::begin().covering(api.covered(&question.coverage));
    write_strings(success.data(), union.iter().take(wanted));
    success.finish(&warnings, &[], b"")
}

pub(super) async fn series(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::new(ErrorKind::BadData, "no match[] parameter provided"));
    }
    let question = Question::new(&api, &params).await?;
    let mut replica_labels: Vec<String> = params.all("replicaLabels[]").map(str::to_owned).collect();
    if replica_labels.is_empty() {
        replica_labels.clone_from(&api.options.replica_labels);
    }
    if !params.bool("dedup", true)? {
        replica_labels.clear();
    }
    let asked = question.selectors.iter().map(|matchers| series_of(&question, matchers, &replica_labels));
    let mut union = BTreeSet::new();
    let mut warnings = Vec::new();
    let mut held = Vec::new();
    for found in try_join_all(asked).await? {
        union.extend(found.labels);
        add_new(&mut warnings, found.warnings);
        held.push(found.held);
    }
    let wanted = cut(&question, union.len(), &mut warnings);
    let mut success = Success::begin().covering(api.covered(&question.coverage));
    write_list(success.data(), union.iter().take(wanted), write_labels);
    Ok(success.finish(&warnings, &[], b""))
}

/// What one selector found.
#[derive(Default)]
struct Found {
    labels: BTreeSet<Labels>,
    warnings: Vec<String>,
    /// What the labels take of the question's budget.
    held: Vec<Held>,
}

/// The label sets that `matchers` select, and the stores' warnings.
async fn series_of(
    question: &Question,
    matchers: &[Matcher],
    replica_labels: &[String],
) -> Result<Found, ApiError> {
    let request = question.request(SeriesRequest {
        min_time: question.range.min_ms,
        max_time: question.range.max_ms,
        matchers: wire_matchers(matchers),
        partial_response_disabled: !question.partial_response,
        partial_response_strategy: strategy(question.partial_response).into(),
        skip_chunks: true,
        without_replica_labels: replica_labels.to_vec(),
        limit: question.wire_limit(),
        response_batch_size: 64,
        ..SeriesRequest::default()
    });
    let mut found = Found::default();
    let reading = async {
        let mut frames = question.store.series(request).await.map_err(to_api_error)?;
        while let Some(frame) = frames.next().await {
            let series = match frame.map_err(to_api_error)?.result {
                Some(Frame::Series(series)) => vec![series],
                Some(Frame::Batch(batch)) => batch.series,
                Some(Frame::Warning(warning)) => {
                    add_new(&mut found.warnings, vec![warning]);
                    continue;
                }
                Some(Frame::Hints(_)) | None => continue,
            };
            let mut new_bytes = 0_usize;
            for series in series {
                let labels = labels_of(&series.labels, replica_labels)?;
                let size_bytes = labels.size_bytes();
                if found.labels.insert(labels) {
                    new_bytes = new_bytes.saturating_add(size_bytes);
                }
            }
            found.held.push(question.budget.hold(new_bytes).map_err(SourceError::from)?);
        }
        Ok(())
    };
    match question.in_time(reading).await {
        Err(error) if error.kind == ErrorKind::Timeout && question.partial_response => {
            add_new(
                &mut found.warnings,
                vec!["stores did not finish within the time of this query: data may be missing".to_owned()],
            );
        }
        other => other?,
    }
    Ok(found)
}

fn to_api_error(status: tonic::Status) -> ApiError {
    source_error(status).into()
}

fn add_new(warnings: &mut Vec<String>, more: Vec<String>) {
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

/// How many of `found` are wanted; says so if that is not all.
fn cut(question: &Question, found: usize, warnings: &mut Vec<String>) -> usize {
    if question.limit == 0 || found <= question.limit {
        return found;
    }
    warnings.push("results truncated due to limit".to_owned());
    question.limit
}
