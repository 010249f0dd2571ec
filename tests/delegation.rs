//! Stacked hubs: what an observer takes from a regional hub, by its certificate and by the list of clusters that is delegated to it.
//!
//! Real processes over TLS: two observees, a regional hub over them that serves upward with its own leaf, and observers (or queriers) above it.

use crate::program::{Program, command, run};
use crate::question::{Answer, ask_until, ask_until_refused, get};
use crate::sides::{
    Keys, Leaf, MACHINES, MACHINES_UP, Observee, REPLICA_LABEL, named_observer, server_name, side,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The hub's name, in its certificate and above.
const HUB: &str = "eu";
const CLUSTERS: [&str; 2] = ["eu-1", "eu-2"];

struct Region {
    hub: String,
    keys: Keys,
    directory: TempDir,
    _programs: (Program, Vec<Observee>),
}

impl Region {
    /// Comes back when the hub has data of both clusters.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::new(directory.path(), "mesh.test");
        let (mut observees, mut sections) = (Vec::new(), Vec::new());
        for cluster in CLUSTERS {
            let observee = Observee::start(cluster, Some(&keys.observee(cluster)), directory.path()).await;
            let name = server_name(cluster);
            sections.push(json!({"name": cluster, "address": observee.grpc, "server_name": name}));
            observees.push(observee);
        }
        let config = json!({
            "http_address": "127.0.0.1:0",
            "grpc_address": "127.0.0.1:0",
            "grpc_tls": keys.observee(HUB).section(),
            "tls": keys.observer("eu-asks").section(),
            "replica_labels": [REPLICA_LABEL],
            "data_dir": directory.path().join("eu-data"),
            "info_interval": "1s",
            "clusters": sections,
        });
        let mut program = side("observer", &config, directory.path(), HUB);
        let url = program.ready().await;
        ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").len() == CLUSTERS.len()).await;
        let hub = program.grpc().await;
        Self { hub, keys, directory, _programs: (program, observees) }
    }

    fn leaf(&self) -> Leaf {
        self.keys.observer("global")
    }

    /// The hub as an observer's file declares it, with more keys.
    fn section(&self, more: &Value) -> Value {
        let mut section = json!({"name": HUB, "address": self.hub, "server_name": server_name(HUB)});
        section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        section
    }

    async fn above(&self, name: &str, section: Value) -> (Program, String) {
        let mut observer = named_observer(name, &[section], Some(&self.leaf()), self.directory.path());
        let url = observer.ready().await;
        (observer, url)
    }
}

