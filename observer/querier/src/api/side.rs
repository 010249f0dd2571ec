//! What the endpoints over the small services have in common: parameters, deadline, and reading an answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use parallax_model::Matcher;
use parallax_promql::source::SourceError;
use parallax_storeapi::{SideFrame, SideRequest, SideService, Store, with_deadline};
use prost_types::Timestamp;
use serde::Serialize;
use tonic::{Code, Status};

use super::Api;
use super::coverage::Covered;
use super::params::Params;
use super::respond::{ApiError, ErrorKind, Finished, Success};
use crate::coverage::CoverageLog;
use crate::select::{StoreMatchers, source_error, strategy};

/// How to ask, whatever is asked.
pub(super) struct SideQuestion {
    /// As whoever asks sees it.
    store: Arc<dyn Store>,
    partial_response: bool,
    /// Empty if nothing is to be deduplicated.
    pub(super) replica_labels: Vec<String>,
    store_matchers: Vec<Vec<Matcher>>,
    deadline: Instant,
    coverage: CoverageLog,
}

impl SideQuestion {
    pub(super) fn new(api: &Api, params: &Params, service: SideService) -> Result<Self, ApiError> {
        let partial = !api.options.whole_side.contains(&service);
        let mut replica_labels: Vec<String> = params.all("replicaLabels[]").map(str::to_owned).collect();
        if replica_labels.is_empty() {
            replica_labels.clone_from(&api.options.replica_labels);
        }
        if !params.bool("dedup", true)? {
            replica_labels.clear();
        }
        let deadline = api.runner.deadline(params.positive_duration("timeout")?);
        Ok(Self {
            store: api.store(&params.caller),
            partial_response: params.bool("partial_response", partial)?,
            replica_labels,
            store_matchers: params.selectors("storeMatch[]")?,
            deadline: api.runner.store_deadline(deadline),
            coverage: CoverageLog::default(),
        })
    }

    /// What the answer is made of; counted.
    pub(super) fn covered(&self, api: &Api) -> Option<Covered> {
        api.covered(&self.coverage)
    }

    /// For a request's `partial_response_strategy`.
    pub(super) fn strategy(&self) -> i32 {
        strategy(self.partial_response).into()
    }

    /// What everybody answers, and what there is to warn of.
    pub(super) async fn ask<R: SideRequest>(
        &self,
        message: R,
    ) -> Result<(Vec<R::Item>, Vec<String>), ApiError> {
        let mut request = with_deadline(message, Some(self.deadline));
        request.extensions_mut().insert(self.coverage.entry());
        if !self.store_matchers.is_empty() {
            request.extensions_mut().insert(StoreMatchers(self.store_matchers.clone()));
        }
        let reading = async {
            let mut frames = R::ask(request, self.store.side()).await?;
            let (mut items, mut warnings, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
            while let Some(frame) = frames.next().await {
                match R::read(frame?) {
                    Some(SideFrame::Item(item)) => items.push(item),
                    Some(SideFrame::Warning(text)) if seen.insert(text.clone()) => warnings.push(text),
                    Some(SideFrame::Warning(_)) => {}
                    None => {}
                }
            }
            Ok((items, warnings))
        };
        match tokio::time::timeout_at(self.deadline.into(), reading).await {
            Ok(answer) => answer.map_err(to_api_error),
            Err(_) => Err(SourceError::Timeout { waiting_for: "stores".to_owned() }.into()),
        }
    }
}

fn to_api_error(status: Status) -> ApiError {
    match status.code() {
        Code::InvalidArgument => ApiError::new(ErrorKind::BadData, status.message()),
        _ => source_error(status).into(),
    }
}

/// An answer whose `data` is `data`.
pub(super) fn answer(
    data: &impl Serialize,
    warnings: &[String],
    coverage: Option<Covered>,
) -> Result<Finished, ApiError> {
    let mut success = Success::begin().covering(coverage);
    serde_json::to_writer(success.data(), data)
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("writing the answer: {error}")))?;
    Ok(success.finish(warnings, &[], b""))
}

/// As RFC 3339. What is not set, or not in the calendar, is Go's zero time.
pub(super) fn shown_time(time: &Option<Timestamp>) -> String {
    time.as_ref()
        .and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}
