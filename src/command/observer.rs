//! `parallax observer --config F`: the hub in one process.
//!
//! Per cluster a TLS querier over its ingress and, if it has a bucket, a store gateway; above them the global querier. The file
//! lists the expected clusters: one that is missing is a warning in the answer and in `/api/v1/stores`. The file is followed while it runs.

mod cluster;
mod file;
mod hub;
mod reload;

use std::path::Path;

use anyhow::Context as _;
use parallax_net::{Context, watch_credentials};
use parallax_pki::Purpose;
use parallax_querier::{EndpointSets, Querier};

use super::callers::ChangingGuards;
use super::doctor::Patient;
use crate::process::{self, Failure};
use crate::serve::Listeners;
use cluster::ClusterSection;
use hub::Hub;
use reload::{Parts, Reloader};

pub fn run(path: &str, check_only: bool) -> Result<(), Failure> {
    let path = Path::new(path);
    let text = file::read(path).map_err(Failure::usage)?;
    let file = file::parse(path, &text).map_err(Failure::usage)?;
    if check_only {
        println!("{}: {} clusters", path.display(), file.clusters.len());
        return Ok(());
    }
    process::run(|context| async move {
        let guards = ChangingGuards::default();
        guards.set(file.guards().map_err(Failure::usage)?);
        let addresses = file.addresses(&guards).map_err(Failure::usage)?;
        let listeners = Listeners::bind(addresses, &context).await?;
        let caches = file.caches().map_err(Failure::usage)?.open(&context);
        let mut hub = Hub::new(context.clone(), caches);
        let endpoints = hub.start(&file).await.map_err(Failure::usage)?;
        let beneath = EndpointSets::new(endpoints.beneath);
        let config = file.global(endpoints.configs, beneath.clone(), &guards);
        let querier = Querier::start(config, context.clone()).map_err(Failure::usage)?;
        let parts = Parts { hub, querier: querier.clone(), beneath, guards };
        let reloader = Reloader::new(path.to_path_buf(), text, parts, &context)?;
        let router = querier.router().merge(reloader.router());
        tokio::spawn(reloader.follow(context.clone()));
        listeners.serve(&context, router, querier).await?;
        Ok(())
    })
}

/// Every endpoint of the clusters of the file at `path`, for `parallax doctor`.
pub fn patients(path: &str, context: &Context) -> anyhow::Result<Vec<Patient>> {
    let path = Path::new(path);
    let file = file::parse(path, &file::read(path)?)?;
    let load = |files: &super::tls::TlsFiles| files.load(Purpose::Client { skip_verify: false });
    let hub = file.tls.as_ref().map(load).transpose().context("tls")?;
    let patients_of = |cluster: &ClusterSection| -> anyhow::Result<Vec<Patient>> {
        let own = cluster.tls.as_ref().map(load).transpose()?;
        if let Some(source) = &own {
            watch_credentials(&context.metrics, "grpc_client", source);
        }
        let targets = cluster.targets(own.as_ref().or(hub.as_ref()))?;
        let several = targets.len() > 1;
        let patient = |target: parallax_net::GrpcTarget| {
            let name =
                if several { format!("{} {}", cluster.name, target.address) } else { cluster.name.clone() };
            Patient { name, clusters: cluster.expected(), target }
        };
        Ok(targets.into_iter().map(patient).collect())
    };
    let mut patients = Vec::new();
    // A cluster that is only history has nothing to be reached.
    for cluster in file.clusters.iter().filter(|cluster| cluster.is_reached()) {
        patients.extend(patients_of(cluster).with_context(|| format!("cluster {}", cluster.name))?);
    }
    Ok(patients)
}
