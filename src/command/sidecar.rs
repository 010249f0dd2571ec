//! `parallax sidecar`.

use anyhow::{Context as _, bail};
use axum::Router;
use parallax_block::HashFunction;
use parallax_bucket::Access;
use parallax_net::Context;
use parallax_sidecar::{ReloadMethod, ReloaderConfig, ShipperConfig, Sidecar, SidecarConfig};

use super::callers::{self, LabelPolicy};
use super::{objstore, tls};
use crate::flags::Values;
use crate::process::{self, Failure};
use crate::serve::{Addresses, Listeners};

pub fn run(values: Values) -> Result<(), Failure> {
    process::run(|context| async move {
        let config = config(&values, &context).map_err(Failure::usage)?;
        let addresses = Addresses {
            http: values.text("http-address").unwrap_or_default(),
            http_config: values.path("http.config"),
            grpc: Some(tls::grpc_server(&values).map_err(Failure::usage)?),
            guard: callers::of_store(LabelPolicy::from_flags(&values).map_err(Failure::usage)?),
        };
        let listeners = Listeners::bind(addresses, &context).await?;
        let (sidecar, running) = Sidecar::start(config, &context).map_err(Failure::usage)?;
        tokio::select! {
            served = listeners.serve(&context, Router::new(), sidecar) => served?,
            ended = running => ended.context("sidecar")?.context("sidecar")?,
        }
        Ok(())
    })
}

fn config(values: &Values, context: &Context) -> anyhow::Result<SidecarConfig> {
    let size = |name: &str| usize::try_from(values.number(name)).unwrap_or(usize::MAX);
    let shipper = match objstore::bucket(values, Access::Write, context)? {
        None => None,
        Some(bucket) => {
            let path = values.path("tsdb.path").context("--tsdb.path is empty")?;
            Some(ShipperConfig {
                journal_name: values
                    .text("shipper.meta-file-name")
                    .context("--shipper.meta-file-name is empty")?,
                upload_compacted: values.switch("shipper.upload-compacted"),
                allow_out_of_order: values.switch("shipper.allow-out-of-order-uploads"),
                ignore_unequal_block_size: values.switch("shipper.ignore-unequal-block-size"),
                hash: hash_function(values)?,
                upload_concurrency: size("shipper.upload-concurrency"),
                ..ShipperConfig::new(bucket, path)
            })
        }
    };
    Ok(SidecarConfig {
        http_client_yaml: values.text_or_file("prometheus.http-client")?.unwrap_or_default(),
        ready_timeout: values.duration("prometheus.ready_timeout"),
        heartbeat_interval: values.duration("prometheus.get_config_interval"),
        heartbeat_timeout: values.duration("prometheus.get_config_timeout"),
        min_time_ms: values.time_ms("min-time").unwrap_or(i64::MIN),
        max_series: size("store.limits.request-series"),
        max_samples: size("store.limits.request-samples"),
        shipper,
        reloader: reloader(values)?,
        ..SidecarConfig::new(values.text("prometheus.url").context("--prometheus.url is empty")?)
    })
}

/// The reloader, if it is given anything to watch.
fn reloader(values: &Values) -> anyhow::Result<Option<ReloaderConfig>> {
    let method = match values.text("reloader.method").as_deref() {
        Some("http") | None => ReloadMethod::Http,
        Some("signal") => ReloadMethod::Signal {
            process_name: values.text("reloader.process-name").context("--reloader.process-name is empty")?,
        },
        Some(other) => bail!("--reloader.method={other}: there are http and signal"),
    };
    let config = ReloaderConfig {
        config_file: values.path("reloader.config-file"),
        output_file: values.path("reloader.config-envsubst-file"),
        rule_directories: values.list("reloader.rule-dir").into_iter().map(Into::into).collect(),
        watch_interval: values.duration("reloader.watch-interval"),
        retry_interval: values.duration("reloader.retry-interval"),
        method,
        tolerate_unset_variables: values.switch("reloader.tolerate-unset-variables"),
    };
    Ok((!config.is_empty()).then_some(config))
}

fn hash_function(values: &Values) -> anyhow::Result<HashFunction> {
    match values.text("hash-func").as_deref() {
        None => Ok(HashFunction::None),
        Some("SHA256") => Ok(HashFunction::Sha256),
        Some(other) => bail!("--hash-func={other}: only SHA256 is supported"),
    }
}
