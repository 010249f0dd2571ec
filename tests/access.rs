//! Who may ask whom, between real processes over TLS: lists of allowed identities, and the certificate that answers for a cluster.

use std::path::Path;

use crate::program::{Program, command, run};
use crate::question::{ask, ask_until, ask_until_refused, get};
use crate::sides::{Keys, Leaf, MACHINES, MACHINES_UP, Observee, named_observer, server_name};
use serde_json::json;

fn querier(name: &str, more: Vec<String>, directory: &Path) -> Program {
    let fixed = [
        "query",
        "--http-address=127.0.0.1:0",
        "--grpc-address=127.0.0.1:0",
        "--query.replica-label=prometheus_replica",
    ]
    .map(str::to_owned);
    Program::start(&mut command(fixed.into_iter().chain(more)), directory, name)
}

/// Data from `cluster`, and nothing to warn of.
async fn expect_whole(url: &str, cluster: &str) {
    let answer = ask_until(url, MACHINES_UP, |answer| {
        answer.warnings().is_empty() && answer.by("cluster").contains_key(cluster)
    })
    .await;
    assert_eq!(answer.by("cluster")[cluster], MACHINES);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observee_serves_the_observers_on_its_list_and_tells_others_the_rule() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let more = json!({"allowed_observers": ["observer/hub"]});
    let server = keys.observee("eu-1");
    let observee = Observee::start_with("eu-1", Some(&server), more, directory.path()).await;
    let clusters = [json!({"name": "eu-1", "address": observee.grpc, "server_name": server_name("eu-1")})];
    let mut hub = named_observer("hub", &clusters, Some(&keys.observer("hub")), directory.path());
    expect_whole(&hub.http().await, "eu-1").await;

    let mut other = named_observer("other", &clusters, Some(&keys.observer("other")), directory.path());
    let url = other.ready().await;
    let rule = "rule of allowed identities: spiffe://mesh.test/observer/other is not on this server's list";
    ask_until_refused(&url, MACHINES_UP, &[rule, "allowed_observers", "cluster \"eu-1\""]).await;
    let side = get(&url, "/api/v1/rules", &[]).await;
    assert!(side.warnings().join("\n").contains(rule), "every service has the rule: {side:?}");
    let stores = get(&url, "/api/v1/stores", &[]).await.body.to_string();
    assert!(stores.contains(rule), "{stores}");
    // It tells the caller first.
    observee.program.log_line(rule).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_takes_its_list_from_flags() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let observee = Observee::start("eu-1", None, directory.path()).await;
    let guarded: Vec<String> = [
        keys.observee("eu-1").server_flags(),
        vec![
            format!("--endpoint={}", observee.grpc),
            "--grpc-server-allowed-identity=spiffe://mesh.test/observer/hub".to_owned(),
            "--grpc-server-allowed-identity=observer/second".to_owned(),
        ],
    ]
    .concat();
    let mut guarded = querier("guarded", guarded, directory.path());
    guarded.ready().await;
    let endpoint = format!("--endpoint={}", guarded.grpc().await);
    let above = |name: &str| {
        let name_flag = format!("--grpc-client-server-name={}", server_name("eu-1"));
        let flags = [keys.observer(name).client_flags(), vec![endpoint.clone(), name_flag]].concat();
        querier(name, flags, directory.path())
    };
    for name in ["hub", "second"] {
        let mut allowed = above(name);
        expect_whole(&allowed.ready().await, "eu-1").await;
    }
    let mut other = above("other");
    ask_until_refused(&other.ready().await, MACHINES_UP, &["rule of allowed identities", "observer/other"])
        .await;
}

