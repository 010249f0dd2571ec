//! `parallax doctor` against servers that fail at one step each: it says which, and exits with 1.

use std::sync::Arc;

use crate::program::{Finished, run};
use crate::sides::{Keys, Leaf, server_name};
use parallax_model::TimeRange;
use parallax_net::{GrpcServer, GrpcServerConfig};
use parallax_pki::{CredentialFiles, CredentialSource, Purpose};
use parallax_storeapi::Store;
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// Runs the doctor beside the servers of the test; a step has the time that a machine may need that is busy with something else.
async fn doctor(arguments: &[String]) -> Finished {
    let arguments = [&["doctor".to_owned(), "--timeout=60s".to_owned()], arguments].concat();
    tokio::task::spawn_blocking(move || run(arguments)).await.unwrap()
}

/// The steps of the only endpoint, and the exit code.
async fn steps(address: &str, more: &[String]) -> (Vec<Value>, Option<i32>) {
    let flags = [&[format!("--endpoint={address}"), "--output=json".to_owned()], more].concat();
    let finished = doctor(&flags).await;
    let report: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}"));
    (report["endpoints"][0]["steps"].as_array().unwrap().clone(), finished.code)
}

/// The doctor stops at `step`, and says why.
async fn stops_at(step: &str, address: &str, more: &[String], why: &str) {
    let (steps, code) = steps(address, more).await;
    let last = steps.last().unwrap();
    assert_eq!((last["step"].as_str(), last["outcome"].as_str()), (Some(step), Some("failed")), "{steps:#?}");
    let text = last.to_string();
    assert!(text.contains(why), "{why:?} is not in {text}");
    assert!(!last["advice"].as_str().unwrap().is_empty(), "{last}");
    assert_eq!(code, Some(1));
}

fn store() -> FakeStore {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    FakeStore::new([("cluster", "eu-1")])
        .with_range(TimeRange::new(0, i64::MAX))
        .with_series([("__name__", "up"), ("job", "a")], [(now_ms - 60_000, 1.0)])
}

