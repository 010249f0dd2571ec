//! The limits of one Series answer.

use futures::StreamExt;
use parallax_model::{Budget, BudgetLimits, OverQuota};
use parallax_storeapi::SeriesStream;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{Label, Series, SeriesResponse};

use crate::{Sidecar, SidecarConfig, SidecarError};

/// Used up as the answer passes.
pub(super) struct Limits {
    budget: Budget,
    last: Option<Vec<Label>>,
}

impl Limits {
    pub(super) fn of(sidecar: &Sidecar) -> Self {
        let SidecarConfig { max_series, max_samples, .. } = sidecar.config;
        let limits = BudgetLimits {
            series: max_series as u64,
            samples: max_samples as u64,
            ..BudgetLimits::default()
        };
        Self { budget: Budget::new(limits), last: None }
    }

    pub(super) fn are_none(&self) -> bool {
        self.budget.series.limit() == 0 && self.budget.samples.limit() == 0
    }

    /// Ends the stream with an error where a limit is passed.
    pub(super) fn apply(mut self, stream: SeriesStream) -> SeriesStream {
        if self.are_none() {
            return stream;
        }
        Box::pin(stream.scan(false, move |passed, frame| {
            if *passed {
                return std::future::ready(None);
            }
            let counted = match &frame {
                Ok(SeriesResponse { result: Some(Frame::Series(series)) }) => self.take(series),
                _ => Ok(()),
            };
            *passed = counted.is_err();
            std::future::ready(Some(counted.map_err(|error| error.to_status()).and(frame)))
        }))
    }

    /// Counts a series; parts of one count once.
    fn take(&mut self, series: &Series) -> Result<(), SidecarError> {
        let over = |over: OverQuota| {
            SidecarError::Limit(format!("the answer has more than {} {}", over.limit, over.what))
        };
        if self.last.as_ref() != Some(&series.labels) {
            self.budget.series.take(1).map_err(over)?;
            self.last = Some(series.labels.clone());
        }
        let data = series.chunks.iter().filter_map(|chunk| chunk.raw.as_ref()).map(|chunk| &chunk.data);
        let samples: usize = data.map(|data| parallax_tsdb::chunk::sample_count(data).unwrap_or(0)).sum();
        self.budget.samples.take(samples as u64).map_err(over)
    }
}
