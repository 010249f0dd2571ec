//! The small services over many stores, so that queriers stack.
//!
//! Metadata of metrics and statistics are merged at every tier, since their parts say nothing of where they come from. Rules, targets and exemplars
//! pass up as they are: whoever was asked by a client knows which labels tell replicas apart, and merges then.

use parallax_model::TimeRange;
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::selectors::selectors;
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, RulesRequest, RulesResponse, TargetsRequest, TargetsResponse, TsdbStatistics,
    TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use parallax_storeapi::{FrameStream, SideServices, async_trait, matchers};
use tonic::{Request, Status};

use super::Proxy;
use crate::claim::ForeignLabels;
use crate::shipping;
use crate::side::{exemplars, metadata, rules, statistics};
use crate::store_selection::Selected;

#[async_trait]
impl SideServices for Proxy {
    async fn shipping(&self, _: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        Ok(shipping::aggregate(&self.inner.endpoints))
    }

    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        let limit = request.get_ref().limit;
        let heard = self.ask_side(request, &[], TimeRange::ALL, |_, asked| asked.clone()).await?;
        let merged =
            heard.with(|items| metadata::to_wire(metadata::merge(items), usize::try_from(limit).ok()));
        Ok(merged.into_frames::<MetricMetadataRequest>())
    }

    async fn rules(&self, request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        let asked = request.get_ref().clone();
        let filter =
            rules::Filter::new(&asked).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let heard = self.ask_side(request, &[], TimeRange::ALL, |_, asked| asked.clone()).await?;
        // Sidecars of Thanos filter by type only.
        let kept = heard.with(|items| items.into_iter().filter_map(|group| filter.keep(group)).collect());
        Ok(kept.into_frames::<RulesRequest>())
    }

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<FrameStream<TargetsResponse>, Status> {
        let heard = self.ask_side(request, &[], TimeRange::ALL, |_, asked| *asked).await?;
        Ok(heard.into_frames::<TargetsRequest>())
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        let asked = request.get_ref();
        let range = TimeRange::new(asked.start, asked.end);
        let expr = parse(&asked.query, &EVERY_SYNTAX)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let own = &self.inner.config.selector_labels;
        let selectors: Vec<_> = selectors(&expr)
            .iter()
            .filter_map(|selector| matchers::without_external(selector, own))
            .collect();
        if selectors.is_empty() {
            return Ok(Box::pin(futures::stream::empty()));
        }
        let heard = self
            .ask_side(request, &selectors, range, |selected, asked| {
                let sets = selected.metadata.as_ref().map_or(&[][..], |known| &known.label_sets);
                let query = match selected.endpoint.claim() {
                    // Only those of the selectors that its cluster does not contradict are left, and it may not know the label.
                    Some(claim) if claim.mode() == ForeignLabels::Inject => {
                        let own = [claim.own()];
                        let mine = selectors.iter().filter(|selector| matchers::may_match(selector, &own));
                        let mine: Vec<_> = mine.map(|selector| claim.adapt_selector(selector)).collect();
                        exemplars::query_for(&mine, &[])
                    }
                    _ => exemplars::query_for(&selectors, sets),
                };
                ExemplarsRequest { query, ..asked.clone() }
            })
            .await?;
        Ok(heard.into_frames::<ExemplarsRequest>())
    }

    /// Passed on to the only endpoint, if there is one that evaluates queries.
    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        match self.passes_queries_to() {
            Some(only) => self.ask_query(&only, request).await,
            None => Err(Status::unimplemented("nobody beneath this querier evaluates queries alone")),
        }
    }

    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        let Some(selector) = self.matchers(&request.get_ref().matchers)? else {
            return Ok(Box::pin(futures::stream::empty()));
        };
        let adapt = |selected: &Selected, asked: &TsdbStatisticsRequest| {
            let mut asked = asked.clone();
            if let Some(claim) = selected.endpoint.claim() {
                claim.adapt_narrow(&mut asked.matchers);
            }
            asked
        };
        let heard = self.ask_side(request, &[selector], TimeRange::ALL, adapt).await?;
        let merged = heard.with(|items| {
            vec![TsdbStatistics { statistics: statistics::merge(items).into_iter().collect() }]
        });
        Ok(merged.into_frames::<TsdbStatisticsRequest>())
    }
}

/// Whoever was asked first decided which syntax is allowed.
const EVERY_SYNTAX: ParserOptions = ParserOptions { later_syntax: true, ..ParserOptions::all_features() };
