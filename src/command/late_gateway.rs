//! A store gateway whose bucket may not be there yet, as one cluster's may be while those of the others answer.
//!
//! Invariant: until the bucket opens, every call fails with the reason, and Info polls, which do not stop, try again. Once opened it stays, until nobody holds it
//! any more.

use std::path::PathBuf;
use std::sync::Arc;

use parallax_net::Context;
use parallax_store_gateway::{StoreGateway, StoreGatewayConfig};
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, SideServices, Store, async_trait};
use tokio::sync::OnceCell;
use tokio_util::sync::DropGuard;
use tonic::{Request, Status};

pub struct LateGateway {
    config: StoreGatewayConfig,
    context: Context,
    opened: OnceCell<Arc<StoreGateway>>,
    /// Ends what runs in the background with the last question.
    _stop: DropGuard,
    /// Of no use to anybody after that.
    directory: Option<PathBuf>,
}

impl LateGateway {
    pub fn new(config: StoreGatewayConfig, context: Context) -> Self {
        let shutdown = context.shutdown.child_token();
        let stop = shutdown.clone().drop_guard();
        Self {
            config,
            context: Context { shutdown, ..context },
            opened: OnceCell::new(),
            _stop: stop,
            directory: None,
        }
    }

    /// One whose directory goes with it.
    #[must_use]
    pub fn that_leaves_nothing(mut self) -> Self {
        self.directory = Some(self.config.data_dir.clone());
        self
    }

    /// Opens the bucket, if that has not succeeded before.
    ///
    /// # Errors
    /// Names the bucket.
    pub async fn open(&self) -> anyhow::Result<&Arc<StoreGateway>> {
        let start = || StoreGateway::start(self.config.clone(), self.context.clone());
        Ok(self.opened.get_or_try_init(start).await?)
    }

    async fn gateway(&self) -> Result<&Arc<StoreGateway>, Status> {
        self.open().await.map_err(|error| Status::unavailable(format!("{error:#}")))
    }
}

impl Drop for LateGateway {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            // Where this is dropped nobody may wait for a disk. What stays is removed at the next start.
            std::thread::spawn(move || std::fs::remove_dir_all(directory));
        }
    }
}

#[async_trait]
impl Store for LateGateway {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.gateway().await?.info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.gateway().await?.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.gateway().await?.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.gateway().await?.label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for LateGateway {
    async fn shipping(&self, request: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        self.gateway().await?.side().shipping(request).await
    }
}
