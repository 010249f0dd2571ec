//! Several servers that hold the same data, as one endpoint: Thanos' `--endpoint-group`.
//!
//! Each call goes to the next server. A call that fails because its server cannot be reached is repeated by the fan-out, and so goes to another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest,
    LabelValuesResponse, MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, RulesRequest, RulesResponse, SeriesRequest, TargetsRequest, TargetsResponse,
    TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use parallax_storeapi::{FrameStream, SeriesStream, SideServices, Store, async_trait};
use tonic::{Code, Request, Status};

pub(super) struct Group {
    members: Vec<Arc<dyn Store>>,
    next: AtomicUsize,
}

impl Group {
    pub(super) fn new(members: Vec<Arc<dyn Store>>) -> Self {
        Self { members, next: AtomicUsize::new(0) }
    }

    /// The one whose turn it is.
    fn member(&self) -> Result<&dyn Store, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(self.members.len());
        let member = index.and_then(|index| self.members.get(index));
        member.map(AsRef::as_ref).ok_or_else(|| Status::failed_precondition("the group has no servers"))
    }
}

#[async_trait]
impl Store for Group {
    /// The first answer: a group is well while one of its servers is.
    async fn info(&self) -> Result<InfoResponse, Status> {
        let mut last = self.member()?.info().await;
        for _ in 1..self.members.len() {
            match &last {
                Err(status) if status.code() == Code::Unavailable => last = self.member()?.info().await,
                _ => break,
            }
        }
        last
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.member()?.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.member()?.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.member()?.label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for Group {
    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        self.member()?.side().metric_metadata(request).await
    }

    async fn rules(&self, request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        self.member()?.side().rules(request).await
    }

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<FrameStream<TargetsResponse>, Status> {
        self.member()?.side().targets(request).await
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        self.member()?.side().exemplars(request).await
    }

    async fn shipping(&self, request: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        self.member()?.side().shipping(request).await
    }

    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        self.member()?.side().tsdb_statistics(request).await
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        self.member()?.side().query_range(request).await
    }
}
