//! What a querier is told when it starts. Flags and files that fill it are the binary's.

use std::path::PathBuf;
use std::time::Duration;

use parallax_promql::engine::EngineOptions;

use crate::api::ApiOptions;
use crate::endpoint::{EndpointConfig, EndpointOptions, EndpointSets};
use crate::proxy::ProxyConfig;
use crate::pushdown::Distribution;
use crate::query::QueryLimits;

/// A whole querier. Every part has the defaults of Thanos' flags.
#[derive(Clone, Debug)]
pub struct QuerierConfig {
    /// Tells queriers of one process apart: in logs, and as the condition of readiness `querier <name>`.
    pub name: String,
    pub endpoints: Vec<EndpointConfig>,
    /// Endpoints of local queriers among `endpoints`: not asked, but shown in `/api/v1/stores`, where a cluster that only one of
    /// them misses would otherwise hide behind a querier that is well.
    pub beneath: EndpointSets,
    pub endpoint_options: EndpointOptions,
    /// Bounds of the fan-out. Its default timeout and its bytes per call are those of [`QuerierConfig::limits`].
    pub proxy: ProxyConfig,
    /// `--query.timeout`, `.max-concurrent`, `.max-concurrent-select`, `--deduplication.func`, and the byte budget.
    pub limits: QueryLimits,
    /// Has aggregations evaluated by the queriers among the endpoints, see [`Distribution`]; `None` reads all series here. `--query.mode`.
    pub distribution: Option<Distribution>,
    /// `--query.lookback-delta`, `.default-evaluation-interval`, and the samples one query may hold.
    pub engine: EngineOptions,
    /// Where `queries.active` is written, which tells after a crash what ran. `--query.active-query-path`.
    pub active_query_dir: Option<PathBuf>,
    /// How long requests may go on after a stop signal. It has to be shorter than what an orchestrator waits before it kills.
    pub stop_grace: Duration,
    /// `--query.replica-label`, `.partial-response`, `.default-step`, `.metadata.default-time-range`, `--web.*`.
    pub api: ApiOptions,
}

impl Default for QuerierConfig {
    fn default() -> Self {
        Self {
            name: "query".to_owned(),
            endpoints: Vec::new(),
            beneath: EndpointSets::default(),
            endpoint_options: EndpointOptions::default(),
            proxy: ProxyConfig::default(),
            limits: QueryLimits::default(),
            distribution: None,
            engine: EngineOptions::default(),
            active_query_dir: None,
            stop_grace: Duration::from_secs(5),
            api: ApiOptions::default(),
        }
    }
}
