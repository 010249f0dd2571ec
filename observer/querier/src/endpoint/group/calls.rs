//! What a group answers: each call, as often as it is sent, and what counts as the beginning of its answer.

use std::time::Instant;

use futures::StreamExt;
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest,
    LabelValuesResponse, MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, RulesRequest, RulesResponse, SeriesRequest, TargetsRequest, TargetsResponse,
    TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use parallax_storeapi::{FrameStream, SeriesStream, SideServices, Store, async_trait, deadline_of};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::{Choice, Group, Kind};

/// A request that is sent more than once.
struct Copies<M> {
    metadata: MetadataMap,
    extensions: Extensions,
    message: M,
    deadline: Option<Instant>,
}

impl<M: Clone> Copies<M> {
    fn of(request: Request<M>) -> Self {
        let deadline = deadline_of(&request);
        let (metadata, extensions, message) = request.into_parts();
        Self { metadata, extensions, message, deadline }
    }

    fn copy(&self) -> Request<M> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), self.message.clone())
    }
}

/// A stream whose first frame is there, and no error.
async fn begun<T: Send + 'static>(mut stream: FrameStream<T>) -> Result<FrameStream<T>, Status> {
    match stream.next().await {
        Some(Err(status)) => Err(status),
        first => Ok(Box::pin(futures::stream::iter(first).chain(stream))),
    }
}

#[async_trait]
impl Store for Group {
    /// A group is well while one of its servers is.
    async fn info(&self) -> Result<InfoResponse, Status> {
        match self.choice {
            Choice::Rotate => self.any_info().await,
            Choice::Prefer(_) => self.preferred_info().await,
        }
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let copies = Copies::of(request);
        self.first(Kind::Streaming, copies.deadline, |store| {
            let request = copies.copy();
            async move { begun(store.series(request).await?).await }
        })
        .await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let copies = Copies::of(request);
        self.first(Kind::Streaming, copies.deadline, |store| {
            let request = copies.copy();
            async move { store.label_names(request).await }
        })
        .await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let copies = Copies::of(request);
        self.first(Kind::Streaming, copies.deadline, |store| {
            let request = copies.copy();
            async move { store.label_values(request).await }
        })
        .await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

macro_rules! asked_of_the_first {
    ($($method:ident: $request:ident -> $response:ident, $kind:ident);+ $(;)?) => {
        #[async_trait]
        impl SideServices for Group {
            $(async fn $method(&self, request: Request<$request>) -> Result<FrameStream<$response>, Status> {
                let copies = Copies::of(request);
                self.first(Kind::$kind, copies.deadline, |store| {
                    let request = copies.copy();
                    async move { begun(store.side().$method(request).await?).await }
                })
                .await
            })+

            async fn shipping(&self, request: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
                let copies = Copies::of(request);
                let asking = self.first(Kind::Evaluating, copies.deadline, |store| {
                    let request = copies.copy();
                    async move { store.side().shipping(request).await }
                });
                // What one server says of Info is not said of the others'.
                let is_alone = self.members.len() == 1;
                asking.await.map(|said| ShippingResponse { tsdb_infos_cover: said.tsdb_infos_cover && is_alone, ..said })
            }
        }
    };
}

asked_of_the_first! {
    metric_metadata: MetricMetadataRequest -> MetricMetadataResponse, Streaming;
    rules: RulesRequest -> RulesResponse, Streaming;
    targets: TargetsRequest -> TargetsResponse, Streaming;
    exemplars: ExemplarsRequest -> ExemplarsResponse, Streaming;
    tsdb_statistics: TsdbStatisticsRequest -> TsdbStatisticsResponse, Streaming;
    query_range: QueryRangeRequest -> QueryRangeResponse, Evaluating;
}
