//! `parallax query`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_block::Selector;
use parallax_dedup::Algorithm;
use parallax_model::Labels;
use parallax_promql::engine::{EngineOptions, StatsOptions};
use parallax_promql::parse::ParserOptions;
use parallax_querier::api::ApiOptions;
use parallax_querier::query::QueryLimits;
use parallax_querier::{
    Distribution, EndpointOptions, ForeignLabels, LabelSetRules, ProxyConfig, Querier, QuerierConfig,
};
use parallax_storeapi::{MessageLimits, SideService};

use super::callers::{self, LabelPolicy, TenancySection};
use super::discovery::Discovery;
use super::tls;
use crate::flags::Values;
use crate::process::{self, Failure};
use crate::serve::{Addresses, Listeners};

pub fn run(values: Values) -> Result<(), Failure> {
    process::run(|context| async move {
        let mut config = config(&values).map_err(Failure::usage)?;
        let policy = LabelPolicy::from_flags(&values).map_err(Failure::usage)?;
        let tenancy = TenancySection::from_flags(&values).options().context("--query.tenant-…");
        let tenancy = tenancy.map_err(Failure::usage)?;
        let (grpc_guard, http_guard) = callers::of_querier(policy, tenancy);
        config.api.guard = Some(http_guard);
        let mut discovery = Discovery::from_flags(&values, &context).map_err(Failure::usage)?;
        let addresses = Addresses {
            http: values.text("http-address").unwrap_or_default(),
            http_config: values.path("http.config"),
            grpc: Some(tls::grpc_server(&values).map_err(Failure::usage)?),
            guard: Some(grpc_guard),
        };
        let listeners = Listeners::bind(addresses, &context).await?;
        let (endpoints, problems) = discovery.look().await;
        config.endpoints.clone_from(&endpoints);
        let querier = Querier::start(config, context.clone()).map_err(Failure::usage)?;
        querier.endpoints().replace(endpoints, problems);
        tokio::spawn(discovery.follow(querier.endpoints().clone()));
        listeners.serve(&context, querier.router(), querier).await?;
        Ok(())
    })
}

fn config(values: &Values) -> anyhow::Result<QuerierConfig> {
    let response_timeout = values.duration("store.response-timeout");
    Ok(QuerierConfig {
        endpoint_options: EndpointOptions {
            info_timeout: values.duration("endpoint.info-timeout"),
            cluster_label: values.text("endpoint.cluster-label").unwrap_or_default(),
            foreign_labels: foreign_labels(values)?,
            label_sets: label_set_rules(values)?,
            message_limits: MessageLimits {
                frame_bytes: size(values, "endpoint.max-frame-size"),
                ..MessageLimits::default()
            },
            ..EndpointOptions::default()
        },
        proxy: ProxyConfig {
            response_timeout: (response_timeout > Duration::ZERO).then_some(response_timeout),
            max_response_bytes: values.bytes("endpoint.max-response-size"),
            selector_labels: selector_labels(values)?,
            ..ProxyConfig::default()
        },
        limits: QueryLimits {
            timeout: values.duration("query.timeout"),
            max_concurrent: count(values, "query.max-concurrent"),
            max_concurrent_select: count(values, "query.max-concurrent-select"),
            max_held_bytes: size(values, "query.max-held-bytes"),
            algorithm: algorithm(values)?,
            dynamic_lookback: values.switch("query.dynamic-lookback-delta"),
            ..QueryLimits::default()
        },
        distribution: distribution(values)?,
        active_query_dir: values.path("query.active-query-path"),
        engine: EngineOptions {
            lookback_ms: millis(values, "query.lookback-delta"),
            max_samples: count(values, "query.max-samples"),
            default_subquery_step_ms: millis(values, "query.default-evaluation-interval"),
            ..engine_features(values)
        },
        api: ApiOptions {
            replica_labels: values.list("query.replica-label"),
            partial_response: values.switch("query.partial-response"),
            whole_side: whole_side(values),
            default_step: values.duration("query.default-step"),
            default_metadata_range: values.duration("query.metadata.default-time-range"),
            auto_downsampling: values.switch("query.auto-downsampling"),
            instant_max_resolution: values.duration("query.instant.default.max_source_resolution"),
            cors: !values.switch("web.disable-cors"),
            flags: shown_flags(values),
            parser: parser(values)?,
            ..ApiOptions::default()
        },
        ..QuerierConfig::default()
    })
}

/// The services whose answers have to be whole.
fn whole_side(values: &Values) -> Vec<SideService> {
    let is_partial = [
        (SideService::Rules, values.switch("rule.partial-response")),
        (SideService::Targets, values.switch("target.partial-response")),
        (SideService::Metadata, values.switch("metric-metadata.partial-response")),
        (SideService::Exemplars, values.switch("exemplar.partial-response")),
        (SideService::Status, values.switch("status.partial-response")),
    ];
    is_partial.into_iter().filter(|(_, partial)| !partial).map(|(service, _)| service).collect()
}

