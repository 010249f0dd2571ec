//! Prometheus' `/api/v1/metadata`.

use std::collections::BTreeMap;

use parallax_storeapi::proto::thanos::Meta;
use serde::Deserialize;

use super::Prometheus;
use crate::SidecarError;

/// `unit` came with Prometheus 2.4; what else an answer has is not looked at.
#[derive(Deserialize)]
struct MetaAnswer {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    help: String,
    #[serde(default)]
    unit: String,
}

impl Prometheus {
    /// Type, help and unit by the name of the metric; of all metrics if `metric` is empty. A negative limit is none.
    pub async fn metric_metadata(
        &self,
        metric: &str,
        limit: i32,
    ) -> Result<BTreeMap<String, Vec<Meta>>, SidecarError> {
        let mut parameters = Vec::new();
        if !metric.is_empty() {
            parameters.push(("metric", metric.to_owned()));
        }
        if limit >= 0 {
            parameters.push(("limit", limit.to_string()));
        }
        let answer: BTreeMap<String, Vec<MetaAnswer>> =
            self.get_json("/api/v1/metadata", &parameters).await?;
        let meta = |MetaAnswer { kind, help, unit }| Meta { r#type: kind, help, unit };
        Ok(answer.into_iter().map(|(name, metas)| (name, metas.into_iter().map(meta).collect())).collect())
    }
}
