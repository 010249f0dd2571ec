//! The reloader beside a Prometheus that is told what to answer, and beside the real one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::routing::{get, post};
use parallax_net::{Context, HttpClient, HttpClientConfig, HttpServer};
use parallax_sidecar::{ReloadMethod, ReloaderConfig, Sidecar, SidecarConfig};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use serde_json::{Value, json};

/// Far more than anything here takes; only a test that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
const RULES: &str = "groups:\n- name: first\n  rules: [{record: a, expr: vector(1)}]\n";
/// A variable that every environment has.
const VARIABLE: &str = "PATH";

/// Files of a Prometheus, and a sidecar that watches them.
struct Watched {
    directory: tempfile::TempDir,
    context: Context,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

impl Watched {
    fn new() -> Self {
        let watched = Self { directory: tempfile::tempdir().unwrap(), context: Context::for_test() };
        std::fs::create_dir(watched.at("rules")).unwrap();
        watched.write("rules/first.yml", RULES);
        watched
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file at once, as those do who write configuration.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at("new"), text).unwrap();
        std::fs::rename(self.at("new"), self.at(name)).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.at(name)).ok()
    }

    fn start(&self, url: &str, change: impl FnOnce(&mut ReloaderConfig)) {
        let mut reloader = ReloaderConfig {
            config_file: Some(self.at("in.yml")),
            output_file: Some(self.at("out.yml")),
            rule_directories: vec![self.at("rules")],
            retry_interval: Duration::from_millis(50),
            ..ReloaderConfig::default()
        };
        change(&mut reloader);
        let config = SidecarConfig { reloader: Some(reloader), ..SidecarConfig::new(url) };
        Sidecar::start(config, &self.context).unwrap();
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.context.metrics.encode().unwrap();
        let name = format!("thanos_sidecar_reloader_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    fn not_yaml(&self) -> usize {
        let text = self.context.metrics.encode().unwrap();
        let name = "parallax_sidecar_reloader_files_not_yaml ";
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    }
}

/// What a fake Prometheus says to `/-/reload`, and how often it was asked.
#[derive(Clone, Default)]
struct Fake {
    status: Arc<AtomicU16>,
    reloads: Arc<AtomicUsize>,
}

