//! Prometheus' `/api/v1/query_exemplars`.

use parallax_model::{Labels, Matcher};
use parallax_storeapi::matchers::selector;
use parallax_storeapi::proto::thanos::{Exemplar, ExemplarData};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::json::LabelMap;
use super::{MetadataCall, Prometheus};
use crate::SidecarError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeriesAnswer {
    #[serde(default)]
    series_labels: LabelMap,
    exemplars: Option<Vec<ExemplarAnswer>>,
}

#[derive(Deserialize)]
struct ExemplarAnswer {
    #[serde(default)]
    labels: LabelMap,
    #[serde(deserialize_with = "number_in_text")]
    value: f64,
    /// Seconds since the epoch.
    timestamp: f64,
}

/// `NaN`, `+Inf` and `-Inf` among them.
fn number_in_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")))
}

impl Prometheus {
    /// Exemplars of the series that any of `selectors` selects, with `external` labels on the series.
    pub async fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
        external: &Labels,
    ) -> Result<Vec<ExemplarData>, SidecarError> {
        let terms: Vec<String> = selectors.iter().map(|matchers| selector(matchers)).collect();
        let range = MetadataCall { matchers: &[], min_time_ms: start_ms, max_time_ms: end_ms, limit: 0 };
        let mut parameters = vec![("query", terms.join(" or "))];
        parameters.extend(range.parameters());
        let answer: Option<Vec<SeriesAnswer>> =
            self.ask_json_or_null("/api/v1/query_exemplars", &parameters).await?;
        Ok(answer.into_iter().flatten().map(|series| series.into_wire(external)).collect())
    }
}

impl SeriesAnswer {
    fn into_wire(self, external: &Labels) -> ExemplarData {
        let exemplar = |one: ExemplarAnswer| Exemplar {
            labels: Some(one.labels.with(&Labels::empty())),
            value: one.value,
            // Saturates: no number is too large for this.
            ts: (one.timestamp * 1000.0).round() as i64,
        };
        ExemplarData {
            series_labels: Some(self.series_labels.with(external)),
            exemplars: self.exemplars.into_iter().flatten().map(exemplar).collect(),
        }
    }
}