/// Serves `store`, ready or not.
async fn served(store: FakeStore, leaf: Option<&Leaf>, is_ready: bool) -> (String, DropGuard) {
    let store: Arc<dyn Store> = Arc::new(store);
    let tls = leaf.map(|leaf| {
        CredentialSource::from_files(CredentialFiles::in_directory(&leaf.0), Purpose::Server).unwrap()
    });
    let config = GrpcServerConfig { tls, ..GrpcServerConfig::new("127.0.0.1:0") };
    let server = GrpcServer::bind(config, &Metrics::new()).await.unwrap();
    let address = server.local_addr().to_string();
    let (ready, readiness) = tokio::sync::watch::channel(is_ready);
    let routes = parallax_storeapi::routes(store, readiness).unwrap();
    let stop = CancellationToken::new();
    let serving = server.serve(routes, stop.clone());
    tokio::spawn(async move {
        let _kept_while_serving = ready;
        serving.await
    });
    (address, stop.drop_guard())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_well_passes_all_steps_with_and_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let names = |steps: &[Value]| -> Vec<String> {
        steps
            .iter()
            .map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap()))
            .collect()
    };
    let (address, _stop) = served(store(), None, true).await;
    let (plain, code) = steps(&address, &[]).await;
    assert_eq!(code, Some(0), "{plain:#?}");
    assert_eq!(
        names(&plain),
        ["dns good", "tcp good", "http2 good", "health good", "info good", "series good"]
    );

    let (address, _stop) = served(store(), Some(&keys.observee("eu-1")), true).await;
    let flags = [
        keys.observer("hub").client_flags(),
        vec![format!("--grpc-client-server-name={}", server_name("eu-1"))],
    ];
    let (secure, code) = steps(&address, &flags.concat()).await;
    assert_eq!(code, Some(0), "{secure:#?}");
    let all = ["dns", "tcp", "tls", "expiry", "alpn", "http2", "health", "info", "series"];
    assert_eq!(secure.iter().map(|step| step["step"].as_str().unwrap()).collect::<Vec<_>>(), all);
    assert!(secure[2]["detail"].as_str().unwrap().contains(&server_name("eu-1")), "{secure:#?}");
    assert!(secure[8]["detail"].as_str().unwrap().contains("job=\"a\""), "{secure:#?}");

    let table = doctor(&[format!("--endpoint={address}"), format!("--endpoint={}", "127.0.0.1:1")]).await;
    assert_eq!(table.code, Some(1));
    assert!(table.stdout.contains("failed") && table.stdout.contains("->"), "{}", table.stdout);
    assert!(table.stderr.contains("2 of 2 endpoints cannot be used"), "{}", table.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_ports_and_protocols_that_are_wrong_are_told_apart() {
    stops_at("dns", "no-such-host.invalid:10901", &[], "cannot be resolved").await;
    stops_at("dns", "nonsense", &[], "port is missing").await;
    let closed = format!("127.0.0.1:{}", parallax_testkit::process::free_port().unwrap());
    stops_at("tcp", &closed, &[], "nothing listens").await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    stops_at("http2", &address, &["--timeout=2s".to_owned()], "says nothing").await;

    let http1 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = http1.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = http1.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
            // Until the other side is done: a connection that is closed with something unread is reset.
            while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
        }
    });
    stops_at("http2", &address, &[], "HTTP/1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_in_which_tls_fails_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let other = Keys::new(directory.path(), "other.test");
    let name = |cluster: &str| vec![format!("--grpc-client-server-name={}", server_name(cluster))];
    let (address, _stop) = served(store(), Some(&keys.observee("eu-1")), true).await;
    let hub = keys.observer("hub").client_flags();

    stops_at("tls", &address, &[other.observer("hub").client_flags(), name("eu-1")].concat(), "CA").await;
    stops_at("tls", &address, &[hub.clone(), name("us-1")].concat(), &server_name("us-1")).await;
    // The server learns of our certificate after the handshake, and so do we of its refusal.
    let expired = [keys.expired_observer("old").client_flags(), name("eu-1")].concat();
    stops_at("http2", &address, &expired, "expired").await;
    stops_at("http2", &address, &[], "TLS").await;

    let (plain, _stop) = served(store(), None, true).await;
    stops_at("tls", &plain, &[hub, name("eu-1")].concat(), "TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_above_the_connection_is_told() {
    let (address, _stop) = served(store(), None, false).await;
    stops_at("health", &address, &[], "not serving").await;

    let down = store().with_fault(Fault::Down(Status::unavailable("no TSDB")));
    let (address, _stop) = served(down, None, true).await;
    stops_at("info", &address, &[], "no TSDB").await;

    let broken = store().with_fault(Fault::FailOpen(Status::internal("disk on fire")));
    let (address, _stop) = served(broken, None, true).await;
    stops_at("series", &address, &[], "disk on fire").await;

    let refusing = store().with_fault(Fault::FailOpen(Status::permission_denied("not you")));
    let (address, _stop) = served(refusing, None, true).await;
    stops_at("series", &address, &[], "allow-list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_observers_file_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _stop) = served(store(), None, true).await;
    let path = directory.path().join("observer.yaml");
    let cluster = |name: &str, address: &str| json!({"name": name, "address": address, "plaintext": true});
    let config = json!({"clusters": [cluster("eu-1", &address), cluster("us-1", &address), cluster("ap-1", "127.0.0.1:1")]});
    std::fs::write(&path, config.to_string()).unwrap();
    let finished = doctor(&[format!("--config={}", path.display()), "--output=json".to_owned()]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let [eu, us, ap] = &report["endpoints"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((eu["name"].as_str(), eu["well"].as_bool()), (Some("eu-1"), Some(true)), "{eu}");
    // It works, and it is not the cluster that the file says.
    let info = us["steps"].as_array().unwrap().iter().find(|step| step["step"] == "info").unwrap();
    assert_eq!(info["outcome"], "doubtful", "{us}");
    assert_eq!((ap["well"].as_bool(), ap["steps"].as_array().unwrap().len()), (Some(false), 2), "{ap}");
    let nothing = doctor(&[]).await;
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
}