/// `name="value"` pairs.
fn selector_labels(values: &Values) -> anyhow::Result<Labels> {
    let mut pairs = Vec::new();
    for text in values.repeated("selector-label") {
        let (name, quoted) =
            text.split_once('=').with_context(|| format!("--selector-label={text}: write name=\"value\""))?;
        let value: String = serde_json::from_str(quoted)
            .with_context(|| format!("--selector-label={text}: write name=\"value\""))?;
        pairs.push((name.to_owned(), value));
    }
    Ok(Labels::from_pairs(pairs))
}

fn foreign_labels(values: &Values) -> anyhow::Result<ForeignLabels> {
    match values.text("endpoint.foreign-labels").as_deref() {
        Some("drop") | None => Ok(ForeignLabels::Drop),
        Some("inject") => Ok(ForeignLabels::Inject),
        Some("refuse") => Ok(ForeignLabels::Refuse),
        Some(other) => bail!("--endpoint.foreign-labels={other}: use drop, inject or refuse"),
    }
}

/// Rules for label sets are those for blocks.
fn label_set_rules(values: &Values) -> anyhow::Result<Option<LabelSetRules>> {
    let text = values.text_or_file("selector.relabel-config")?.unwrap_or_default();
    let rules = Selector::from_yaml(&text).context("--selector.relabel-config")?;
    ensure!(
        !rules.looks_at_block_id(),
        "--selector.relabel-config: __block_id is of blocks, and endpoints advertise external labels only"
    );
    Ok((!rules.is_empty()).then(|| LabelSetRules::new(move |set| rules.chooses_labels(set.iter()))))
}

fn algorithm(values: &Values) -> anyhow::Result<Algorithm> {
    match values.text("deduplication.func") {
        None => Ok(Algorithm::default()),
        Some(name) => name.parse().with_context(|| format!("--deduplication.func={name}")),
    }
}

fn distribution(values: &Values) -> anyhow::Result<Option<Distribution>> {
    let partition_labels = values.list("query.partition-label");
    match values.text("query.mode").as_deref() {
        Some("local") | None if partition_labels.is_empty() => Ok(None),
        Some("local") | None => bail!("--query.partition-label is for --query.mode=distributed"),
        Some("distributed") => Ok(Some(Distribution { partition_labels })),
        Some(other) => bail!("--query.mode={other}: use local or distributed"),
    }
}

fn parser(values: &Values) -> anyhow::Result<ParserOptions> {
    let mut options = ParserOptions::default();
    for feature in values.list("enable-feature") {
        match feature.as_str() {
            "promql-experimental-functions" => options.experimental_functions = true,
            "promql-duration-expr" => options.duration_expressions = true,
            "promql-extended-range-selectors" => options.extended_range_selectors = true,
            "promql-delayed-name-removal" | "type-and-unit-labels" | "promql-per-step-stats" => {}
            // Features of Thanos that were switches once and are always on today.
            "promql-at-modifier" | "promql-negative-offset" | "query-pushdown" => {
                tracing::warn!(feature, "feature accepted, it has no effect here");
            }
            other => bail!(
                "--enable-feature={other}: there is no such feature; there are promql-experimental-functions, \
                 promql-duration-expr, promql-extended-range-selectors, promql-delayed-name-removal, promql-per-step-stats \
                 and type-and-unit-labels"
            ),
        }
    }
    Ok(options)
}

fn engine_features(values: &Values) -> EngineOptions {
    let enabled = values.list("enable-feature");
    let has = |feature: &str| enabled.iter().any(|enabled| enabled == feature);
    EngineOptions {
        delayed_name_removal: has("promql-delayed-name-removal"),
        type_and_unit_labels: has("type-and-unit-labels"),
        stats: StatsOptions { per_step: has("promql-per-step-stats"), ..StatsOptions::default() },
        ..EngineOptions::default()
    }
}

fn shown_flags(values: &Values) -> BTreeMap<String, String> {
    values.all().into_iter().map(|(name, values)| (name.to_owned(), values.join(","))).collect()
}

fn size(values: &Values, name: &str) -> usize {
    usize::try_from(values.bytes(name)).unwrap_or(usize::MAX)
}

fn count(values: &Values, name: &str) -> usize {
    usize::try_from(values.number(name)).unwrap_or(usize::MAX)
}

fn millis(values: &Values, name: &str) -> i64 {
    i64::try_from(values.duration(name).as_millis()).unwrap_or(i64::MAX)
}
