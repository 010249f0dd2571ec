//! What a hub sees of the shipping in its clusters: through a querier over the sidecar, and through one stacked on that.

use std::time::{Duration, Instant};

use parallax_net::{HttpClient, HttpClientConfig};
use serde_json::{Value, json};

use super::world::World;
use crate::program::{PATIENCE, Program, command};

async fn get(url: &str, path: &str) -> String {
    let client = HttpClient::new(HttpClientConfig::new(url)).unwrap();
    let body = client.get(path, &[]).await.unwrap().bytes(1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// What `/api/v1/stores` says of the only endpoint, once `wanted` likes it.
async fn shipping(url: &str, program: &Program, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer: Value = serde_json::from_str(&get(url, "/api/v1/stores").await).unwrap();
        let endpoints: Vec<&Value> =
            answer["data"].as_object().unwrap().values().flat_map(|list| list.as_array().unwrap()).collect();
        assert_eq!(endpoints.len(), 1, "{answer}");
        let shipping = &endpoints[0]["shipping"];
        if wanted(shipping) {
            return shipping.clone();
        }
        assert!(Instant::now() < deadline, "{answer}\n{}", program.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn metric(text: &str, name: &str) -> f64 {
    let name = format!("{name}{{");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&name)).collect();
    assert_eq!(lines.len(), 1, "{name}\n{text}");
    assert!(lines[0].contains("cluster=\"eu-1\""), "{}", lines[0]);
    lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_sees_blocks_wait_while_a_bucket_is_down_and_go_when_it_is_back() {
    let world = World::start(2).await;
    // A file stands where the first block's directory should be.
    let in_the_way = world.at("bucket").join(world.blocks[0].to_string());
    std::fs::create_dir(world.at("bucket")).unwrap();
    std::fs::write(&in_the_way, "").unwrap();
    let directory = world.directory.path();
    let start = |name: &str, args: Vec<String>| Program::start(&mut command(args), directory, name);
    let listen = |name: &str| {
        vec![
            name.to_owned(),
            "--http-address=127.0.0.1:0".to_owned(),
            "--grpc-address=127.0.0.1:0".to_owned(),
        ]
    };
    let bucket = json!({"type": "FILESYSTEM", "config": {"directory": world.at("bucket")}});
    let sidecar_args = [
        format!("--prometheus.url={}", world.url),
        format!("--tsdb.path={}", world.at("data").display()),
        format!("--objstore.config={bucket}"),
    ];
    let mut sidecar = start("sidecar", [listen("sidecar"), sidecar_args.to_vec()].concat());
    let over = |address: String| vec![format!("--endpoint={address}")];
    let mut cluster = start("cluster", [listen("query"), over(sidecar.grpc().await)].concat());
    let mut hub = start("hub", [listen("query"), over(cluster.grpc().await)].concat());
    let (cluster_url, hub_url) = (cluster.http().await, hub.http().await);
    for (url, program) in [(&cluster_url, &cluster), (&hub_url, &hub)] {
        let waiting = shipping(url, program, |shipping| shipping[0]["blocksWaiting"] == 2).await;
        assert_eq!(waiting[0]["labels"]["cluster"], "eu-1", "{waiting}");
        // The oldest ended two hours ago or more.
        assert!(waiting[0]["lagSeconds"].as_f64().unwrap() >= 7200.0, "{waiting}");
        assert!(waiting[0]["oldestWaiting"].is_string() && waiting[0]["lastUpload"].is_null(), "{waiting}");
        let metrics = get(url, "/metrics").await;
        assert_eq!(metric(&metrics, "parallax_querier_upload_blocks_waiting"), 2.0);
        assert!(metric(&metrics, "parallax_querier_upload_lag_seconds") >= 7200.0);
    }
    // The cluster falls silent: what waits there is not forgotten.
    drop(sidecar);
    let before = shipping(&cluster_url, &cluster, |shipping| shipping[0]["blocksWaiting"] == 2).await;
    let lag = |shipping: &Value| shipping[0]["lagSeconds"].as_f64().unwrap();
    let bound = lag(&before);
    shipping(&cluster_url, &cluster, |shipping| lag(shipping) > bound).await;
    drop((cluster, hub));

    std::fs::remove_file(in_the_way).unwrap();
    let mut sidecar = start("sidecar-again", [listen("sidecar"), sidecar_args.to_vec()].concat());
    let mut hub = start("hub-again", [listen("query"), over(sidecar.grpc().await)].concat());
    let url = hub.http().await;
    let done = shipping(&url, &hub, |shipping| {
        shipping[0]["blocksWaiting"] == 0 && shipping[0]["lastUpload"].is_string()
    });
    let done = done.await;
    assert_eq!(lag(&done), 0.0, "{done}");
    let metrics = get(&url, "/metrics").await;
    assert_eq!(metric(&metrics, "parallax_querier_upload_blocks_waiting"), 0.0);
}
