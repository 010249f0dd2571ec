//! `parallax store`.

mod blocks_api;

use anyhow::Context as _;
use parallax_block::Selector;
use parallax_bucket::BucketConfig;
use parallax_model::TimeRange;
use parallax_store_gateway::{LazyPostings, Limits, StoreGateway, StoreGatewayConfig};

use super::callers::{self, LabelPolicy};
use super::objstore::CacheFlags;
use super::tls;
use crate::flags::Values;
use crate::process::{self, Failure};
use crate::serve::{Addresses, Listeners};

pub fn run(values: Values) -> Result<(), Failure> {
    process::run(|context| async move {
        let mut config = config(&values).map_err(Failure::usage)?;
        let caches = CacheFlags::read(&values, &config.bucket.provider).map_err(Failure::usage)?;
        let addresses = Addresses {
            http: values.text("http-address").unwrap_or_default(),
            http_config: values.path("http.config"),
            grpc: Some(tls::grpc_server(&values).map_err(Failure::usage)?),
            guard: callers::of_store(LabelPolicy::from_flags(&values).map_err(Failure::usage)?),
        };
        let listeners = Listeners::bind(addresses, &context).await?;
        config.caches = caches.open(&context);
        let gateway =
            StoreGateway::start(config, context.clone()).await.map_err(|error| anyhow::anyhow!(error))?;
        let label = values.text("bucket-web-label").unwrap_or_default();
        let router = blocks_api::router(std::sync::Arc::clone(&gateway), label);
        listeners.serve(&context, router, gateway).await?;
        Ok(())
    })
}

fn config(values: &Values) -> anyhow::Result<StoreGatewayConfig> {
    let yaml = values
        .text_or_file("objstore.config")?
        .context("no bucket: give --objstore.config or --objstore.config-file")?;
    let bucket = BucketConfig::from_yaml(&yaml).context("--objstore.config")?;
    let data_dir = values.path("data-dir").context("--data-dir is empty")?;
    let count = |name: &str| usize::try_from(values.number(name)).unwrap_or(usize::MAX);
    let min_ms = values.time_ms("min-time").unwrap_or(i64::MIN);
    let max_ms = values.time_ms("max-time").unwrap_or(i64::MAX);
    let rules = values.text_or_file("selector.relabel-config")?.unwrap_or_default();
    let selector = Selector::from_yaml(&rules).context("--selector.relabel-config")?;
    anyhow::ensure!(min_ms <= max_ms, "--min-time lies after --max-time");
    Ok(StoreGatewayConfig {
        sync_interval: values.duration("sync-block-duration"),
        time_range: TimeRange::new(min_ms, max_ms),
        selector,
        consistency_delay: values.duration("consistency-delay"),
        ignore_deletion_marks_delay: values.duration("ignore-deletion-marks-delay"),
        limits: Limits {
            request_series: values.number("store.limits.request-series"),
            request_samples: values.number("store.limits.request-samples"),
            downloaded_bytes: values.bytes("store.grpc.downloaded-bytes-limit"),
        },
        lazy_postings: LazyPostings {
            is_enabled: values.switch("store.enable-lazy-expanded-postings"),
            max_lists_per_series: values.decimal("store.posting-group-max-key-series-ratio"),
        },
        series_max_concurrency: count("store.grpc.series-max-concurrency").max(1),
        series_max_waiting: count("store.grpc.series-max-waiting"),
        max_held_bytes: values.bytes("store.max-held-bytes").max(1),
        block_sync_concurrency: count("block-meta-fetch-concurrency").max(1),
        ..StoreGatewayConfig::new(bucket, data_dir)
    })
}