#[test]
fn a_list_that_cannot_work_is_an_error_at_the_start() {
    for (flags, part) in [
        (vec!["--grpc-server-allowed-identity=observer/hub"], "client CA"),
        (vec!["--grpc-server-allowed-identity=observee/eu-1"], "only observers and ingresses ask"),
        (vec!["--grpc-server-forwarded-certificates=apache"], "none of xfcc, nginx, ingress-nginx, traefik"),
    ] {
        let fixed = ["query", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"];
        let finished = run(fixed.into_iter().chain(flags.iter().copied()));
        assert!(finished.code.is_some_and(|code| code != 0), "{flags:?}: {finished:?}");
        assert!(format!("{}{}", finished.stdout, finished.stderr).contains(part), "{flags:?}: {finished:?}");
    }
}

/// The observee of one cluster, dialled by its own name and declared as another.
async fn misdeclared(keys: &Keys, directory: &Path) -> (Observee, Leaf) {
    let observee = Observee::start("us-1", Some(&keys.observee("us-1")), directory).await;
    (observee, keys.observer("hub"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_shows_another_clusters_certificate_is_down_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let (observee, leaf) = misdeclared(&keys, directory.path()).await;
    let section = |name: &str, more: serde_json::Value| {
        let mut section = json!({"name": name, "address": observee.grpc, "server_name": server_name("us-1")});
        section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        [section]
    };
    let start = |name: &str, clusters: &[serde_json::Value]| {
        named_observer(name, clusters, Some(&leaf), directory.path())
    };
    // Its name is as configured: only its identity gives it away.
    let mut wrong = start("wrong", &section("eu-1", json!({})));
    let url = wrong.ready().await;
    let rule = "spiffe://mesh.test/observee/us-1 answers for the cluster \"eu-1\"";
    ask_until_refused(&url, MACHINES_UP, &["rule of cluster identities", rule]).await;
    let stores = get(&url, "/api/v1/stores", &[]).await.body.to_string();
    assert!(stores.contains("observee/us-1 answers for the cluster"), "{stores}");
    drop(wrong);

    let mut right = start("right", &section("us-1", json!({})));
    expect_whole(&right.http().await, "us-1").await;
    drop(right);

    // An identity that is stated is what counts, and the names do not.
    let stated = json!({"identity": "spiffe://mesh.test/observee/us-1", "server_name": "any.example"});
    let mut stated = start("stated", &section("us-1", stated));
    expect_whole(&stated.http().await, "us-1").await;
    drop(stated);

    let mut other = start("other", &section("us-1", json!({"identity": "spiffe://mesh.test/observee/eu-1"})));
    ask_until_refused(
        &other.ready().await,
        MACHINES_UP,
        &["observee/us-1, but spiffe://mesh.test/observee/eu-1 was expected"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_the_discovery_file_is_held_to_its_cluster_too() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let (observee, leaf) = misdeclared(&keys, directory.path()).await;
    for (name, cluster, is_right) in [("right", "us-1", true), ("wrong", "eu-1", false)] {
        let file = directory.path().join(format!("{name}.endpoints.yaml"));
        let tls = json!({"cert_file": leaf.file("tls.crt"), "key_file": leaf.file("tls.key"), "ca_file": leaf.file("ca.crt")});
        let client = json!({"tls_config": tls, "server_name": server_name("us-1")});
        let entry = json!({"address": observee.grpc, "cluster": cluster, "client_config": client});
        std::fs::write(&file, json!({"endpoints": [entry]}).to_string()).unwrap();
        let flags = vec![format!("--endpoint.sd-config-file={}", file.display())];
        let mut program = querier(name, flags, directory.path());
        let url = program.ready().await;
        if is_right {
            expect_whole(&url, "us-1").await;
        } else {
            ask_until_refused(&url, MACHINES_UP, &["rule of cluster identities", "observee/us-1"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_from_discovery_files_while_a_querier_runs_and_calls_may_be_zstd() {
    let directory = tempfile::tempdir().unwrap();
    let observee = Observee::start("eu-1", None, directory.path()).await;
    let pattern = directory.path().join("stores-*.json").display().to_string();
    let flags = vec![format!("--store.sd-files={pattern}"), "--grpc-compression=zstd".to_owned()];
    let mut querier = querier("querier", flags, directory.path());
    let url = querier.ready().await;
    assert!(ask(&url, MACHINES_UP).await.by("cluster").is_empty());
    let list = json!([{"targets": [observee.grpc], "labels": {"any": "thing"}}]);
    std::fs::write(directory.path().join("stores-1.json"), list.to_string()).unwrap();
    expect_whole(&url, "eu-1").await;
    std::fs::write(directory.path().join("stores-2.json"), "no list").unwrap();
    querier.log_line("a file of addresses is bad").await;
    expect_whole(&url, "eu-1").await;
    std::fs::remove_file(directory.path().join("stores-1.json")).unwrap();
    ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").is_empty() && answer.warnings().is_empty())
        .await;
}