impl Fake {
    async fn start(&self, context: &Context) -> String {
        self.answer(200);
        let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let fake = self.clone();
        let reload = move || {
            fake.reloads.fetch_add(1, Ordering::SeqCst);
            let status = StatusCode::from_u16(fake.status.load(Ordering::SeqCst)).unwrap();
            async move { (status, "failed to reload config: because") }
        };
        let router = axum::Router::new().route("/-/reload", post(reload));
        tokio::spawn(server.serve(router, context.shutdown.clone()));
        url
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn reloads(&self) -> usize {
        self.reloads.load(Ordering::SeqCst)
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn configuration_is_expanded_and_every_change_of_content_is_loaded_once() {
    let (watched, fake) = (Watched::new(), Fake::default());
    let url = fake.start(&watched.context).await;
    watched.write("in.yml", &format!("global: {{external_labels: {{path: '$({VARIABLE})', cost: '$1'}}}}"));
    watched.start(&url, |_| {});
    eventually("nothing is loaded at the start", || fake.reloads() == 1).await;
    let value = std::env::var(VARIABLE).unwrap();
    let expected = format!("global: {{external_labels: {{path: '{value}', cost: '$1'}}}}");
    assert_eq!(watched.read("out.yml").unwrap(), expected);
    eventually("no success", || watched.metric("last_reload_successful") == 1.0).await;
    assert!(watched.metric("last_reload_success_timestamp_seconds") > 1e9);

    // The same content, written again, is no change: had it been loaded, there would be one more after what follows.
    watched.write("rules/first.yml", RULES);
    let seen = watched.metric("watch_events_total");
    eventually("a file that was replaced is not seen", || watched.metric("watch_events_total") > seen).await;
    watched.write("rules/second.yml", RULES);
    eventually("a new rule file is not loaded", || fake.reloads() == 2).await;
    watched.write("in.yml", "global: {}");
    eventually("a changed configuration is not loaded", || fake.reloads() == 3).await;
    assert_eq!(watched.read("out.yml").unwrap(), "global: {}");
    std::fs::remove_file(watched.at("rules/second.yml")).unwrap();
    eventually("a rule file that is gone is not noticed", || fake.reloads() == 4).await;
    assert_eq!(watched.metric("reloads_total"), 4.0);
    assert_eq!(watched.metric("reloads_failed_total"), 0.0);
}

#[tokio::test]
async fn a_reload_that_failed_is_owed_until_it_succeeds() {
    let (watched, fake) = (Watched::new(), Fake::default());
    let url = fake.start(&watched.context).await;
    fake.answer(500);
    watched.write("in.yml", "global: {}");
    watched.start(&url, |_| {});
    eventually("it is not tried again", || watched.metric("reloads_failed_total") >= 3.0).await;
    assert_eq!(watched.metric("last_reload_successful"), 0.0);
    fake.answer(200);
    eventually("it never succeeds", || watched.metric("last_reload_successful") == 1.0).await;
}

#[tokio::test]
async fn a_variable_that_is_not_set_keeps_the_old_configuration_and_not_the_new_rules() {
    const UNSET: &str = "global: {external_labels: {a: '$(PARALLAX_NO_SUCH_VARIABLE)'}}";
    let (watched, fake) = (Watched::new(), Fake::default());
    let url = fake.start(&watched.context).await;
    watched.write("in.yml", "global: {}");
    watched.start(&url, |_| {});
    eventually("nothing is loaded at the start", || fake.reloads() == 1).await;
    watched.write("in.yml", UNSET);
    let failures = "config_apply_operations_failed_total";
    eventually("an unset variable is no failure", || watched.metric(failures) > 0.0).await;
    assert_eq!(watched.metric("config_environment_variable_expansion_errors"), 1.0);
    assert_eq!(watched.read("out.yml").unwrap(), "global: {}");
    watched.write("rules/second.yml", RULES);
    eventually("rules wait for the configuration", || fake.reloads() == 2).await;
    assert_eq!(watched.read("out.yml").unwrap(), "global: {}");

    let tolerant = Watched::new();
    tolerant.write("in.yml", UNSET);
    tolerant.start(&url, |config| config.tolerate_unset_variables = true);
    eventually("an unset variable is not tolerated", || tolerant.read("out.yml").as_deref() == Some(UNSET))
        .await;
    assert_eq!(tolerant.metric("config_environment_variable_expansion_errors"), 1.0);
}

#[tokio::test]
async fn with_no_watch_interval_the_configuration_is_written_and_prometheus_left_alone() {
    let (watched, fake) = (Watched::new(), Fake::default());
    let url = fake.start(&watched.context).await;
    watched.start(&url, |config| config.watch_interval = Duration::ZERO);
    eventually("an absent file is no failure", || {
        watched.metric("config_apply_operations_failed_total") > 0.0
    })
    .await;
    watched.write("in.yml", "global: {}");
    eventually("it is never written", || watched.read("out.yml").is_some()).await;
    assert_eq!(fake.reloads(), 0);
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let context = Context::for_test();
    let start = |reloader: ReloaderConfig| {
        let config = SidecarConfig { reloader: Some(reloader), ..SidecarConfig::new("http://127.0.0.1:1") };
        Sidecar::start(config, &context).err().unwrap().to_string()
    };
    let (file, defaults) = (Some(PathBuf::from("a.yml")), ReloaderConfig::default);
    let error = start(ReloaderConfig { output_file: file.clone(), ..defaults() });
    assert!(error.contains("no configuration file"), "{error}");
    let error = start(ReloaderConfig { config_file: file.clone(), output_file: file, ..defaults() });
    assert!(error.contains("over itself"), "{error}");
}

/// The real Prometheus with the written configuration, or `None` where there is none. `name` is what the kernel calls the process.
async fn real(watched: &Watched, test: &str, name: &str) -> Option<(Process, String)> {
    let program = program_or_leave_out("prometheus", test)?;
    let link = watched.at(name);
    std::os::unix::fs::symlink(program, &link).unwrap();
    let config = json!({"global": {"external_labels": {"cluster": "before"}}, "rule_files": ["rules/*.yml"]});
    watched.write("out.yml", &config.to_string());
    let port = free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let mut command = Command::new(link);
    command
        .arg(format!("--config.file={}", watched.at("out.yml").display()))
        .arg(format!("--storage.tsdb.path={}", watched.at("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--web.enable-lifecycle", "--log.level=warn"]);
    let mut process = Process::spawn(&mut command, &watched.at("log")).unwrap();
    process.wait_for_http(&format!("{url}/-/ready"), PATIENCE).await.unwrap();
    Some((process, url))
}

async fn api(url: &str, path: &str) -> Value {
    let client = HttpClient::new(HttpClientConfig::new(url)).unwrap();
    let body = client.get(path, &[]).await.unwrap().bytes(16 << 20).await.unwrap();
    serde_json::from_slice::<Value>(&body).unwrap()["data"].take()
}

/// Names of the groups of rules that Prometheus has.
async fn groups(url: &str) -> Vec<String> {
    let data = api(url, "/api/v1/rules").await;
    let groups = data["groups"].as_array().unwrap().iter();
    groups.map(|group| group["name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until Prometheus has these groups.
async fn groups_are(url: &str, wanted: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = groups(url).await;
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?}, not {wanted:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn a_real_prometheus_follows(watched: &Watched, url: &str, method: ReloadMethod) {
    let config = json!({"global": {"external_labels": {"cluster": "after"}}, "rule_files": ["rules/*.yml"]});
    watched.write("in.yml", &config.to_string());
    watched.start(url, |config| config.method = method);
    eventually("prometheus does not reload", || watched.metric("last_reload_successful") == 1.0).await;
    assert!(api(url, "/api/v1/status/config").await["yaml"].as_str().unwrap().contains("after"));
    groups_are(url, &["first"]).await;

    // Prometheus refuses everything for the sake of one file, and keeps what it has.
    watched.write("rules/bad.yml", "groups:\n- name: [second\n");
    eventually("a file that is not YAML is not counted", || watched.not_yaml() == 1).await;
    eventually("a reload that failed is a success", || watched.metric("last_reload_successful") == 0.0).await;
    assert!(watched.metric("reloads_failed_total") >= 1.0);
    assert_eq!(groups(url).await, ["first"]);
    watched.write("rules/bad.yml", &RULES.replace("first", "second"));
    eventually("it never succeeds", || watched.metric("last_reload_successful") == 1.0).await;
    groups_are(url, &["second", "first"]).await;
    assert_eq!(watched.not_yaml(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_prometheus_is_told_over_http() {
    let watched = Watched::new();
    let Some((_process, url)) = real(&watched, "reloads over HTTP", "prometheus").await else { return };
    a_real_prometheus_follows(&watched, &url, ReloadMethod::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_prometheus_is_told_by_a_signal() {
    let watched = Watched::new();
    // A name that no other process has: the signal goes by the name.
    let name = format!("plx{}", std::process::id());
    let Some((_process, url)) = real(&watched, "reloads by a signal", &name).await else { return };
    a_real_prometheus_follows(&watched, &url, ReloadMethod::Signal { process_name: name }).await;
}

#[tokio::test]
async fn a_signal_to_nobody_says_so() {
    let (watched, info) = (Watched::new(), Arc::new(Mutex::new(0)));
    let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let asked = Arc::clone(&info);
    let answer = move || {
        *asked.lock().unwrap() += 1;
        let data = json!({"reloadConfigSuccess": true, "lastConfigTime": "2026-07-01T00:00:00Z"});
        async move { axum::Json(json!({"status": "success", "data": data})) }
    };
    let router = axum::Router::new().route("/api/v1/status/runtimeinfo", get(answer));
    tokio::spawn(server.serve(router, watched.context.shutdown.clone()));
    watched.write("in.yml", "global: {}");
    let process_name = format!("none-{}", std::process::id());
    watched.start(&url, |config| config.method = ReloadMethod::Signal { process_name });
    eventually("a signal to nobody is a success", || watched.metric("reloads_failed_total") >= 2.0).await;
    assert!(*info.lock().unwrap() >= 2);
    assert!(Path::new(&watched.at("out.yml")).exists());
}
