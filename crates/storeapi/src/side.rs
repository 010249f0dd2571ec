//! The services beside the StoreAPI: metadata of metrics, rules, targets, exemplars and statistics of TSDBs; and PromQL, where somebody can evaluate it.
//!
//! [`SideServices`] is to them what [`Store`](crate::Store) is to series, and every store hands out its own by
//! [`Store::side`](crate::Store::side). A service that a component does not offer answers `Unimplemented`, here as on the wire, and its part is
//! absent from Info. [`SideRequest`] lets a fan-out treat the first five alike.

mod client;
mod server;

use async_trait::async_trait;
use prost::Message;
use tonic::{Request, Status};

use crate::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use crate::proto::thanos::info::InfoResponse;
use crate::proto::thanos::{
    ExemplarData, ExemplarsRequest, ExemplarsResponse, MetricMetadata, MetricMetadataRequest,
    MetricMetadataResponse, QueryRangeRequest, QueryRangeResponse, QueryRequest, QueryResponse, RuleGroup,
    RulesRequest, RulesResponse, TargetDiscovery, TargetsRequest, TargetsResponse, TsdbStatistics,
    TsdbStatisticsRequest, TsdbStatisticsResponse, ZLabelSet, exemplars_response, metric_metadata_response,
    rule, rules_response, targets_response, tsdb_statistics_response,
};
use crate::{Error, FrameStream, labels};

pub(crate) use server::add;

/// Answers what is not series. By default nothing is offered.
///
/// Labels in answers include the external ones. A warning may come anywhere in a stream; after an `Err` it has ended. Statuses mean what they
/// mean in [`Store`](crate::Store); the deadline of a request covers its stream.
#[async_trait]
pub trait SideServices: Send + Sync + 'static {
    /// Type, help and unit of metrics. A negative limit is none, and 0 asks for nothing.
    async fn metric_metadata(
        &self,
        _: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        Err(SideService::Metadata.not_offered())
    }

    /// Groups of rules. Those who can only filter by type leave the rest to whoever asked.
    async fn rules(&self, _: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        Err(SideService::Rules.not_offered())
    }

    async fn targets(&self, _: Request<TargetsRequest>) -> Result<FrameStream<TargetsResponse>, Status> {
        Err(SideService::Targets.not_offered())
    }

    async fn exemplars(
        &self,
        _: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        Err(SideService::Exemplars.not_offered())
    }

    /// Statistics of TSDB heads, by tenant.
    async fn tsdb_statistics(
        &self,
        _: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        Err(SideService::Status.not_offered())
    }

    /// An instant query. An answer that is whole ends with a frame of statistics; one without it has failed.
    async fn query(&self, _: Request<QueryRequest>) -> Result<FrameStream<QueryResponse>, Status> {
        Err(not_offered("thanos.Query"))
    }

    /// A range query. It ends like an instant one.
    async fn query_range(
        &self,
        _: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        Err(not_offered("thanos.Query"))
    }

    /// Whether [`Self::query`] and [`Self::query_range`] keep to the [`Caller`](crate::Caller) in a request's extensions. Who does not is never asked for one that is held.
    fn evaluates_held(&self) -> bool {
        false
    }

    /// How far the shipping of blocks is behind. It is not announced in Info, which is Thanos'.
    async fn shipping(&self, _: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        Err(not_offered("parallax.v1.Peer"))
    }
}

fn not_offered(service: &str) -> Status {
    Status::unimplemented(format!("{service} is not offered here"))
}

/// Of a component that offers none of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSideServices;

impl SideServices for NoSideServices {}

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SideService {
    Metadata,
    Rules,
    Targets,
    Exemplars,
    Status,
}

