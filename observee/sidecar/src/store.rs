//! The StoreAPI over one Prometheus.
//!
//! Matchers on external labels are checked here and never reach Prometheus; what remains goes out as one remote read,
//! whose series get the external labels as they pass. Only series whose order the external labels disturb are held.
//!
//! `call` is one Series call, in both of its forms; `passing` the way of those that need not be taken apart.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use parallax_model::{Matcher, TimeRange};
use parallax_storeapi::encoded::{self, WireStream};
use parallax_storeapi::proto::thanos::info::{
    ExemplarsInfo, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, StoreInfo, TargetsInfo, TsdbInfo,
};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, SideServices, Store, deadline_of, frames, labels, matchers};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Status};

use crate::prometheus::MetadataCall;
use crate::state::State;
use crate::{Sidecar, SidecarConfig, SidecarError};

mod call;
mod limits;

/// What Info calls this component.
const COMPONENT: &str = "sidecar";

/// What of a call concerns Prometheus.
enum Scope {
    /// It cannot have anything that was asked for.
    Nothing,
    Ask {
        matchers: Vec<Matcher>,
        range: TimeRange,
        state: State,
    },
}

impl Sidecar {
    pub(crate) fn known(&self) -> Result<State, Status> {
        self.state.borrow().clone().ok_or_else(|| {
            let waiting = || format!("prometheus {} was not ready yet", self.prometheus.url());
            let cause = self.failure.borrow().clone().unwrap_or_else(waiting);
            Status::unavailable(format!("sidecar: {cause}"))
        })
    }

    /// Cuts a call down to what Prometheus has.
    fn scope(&self, all: &[Matcher], min_time_ms: i64, max_time_ms: i64) -> Result<Scope, Status> {
        let state = self.known()?;
        let range = TimeRange::new(min_time_ms, max_time_ms).intersect(&state.range);
        let Some(matchers) = matchers::without_external(all, &state.external_labels) else {
            return Ok(Scope::Nothing);
        };
        if range.is_empty() {
            return Ok(Scope::Nothing);
        }
        Ok(Scope::Ask { matchers, range, state })
    }

    /// A place among the reads at once. The wait is bounded: who opens several streams before reading any may wait for itself.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit, SidecarError> {
        let SidecarConfig { max_concurrent_reads, max_read_wait, .. } = self.config;
        match tokio::time::timeout(max_read_wait, Arc::clone(&self.reads).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(SidecarError::Busy {
                url: self.prometheus.url().to_owned(),
                reads: max_concurrent_reads,
                waited_seconds: max_read_wait.as_secs_f64(),
            }),
        }
    }

    /// The outcome of `work` before `deadline`; what fails is counted and logged.
    pub(crate) async fn within<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = Result<T, SidecarError>>,
    ) -> Result<T, Status> {
        let done = match deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
                Ok(done) => done,
                Err(_) => return Err(self.troubles.late(self.prometheus.url())),
            },
        };
        done.map_err(|error| self.troubles.report(&error))
    }
}

#[async_trait]
impl Store for Sidecar {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let state = self.known()?;
        let set = labels::set_to_wire(&state.external_labels);
        let (min_time, max_time) = (state.range.min_ms, state.range.max_ms);
        Ok(InfoResponse {
            label_sets: vec![set.clone()],
            component_type: COMPONENT.to_owned(),
            store: Some(StoreInfo {
                min_time,
                max_time,
                supports_sharding: true,
                supports_without_replica_labels: true,
                tsdb_infos: vec![TsdbInfo { labels: Some(set), min_time, max_time }],
                ..StoreInfo::default()
            }),
            metric_metadata: Some(MetricMetadataInfo {}),
            rules: Some(RulesInfo {}),
            targets: Some(TargetsInfo {}),
            exemplars: Some(ExemplarsInfo { min_time, max_time }),
            status: Some(StatusInfo {}),
            query: None,
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        match self.series_call(request)? {
            None => Ok(frames::from_vec(Vec::new())),
            Some(call) => call.answer().await,
        }
    }

    async fn series_encoded(&self, request: Request<SeriesRequest>) -> Result<WireStream, Status> {
        match self.series_call(request)? {
            None => Ok(encoded::from_decoded(frames::from_vec(Vec::new()))),
            Some(call) => call.answer_encoded().await,
        }
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let all = matchers::from_wire(&request.matchers)?;
        let Scope::Ask { matchers, range, state } = self.scope(&all, request.start, request.end)? else {
            return Ok(LabelNamesResponse::default());
        };
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let call =
            MetadataCall { matchers: &matchers, min_time_ms: range.min_ms, max_time_ms: range.max_ms, limit };
        let found = self.within(deadline, self.prometheus.label_names(&call)).await?;
        let mut names: Vec<String> = found;
        // External labels stand on every series there is.
        if !names.is_empty() || matchers.is_empty() {
            names.extend(state.external_labels.iter().map(|(name, _)| name.to_owned()));
        }
        names.retain(|name| !request.without_replica_labels.contains(name));
        Ok(LabelNamesResponse { names: sorted(names, limit), ..LabelNamesResponse::default() })
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        if request.label.is_empty() {
            return Err(Status::invalid_argument("label values: the label's name is empty"));
        }
        let all = matchers::from_wire(&request.matchers)?;
        let scope = self.scope(&all, request.start, request.end)?;
        let Scope::Ask { matchers, range, state } = scope else { return Ok(LabelValuesResponse::default()) };
        if request.without_replica_labels.contains(&request.label) {
            return Ok(LabelValuesResponse::default());
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let call =
            MetadataCall { matchers: &matchers, min_time_ms: range.min_ms, max_time_ms: range.max_ms, limit };
        let values = match state.external_labels.get(&request.label) {
            None => self.within(deadline, self.prometheus.label_values(&request.label, &call)).await?,
            Some(value) if matchers.is_empty() => vec![value.to_owned()],
            Some(value) => {
                // Only if there is a series that matches does the external label have a value.
                let one = MetadataCall { limit: 1, ..call };
                let found = self.within(deadline, self.prometheus.series(&one)).await?;
                if found.is_empty() { Vec::new() } else { vec![value.to_owned()] }
            }
        };
        Ok(LabelValuesResponse { values: sorted(values, limit), ..LabelValuesResponse::default() })
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

fn sorted(mut texts: Vec<String>, limit: usize) -> Vec<String> {
    texts.sort_unstable();
    texts.dedup();
    if limit > 0 {
        texts.truncate(limit);
    }
    texts
}
