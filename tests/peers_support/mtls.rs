//! Thanos' client and our store over mutual TLS, with certificates of `parallax pki`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::component::{Component, parallax};
use crate::golden::golden_dir;
use crate::peer::{Peer, program_or_leave_out};

fn pki(arguments: &[&str]) {
    let output = Command::new(parallax()).arg("pki").args(arguments).output().expect("parallax pki");
    assert!(output.status.success(), "pki {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, a server leaf for cluster eu-1 and a client leaf for an observer.
fn certificates(dir: &Path) -> (PathBuf, PathBuf) {
    let state = format!("file:{}", dir.join("state").display());
    let (server, client) = (dir.join("server"), dir.join("client"));
    let path = |path: &Path| path.display().to_string();
    pki(&["init", "--state", &state, "--trust-domain", "mesh.test", "--no-encrypt"]);
    pki(&[
        "issue",
        "--state",
        &state,
        "--observee",
        "eu-1",
        "--dns",
        "localhost",
        "--ip",
        "127.0.0.1",
        "--out",
        &path(&server),
    ]);
    pki(&["issue", "--state", &state, "--observer", "hub", "--out", &path(&client)]);
    (server, client)
}

fn client_environment(leaf: Option<&Path>, authorities: &Path) -> Vec<(&'static str, PathBuf)> {
    let mut variables =
        vec![("PEERS_TLS_CA", authorities.to_owned()), ("PEERS_TLS_SERVER_NAME", PathBuf::from("localhost"))];
    if let Some(leaf) = leaf {
        variables.push(("PEERS_TLS_CERT", leaf.join("tls.crt")));
        variables.push(("PEERS_TLS_KEY", leaf.join("tls.key")));
    }
    variables
}

#[tokio::test(flavor = "multi_thread")]
async fn thanos_client_is_served_with_an_observers_certificate_and_refused_without() {
    let Some(peers) = program_or_leave_out("mutual TLS with Thanos' client") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (server, client) = certificates(dir.path());
    let tls = [("cert", "tls.crt"), ("key", "tls.key"), ("client-ca", "ca.crt")];
    let flags = tls.map(|(flag, file)| format!("--grpc-server-tls-{flag}={}", server.join(file).display()));
    let bucket = golden_dir().join("bucket-short");
    let store = Component::store(&parallax(), &bucket, &flags).await.expect("our store");

    let authorities = client.join("ca.crt");
    let trusted = client_environment(Some(&client), &authorities);
    let info = Peer::info(&peers, &store.grpc, &trusted).expect("Info over mTLS");
    assert_eq!(info["component"], "store");
    let mut series = Peer::series(&peers, &store.grpc, &trusted).expect("a client");
    let answer = series
        .ask(&json!({
            "min_ms": 0, "max_ms": i64::MAX / 2, "matchers": [{"type": "EQ", "name": "__name__", "value": "up"}],
            "batch_size": 64,
        }))
        .expect("series over mTLS");
    assert_eq!(answer["series"].as_array().map(Vec::len), Some(12), "{answer}");

    let refused = [
        ("plain text", vec![]),
        ("no certificate", client_environment(None, &authorities)),
        ("a server's certificate", client_environment(Some(&server), &authorities)),
    ];
    for (who, environment) in refused {
        assert!(Peer::info(&peers, &store.grpc, &environment).is_err(), "{who} is served");
    }
}