fn clusters(answer: &Answer) -> Vec<String> {
    answer.by("cluster").into_keys().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_takes_from_a_hub_the_clusters_that_are_delegated_to_it_and_no_others() {
    let region = Region::start().await;
    let (_both, url) = region.above("both", region.section(&json!({"delegated": CLUSTERS}))).await;
    let answer = ask_until(&url, MACHINES_UP, |answer| {
        answer.warnings().is_empty() && answer.by("cluster").len() == CLUSTERS.len()
    })
    .await;
    assert!(answer.by("cluster").values().all(|machines| *machines == MACHINES), "{answer:?}");

    let (_one, url) = region.above("one", region.section(&json!({"delegated": ["eu-2"]}))).await;
    let is_whole = |answer: &Answer| !answer.by("cluster").is_empty() && answer.warnings().is_empty();
    let answer = ask_until(&url, MACHINES_UP, is_whole).await;
    assert_eq!(clusters(&answer), ["eu-2"], "{answer:?}");
    let values = get(&url, "/api/v1/label/cluster/values", &[]).await;
    assert_eq!(values.data(), &json!(["eu-2"]), "{values:?}");
    let targets = get(&url, "/api/v1/targets", &[("state", "active")]).await;
    let active = targets.data()["activeTargets"].as_array().unwrap();
    assert!(!active.is_empty(), "{targets:?}");
    assert!(active.iter().all(|target| target["labels"]["cluster"] == "eu-2"), "{active:?}");
    assert!(
        targets.warnings().join("\n").contains("rule of declared clusters"),
        "targets cannot be asked for by cluster: {targets:?}"
    );
    let stores = get(&url, "/api/v1/stores", &[]).await.body.to_string();
    assert!(stores.contains("may answer only for") || stores.contains("is declared as"), "{stores}");

    let (_three, url) = region.above("three", region.section(&json!({"delegated": ["eu-1", "ap-1"]}))).await;
    let answer = ask_until(&url, MACHINES_UP, |answer| !answer.by("cluster").is_empty()).await;
    assert_eq!(clusters(&answer), ["eu-1"]);
    assert!(answer.warning_about("ap-1").is_some_and(|warning| warning.contains("missing")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_holds_more_than_is_delegated_to_it_may_be_refused_as_a_whole() {
    let region = Region::start().await;
    let more = json!({"delegated": ["eu-1"], "foreign_labels": "refuse"});
    let (_strict, url) = region.above("strict", region.section(&more)).await;
    let parts = ["rule of declared clusters", r#"cluster="eu-2""#, "nothing of it is believed", "delegated"];
    ask_until_refused(&url, MACHINES_UP, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_has_to_be_the_hubs_own_whatever_is_delegated() {
    let region = Region::start().await;
    // Another hub of the mesh stands where `eu` is expected; its certificate has the right DNS name.
    let section = |name: &str| json!({"name": name, "address": region.hub, "server_name": server_name(HUB), "delegated": CLUSTERS});
    let flat = json!({"name": "eu-1", "address": region.hub, "server_name": server_name(HUB)});
    for (name, declared) in [("other", section("ap")), ("flat", flat)] {
        let (_program, url) = region.above(name, declared).await;
        println!("{name}");
        let parts = ["rule of cluster identities", "spiffe://mesh.test/observee/eu ", "delegated"];
        ask_until_refused(&url, MACHINES_UP, &parts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_discovery_file_delegates_too_and_follows_the_file() {
    let region = Region::start().await;
    let leaf = region.leaf();
    let file = region.directory.path().join("endpoints.yaml");
    let write = |delegated: &[&str]| {
        let tls = json!({"cert_file": leaf.file("tls.crt"), "key_file": leaf.file("tls.key"), "ca_file": leaf.file("ca.crt")});
        let client = json!({"tls_config": tls, "server_name": server_name(HUB)});
        let entry =
            json!({"address": region.hub, "cluster": HUB, "delegated": delegated, "client_config": client});
        std::fs::write(&file, json!({"endpoints": [entry]}).to_string()).unwrap();
    };
    write(&["eu-1"]);
    let flags = [
        "query".to_owned(),
        "--http-address=127.0.0.1:0".to_owned(),
        "--grpc-address=127.0.0.1:0".to_owned(),
        format!("--query.replica-label={REPLICA_LABEL}"),
        format!("--endpoint.sd-config-file={}", file.display()),
    ];
    let mut querier = Program::start(&mut command(flags), region.directory.path(), "querier");
    let url = querier.ready().await;
    let is_whole = |answer: &Answer| !answer.by("cluster").is_empty() && answer.warnings().is_empty();
    let answer = ask_until(&url, MACHINES_UP, is_whole).await;
    assert_eq!(clusters(&answer), ["eu-1"], "{answer:?}");
    write(&["eu-1", "eu-2"]);
    let answer = ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").len() == 2).await;
    assert_eq!(clusters(&answer), CLUSTERS);
}

#[test]
fn a_delegation_that_cannot_work_is_an_error_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    for (more, part) in [
        (json!({"delegated": []}), "list the clusters"),
        (json!({"delegated": ["eu-1", ""]}), "empty"),
        (json!({"delegated": CLUSTERS, "foreign_labels": "inject"}), "use drop or refuse"),
    ] {
        let mut section = json!({"name": HUB, "address": "localhost:1", "plaintext": true});
        section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = home.path().join("observer.yaml");
        std::fs::write(&path, json!({"clusters": [section]}).to_string()).unwrap();
        let finished = run(["observer", "--check", "--config", &path.display().to_string()]);
        assert_eq!(finished.code, Some(2), "{more}: {finished:?}");
        assert!(finished.stderr.contains("cluster eu") && finished.stderr.contains(part), "{finished:?}");
    }
}