impl SideService {
    pub const ALL: [Self; 5] = [Self::Metadata, Self::Rules, Self::Targets, Self::Exemplars, Self::Status];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "thanos.Metadata",
            Self::Rules => "thanos.Rules",
            Self::Targets => "thanos.Targets",
            Self::Exemplars => "thanos.Exemplars",
            Self::Status => "thanos.Status",
        }
    }

    /// Largest message of an answer that is taken, in bytes on the wire; in memory, it may take four times that at most. Prometheus' groups of
    /// rules come one by one, but Thanos sends all targets of a Prometheus in one message, with all labels that were discovered.
    pub const fn max_message_bytes(self) -> usize {
        match self {
            Self::Metadata | Self::Exemplars => 8 << 20,
            Self::Rules => 16 << 20,
            Self::Targets => 64 << 20,
            Self::Status => 4 << 20,
        }
    }

    /// Whether who says `info` of itself offers it.
    pub const fn is_offered(self, info: &InfoResponse) -> bool {
        match self {
            Self::Metadata => info.metric_metadata.is_some(),
            Self::Rules => info.rules.is_some(),
            Self::Targets => info.targets.is_some(),
            Self::Exemplars => info.exemplars.is_some(),
            Self::Status => info.status.is_some(),
        }
    }

    fn not_offered(self) -> Status {
        not_offered(self.name())
    }
}

/// What a frame of an answer holds.
#[derive(Clone, Debug, PartialEq)]
pub enum SideFrame<T> {
    Item(T),
    Warning(String),
}

/// A question to one of the services.
#[async_trait]
pub trait SideRequest: Message + Clone + 'static {
    const SERVICE: SideService;
    /// What an answer is made of.
    type Item: Clone + Send + 'static;
    /// The frame that carries it.
    type Response: Message + 'static;

    /// The wire's `PartialResponseStrategy`.
    fn strategy(&self) -> i32;

    async fn ask(
        request: Request<Self>,
        services: &dyn SideServices,
    ) -> Result<FrameStream<Self::Response>, Status>;

    /// `None` for a frame of a kind that is not known here.
    fn read(response: Self::Response) -> Option<SideFrame<Self::Item>>;

    fn frame(frame: SideFrame<Self::Item>) -> Self::Response;

    /// What a frame takes in memory, about.
    fn size_bytes(response: &Self::Response) -> usize {
        crate::decoded::size_of_message(response)
    }

    /// # Errors
    /// Names the label that is not UTF-8.
    fn check(item: &Self::Item) -> Result<(), Error>;
}

macro_rules! side_request {
    ($service:ident: $request:ident -> $response:ident { $result:ident::$item:ident($message:ident) } by $method:ident, $check:ident) => {
        #[async_trait]
        impl SideRequest for $request {
            const SERVICE: SideService = SideService::$service;
            type Item = $message;
            type Response = $response;

            fn strategy(&self) -> i32 {
                self.partial_response_strategy
            }

            async fn ask(
                request: Request<Self>,
                services: &dyn SideServices,
            ) -> Result<FrameStream<$response>, Status> {
                services.$method(request).await
            }

            fn read(response: $response) -> Option<SideFrame<$message>> {
                match response.result? {
                    $result::Result::$item(item) => Some(SideFrame::Item(item)),
                    $result::Result::Warning(text) => Some(SideFrame::Warning(text)),
                }
            }

            fn frame(frame: SideFrame<$message>) -> $response {
                let result = match frame {
                    SideFrame::Item(item) => $result::Result::$item(item),
                    SideFrame::Warning(text) => $result::Result::Warning(text),
                };
                $response { result: Some(result) }
            }

            fn check(item: &$message) -> Result<(), Error> {
                $check(item)
            }
        }
    };
}

