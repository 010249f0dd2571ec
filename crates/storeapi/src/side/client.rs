//! The services of a remote endpoint. As for series, deadlines are enforced here as well as sent.

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::Body as HttpBody;
use tonic::codegen::StdError;
use tonic::{Request, Status};

use super::{SideRequest, SideService, SideServices};
use crate::client::sent;
use crate::deadline::{by, until};
use crate::message_limits::{MAX_REQUEST_BYTES, explain};
use crate::proto::parallax::v1::peer_client::PeerClient;
use crate::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use crate::proto::thanos::exemplars_client::ExemplarsClient;
use crate::proto::thanos::metadata_client::MetadataClient;
use crate::proto::thanos::query_client::QueryClient;
use crate::proto::thanos::rules_client::RulesClient;
use crate::proto::thanos::status_client::StatusClient;
use crate::proto::thanos::targets_client::TargetsClient;
use crate::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, QueryRequest, QueryResponse, RulesRequest, RulesResponse, TargetsRequest,
    TargetsResponse, TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use crate::{FrameStream, StoreClient};

/// Largest answer about shipping.
const MAX_SHIPPING_BYTES: usize = 1 << 20;

macro_rules! call {
    ($self:ident, $client:ident, $method:ident, $request:ident) => {{
        let service = service_of(&$request);
        let (request, deadline) = sent($request);
        let mut client = $client::new($self.channel().clone())
            .max_decoding_message_size(service.max_message_bytes())
            .max_encoding_message_size(MAX_REQUEST_BYTES);
        let large = move |status| explain(status, "a message", "ask with a filter or a limit");
        let stream = by(deadline, client.$method(request)).await.map_err(large)?.into_inner();
        Ok(until(Box::pin(stream.map_err(large)), deadline))
    }};
}

/// Results of queries come in frames as large as those of series.
macro_rules! evaluate {
    ($self:ident, $method:ident, $request:ident) => {{
        let (request, deadline) = sent($request);
        let mut client = QueryClient::new($self.channel().clone())
            .max_decoding_message_size($self.limits().frame_bytes)
            .max_encoding_message_size(MAX_REQUEST_BYTES);
        let large = |status| explain(status, "a frame of results", "ask for fewer of them");
        let stream = by(deadline, client.$method(request)).await.map_err(large)?.into_inner();
        Ok(until(Box::pin(stream.map_err(large)), deadline))
    }};
}

const fn service_of<R: SideRequest>(_: &Request<R>) -> SideService {
    R::SERVICE
}

#[async_trait]
impl<C> SideServices for StoreClient<C>
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        call!(self, MetadataClient, metric_metadata, request)
    }

    async fn rules(&self, request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        call!(self, RulesClient, rules, request)
    }

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<FrameStream<TargetsResponse>, Status> {
        call!(self, TargetsClient, targets, request)
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        call!(self, ExemplarsClient, exemplars, request)
    }

    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        call!(self, StatusClient, tsdb_statistics, request)
    }

    async fn shipping(&self, request: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        let (request, deadline) = sent(request);
        let mut client =
            PeerClient::new(self.channel().clone()).max_decoding_message_size(MAX_SHIPPING_BYTES);
        Ok(by(deadline, client.shipping(request)).await?.into_inner())
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<FrameStream<QueryResponse>, Status> {
        evaluate!(self, query, request)
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        evaluate!(self, query_range, request)
    }
}
