//! A remote endpoint as a `Store`.
//!
//! Deadlines are enforced here as well as sent, so a peer that ignores them costs no more than they allow; so are sizes of messages. Connecting, TLS and
//! keepalive belong to the channel; retrying belongs to the caller, who knows what has been answered.

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::Body as HttpBody;
use tonic::codegen::StdError;
use tonic::{Request, Status};

use crate::deadline::{by, deadline_of, set_deadline, until};
use crate::message_limits::{MAX_REQUEST_BYTES, MessageLimits, explain};
use crate::proto::thanos::info::info_client::InfoClient;
use crate::proto::thanos::info::{InfoRequest, InfoResponse};
use crate::proto::thanos::store_client::StoreClient as ThanosClient;
use crate::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use crate::{SeriesStream, SideServices, Store};

/// Speaks to one endpoint over any gRPC channel. Cloning shares the channel.
#[derive(Clone, Debug)]
pub struct StoreClient<C> {
    channel: C,
    limits: MessageLimits,
}

impl<C> StoreClient<C> {
    pub fn new(channel: C) -> Self {
        Self { channel, limits: MessageLimits::default() }
    }

    /// Takes messages of other sizes.
    #[must_use]
    pub fn with_limits(self, limits: MessageLimits) -> Self {
        Self { limits, ..self }
    }

    pub fn channel(&self) -> &C {
        &self.channel
    }

    pub(crate) fn limits(&self) -> MessageLimits {
        self.limits
    }
}

impl<C> StoreClient<C>
where
    C: GrpcService<Body> + Clone,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    fn thanos(&self, answer_bytes: usize) -> ThanosClient<C> {
        ThanosClient::new(self.channel.clone())
            .max_decoding_message_size(answer_bytes)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }
}

fn large_frame(status: Status) -> Status {
    explain(
        status,
        "a frame of series",
        "raise the limit of a frame (--endpoint.max-frame-size, or max_frame_size in an observer's file)",
    )
}

fn large_labels(status: Status) -> Status {
    explain(status, "the answer", "ask with a matcher or a limit")
}

fn large_info(status: Status) -> Status {
    explain(status, "its Info answer", "it has too many label sets")
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
            InfoClient::new(self.channel.clone()).max_decoding_message_size(self.limits.info_bytes);
        Ok(client.info(InfoRequest {}).await.map_err(large_info)?.into_inner())
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let (request, deadline) = sent(request);
        let mut client = self.thanos(self.limits.frame_bytes);
        let stream = by(deadline, client.series(request)).await.map_err(large_frame)?.into_inner();
        Ok(until(Box::pin(stream.map_err(large_frame)), deadline))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let (request, deadline) = sent(request);
        let mut client = self.thanos(self.limits.labels_bytes);
        Ok(by(deadline, client.label_names(request)).await.map_err(large_labels)?.into_inner())
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let (request, deadline) = sent(request);
        let mut client = self.thanos(self.limits.labels_bytes);
        Ok(by(deadline, client.label_values(request)).await.map_err(large_labels)?.into_inner())
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}
