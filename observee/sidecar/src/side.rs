//! The small services over one Prometheus: its own answers, with the external labels added to whatever has labels.
//!
//! A call holds one of the places that remote reads have, since each holds a whole answer, and is over with the deadline of its request. What is
//! large goes out in several messages.

use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::selectors::selectors;
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::rules_request::Type;
use parallax_storeapi::proto::thanos::targets_request::State;
use parallax_storeapi::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, MetricMetadata, MetricMetadataEntry, MetricMetadataRequest,
    MetricMetadataResponse, RulesRequest, RulesResponse, TargetDiscovery, TargetsRequest, TargetsResponse,
    TsdbStatistics, TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use parallax_storeapi::{
    FrameStream, SideFrame, SideRequest, SideServices, async_trait, deadline_of, matchers,
};
use tonic::{Request, Status};

use crate::shipper::now_ms;
use crate::{Sidecar, SidecarError};

/// Metrics in one message.
const MESSAGE_METRICS: usize = 1000;
/// Targets of each kind in one message.
const MESSAGE_TARGETS: usize = 1000;
/// Whoever was asked first decided which syntax is allowed.
const EVERY_SYNTAX: ParserOptions = ParserOptions { later_syntax: true, ..ParserOptions::all_features() };

impl Sidecar {
    /// Waits for a place, then for `work`, until the request's deadline.
    async fn ask<R: SideRequest, T>(
        &self,
        request: &Request<R>,
        work: impl Future<Output = Result<T, SidecarError>>,
    ) -> Result<T, Status> {
        let placed = async {
            let _place = self.permit().await?;
            work.await
        };
        self.within(deadline_of(request), placed).await
    }
}

/// `items` as a stream of frames.
fn frames<R: SideRequest>(items: Vec<R::Item>) -> FrameStream<R::Response> {
    let frames: Vec<_> = items.into_iter().map(|item| Ok(R::frame(SideFrame::Item(item)))).collect();
    Box::pin(futures::stream::iter(frames))
}

#[async_trait]
impl SideServices for Sidecar {
    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        let asked = request.get_ref();
        let found = self.ask(&request, self.prometheus.metric_metadata(&asked.metric, asked.limit)).await?;
        let mut found = found.into_iter().peekable();
        let mut messages = Vec::new();
        while found.peek().is_some() {
            let part = found.by_ref().take(MESSAGE_METRICS);
            let metadata = part.map(|(name, metas)| (name, MetricMetadataEntry { metas })).collect();
            messages.push(MetricMetadata { metadata });
        }
        Ok(frames::<MetricMetadataRequest>(messages))
    }

    async fn rules(&self, request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        let external = self.known()?.external_labels;
        let kind = match Type::try_from(request.get_ref().r#type) {
            Ok(Type::Alert) => "alert",
            Ok(Type::Record) => "record",
            Ok(Type::All) | Err(_) => "",
        };
        Ok(frames::<RulesRequest>(self.ask(&request, self.prometheus.rules(kind, &external)).await?))
    }

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<FrameStream<TargetsResponse>, Status> {
        let external = self.known()?.external_labels;
        let state = match State::try_from(request.get_ref().state) {
            Ok(State::Active) => "active",
            Ok(State::Dropped) => "dropped",
            Ok(State::Any) | Err(_) => "",
        };
        let (active, dropped) = self.ask(&request, self.prometheus.targets(state, &external)).await?;
        let (mut active, mut dropped) = (active.into_iter(), dropped.into_iter());
        let mut messages = Vec::new();
        while active.len() > 0 || dropped.len() > 0 {
            messages.push(TargetDiscovery {
                active_targets: active.by_ref().take(MESSAGE_TARGETS).collect(),
                dropped_targets: dropped.by_ref().take(MESSAGE_TARGETS).collect(),
            });
        }
        Ok(frames::<TargetsRequest>(messages))
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        let external = self.known()?.external_labels;
        let asked = request.get_ref();
        let expr = parse(&asked.query, &EVERY_SYNTAX)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wanted: Vec<_> = selectors(&expr)
            .iter()
            .filter_map(|selector| matchers::without_external(selector, &external))
            .collect();
        if wanted.is_empty() {
            return Ok(Box::pin(futures::stream::empty()));
        }
        let asking = self.prometheus.exemplars(&wanted, asked.start, asked.end, &external);
        Ok(frames::<ExemplarsRequest>(self.ask(&request, asking).await?))
    }

    /// Prometheus has one tenant, without a name.
    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        let external = self.known()?.external_labels;
        let asked = request.get_ref();
        let selector = matchers::from_wire(&asked.matchers)?;
        let Some(rest) = matchers::without_external(&selector, &external) else {
            return Ok(Box::pin(futures::stream::empty()));
        };
        if !asked.tenant.is_empty() {
            return Ok(Box::pin(futures::stream::empty()));
        }
        if let Some(matcher) = rest.first() {
            return Err(Status::invalid_argument(format!(
                "statistics of the TSDB can be chosen by external labels only, not by {matcher}"
            )));
        }
        let entry = self.ask(&request, self.prometheus.tsdb_status(asked.limit)).await?;
        let statistics = TsdbStatistics { statistics: [(String::new(), entry)].into() };
        Ok(frames::<TsdbStatisticsRequest>(vec![statistics]))
    }

    async fn shipping(&self, _: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        let (Some(shipping), Some(labels)) = (self.shipping(), self.external_labels()) else {
            return Ok(ShippingResponse { tsdb_infos_cover: true, ..ShippingResponse::default() });
        };
        let shippers = vec![shipping.to_wire(&labels, now_ms())];
        Ok(ShippingResponse { shippers, tsdb_infos_cover: true })
    }
}
