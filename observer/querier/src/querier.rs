//! The component: endpoints, a proxy over them, queries over the proxy, and the API over queries.
//!
//! It is a [`Store`] itself, so that queriers stack; the HTTP API is one way in, gRPC another.
//!
//! Invariant: a stop signal ends every request within [`QuerierConfig::stop_grace`], also one that waits for a store that hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::middleware::{Next, from_fn};
use parallax_net::Context;
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::{InfoResponse, QueryApiInfo};
use parallax_storeapi::proto::thanos::{
    ExemplarsRequest, ExemplarsResponse, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest,
    LabelValuesResponse, MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, QueryRequest, QueryResponse, RulesRequest, RulesResponse, SeriesRequest,
    TargetsRequest, TargetsResponse, TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use parallax_storeapi::{FrameStream, SeriesStream, SideRequest, SideServices, Store, async_trait};
use tonic::{Request, Status};

use crate::Error;
use crate::active::ActiveQueries;
use crate::api::{self, ApiOptions, StoreList, StoreStatus};
use crate::config::QuerierConfig;
use crate::coverage::{CoverageBook, SAMPLE_INTERVAL, WithCoverageSeries};
use crate::endpoint::{EndpointSet, EndpointSets};
use crate::proxy::Proxy;
use crate::pushdown::Distributor;
use crate::query::QueryRunner;
use crate::query_api;
use crate::stop::Stop;

/// A running querier. Its background tasks end with the context's shutdown.
pub struct Querier {
    sets: Sets,
    proxy: Proxy,
    runner: Arc<QueryRunner>,
    api: ApiOptions,
    stop: Stop,
}

impl Querier {
    /// Connects lazily and begins to poll endpoints. Ready once each, those beneath included, was polled once, well or not. Call
    /// it inside a tokio runtime.
    ///
    /// # Errors
    /// Names the endpoint or the file that cannot be used as configured.
    pub fn start(config: QuerierConfig, context: Context) -> Result<Arc<Self>, Error> {
        let condition = context.readiness.condition(format!("querier {}", config.name));
        let endpoints = EndpointSet::start(
            config.endpoints,
            config.endpoint_options,
            &context.metrics,
            context.shutdown.clone(),
        )?;
        let mut proxy = config.proxy;
        proxy.default_timeout = config.limits.timeout;
        proxy.max_held_bytes = config.limits.max_held_bytes;
        let proxy = Proxy::new(endpoints.clone(), proxy, &context.metrics);
        let book = CoverageBook::new(&context.metrics);
        let label = endpoints.options().cluster_label.clone();
        let store = Arc::new(WithCoverageSeries::new(proxy.clone(), book.clone(), label));
        let distribution = config.distribution;
        let distributor =
            distribution.map(|labels| Distributor::new(labels, proxy.clone(), &context.metrics));
        let active = match &config.active_query_dir {
            None => ActiveQueries::default(),
            Some(directory) => ActiveQueries::logged(directory, config.limits.max_concurrent)?,
        };
        let runner = QueryRunner::new(store, config.engine, config.limits, &context.metrics)
            .with_active(active)
            .with_distributor(distributor)
            .with_blame(Arc::new(proxy.clone()))
            .with_book(book.clone());
        let sets = Sets { endpoints, beneath: config.beneath };
        tokio::spawn(context.shutdown.clone().run_until_cancelled_owned(take_samples(book, sets.clone())));
        let stop = Stop::new(context.shutdown.clone(), config.stop_grace);
        let first = sets.clone();
        tokio::spawn(context.shutdown.run_until_cancelled_owned(async move {
            first.polled_once().await;
            condition.ready();
        }));
        Ok(Arc::new(Self { sets, proxy, runner: Arc::new(runner), api: config.api, stop }))
    }

    /// The Prometheus HTTP API.
    pub fn router(&self) -> Router {
        let stop = self.stop.clone();
        let bounded = from_fn(move |request: axum::extract::Request, next: Next| {
            let stop = stop.clone();
            async move { stop.bound(next.run(request)).await.unwrap_or_else(api::stopping) }
        });
        api::router(self.runner.clone(), self.sets.clone(), self.api.clone()).layer(bounded)
    }

    pub fn endpoints(&self) -> &Arc<EndpointSet> {
        &self.sets.endpoints
    }

    pub fn runner(&self) -> &Arc<QueryRunner> {
        &self.runner
    }
}

/// Takes samples of how well the clusters are, again and again.
async fn take_samples(book: Arc<CoverageBook>, sets: Sets) {
    sets.polled_once().await;
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        book.sample(jiff::Timestamp::now().as_millisecond(), &sets.all());
    }
}

/// The endpoints as the API shows them: those that are asked, and those beneath local queriers among them.
#[derive(Clone)]
struct Sets {
    endpoints: Arc<EndpointSet>,
    beneath: EndpointSets,
}

impl Sets {
    /// Those that there are now.
    fn all(&self) -> Vec<Arc<EndpointSet>> {
        std::iter::once(self.endpoints.clone()).chain(self.beneath.all().iter().cloned()).collect()
    }

    async fn polled_once(&self) {
        for set in self.all() {
            set.polled_once().await;
        }
    }
}

impl StoreList for Sets {
    fn stores(&self) -> Vec<StoreStatus> {
        self.all().iter().flat_map(|set| set.stores()).collect()
    }

    fn regions(&self) -> BTreeMap<String, String> {
        self.all().iter().flat_map(|set| set.regions()).collect()
    }

    fn missing_clusters(&self) -> Vec<String> {
        let all: BTreeSet<String> = self.all().iter().flat_map(|set| set.missing_clusters()).collect();
        all.into_iter().collect()
    }
}

#[async_trait]
impl Store for Querier {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse { query: Some(QueryApiInfo {}), ..self.proxy.info().await? })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        Ok(self.stop.bound_stream(self.proxy.series(request).await?))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.stop.bound(self.proxy.label_names(request)).await?
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.stop.bound(self.proxy.label_values(request)).await?
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

impl Querier {
    async fn ask_side<R: SideRequest>(
        &self,
        request: Request<R>,
    ) -> Result<FrameStream<R::Response>, Status> {
        self.stop.bound(R::ask(request, &self.proxy)).await?
    }
}

#[async_trait]
impl SideServices for Querier {
    fn evaluates_held(&self) -> bool {
        true
    }

    async fn shipping(&self, request: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        self.proxy.shipping(request).await
    }

    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        self.ask_side(request).await
    }

    async fn rules(&self, request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        self.ask_side(request).await
    }

    async fn targets(
        &self,
        request: Request<TargetsRequest>,
    ) -> Result<FrameStream<TargetsResponse>, Status> {
        self.ask_side(request).await
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        self.ask_side(request).await
    }

    async fn tsdb_statistics(
        &self,
        request: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        self.ask_side(request).await
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<FrameStream<QueryResponse>, Status> {
        let asked = query_api::instant(request, jiff::Timestamp::now().as_millisecond());
        let frames = query_api::answer(asked, &self.runner, &self.api);
        Ok(self.stop.bound_stream(self.stop.bound(frames).await??))
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        let frames = query_api::answer(query_api::range(request)?, &self.runner, &self.api);
        Ok(self.stop.bound_stream(self.stop.bound(frames).await??))
    }
}
