//! The observer's file with real processes: what it declares of clusters, and that it is taken again without losing a query.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::program::{PATIENCE, Program, command, has_ended, run};
use crate::question::{Answer, ask_until, get, post};
use crate::sides::{MACHINES, MACHINES_UP, Observee, PATIENT, REPLICA_LABEL};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// An observer, and the file that it follows.
struct Observer {
    program: Program,
    path: PathBuf,
    directory: PathBuf,
    url: String,
}

impl Observer {
    async fn start(directory: &Path, clusters: &[Value]) -> Self {
        let path = directory.join("mesh.yaml");
        std::fs::write(&path, content(directory, clusters, json!({})).to_string()).unwrap();
        let mut program = Program::start(command(["observer", "--config"]).arg(&path), directory, "observer");
        let url = program.ready().await;
        Self { program, path, directory: directory.to_path_buf(), url }
    }

    /// Puts a file in the place of the one that there is, as a whole.
    fn write(&self, text: &str) {
        let next = self.path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.path).unwrap();
    }

    fn write_clusters(&self, clusters: &[Value]) {
        self.write(&content(&self.directory, clusters, json!({})).to_string());
    }

    async fn reload(&self) -> Answer {
        post(&self.url, "/-/reload", &[]).await
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = get(&self.url, "/metrics", &[]).await;
        let text = text.body.as_str().unwrap().to_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    async fn stores(&self) -> String {
        get(&self.url, "/api/v1/stores", &[]).await.body.to_string()
    }

    /// Waits until the list of stores is as wanted.
    async fn stores_until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let stores = self.stores().await;
            if wanted(&stores) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {stores}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every line of the metrics is as wanted.
    async fn metrics_until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let text = get(&self.url, "/metrics", &[]).await.body.as_str().unwrap().to_owned();
            if text.lines().all(&wanted) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn clusters_until(&self, clusters: &[&str]) -> Answer {
        ask_until(&self.url, MACHINES_UP, |answer| {
            answer.status == 200
                && answer.warnings().is_empty()
                && answer.by("cluster").keys().map(String::as_str).eq(clusters.iter().copied())
        })
        .await
    }
}

