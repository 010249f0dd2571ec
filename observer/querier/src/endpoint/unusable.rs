//! The stand-in for an entry that cannot be used: it answers every call with the reason.
//!
//! So an entry that is wrong is treated as an endpoint that is down: it shows in the API and in metrics, and is missing from answers.

use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, SideServices, Store, async_trait};
use tonic::{Request, Status};

pub(super) struct Unusable {
    reason: String,
}

impl Unusable {
    pub(super) fn new(reason: &str) -> Self {
        Self { reason: reason.to_owned() }
    }

    /// Not `Unavailable`: asking again is no use.
    fn status(&self) -> Status {
        Status::failed_precondition(self.reason.clone())
    }
}

#[async_trait]
impl Store for Unusable {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Err(self.status())
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        Err(self.status())
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Err(self.status())
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        Err(self.status())
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

macro_rules! refused {
    ($($method:ident: $request:ident -> $response:ident),+) => {
        #[async_trait]
        impl SideServices for Unusable {
            $(async fn $method(
                &self,
                _: Request<parallax_storeapi::proto::thanos::$request>,
            ) -> Result<parallax_storeapi::FrameStream<parallax_storeapi::proto::thanos::$response>, Status> {
                Err(self.status())
            })+
        }
    };
}

refused!(
    metric_metadata: MetricMetadataRequest -> MetricMetadataResponse,
    rules: RulesRequest -> RulesResponse,
    targets: TargetsRequest -> TargetsResponse,
    exemplars: ExemplarsRequest -> ExemplarsResponse,
    tsdb_statistics: TsdbStatisticsRequest -> TsdbStatisticsResponse
);