side_request!(Metadata: MetricMetadataRequest -> MetricMetadataResponse { metric_metadata_response::Metadata(MetricMetadata) } by metric_metadata, has_no_labels);
side_request!(Rules: RulesRequest -> RulesResponse { rules_response::Group(RuleGroup) } by rules, check_rules);
side_request!(Targets: TargetsRequest -> TargetsResponse { targets_response::Targets(TargetDiscovery) } by targets, check_targets);
side_request!(Exemplars: ExemplarsRequest -> ExemplarsResponse { exemplars_response::Data(ExemplarData) } by exemplars, check_exemplars);
side_request!(Status: TsdbStatisticsRequest -> TsdbStatisticsResponse { tsdb_statistics_response::Statistics(TsdbStatistics) } by tsdb_statistics, has_no_labels);

fn has_no_labels<T>(_: &T) -> Result<(), Error> {
    Ok(())
}

fn check_sets<'a>(sets: impl IntoIterator<Item = &'a Option<ZLabelSet>>) -> Result<(), Error> {
    sets.into_iter().flatten().try_for_each(|set| labels::check_text(&set.labels))
}

fn check_rules(group: &RuleGroup) -> Result<(), Error> {
    for rule in &group.rules {
        match &rule.result {
            Some(rule::Result::Recording(recording)) => check_sets([&recording.labels])?,
            Some(rule::Result::Alert(alert)) => {
                check_sets([&alert.labels, &alert.annotations])?;
                check_sets(alert.alerts.iter().flat_map(|one| [&one.labels, &one.annotations]))?;
            }
            None => {}
        }
    }
    Ok(())
}

fn check_targets(targets: &TargetDiscovery) -> Result<(), Error> {
    check_sets(targets.active_targets.iter().flat_map(|target| [&target.discovered_labels, &target.labels]))?;
    check_sets(targets.dropped_targets.iter().map(|target| &target.discovered_labels))
}

fn check_exemplars(data: &ExemplarData) -> Result<(), Error> {
    check_sets([&data.series_labels])?;
    check_sets(data.exemplars.iter().map(|exemplar| &exemplar.labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::thanos::{Label, Rule};

    #[test]
    fn frames_are_read_as_they_were_made() {
        let group = RuleGroup { name: "g".to_owned(), ..RuleGroup::default() };
        for frame in [SideFrame::Item(group), SideFrame::Warning("careful".to_owned())] {
            assert_eq!(RulesRequest::read(RulesRequest::frame(frame.clone())), Some(frame));
        }
        assert_eq!(RulesRequest::read(RulesResponse { result: None }), None);
    }

    #[test]
    fn labels_that_are_no_text_are_found_wherever_they_stand() {
        let bad = Some(ZLabelSet {
            labels: vec![Label { name: "a".into(), value: bytes::Bytes::from_static(b"\xff") }],
        });
        let group = |alert| RuleGroup {
            rules: vec![Rule { result: Some(rule::Result::Alert(alert)) }],
            ..RuleGroup::default()
        };
        use crate::proto::thanos::{ActiveTarget, Alert, AlertInstance, DroppedTarget, Exemplar};
        let instance = AlertInstance { annotations: bad.clone(), ..AlertInstance::default() };
        let wrong = [
            RulesRequest::check(&group(Alert { labels: bad.clone(), ..Alert::default() })),
            RulesRequest::check(&group(Alert { alerts: vec![instance], ..Alert::default() })),
            TargetsRequest::check(&TargetDiscovery {
                active_targets: vec![ActiveTarget { labels: bad.clone(), ..ActiveTarget::default() }],
                dropped_targets: vec![],
            }),
            TargetsRequest::check(&TargetDiscovery {
                active_targets: vec![],
                dropped_targets: vec![DroppedTarget { discovered_labels: bad.clone() }],
            }),
            ExemplarsRequest::check(&ExemplarData {
                series_labels: None,
                exemplars: vec![Exemplar { labels: bad, ..Exemplar::default() }],
            }),
        ];
        for result in wrong {
            assert_eq!(result.unwrap_err().to_string(), "label \"a\" is not UTF-8");
        }
        RulesRequest::check(&group(Alert::default())).unwrap();
    }
}