fn content(directory: &Path, clusters: &[Value], more: Value) -> Value {
    let mut config = json!({
        "http_address": "127.0.0.1:0",
        "replica_labels": [REPLICA_LABEL],
        "data_dir": directory.join("data"),
        "info_interval": "1s",
        "sync_interval": "1s",
        "response_timeout": PATIENT,
        "clusters": clusters,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn cluster(name: &str, observee: &Observee, more: Value) -> Value {
    let mut section = json!({"name": name, "address": observee.grpc, "plaintext": true});
    section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    section
}

/// An observee of `name` with files of its own, so that a cluster may have several.
async fn observee(name: &str, directory: &Path, own: &str) -> Observee {
    let directory = directory.join(own);
    std::fs::create_dir_all(&directory).unwrap();
    Observee::start(name, None, &directory).await
}

/// Asks for eu-1 again and again, each time for a whole answer; gives how many there were, and the first that was not as it should be.
fn keep_asking(url: &str, stop: &Arc<AtomicBool>) -> JoinHandle<(usize, Option<Answer>)> {
    let (url, stop) = (url.to_owned(), stop.clone());
    tokio::spawn(async move {
        let mut asked = 0;
        while !stop.load(Ordering::Relaxed) {
            let query = "count by (cluster) (up{job=\"demo\",cluster=\"eu-1\"} == 1)";
            let answer = get(&url, "/api/v1/query", &[("query", query), ("partial_response", "0")]).await;
            asked += 1;
            let is_whole = answer.status == 200
                && answer.warnings().is_empty()
                && answer.body["coverage"]["state"] == "complete"
                && answer.by("cluster").get("eu-1") == Some(&MACHINES);
            if !is_whole {
                return (asked, Some(answer));
            }
        }
        (asked, None)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_again_and_again_and_no_query_fails_or_lacks_anything() {
    let directory = tempfile::tempdir().unwrap();
    let (eu, us) =
        (observee("eu-1", directory.path(), "a").await, observee("us-1", directory.path(), "b").await);
    let other_eu = observee("eu-1", directory.path(), "c").await;
    let (plain_eu, plain_us) = (cluster("eu-1", &eu, json!({})), cluster("us-1", &us, json!({})));
    let mut observer = Observer::start(directory.path(), std::slice::from_ref(&plain_eu)).await;
    observer.clusters_until(&["eu-1"]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = [keep_asking(&observer.url, &stop), keep_asking(&observer.url, &stop)];

    // Found by itself: a cluster more.
    observer.write_clusters(&[plain_eu.clone(), plain_us.clone()]);
    observer.clusters_until(&["eu-1", "us-1"]).await;
    // At a signal: one less, of which nothing is left.
    observer.write_clusters(std::slice::from_ref(&plain_eu));
    observer.program.process().reload().unwrap();
    observer.clusters_until(&["eu-1"]).await;
    observer.stores_until("us-1 is still there", |stores| !stores.contains("querier us-1")).await;
    observer
        .metrics_until("what is gone is still measured", |line| {
            !(line.starts_with("parallax_querier_endpoint_up") && line.contains(&us.grpc))
        })
        .await;

    // On request, which answers when it is done: another address, another declaration, a bucket.
    let bucket = json!({"type": "FILESYSTEM", "config": {"directory": directory.path().join("bucket")}});
    std::fs::create_dir_all(directory.path().join("bucket")).unwrap();
    let changed = [
        cluster("eu-1", &other_eu, json!({"region": "europe", "required": true, "budget": "30s"})),
        cluster("eu-1", &other_eu, json!({"endpoints": [eu.grpc], "labels": {"env": "prod"}})),
        cluster("eu-1", &eu, json!({"bucket": bucket})),
        cluster("eu-1", &other_eu, json!({"bucket": bucket, "endpoints": [eu.grpc], "hedge_delay": "50ms"})),
        plain_eu.clone(),
    ];
    for _ in 0..3 {
        for section in &changed {
            observer.write_clusters(&[section.clone(), plain_us.clone()]);
            let answer = observer.reload().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let stores = observer.stores().await;
            assert_eq!(stores.contains("\"region\":\"europe\""), section.get("region").is_some(), "{stores}");
            assert_eq!(stores.contains("store gateway eu-1"), section.get("bucket").is_some(), "{stores}");
        }
    }
    observer.clusters_until(&["eu-1", "us-1"]).await;
    assert_eq!(observer.metric("parallax_config_last_reload_successful").await, 1.0);
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        let (asked, odd) = asking.await.unwrap();
        assert!(odd.is_none(), "of {asked}: {odd:?}\n{}", observer.program.log());
        assert!(asked > 10, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_leaves_the_last_good_one_and_says_why_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let eu = observee("eu-1", directory.path(), "a").await;
    let good = [cluster("eu-1", &eu, json!({}))];
    let observer = Observer::start(directory.path(), &good).await;
    observer.clusters_until(&["eu-1"]).await;
    assert_eq!(observer.metric("parallax_config_last_reload_successful").await, 1.0);
    let file = |clusters: &[Value], more: Value| content(directory.path(), clusters, more).to_string();
    let with = |more: Value| file(&[cluster("eu-1", &eu, more)], json!({}));
    let twice = [good[0].clone(), good[0].clone()];
    for (text, part) in [
        ("clusters: [".to_owned(), "line"),
        (with(json!({"budgte": "1s"})), "budgte"),
        (with(json!({"budget": "0s"})), "cluster eu-1: budget is 0"),
        (
            with(json!({"tls": {"cert": "/no/cert", "key": "/no/key", "ca": "/no/ca"}, "plaintext": false})),
            "/no/cert",
        ),
        (with(json!({"bucket": {"type": "CLOUD"}})), "bucket of cluster eu-1"),
        (file(&twice, json!({})), "cluster eu-1: stands there twice"),
        (
            file(&good, json!({"query_timeout": "9s", "grpc_address": "127.0.0.1:0"})),
            "grpc_address, query_timeout",
        ),
    ] {
        observer.write(&text);
        let answer = observer.reload().await;
        let said = answer.body.as_str().unwrap().to_owned();
        assert!(answer.status == 500 && said.contains(part), "{part}: {answer:?}");
        assert_eq!(observer.metric("parallax_config_last_reload_successful").await, 0.0);
        let stores = observer.stores().await;
        assert!(
            stores.contains("mesh.yaml") && stores.contains("the last good file stays in use"),
            "{stores}"
        );
        observer.program.log_line(part).await;
        observer.clusters_until(&["eu-1"]).await;
    }
    // Repaired, it is found by itself.
    observer.write_clusters(&good);
    observer.stores_until("it is still refused", |stores| !stores.contains("mesh.yaml")).await;
    // The problem is the last to go.
    assert_eq!(observer.metric("parallax_config_last_reload_successful").await, 1.0);
    assert_eq!(observer.metric("parallax_config_reloads_total{result=\"failure\"}").await, 7.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_before_the_start_is_complete_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    // Nobody is there: the start takes as long as Info may.
    let section = json!({"name": "eu-1", "address": "127.0.0.1:1", "plaintext": true});
    std::fs::write(&path, content(directory.path(), &[section], json!({})).to_string()).unwrap();
    let start = |args: [&str; 2], name| Program::start(command(args).arg(&path), directory.path(), name);
    let mut observer = start(["observer", "--config"], "observer");
    // Said before anything of the file runs; one signal after the other, until it is ready.
    observer.log_line("http server listens").await;
    let mut signals = 0;
    while !observer.log().contains("configuration file is applied") {
        observer.process().reload().unwrap();
        signals += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(signals < 5_000 && !has_ended(observer.id()), "{}", observer.log());
    }
    observer.ready().await;
    drop(observer);
    // And one that reads nothing again.
    let mut querier = Program::start(
        &mut command(["query", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"]),
        directory.path(),
        "query",
    );
    let url = querier.ready().await;
    querier.process().reload().unwrap();
    for _ in 0..10 {
        assert_eq!(get(&url, "/-/healthy", &[]).await.status, 200, "{}", querier.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_what_is_taken_again_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let eu = observee("eu-1", directory.path(), "a").await;
    let clusters = [cluster("eu-1", &eu, json!({}))];
    let observer = Observer::start(directory.path(), &clusters).await;
    observer.clusters_until(&["eu-1"]).await;
    let machines = || async { get(&observer.url, "/api/v1/query", &[("query", MACHINES_UP)]).await };
    let policy =
        |rules: Value| content(directory.path(), &clusters, json!({"label_policy": {"rules": rules}}));
    let one = json!([{"who": ["anybody"], "may_read": "{instance=\"demo-0:9100\"}"}]);
    observer.write(&policy(one.clone()).to_string());
    assert_eq!(observer.reload().await.status, 200);
    assert_eq!(machines().await.by("cluster")["eu-1"], 1.0);
    // A policy that cannot be used changes nothing, least of all to nobody being held.
    observer.write(
        &policy(json!([{"who": ["anybody"], "may_read": "up"}, {"who": [], "may_read": "{}"}])).to_string(),
    );
    let refused = observer.reload().await;
    assert!(refused.status == 500 && refused.body.to_string().contains("rule 2"), "{refused:?}");
    assert_eq!(machines().await.by("cluster")["eu-1"], 1.0);
    observer.write(&policy(json!([{"who": ["observer/hub"], "may_read": "{}"}])).to_string());
    assert_eq!(observer.reload().await.status, 200);
    let refused = machines().await;
    assert!(refused.status == 403, "{refused:?}");
    observer.write_clusters(&clusters);
    assert_eq!(observer.reload().await.status, 200);
    assert_eq!(machines().await.by("cluster")["eu-1"], MACHINES);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_required_cluster_there_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let (eu, us) =
        (observee("eu-1", directory.path(), "a").await, observee("us-1", directory.path(), "b").await);
    let of_us = |required: bool| {
        let more = json!({"required": required, "region": "america"});
        [cluster("eu-1", &eu, json!({})), cluster("us-1", &us, more)]
    };
    let observer = Observer::start(directory.path(), &of_us(true)).await;
    let (required, optional) = (of_us(true), of_us(false));
    observer.clusters_until(&["eu-1", "us-1"]).await;
    drop(us);
    let partial = [("query", MACHINES_UP), ("partial_response", "1")];
    let refused = get(&observer.url, "/api/v1/query", &partial).await;
    let said = refused.body["error"].as_str().unwrap_or_default().to_owned();
    assert!(refused.status == 422 && said.contains("cluster \"us-1\""), "{refused:?}");
    assert!(said.contains("this cluster is required"), "{said}");
    let names = get(&observer.url, "/api/v1/labels", &[("partial_response", "1")]).await;
    assert!(names.status != 200 && names.body.to_string().contains("us-1"), "{names:?}");
    let others = [("query", "up{cluster=\"eu-1\"}"), ("partial_response", "1")];
    let answer = get(&observer.url, "/api/v1/query", &others).await;
    assert_eq!((answer.status, answer.warnings().len()), (200, 0), "{answer:?}");

    observer.write_clusters(&optional);
    assert_eq!(observer.reload().await.status, 200);
    let answer = get(&observer.url, "/api/v1/query", &partial).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.warning_about("us-1").is_some(), "{answer:?}");
    let clusters = answer.body["coverage"]["clusters"].as_array().unwrap();
    assert_eq!(clusters[0], json!({"cluster": "eu-1", "state": "complete"}));
    assert_eq!((&clusters[1]["cluster"], &clusters[1]["region"]), (&json!("us-1"), &json!("america")));
    observer.write_clusters(&required);
    assert_eq!(observer.reload().await.status, 200);
    assert_eq!(get(&observer.url, "/api/v1/query", &partial).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_cluster_is_cut_off_at_its_budget_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let eu = observee("eu-1", directory.path(), "a").await;
    let mut us = observee("us-1", directory.path(), "b").await;
    let clusters = [cluster("eu-1", &eu, json!({})), cluster("us-1", &us, json!({"budget": "700ms"}))];
    let observer = Observer::start(directory.path(), &clusters).await;
    observer.clusters_until(&["eu-1", "us-1"]).await;
    us.program.process().suspend().unwrap();
    let partial = [("query", MACHINES_UP), ("partial_response", "1")];
    let answer = get(&observer.url, "/api/v1/query", &partial).await;
    us.program.process().resume().unwrap();
    assert_eq!((answer.status, answer.by("cluster").get("eu-1")), (200, Some(&MACHINES)), "{answer:?}");
    let warning = answer.warning_about("us-1").unwrap();
    assert!(warning.contains("late") && warning.contains("its budget of 700ms was spent"), "{warning}");
    let clusters = answer.body["coverage"]["clusters"].to_string();
    assert!(clusters.contains("\"state\":\"late\"") && clusters.contains("700ms"), "{clusters}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_endpoints_the_one_that_is_not_frozen_answers_and_nobody_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = observee("eu-1", directory.path(), "a").await;
    let second = observee("eu-1", directory.path(), "b").await;
    let more = json!({"endpoints": [second.grpc], "hedge_delay": "100ms"});
    let observer = Observer::start(directory.path(), &[cluster("eu-1", &first, more)]).await;
    observer.clusters_until(&["eu-1"]).await;
    first.program.process().suspend().unwrap();
    let whole = [("query", MACHINES_UP), ("partial_response", "0")];
    for _ in 0..3 {
        let answer = get(&observer.url, "/api/v1/query", &whole).await;
        assert_eq!((answer.status, answer.warnings().len()), (200, 0), "{answer:?}");
        assert_eq!(answer.by("cluster").get("eu-1"), Some(&MACHINES));
    }
    first.program.process().resume().unwrap();
    // Killed, it costs nothing but a connection that is refused.
    drop(first);
    let answer = get(&observer.url, "/api/v1/query", &whole).await;
    assert_eq!((answer.status, answer.by("cluster").get("eu-1")), (200, Some(&MACHINES)), "{answer:?}");
    let metrics = get(&observer.url, "/metrics", &[]).await.body.as_str().unwrap().to_owned();
    let counted = metrics.lines().any(|line| line.starts_with("parallax_querier_alternatives_total"));
    assert!(counted, "{metrics}");
}

#[test]
fn each_endpoint_of_a_cluster_is_looked_at_by_the_doctor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    let section =
        json!({"name": "eu-1", "plaintext": true, "address": "127.0.0.1:1", "endpoints": ["127.0.0.1:2"]});
    std::fs::write(&path, json!({"clusters": [section]}).to_string()).unwrap();
    let finished = run(["doctor", "--timeout=60s", "--config", path.to_str().unwrap()]);
    for name in ["eu-1 127.0.0.1:1", "eu-1 127.0.0.1:2"] {
        assert!(finished.stdout.contains(name), "{finished:?}");
    }
}
