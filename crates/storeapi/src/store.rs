//! The `Store` trait: whatever answers the StoreAPI, here or elsewhere.
//!
//! The sidecar, the store gateway, the querier's proxy, test fakes and the gRPC client all implement it, and the gRPC server
//! serves any of them, so a local handle and a remote endpoint are the same thing to a caller.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::Stream;
use tonic::{Request, Status};

use crate::encoded::{self, WireStream};
use crate::proto::thanos::info::InfoResponse;
use crate::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
    SeriesResponse,
};
use crate::side::{NoSideServices, SideServices};

/// The frames of one answer. Dropping it cancels the work behind it.
pub type FrameStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// The frames of a Series answer.
pub type SeriesStream = FrameStream<SeriesResponse>;

/// Holds series and can be asked for them.
///
/// The contract of `series`:
/// - series come sorted by their labels after `without_replica_labels` were removed; parts of one series are adjacent;
/// - labels of a series are sorted by name, external labels included;
/// - a chunk may reach beyond the asked time, and a chunk's range is closed;
/// - a frame of warning may come anywhere; after an `Err` the stream has ended;
/// - a deadline in the request's metadata (see [`crate::deadline`]) covers the stream, not only the call.
///
/// Errors are gRPC statuses: `InvalidArgument` names what is wrong with the request, `Unavailable` may be retried,
/// `Aborted` reports a partial answer where none was allowed, `ResourceExhausted` a limit.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What this store is and may hold; an error while it is not ready.
    async fn info(&self) -> Result<InfoResponse, Status>;

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status>;

    /// The same answer for somebody outside of this process. A store whose series come to it in the form of the wire need not take them apart.
    async fn series_encoded(&self, request: Request<SeriesRequest>) -> Result<WireStream, Status> {
        self.series(request).await.map(encoded::from_decoded)
    }

    /// Sorted, unique names of labels.
    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status>;

    /// Sorted, unique values of one label.
    async fn label_values(&self, request: Request<LabelValuesRequest>)
    -> Result<LabelValuesResponse, Status>;

    /// What else it answers. Info says which services that are.
    fn side(&self) -> &dyn SideServices {
        &NoSideServices
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn info(&self) -> Result<InfoResponse, Status> {
        (**self).info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        (**self).series(request).await
    }

    async fn series_encoded(&self, request: Request<SeriesRequest>) -> Result<WireStream, Status> {
        (**self).series_encoded(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        (**self).label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        (**self).label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        (**self).side()
    }
}
