//! `/api/v1/metadata`: type, help and unit of metrics.

use std::sync::Arc;

use axum::extract::State;
use parallax_storeapi::SideService;
use parallax_storeapi::proto::thanos::{Meta, MetricMetadataRequest};

use super::Api;
use super::json::{write_list, write_string};
use super::params::Params;
use super::respond::{ApiError, ErrorKind, Finished, Success};
use super::side::SideQuestion;
use crate::side::metadata;

/// As in Prometheus, a negative limit is none and a limit of 0 metrics leaves nothing, whereas one of 0 per metric is none.
pub(super) async fn metric_metadata(
    State(api): State<Arc<Api>>,
    params: Params,
) -> Result<Finished, ApiError> {
    let question = SideQuestion::new(&api, &params, SideService::Metadata)?;
    let limit = number(&params, "limit")?;
    let per_metric = number(&params, "limit_per_metric")?.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let request = MetricMetadataRequest {
        metric: params.get("metric").unwrap_or_default().to_owned(),
        limit: limit.map_or(-1, |limit| i32::try_from(limit).unwrap_or(i32::MAX)),
        partial_response_strategy: question.strategy(),
    };
    let (parts, warnings) = question.ask(request).await?;
    let merged = metadata::merge(parts);
    let mut success = Success::begin().covering(question.covered(&api));
    let data = success.data();
    data.push(b'{');
    for (index, (name, metas)) in merged.iter().take(limit.unwrap_or(usize::MAX)).enumerate() {
        if index > 0 {
            data.push(b',');
        }
        write_string(data, name);
        data.push(b':');
        write_list(data, metas.iter().take(per_metric), write_meta);
    }
    data.push(b'}');
    Ok(success.finish(&warnings, &[], b""))
}

/// A number of things; `None` if it is not given or negative.
fn number(params: &Params, name: &str) -> Result<Option<usize>, ApiError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let number: i64 =
        text.parse().map_err(|_| ApiError::new(ErrorKind::BadData, format!("{name} must be a number")))?;
    Ok(usize::try_from(number).ok())
}

fn write_meta(data: &mut Vec<u8>, meta: &Meta) {
    for (before, text) in
        [("{\"type\":", &meta.r#type), (",\"help\":", &meta.help), (",\"unit\":", &meta.unit)]
    {
        data.extend_from_slice(before.as_bytes());
        write_string(data, text);
    }
    data.push(b'}');
}
