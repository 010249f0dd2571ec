//! The services beside the StoreAPI as one caller sees them.
//!
//! Rules, alerts, targets and exemplars are judged by the labels that they carry, external ones included; what carries none of those that a policy asks for is left out. Metadata
//! is of metrics, which belong to nobody: kept is what is known of metrics that the caller has series of. Statistics are of whole TSDBs: a tenant gets those of its
//! own, and a caller with a label policy none. Queries are only passed to who puts the matchers into them.

use std::collections::BTreeSet;
use std::future::ready;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::StreamExt;
use tonic::{Request, Status};

use super::Held;
use crate::caller::Hold;
use crate::deadline::{deadline_of, with_deadline};
use crate::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use crate::proto::thanos::rule::Result as Kind;
use crate::proto::thanos::{
    ExemplarData, ExemplarsRequest, ExemplarsResponse, LabelValuesRequest, MetricMetadata,
    MetricMetadataRequest, MetricMetadataResponse, PartialResponseStrategy, QueryRangeRequest,
    QueryRangeResponse, QueryRequest, QueryResponse, Rule, RuleGroup, RulesRequest, RulesResponse,
    TargetDiscovery, TargetsRequest, TargetsResponse, TsdbStatistics, TsdbStatisticsRequest,
    TsdbStatisticsResponse,
};
use crate::{FrameStream, SideFrame, SideRequest, SideServices, Store};

/// How far back a metric has to have series for its metadata to be shown: metadata is of what is scraped now.
const METADATA_RANGE: Duration = Duration::from_secs(24 * 60 * 60);
/// What the series of one family are called beyond its own name.
const FAMILY_SUFFIXES: [&str; 6] = ["_bucket", "_count", "_sum", "_total", "_created", "_info"];

const NO_STATISTICS: &str =
    "statistics of TSDBs do not say whose they are: the caller's label policy leaves them out";

impl Held {
    /// The names of metrics that the caller has series of, and warnings about what could not be asked.
    async fn metrics<T>(
        &self,
        request: &Request<T>,
        strategy: i32,
    ) -> Result<(BTreeSet<String>, Vec<String>), Status> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let message = LabelValuesRequest {
            label: "__name__".to_owned(),
            partial_response_disabled: strategy == i32::from(PartialResponseStrategy::Abort),
            partial_response_strategy: strategy,
            start: millis(now.saturating_sub(METADATA_RANGE)),
            end: millis(now),
            ..LabelValuesRequest::default()
        };
        let answer = self.label_values(with_deadline(message, deadline_of(request))).await?;
        Ok((answer.values.into_iter().collect(), answer.warnings))
    }

    fn may_evaluate(&self) -> Result<(), Status> {
        if self.hold().is_everything() || self.store.side().evaluates_held() {
            return Ok(());
        }
        Err(Status::permission_denied(
            "rule of label policies: nobody here evaluates queries for a caller that may not read everything; ask for its series",
        ))
    }
}

fn has_series(names: &BTreeSet<String>, metric: &str) -> bool {
    names.contains(metric)
        || FAMILY_SUFFIXES.iter().any(|suffix| names.contains(&format!("{metric}{suffix}")))
}

/// What `keep` leaves of the items of an answer; warnings stay.
fn kept<R: SideRequest>(
    stream: FrameStream<R::Response>,
    mut keep: impl FnMut(R::Item) -> Option<R::Item> + Send + 'static,
) -> FrameStream<R::Response> {
    Box::pin(stream.filter_map(move |response| {
        ready(match response {
            Err(status) => Some(Err(status)),
            Ok(response) => match R::read(response) {
                Some(SideFrame::Item(item)) => keep(item).map(|item| Ok(R::frame(SideFrame::Item(item)))),
                Some(SideFrame::Warning(text)) => Some(Ok(R::frame(SideFrame::Warning(text)))),
                None => None,
            },
        })
    }))
}

fn warnings<R: SideRequest>(texts: Vec<String>) -> FrameStream<R::Response> {
    let frames: Vec<_> = texts.into_iter().map(|text| Ok(R::frame(SideFrame::Warning(text)))).collect();
    Box::pin(futures::stream::iter(frames))
}

fn keep_group(hold: &Hold, mut group: RuleGroup) -> Option<RuleGroup> {
    group.rules.retain_mut(|rule| keep_rule(hold, rule));
    (!group.rules.is_empty()).then_some(group)
}

