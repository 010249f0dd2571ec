//! `/api/v1/query_exemplars`.

use std::sync::Arc;

use axum::extract::State;
use parallax_promql::selectors::selectors;
use parallax_storeapi::SideService;
use parallax_storeapi::proto::thanos::{Exemplar, ExemplarsRequest};

use super::Api;
use super::float::{write_float, write_seconds};
use super::json::{write_labels, write_list};
use super::params::{ALL_TIME, Params};
use super::respond::{ApiError, ErrorKind, Finished, Success};
use super::side::SideQuestion;
use crate::side::exemplars::merge;
use crate::side::rules::shown;

pub(super) async fn exemplars(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let start = params.time("start")?.unwrap_or(ALL_TIME.min_ms);
    let end = params.time("end")?.unwrap_or(ALL_TIME.max_ms);
    if end < start {
        let reason = "end timestamp must not be before start timestamp";
        return Err(ApiError::new(ErrorKind::BadData, reason));
    }
    let query = params.get("query").unwrap_or_default();
    let expr = parallax_promql::parse::parse(query, &api.options.parser)
        .map_err(|error| ApiError::new(ErrorKind::BadData, error.to_string()))?;
    let question = SideQuestion::new(&api, &params, SideService::Exemplars)?;
    let (parts, warnings) = if selectors(&expr).is_empty() {
        (Vec::new(), Vec::new())
    } else {
        let request = ExemplarsRequest {
            query: query.to_owned(),
            start,
            end,
            partial_response_strategy: question.strategy(),
        };
        question.ask(request).await?
    };
    let mut success = Success::begin().covering(question.covered(&api));
    write_list(success.data(), merge(parts, &question.replica_labels), |data, (series, exemplars)| {
        data.extend_from_slice(b"{\"seriesLabels\":");
        write_labels(data, &series);
        data.extend_from_slice(b",\"exemplars\":");
        write_list(data, &exemplars, write_exemplar);
        data.push(b'}');
    });
    Ok(success.finish(&warnings, &[], b""))
}

fn write_exemplar(data: &mut Vec<u8>, exemplar: &Exemplar) {
    data.extend_from_slice(b"{\"labels\":");
    write_labels(data, &shown(&exemplar.labels));
    data.extend_from_slice(b",\"value\":\"");
    write_float(data, exemplar.value);
    data.extend_from_slice(b"\",\"timestamp\":");
    write_seconds(data, exemplar.ts);
    data.push(b'}');
}
