//! The Prometheus behind each sidecar: the real one, or the stand-in in this process.

use std::path::Path;

use anyhow::Context as _;
use parallax_net::{Context, HttpServer};
use parallax_simulate::stand_in::{self, StandIn};
use parallax_simulate::{Fleet, exporter};
use tokio::process::Command;

use super::layout::{ClusterLayout, Layout, ReplicaLayout};

/// Serves what the cluster's machines expose, for a real Prometheus to scrape.
pub async fn start_exporter(cluster: &ClusterLayout, context: &Context) -> anyhow::Result<()> {
    let router = exporter::router(cluster.fleet(0));
    serve(cluster.exporter_port, router, context).await
}

/// Serves the stand-in for one replica.
pub async fn start_stand_in(fleet: Fleet, start_ms: i64, port: u16, context: &Context) -> anyhow::Result<()> {
    serve(port, stand_in::router(StandIn { fleet, start_ms }), context).await
}

async fn serve(port: u16, router: axum::Router, context: &Context) -> anyhow::Result<()> {
    let server = HttpServer::bind(&format!("127.0.0.1:{port}"), "demo").await?;
    tokio::spawn(server.serve(router, context.shutdown.clone()));
    Ok(())
}

/// Writes a real Prometheus' configuration and gives the command that runs it.
pub fn command(
    program: &Path,
    layout: &Layout,
    cluster: &ClusterLayout,
    replica: &ReplicaLayout,
) -> anyhow::Result<Command> {
    let data = cluster.data(layout, replica.number);
    let path = data.with_extension("yaml");
    std::fs::write(&path, configuration(cluster, replica)).with_context(|| path.display().to_string())?;
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", path.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{}", replica.port))
        .args(["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"])
        .args(["--storage.tsdb.retention.time=30d", "--log.level=warn"]);
    Ok(command)
}

fn configuration(cluster: &ClusterLayout, replica: &ReplicaLayout) -> String {
    let mut text = "global:\n  scrape_interval: 1s\n  external_labels:\n".to_owned();
    for (name, value) in &cluster.fleet(replica.number).external_labels() {
        text.push_str(&format!("    {name}: {value:?}\n"));
    }
    text.push_str("scrape_configs:\n- job_name: demo\n  static_configs:\n");
    for number in 0..cluster.instances {
        text.push_str(&format!(
            "  - targets: [\"127.0.0.1:{}\"]\n    labels: {{instance: {:?}, __metrics_path__: {:?}}}\n",
            cluster.exporter_port,
            Fleet::instance(number),
            exporter::metrics_path(number)
        ));
    }
    text
}
