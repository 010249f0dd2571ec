//! Blocks that were shipped, as store gateways read them: ours, and a real Thanos' where `THANOS_BIN` names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use parallax_model::{FloatColumn, Labels, MatchOp, Matcher};
use parallax_net::{GrpcTarget, connect};
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::{Store as _, StoreClient, frames, labels, matchers};
use parallax_testkit::process::{Process, free_port};
use serde_json::json;
use tonic::Request;

use super::world::{World, objects_in};
use crate::program::{PATIENCE, Program, command};

type Samples = BTreeMap<Labels, Vec<(i64, f64)>>;

/// Everything that a store gateway over `bucket` has.
async fn read_by(program: &Path, bucket: &Path, directory: &Path) -> Samples {
    let (http, grpc) = (free_port().unwrap(), free_port().unwrap());
    let config = json!({"type": "FILESYSTEM", "config": {"directory": bucket}});
    let mut gateway = Command::new(program);
    gateway.arg("store").arg(format!("--objstore.config={config}"));
    gateway.arg(format!("--data-dir={}", directory.join("gateway").display()));
    gateway.args([format!("--http-address=127.0.0.1:{http}"), format!("--grpc-address=127.0.0.1:{grpc}")]);
    let mut process = Process::spawn(&mut gateway, &directory.join("gateway.log")).unwrap();
    process.wait_for_http(&format!("http://127.0.0.1:{http}/-/ready"), PATIENCE).await.unwrap();
    let client = StoreClient::new(connect(&GrpcTarget::plain(format!("127.0.0.1:{grpc}"))).unwrap());
    let request = SeriesRequest {
        min_time: 0,
        max_time: i64::MAX,
        matchers: matchers::to_wire(&[Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap()]),
        ..SeriesRequest::default()
    };
    let answer = frames::collect(client.series(Request::new(request)).await.unwrap()).await.unwrap();
    assert_eq!(answer.warnings, Vec::<String>::new());
    let mut found: BTreeMap<Labels, FloatColumn> = BTreeMap::new();
    for series in &answer.series {
        let column = found.entry(labels::from_wire(&series.labels).unwrap()).or_default();
        for chunk in &series.chunks {
            parallax_tsdb::chunk::decode_xor(&chunk.raw.as_ref().unwrap().data, column).unwrap();
        }
    }
    found.into_iter().map(|(labels, column)| (labels, column.iter().collect())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_is_read_by_our_store_and_by_thanos_as_it_was_scraped() {
    let world = World::start(2).await;
    let bucket = world.at("bucket");
    let config = json!({"type": "FILESYSTEM", "config": {"directory": bucket}});
    let sidecar = Program::start(
        command(["sidecar", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"])
            .arg("--shipper.upload-concurrency=3")
            .arg(format!("--prometheus.url={}", world.url))
            .arg(format!("--tsdb.path={}", world.at("data").display()))
            .arg(format!("--objstore.config={config}")),
        world.directory.path(),
        "sidecar",
    );
    let deadline = Instant::now() + PATIENCE;
    while world.whole_blocks(&objects_in(&bucket)) != world.blocks {
        assert!(Instant::now() < deadline, "not everything is shipped: {}", sidecar.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let external = world.fleet.external_labels();
    let expected: Samples = world
        .fleet
        .series()
        .into_iter()
        .map(|series| {
            let times = world.fleet.scrapes(world.range);
            let samples = times.map(|time| (time, series.value_at(time))).collect();
            (series.labels.overlaid_with(&external), samples)
        })
        .collect();
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_parallax"));
    let thanos = std::env::var_os("THANOS_BIN").map(PathBuf::from);
    if thanos.is_none() {
        println!("left out: Thanos' store gateway (THANOS_BIN names none)");
    }
    for program in [Some(ours), thanos].into_iter().flatten() {
        let directory = tempfile::tempdir().unwrap();
        let found = read_by(&program, &bucket, directory.path()).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(found == expected, "{} reads other samples", program.display());
    }
}
