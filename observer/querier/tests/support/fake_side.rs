//! A component that offers small services and answers what a test says, or misbehaves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use parallax_model::Labels;
use parallax_storeapi::proto::thanos::info::{
    ExemplarsInfo, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, TargetsInfo,
};
use parallax_storeapi::proto::thanos::{
    ExemplarData, ExemplarsRequest, ExemplarsResponse, LabelNamesRequest, LabelNamesResponse,
    LabelValuesRequest, LabelValuesResponse, Meta, MetricMetadata, MetricMetadataRequest,
    MetricMetadataResponse, RuleGroup, RulesRequest, RulesResponse, SeriesRequest, TargetDiscovery,
    TargetsRequest, TargetsResponse, TsdbStatistics, TsdbStatisticsRequest, TsdbStatisticsResponse,
};
use parallax_storeapi::{
    FrameStream, SeriesStream, SideFrame, SideRequest, SideServices, Store, async_trait, frames, labels,
};
use tonic::{Request, Status};

#[derive(Clone, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Calls hang after so many frames; before the stream opens, if none.
    HangAfter(usize),
    FailAfter(usize, Status),
    Warn(String),
    /// So many warnings, all different and long.
    WarnALot(usize),
}

/// See the module. It offers what it has anything of, metadata always.
#[derive(Default)]
pub struct FakeSide {
    pub external: Labels,
    pub metadata: Vec<MetricMetadata>,
    pub groups: Vec<RuleGroup>,
    pub targets: Vec<TargetDiscovery>,
    pub exemplars: Vec<ExemplarData>,
    pub statistics: Vec<TsdbStatistics>,
    pub fault: Mutex<Fault>,
    pub calls: AtomicUsize,
    pub last_query: Mutex<String>,
}

pub fn fake<'a>(external: impl IntoIterator<Item = (&'a str, &'a str)>) -> FakeSide {
    FakeSide { external: Labels::from_pairs(external), ..FakeSide::default() }
}

impl FakeSide {
    #[must_use]
    pub fn with_metadata(mut self, metric: &str, kind: &str, help: &str) -> Self {
        let mut one = MetricMetadata::default();
        let meta = Meta { r#type: kind.to_owned(), help: help.to_owned(), unit: String::new() };
        one.metadata.entry(metric.to_owned()).or_default().metas.push(meta);
        self.metadata.push(one);
        self
    }

    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        *self.fault.lock().unwrap() = fault;
        self
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn answer<R: SideRequest>(&self, items: &[R::Item]) -> Result<FrameStream<R::Response>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault.lock().unwrap().clone();
        let all = items.iter().cloned().map(SideFrame::Item).map(|frame| Ok(R::frame(frame)));
        let all: Vec<Result<R::Response, Status>> = all.collect();
        let all = futures::stream::iter(all);
        Ok(match fault {
            Fault::None => Box::pin(all),
            Fault::HangAfter(0) => std::future::pending().await,
            Fault::HangAfter(frames) => Box::pin(all.take(frames).chain(futures::stream::pending())),
            Fault::FailAfter(0, status) => return Err(status),
            Fault::FailAfter(frames, status) => {
                Box::pin(all.take(frames).chain(futures::stream::iter([Err(status)])))
            }
            Fault::Warn(text) => {
                let warning = R::frame(SideFrame::Warning(text));
                Box::pin(futures::stream::iter([Ok(warning)]).chain(all))
            }
            Fault::WarnALot(count) => {
                let warning =
                    |number| R::frame(SideFrame::Warning(format!("{number}{}", "!".repeat(10_000))));
                Box::pin(futures::stream::iter((0..count).map(move |number| Ok(warning(number)))).chain(all))
            }
        })
    }
}

#[async_trait]
impl Store for FakeSide {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse {
            label_sets: vec![labels::set_to_wire(&self.external)],
            component_type: "sidecar".to_owned(),
            metric_metadata: Some(MetricMetadataInfo {}),
            rules: (!self.groups.is_empty()).then_some(RulesInfo {}),
            targets: (!self.targets.is_empty()).then_some(TargetsInfo {}),
            exemplars: (!self.exemplars.is_empty()).then(ExemplarsInfo::default),
            status: (!self.statistics.is_empty()).then_some(StatusInfo {}),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        Ok(frames::from_vec(Vec::new()))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Ok(LabelNamesResponse::default())
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        Ok(LabelValuesResponse::default())
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for FakeSide {
    async fn metric_metadata(
        &self,
        _: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        self.answer::<MetricMetadataRequest>(&self.metadata).await
    }

    async fn rules(&self, _: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        self.answer::<RulesRequest>(&self.groups).await
    }

    async fn targets(&self, _: Request<TargetsRequest>) -> Result<FrameStream<TargetsResponse>, Status> {
        self.answer::<TargetsRequest>(&self.targets).await
    }

    async fn exemplars(
        &self,
        request: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        *self.last_query.lock().unwrap() = request.into_inner().query;
        self.answer::<ExemplarsRequest>(&self.exemplars).await
    }

    async fn tsdb_statistics(
        &self,
        _: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        self.answer::<TsdbStatisticsRequest>(&self.statistics).await
    }
}
