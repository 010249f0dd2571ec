//! Wrong files, ports that are in use, and a Prometheus that cannot be told from others.

use std::net::TcpListener;
use std::path::Path;

use axum::Router;
use axum::routing::get;
use parallax_net::HttpServer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::program::{Finished, Program, command, finish, run};
use crate::question::ask_until;
use crate::sides::{Keys, MACHINES, MACHINES_UP, replicas, side};

/// Runs one side with this text as its file.
fn with_file(side: &str, text: &str) -> Finished {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    std::fs::write(&path, text).unwrap();
    finish(command([side, "--config"]).arg(&path))
}

#[test]
fn a_mistake_in_a_sides_file_is_named_with_file_key_and_line() {
    let observee = "cluster: eu-1\nprometheus:\n- url: http://127.0.0.1:9090\n";
    let observer = "clusters:\n- name: eu-1\n  address: eu-1:10901\n";
    for (side, text, words) in [
        ("observee", format!("{observee}buckett: x\n"), vec!["buckett", "line 4", "mesh.yaml"]),
        ("observee", format!("{observee}  tsdb_pth: /data\n"), vec!["tsdb_pth", "line 4"]),
        ("observee", "prometheus: []\n".to_owned(), vec!["cluster"]),
        ("observee", "cluster: eu-1\nprometheus: []\n".to_owned(), vec!["prometheus", "at least one"]),
        ("observee", format!("{observee}  ship_interval: soon\n"), vec!["soon", "line 4"]),
        ("observer", format!("{observer}  pasword: x\n"), vec!["pasword", "line 4", "mesh.yaml"]),
        ("observer", format!("{observer}querry_timeout: 1s\n"), vec!["querry_timeout", "line 4"]),
        ("observer", observer.to_owned(), vec!["cluster eu-1", "no certificates"]),
        (
            "observer",
            format!("{observer}  plaintext: true\ndeduplication_func: best\n"),
            vec!["deduplication_func", "best", "penalty, chain or gap-aware"],
        ),
        (
            "observer",
            format!("{observer}  plaintext: true\n  bucket: {{}}\n  bucket_file: b.yaml\n"),
            vec!["cluster eu-1", "bucket_file", "not both"],
        ),
        ("observer", "clusters:\n- name: eu-1\n".to_owned(), vec!["cluster eu-1", "address", "bucket"]),
        ("observer", "clusters: []\n".to_owned(), vec!["clusters", "at least one"]),
        ("observer", "clusters: [\n".to_owned(), vec!["line"]),
    ] {
        let finished = with_file(side, &text);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for word in words {
            assert!(finished.stderr.contains(word), "{word:?} about {text:?}: {}", finished.stderr);
        }
    }
    let missing = run(["observer", "--config=/no/such/mesh.yaml"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("/no/such/mesh.yaml"), "{}", missing.stderr);
}

#[test]
fn a_mistake_in_a_buckets_configuration_is_named() {
    for (yaml, words) in [
        ("type: FLOPPY\nconfig: {}", vec!["FLOPPY", "FILESYSTEM"]),
        ("type: S3\nconfig: {bucket: b}", vec!["S3", "endpoint"]),
        ("type: SWIFT\nconfig: {}", vec!["SWIFT", "FILESYSTEM, S3, GCS and AZURE"]),
        ("type: FILESYSTEM\nconfig: {directory: /tmp}\nprefixx: a", vec!["prefixx", "line 3"]),
        ("type: FILESYSTEM\nconfig: {dir: /tmp}", vec!["dir"]),
        ("type: FILESYSTEM\nconfig: {}", vec!["directory"]),
        ("type: [", vec!["objstore"]),
    ] {
        for arguments in [["store", "--http-address=127.0.0.1:0"], ["sidecar", "--http-address=127.0.0.1:0"]]
        {
            let finished = finish(
                command(arguments).arg("--grpc-address=127.0.0.1:0").arg(format!("--objstore.config={yaml}")),
            );
            assert_eq!(finished.code, Some(2), "{yaml:?}: {finished:?}");
            assert!(finished.stderr.contains("--objstore.config"), "{}", finished.stderr);
            for word in &words {
                assert!(finished.stderr.contains(word), "{word:?} about {yaml:?}: {}", finished.stderr);
            }
        }
    }
    let both = run(["store", "--objstore.config=type: FILESYSTEM", "--objstore.config-file=x.yaml"]);
    assert!(both.stderr.contains("both set"), "{}", both.stderr);
    let missing = run(["store", "--objstore.config-file=/no/such/bucket.yaml"]);
    assert!(missing.stderr.contains("/no/such/bucket.yaml"), "{}", missing.stderr);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", directory.path().display());
    let bucket = format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {:?}}}", directory.path());
    for (flag, other) in [("--http-address", "--grpc-address"), ("--grpc-address", "--http-address")] {
        let flags = [format!("{flag}={address}"), format!("{other}=127.0.0.1:0")];
        for component in [vec!["query"], vec!["store", &data, &bucket], vec!["sidecar"]] {
            let finished = finish(command(&component).args(&flags));
            assert_eq!(finished.code, Some(1), "{component:?}: {finished:?}");
            let named =
                finished.stderr.contains(&address) && finished.stderr.contains(flag.trim_start_matches('-'));
            assert!(named && finished.stderr.contains("in use"), "{component:?}: {}", finished.stderr);
        }
    }
    for (side, config) in [
        (
            "observee",
            json!({"cluster": "eu-1", "http_address": address, "grpc_address": "127.0.0.1:0",
            "prometheus": [{"url": "http://127.0.0.1:1"}]}),
        ),
        (
            "observer",
            json!({"http_address": address, "clusters": [{"name": "a", "address": "a:1", "plaintext": true}]}),
        ),
    ] {
        let finished = with_file(side, &config.to_string());
        assert_eq!(finished.code, Some(1), "{side}: {finished:?}");
        assert!(
            finished.stderr.contains(&address) && finished.stderr.contains("in use"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn certificate_files_that_cannot_be_used_are_named_before_anything_listens() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let (one, other) = (keys.observee("eu-1"), keys.observee("us-1"));
    let garbage = directory.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate").unwrap();
    let garbage = garbage.display().to_string();
    let (cert, key, ca) = (one.file("tls.crt"), one.file("tls.key"), one.file("ca.crt"));
    let others_key = other.file("tls.key");
    for (cert, key, ca, subject) in [
        ("/no/such/tls.crt", key.as_str(), ca.as_str(), "/no/such/tls.crt"),
        (&cert, "/no/such/tls.key", &ca, "/no/such/tls.key"),
        (&cert, &key, "/no/such/ca.crt", "/no/such/ca.crt"),
        (&garbage, &key, &ca, &garbage),
        (&cert, &garbage, &ca, &garbage),
        (&cert, &key, &garbage, &garbage),
        (&cert, &others_key, &ca, &others_key),
    ] {
        let finished = run([
            "query",
            "--http-address=127.0.0.1:0",
            "--grpc-address=127.0.0.1:0",
            &format!("--grpc-server-tls-cert={cert}"),
            &format!("--grpc-server-tls-key={key}"),
            &format!("--grpc-server-tls-client-ca={ca}"),
        ]);
        assert_eq!(finished.code, Some(2), "{subject}: {finished:?}");
        assert!(finished.stderr.contains(subject), "{subject}: {}", finished.stderr);
        assert!(!finished.stderr.contains("listens"), "{}", finished.stderr);
    }
    let lonely = run(["query", &format!("--grpc-server-tls-client-ca={ca}")]);
    assert!(lonely.stderr.contains("--grpc-server-tls-cert"), "{}", lonely.stderr);
    let unused = run(["query", &format!("--grpc-client-tls-ca={ca}")]);
    assert!(unused.stderr.contains("--grpc-client-tls-secure"), "plain text by mistake: {}", unused.stderr);
}

/// A Prometheus whose configuration has no external labels.
async fn without_external_labels(stop: &CancellationToken) -> String {
    let success = |data: Value| get(async move || axum::Json(json!({"status": "success", "data": data})));
    let router = Router::new()
        .route("/api/v1/status/buildinfo", success(json!({"version": "3.9.0"})))
        .route("/api/v1/status/flags", success(json!({})))
        .route("/api/v1/status/config", success(json!({"yaml": "global: {scrape_interval: 15s}\n"})));
    let server = HttpServer::bind("127.0.0.1:0", "fake").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    tokio::spawn(server.serve(router, stop.clone()));
    url
}

fn sidecar(url: &str, more: &[&str], directory: &Path) -> Program {
    let mut command = command(["sidecar", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"]);
    Program::start(command.arg(format!("--prometheus.url={url}")).args(more), directory, "sidecar")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_without_external_labels_is_named_and_the_sidecar_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let url = without_external_labels(&stop).await;
    let mut program = sidecar(&url, &[], directory.path());
    let line = program.log_line("external labels").await;
    assert!(line.contains(&url) && line.contains("global.external_labels"), "{line}");
    let http = program.http().await;
    let ready = crate::question::get(&http, "/-/ready", &[]).await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.as_str().unwrap().contains("external labels"), "{ready:?}");

    // After the time it was given it ends, and says why.
    let finished = finish(
        command(["sidecar", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"])
            .arg(format!("--prometheus.url={url}"))
            .args(["--prometheus.ready_timeout=1s", "--prometheus.get_config_interval=1s"]),
    );
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let last = finished.stderr.lines().last().unwrap();
    assert!(last.contains(&url) && last.contains("external labels"), "{last}");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_replicas_of_an_observee_answer_beside_one_without_external_labels() {
    let directory = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let bad = without_external_labels(&stop).await;
    let good = replicas("eu-1").await;
    let mut sections: Vec<Value> = good.iter().map(|one| json!({"url": one.url})).collect();
    sections.push(json!({"url": bad}));
    let config = json!({
        "cluster": "eu-1", "http_address": "127.0.0.1:0", "grpc_address": "127.0.0.1:0", "prometheus": sections,
    });
    let mut observee = side("observee", &config, directory.path(), "observee");
    observee.http().await;
    let endpoint = format!("--endpoint={}", observee.grpc().await);
    let replica = "--query.replica-label=prometheus_replica";
    let addresses = ["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"];
    let mut query =
        Program::start(command(["query", &endpoint, replica]).args(addresses), directory.path(), "query");
    let url = query.http().await;
    let answer =
        ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").get("eu-1") == Some(&MACHINES)).await;
    let warnings = answer.warnings().join("\n");
    assert!(warnings.contains(&bad), "{warnings}");
    let line = observee.log_line("external labels; set").await;
    assert!(line.contains(&bad), "{line}");
    stop.cancel();
}
