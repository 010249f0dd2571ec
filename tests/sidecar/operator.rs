//! The arguments with which the Prometheus Operator starts a Thanos sidecar: `createThanosContainer` in its `pkg/prometheus/server/statefulset.go`.

use std::time::{Duration, Instant};

use parallax_net::{HttpClient, HttpClientConfig};
use serde_json::json;

use super::world::{World, objects_in};
use crate::program::{PATIENCE, Program, command};

/// All that it may pass, with the file names and addresses of this test. Kubernetes has put in `$(OBJSTORE_CONFIG)` and `$(TRACING_CONFIG)`.
fn arguments(world: &World) -> Vec<String> {
    let bucket = json!({"type": "FILESYSTEM", "config": {"directory": world.at("bucket")}});
    let tracing = "type: OTLP\nconfig:\n  client_type: grpc\n  endpoint: otel-collector.tracing:4317\n  insecure: true\n";
    vec![
        // With the root as route prefix the URL ends in a slash.
        format!("--prometheus.url={}/", world.url),
        "--prometheus.http-client={\"tls_config\": {\"insecure_skip_verify\":true}}".to_owned(),
        "--grpc-address=:0".to_owned(),
        "--http-address=:0".to_owned(),
        format!("--objstore.config={bucket}"),
        format!("--tsdb.path={}", world.at("data").display()),
        format!("--tracing.config={tracing}"),
        "--log.level=info".to_owned(),
        "--log.format=logfmt".to_owned(),
        "--min-time=-2w".to_owned(),
        "--prometheus.ready_timeout=10m".to_owned(),
        "--prometheus.get_config_timeout=20s".to_owned(),
        "--prometheus.get_config_interval=1m".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_arguments_start_a_sidecar_that_serves_and_ships() {
    let world = World::start(1).await;
    let mut program =
        Program::start(command(["sidecar"]).args(arguments(&world)), world.directory.path(), "sidecar");
    program.ready().await;
    let deadline = Instant::now() + PATIENCE;
    while world.whole_blocks(&objects_in(&world.at("bucket"))) != world.blocks {
        assert!(Instant::now() < deadline, "nothing is shipped: {}", program.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What it does not do with them, it says.
    let line = program.log_line("flag accepted, it has no effect here").await;
    assert!(line.contains("tracing.config") && line.contains("exports no traces"), "{line}");
    assert_eq!(program.log().matches("flag accepted, it has no effect here").count(), 1, "{}", program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_place_of_inline_documents_are_accepted() {
    let world = World::start(1).await;
    std::fs::write(
        world.at("objstore.yaml"),
        json!({"type": "FILESYSTEM", "config": {"directory": world.at("bucket")}}).to_string(),
    )
    .unwrap();
    std::fs::write(world.at("tracing.yaml"), "type: JAEGER\n").unwrap();
    let inline = ["--objstore.config=", "--tracing.config="];
    let kept = arguments(&world).into_iter().filter(|one| !inline.iter().any(|name| one.starts_with(name)));
    let more = ["objstore", "tracing"].map(|name| {
        let file = world.at(&format!("{name}.yaml"));
        format!("--{name}.config-file={}", file.display())
    });
    let mut program =
        Program::start(command(["sidecar"]).args(kept).args(more), world.directory.path(), "sidecar");
    program.ready().await;
}

/// The operator's own reloader stands beside the sidecar; where it is not used, the sidecar's does the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_with_a_reloader_writes_the_configuration_for_its_pod() {
    let world = World::start(1).await;
    std::fs::write(world.at("prometheus.yaml"), "global: {external_labels: {replica: '$(POD_NAME)'}}")
        .unwrap();
    let mut program = Program::start(
        command(["sidecar", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"])
            .arg(format!("--prometheus.url={}", world.url))
            .arg(format!("--reloader.config-file={}", world.at("prometheus.yaml").display()))
            .arg(format!("--reloader.config-envsubst-file={}", world.at("out.yaml").display()))
            .arg(format!("--reloader.rule-dir={}", world.at("data").display()))
            .env("POD_NAME", "prometheus-k8s-0"),
        world.directory.path(),
        "sidecar",
    );
    let url = program.ready().await;
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(world.at("out.yaml")).unwrap_or_default()
        != "global: {external_labels: {replica: 'prometheus-k8s-0'}}"
    {
        assert!(Instant::now() < deadline, "nothing is written: {}", program.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = HttpClient::new(HttpClientConfig::new(url)).unwrap();
    let metrics = client.get("/metrics", &[]).await.unwrap().bytes(1 << 20).await.unwrap();
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(metrics.contains("thanos_sidecar_reloader_info{method=\"http\"} 1"), "{metrics}");
}