fn keep_rule(hold: &Hold, rule: &mut Rule) -> bool {
    match &mut rule.result {
        None => false,
        Some(Kind::Recording(recording)) => hold.admits_set(recording.labels.as_ref()),
        Some(Kind::Alert(alert)) => {
            alert.alerts.retain(|instance| hold.admits_set(instance.labels.as_ref()));
            hold.admits_set(alert.labels.as_ref())
        }
    }
}

fn keep_targets(hold: &Hold, mut targets: TargetDiscovery) -> Option<TargetDiscovery> {
    targets.active_targets.retain(|target| hold.admits_set(target.labels.as_ref()));
    targets.dropped_targets.retain(|target| hold.admits_set(target.discovered_labels.as_ref()));
    (!targets.active_targets.is_empty() || !targets.dropped_targets.is_empty()).then_some(targets)
}

fn keep_exemplars(hold: &Hold, data: ExemplarData) -> Option<ExemplarData> {
    hold.admits_set(data.series_labels.as_ref()).then_some(data)
}

#[async_trait]
impl SideServices for Held {
    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        let mut request = self.signed(request);
        let asked = request.get_ref().clone();
        if self.hold().is_everything() || asked.limit == 0 {
            return self.store.side().metric_metadata(request).await;
        }
        let (names, texts) = self.metrics(&request, asked.partial_response_strategy).await?;
        // Some go here, so the limit is kept here, too.
        request.get_mut().limit = -1;
        let mut left = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        let keep = move |mut item: MetricMetadata| {
            item.metadata.retain(|metric, _| {
                let is_kept = left > 0 && has_series(&names, metric);
                left = left.saturating_sub(usize::from(is_kept));
                is_kept
            });
            (!item.metadata.is_empty()).then_some(item)
        };
        let stream = self.store.side().metric_metadata(request).await?;
        let rest = kept::<MetricMetadataRequest>(stream, keep);
        Ok(Box::pin(warnings::<MetricMetadataRequest>(texts).chain(rest)))
    }

    async fn rules(&self, request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        let stream = self.store.side().rules(self.signed(request)).await?;
        if self.hold().is_everything() {
            return Ok(stream);
        }
        let hold = self.hold().clone();
        Ok(kept::<RulesRequest>(stream, move |group| keep_group(&hold, group)))
    }

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<FrameStream<TargetsResponse>, Status> {
        let stream = self.store.side().targets(self.signed(request)).await?;
        if self.hold().is_everything() {
            return Ok(stream);
        }
        let hold = self.hold().clone();
        Ok(kept::<TargetsRequest>(stream, move |targets| keep_targets(&hold, targets)))
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        let stream = self.store.side().exemplars(self.signed(request)).await?;
        if self.hold().is_everything() {
            return Ok(stream);
        }
        let hold = self.hold().clone();
        Ok(kept::<ExemplarsRequest>(stream, move |data| keep_exemplars(&hold, data)))
    }

    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        let mut request = self.signed(request);
        if self.hold().is_everything() {
            return self.store.side().tsdb_statistics(request).await;
        }
        let Some(tenant) = self.hold().tenant().map(str::to_owned) else {
            return Ok(warnings::<TsdbStatisticsRequest>(vec![NO_STATISTICS.to_owned()]));
        };
        request.get_mut().tenant.clone_from(&tenant);
        let stream = self.store.side().tsdb_statistics(request).await?;
        Ok(kept::<TsdbStatisticsRequest>(stream, move |mut item: TsdbStatistics| {
            item.statistics.retain(|whose, _| *whose == tenant);
            (!item.statistics.is_empty()).then_some(item)
        }))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<FrameStream<QueryResponse>, Status> {
        self.may_evaluate()?;
        self.store.side().query(self.signed(request)).await
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        self.may_evaluate()?;
        self.store.side().query_range(self.signed(request)).await
    }

    fn evaluates_held(&self) -> bool {
        self.store.side().evaluates_held()
    }

    async fn shipping(&self, request: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        let mut answer = self.store.side().shipping(self.signed(request)).await?;
        if !self.hold().is_everything() {
            answer.shippers.retain(|one| one.labels.as_ref().is_some_and(|set| self.hold().may_know_of(set)));
        }
        Ok(answer)
    }
}
