//! The services of a store over gRPC. All are registered; one that the store does not offer answers `Unimplemented`, as an unknown one would.

use async_trait::async_trait;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::FrameStream;
use crate::caller::Entrance;
use crate::deadline::{by, until};
use crate::message_limits::MAX_REQUEST_BYTES;
use crate::proto::parallax::v1::peer_server::{Peer, PeerServer};
use crate::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use crate::proto::thanos::exemplars_server::{Exemplars, ExemplarsServer};
use crate::proto::thanos::metadata_server::{Metadata, MetadataServer};
use crate::proto::thanos::query_server::{Query, QueryServer};
use crate::proto::thanos::rules_server::{Rules, RulesServer};
use crate::proto::thanos::status_server::{Status as StatusService, StatusServer};
use crate::proto::thanos::targets_server::{Targets, TargetsServer};
use crate::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, QueryRequest, QueryResponse, RulesRequest, RulesResponse, TargetsRequest,
    TargetsResponse, TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use crate::server::{MAX_MESSAGE_SIZE_BYTES, received};

/// Adds the services of the store behind `entrance`.
pub(crate) fn add(routes: Routes, entrance: &Entrance) -> Routes {
    macro_rules! sized {
        ($server:ident) => {
            $server::new(Side { entrance: entrance.clone() })
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_SIZE_BYTES)
        };
    }
    routes
        .add_service(sized!(MetadataServer))
        .add_service(sized!(RulesServer))
        .add_service(sized!(TargetsServer))
        .add_service(sized!(ExemplarsServer))
        .add_service(sized!(StatusServer))
        .add_service(sized!(QueryServer))
        .add_service(sized!(PeerServer))
}

#[derive(Clone)]
struct Side {
    entrance: Entrance,
}

macro_rules! answer {
    ($self:ident, $method:ident, $request:ident) => {{
        let (mut request, deadline) = received($request);
        let store = $self.entrance.admit(&mut request)?;
        let stream = by(deadline, store.side().$method(request)).await?;
        Ok(Response::new(until(stream, deadline)))
    }};
}

#[async_trait]
impl Metadata for Side {
    type MetricMetadataStream = FrameStream<MetricMetadataResponse>;

    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<Response<Self::MetricMetadataStream>, Status> {
        answer!(self, metric_metadata, request)
    }
}

#[async_trait]
impl Rules for Side {
    type RulesStream = FrameStream<RulesResponse>;

    async fn rules(&self, request: Request<RulesRequest>) -> Result<Response<Self::RulesStream>, Status> {
        answer!(self, rules, request)
    }
}

#[async_trait]
impl Targets for Side {
    type TargetsStream = FrameStream<TargetsResponse>;

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<Response<Self::TargetsStream>, Status> {
        answer!(self, targets, request)
    }
}

#[async_trait]
impl Exemplars for Side {
    type ExemplarsStream = FrameStream<ExemplarsResponse>;

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<Response<Self::ExemplarsStream>, Status> {
        answer!(self, exemplars, request)
    }
}

#[async_trait]
impl StatusService for Side {
    type TSDBStatisticsStream = FrameStream<TsdbStatisticsResponse>;

    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<Response<Self::TSDBStatisticsStream>, Status> {
        answer!(self, tsdb_statistics, request)
    }
}

#[async_trait]
impl Query for Side {
    type QueryStream = FrameStream<QueryResponse>;
    type QueryRangeStream = FrameStream<QueryRangeResponse>;

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        answer!(self, query, request)
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<Response<Self::QueryRangeStream>, Status> {
        answer!(self, query_range, request)
    }
}

#[async_trait]
impl Peer for Side {
    async fn shipping(
        &self,
        request: Request<ShippingRequest>,
    ) -> Result<Response<ShippingResponse>, Status> {
        let (mut request, deadline) = received(request);
        let store = self.entrance.admit(&mut request)?;
        Ok(Response::new(by(deadline, store.side().shipping(request)).await?))
    }
}
