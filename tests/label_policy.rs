//! Label policies and tenancy between real processes over TLS: who may read what is decided by the certificate that a caller shows, at every hop.

use std::path::Path;
use std::time::Duration;

use crate::program::{PATIENCE, Program, command, run};
use crate::question::{Answer, ask, ask_until, get, texts};
use crate::sides::{Keys, Leaf, MACHINES, MACHINES_UP, Observee, named_observer, server_name};
use parallax_net::{HttpClient, HttpClientConfig};
use parallax_pki::{CredentialFiles, CredentialSource, Purpose};
use serde_json::{Value, json};

/// One of the two machines of every cluster.
const ONE_MACHINE: &str = "{instance=\"demo-0:9100\"}";

fn observers(keys: &Keys, observee: &Observee, name: &str, directory: &Path) -> Program {
    let clusters = [json!({"name": "eu-1", "address": observee.grpc, "server_name": server_name("eu-1")})];
    named_observer(name, &clusters, Some(&keys.observer(name)), directory)
}

async fn machines(url: &str) -> Answer {
    ask_until(url, MACHINES_UP, |answer| {
        answer.by("cluster").contains_key("eu-1") && answer.warnings().is_empty()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observee_shows_each_observer_what_its_certificate_may_read() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let policy = json!({"rules": [
        {"who": ["observer/hub"], "may_read": "{}"},
        {"who": ["spiffe://mesh.test/observer/team"], "may_read": ONE_MACHINE},
    ]});
    let more = json!({"label_policy": policy});
    let observee = Observee::start_with("eu-1", Some(&keys.observee("eu-1")), more, directory.path()).await;

    let mut hub = observers(&keys, &observee, "hub", directory.path());
    assert_eq!(machines(&hub.ready().await).await.by("cluster")["eu-1"], MACHINES);

    let mut team = observers(&keys, &observee, "team", directory.path());
    let url = team.ready().await;
    assert_eq!(machines(&url).await.by("cluster")["eu-1"], 1.0);
    let values = get(&url, "/api/v1/label/instance/values", &[]).await;
    assert_eq!(texts(values.data()), ["demo-0:9100"]);
    let series = get(&url, "/api/v1/series", &[("match[]", "{job=\"demo\"}")]).await;
    let series = series.data().as_array().unwrap().clone();
    assert!(!series.is_empty() && series.iter().all(|one| one["instance"] == "demo-0:9100"), "{series:?}");
    let targets = get(&url, "/api/v1/targets", &[]).await;
    let others = |answer: &Answer| answer.data().to_string().contains("demo-1:9100");
    assert!(!others(&targets), "{targets:?}");
    let status = get(&url, "/api/v1/status/tsdb", &[]).await;
    assert!(status.warnings().join("\n").contains("label policy"), "{status:?}");

    let mut other = observers(&keys, &observee, "other", directory.path());
    let url = other.ready().await;
    let answer = ask(&url, MACHINES_UP).await;
    let warnings = answer.warnings().join("\n");
    assert!(answer.by("cluster").is_empty(), "{answer:?}");
    for part in ["cluster \"eu-1\"", "no rule names spiffe://mesh.test/observer/other"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
}

/// A client of an HTTP server that asks for certificates.
fn client(address: &str, leaf: &Leaf) -> HttpClient {
    let files = CredentialFiles {
        cert: Some(leaf.0.join("tls.crt")),
        key: Some(leaf.0.join("tls.key")),
        ca: Some(leaf.0.join("ca.crt")),
    };
    let tls = CredentialSource::from_files(files, Purpose::Client { skip_verify: false }).unwrap();
    HttpClient::new(HttpClientConfig {
        tls: Some(tls),
        server_name: Some(server_name("web")),
        ..HttpClientConfig::new(format!("https://{address}"))
    })
    .unwrap()
}

async fn json_of(client: &HttpClient, path: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
    let response = client.get(path, parameters).await.unwrap();
    let status = response.status().as_u16();
    let body = response.bytes(1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// `parallax query` over one observee, with HTTPS that asks for certificates.
struct Https {
    program: Program,
    address: String,
    _observee: Observee,
}

impl Https {
    async fn start(keys: &Keys, more: &[String], directory: &Path) -> Self {
        let observee = Observee::start("eu-1", None, directory).await;
        let web = keys.observee("web");
        let file = directory.join("web.yml");
        let config = json!({"tls_server_config": {
            "cert_file": web.file("tls.crt"),
            "key_file": web.file("tls.key"),
            "client_ca_file": web.file("ca.crt"),
            "client_auth_type": "RequireAndVerifyClientCert",
        }});
        std::fs::write(&file, config.to_string()).unwrap();
        let fixed = [
            "query".to_owned(),
            "--http-address=127.0.0.1:0".to_owned(),
            "--grpc-address=127.0.0.1:0".to_owned(),
            format!("--http.config={}", file.display()),
            format!("--endpoint={}", observee.grpc),
            "--query.replica-label=prometheus_replica".to_owned(),
        ];
        let program = Program::start(&mut command(fixed.iter().chain(more)), directory, "query");
        let line = program.log_line("http server listens").await;
        let address = line.split_once("address=").unwrap().1.split_whitespace().next().unwrap().to_owned();
        Self { program, address, _observee: observee }
    }

    /// What `leaf` is told of how many machines are up, once the querier knows its endpoint.
    async fn machines(&self, leaf: &Leaf, wanted: impl Fn(&Value) -> bool) -> (u16, Value) {
        let client = client(&self.address, leaf);
        let began = std::time::Instant::now();
        loop {
            let (status, body) = json_of(&client, "/api/v1/query", &[("query", MACHINES_UP)]).await;
            if status != 200 || wanted(&body["data"]["result"]) {
                return (status, body);
            }
            assert!(began.elapsed() < PATIENCE, "{body}: {}", self.program.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn is_count(result: &Value, count: &str) -> bool {
    result[0]["value"][1] == count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_querier_tells_callers_over_https_apart_by_their_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let policy = directory.path().join("policy.yaml");
    let rules = format!(
        "rules:\n- who: [observer/hub]\n  may_read: '{{}}'\n- who: [observer/team]\n  may_read: '{ONE_MACHINE}'\n"
    );
    std::fs::write(&policy, rules).unwrap();
    let flag = format!("--label-policy.config-file={}", policy.display());
    let server = Https::start(&keys, &[flag], directory.path()).await;
    server.machines(&keys.observer("hub"), |result| is_count(result, "2")).await;
    let team = keys.observer("team");
    server.machines(&team, |result| is_count(result, "1")).await;
    let (status, body) = server.machines(&keys.observer("other"), |_| true).await;
    assert_eq!((status, &body["errorType"]), (403, &json!("forbidden")));
    assert!(body["error"].as_str().unwrap().contains("observer/other"), "{body}");
    let (_, active) = json_of(&client(&server.address, &team), "/api/v1/active_queries", &[]).await;
    assert_eq!(active["data"]["queries"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_taken_from_the_callers_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    // Of the labels that the machines have, `job` is the one that a certificate can carry the value of.
    let flags = [
        "--query.enforce-tenancy",
        "--query.tenant-certificate-field=commonName",
        "--query.tenant-label-name=job",
    ];
    let server = Https::start(&keys, &flags.map(str::to_owned), directory.path()).await;
    server.machines(&keys.observer("demo"), |result| is_count(result, "2")).await;
    let (status, body) = server.machines(&keys.observer("other"), |_| true).await;
    assert_eq!((status, &body["data"]["result"]), (200, &json!([])), "no job is called other: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_next_process_tells_which_queries_ran() {
    let directory = tempfile::tempdir().unwrap();
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let active = directory.path().join("active");
    let start = |name: &str| {
        let arguments = [
            "query".to_owned(),
            "--http-address=127.0.0.1:0".to_owned(),
            "--grpc-address=127.0.0.1:0".to_owned(),
            "--store.response-timeout=0s".to_owned(),
            format!("--endpoint={}", silent.local_addr().unwrap()),
            format!("--query.active-query-path={}", active.display()),
        ];
        Program::start(&mut command(arguments), directory.path(), name)
    };
    let mut first = start("first");
    let url = first.http().await;
    // Again, should the endpoint be left alone for a while.
    let asking = tokio::spawn(async move {
        loop {
            ask(&url, "sum(unfinished_business)").await;
        }
    });
    let began = std::time::Instant::now();
    let log = active.join("queries.active");
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("unfinished_business")) {
        assert!(began.elapsed() < PATIENCE, "{}", first.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Killed, not stopped; and before whoever asks goes away, which would end the query.
    drop(first);
    asking.abort();
    let second = start("second");
    let line = second.log_line("had not ended").await;
    assert!(line.contains("sum(unfinished_business)"), "{line}");
}

#[test]
fn a_policy_that_cannot_be_used_is_an_error_at_the_start() {
    for (flags, parts) in [
        (vec!["--label-policy.config=rules: []"], vec!["--label-policy.config", "no rule"]),
        (
            vec!["--label-policy.config=rules: [{who: [observer/a], may_read: 'team=a'}]"],
            vec!["rule 1", "may_read"],
        ),
        (vec!["--query.tenant-certificate-field=surname"], vec!["surname", "organizationalUnit"]),
        (vec!["--query.tenant-header=a b"], vec!["tenant-header", "a b"]),
    ] {
        let fixed = ["query", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"];
        let finished = run(fixed.into_iter().chain(flags.iter().copied()));
        assert_eq!(finished.code, Some(2), "{flags:?}: {finished:?}");
        let said = format!("{}{}", finished.stdout, finished.stderr);
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
