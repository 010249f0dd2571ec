//! A remote endpoint as a `Store`.
//!
//! Deadlines are enforced here as well as sent, so a peer that ignores them costs no more than they allow. Connecting, TLS and
//! keepalive belong to the channel; retrying belongs to the caller, who knows what has been answered.

use async_trait::async_trait;
use bytes::Bytes;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::Body as HttpBody;
use tonic::codegen::StdError;
use tonic::{Request, Status};

use crate::deadline::{by, deadline_of, set_deadline, until};
use crate::proto::thanos::info::info_client::InfoClient;
use crate::proto::thanos::info::{InfoRequest, InfoResponse};
use crate::proto::thanos::store_client::StoreClient as ThanosClient;
use crate::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use crate::server::MAX_MESSAGE_SIZE_BYTES;
use crate::{SeriesStream, SideServices, Store};

/// Speaks to one endpoint over any gRPC channel. Cloning shares the channel.
#[derive(Clone, Debug)]
pub struct StoreClient<C> {
    channel: C,
}

impl<C> StoreClient<C> {
    pub fn new(channel: C) -> Self {
        Self { channel }
    }

    pub fn channel(&self) -> &C {
        &self.channel
    }
}

impl<C> StoreClient<C>
where
    C: GrpcService<Body> + Clone,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    fn thanos(&self) -> ThanosClient<C> {
        ThanosClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_SIZE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_SIZE_BYTES)
    }
}

/// Tells the peer what is left of the deadline now.
pub(crate) fn sent<T>(mut request: Request<T>) -> (Request<T>, Option<std::time::Instant>) {
    let deadline = deadline_of(&request);
    if let Some(deadline) = deadline {
        set_deadline(&mut request, deadline);
    }
    (request, deadline)
}

#[async_trait]
impl<C> Store for StoreClient<C>
where
    C: GrpcService<Body> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    async fn info(&self) -> Result<InfoResponse, Status> {
        let mut client =
            InfoClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE_BYTES);
        Ok(client.info(InfoRequest {}).await?.into_inner())
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let (request, deadline) = sent(request);
        let mut client = self.thanos();
        let stream = by(deadline, client.series(request)).await?.into_inner();
        Ok(until(Box::pin(stream), deadline))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let (request, deadline) = sent(request);
        Ok(by(deadline, self.thanos().label_names(request)).await?.into_inner())
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let (request, deadline) = sent(request);
        Ok(by(deadline, self.thanos().label_values(request)).await?.into_inner())
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}
