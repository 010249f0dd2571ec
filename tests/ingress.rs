//! Debian's nginx as the mTLS gRPC ingress of a cluster: the observer's certificate is checked there, and nothing passes without one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{PATIENCE, Program, command};
use crate::question::{ask, ask_until, ask_until_refused, get};
use crate::sides::{Keys, Leaf, MACHINES, MACHINES_UP, Observee, named_observer, observer, server_name};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Ends mTLS with the cluster's server leaf and shows `client` to the observee behind it, with the certificate that it was shown itself.
fn configuration(
    port: u16,
    backend: &str,
    (server, client): (&Leaf, &Leaf),
    header: &str,
    directory: &Path,
) -> String {
    let name = server_name("eu-1");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", directory.display()))
        .collect();
    format!(
        "daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
{temporary}
    server {{
        listen 127.0.0.1:{port} ssl http2;
        server_name {name};
        ssl_certificate {server_certificate};
        ssl_certificate_key {server_key};
        ssl_client_certificate {client_ca};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        client_max_body_size 0;
        location / {{
            grpc_pass grpcs://{backend};
            grpc_ssl_certificate {certificate};
            grpc_ssl_certificate_key {key};
            grpc_ssl_trusted_certificate {ca};
            grpc_ssl_verify on;
            grpc_ssl_name {name};
            grpc_ssl_server_name on;
            grpc_ssl_protocols TLSv1.3;
            grpc_set_header {header} $ssl_client_escaped_cert;
        }}
    }}
}}
",
        directory = directory.display(),
        server_certificate = server.file("tls.crt"),
        server_key = server.file("tls.key"),
        client_ca = server.file("ca.crt"),
        certificate = client.file("tls.crt"),
        key = client.file("tls.key"),
        ca = client.file("ca.crt"),
    )
}

/// In which our examples have nginx pass certificates on.
const HEADER: &str = "x-ssl-client-cert";

/// An observee behind nginx.
struct Cluster {
    keys: Keys,
    port: u16,
    ingress: String,
    observee: Observee,
    nginx: Process,
    directory: TempDir,
}

impl Cluster {
    async fn start(program: &Path) -> Self {
        Self::start_with(program, json!({}), HEADER).await
    }

    /// With more keys in the observee's file, and the name of the header with the client's certificate.
    async fn start_with(program: &Path, more: Value, header: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::new(directory.path(), "mesh.test");
        let server = keys.observee("eu-1");
        let observee = Observee::start_with("eu-1", Some(&server), more, directory.path()).await;
        let port = free_port().unwrap();
        let home = directory.path().join("nginx");
        std::fs::create_dir(&home).unwrap();
        let path = home.join("nginx.conf");
        let leaves = (&server, &keys.ingress("eu-1"));
        let text = configuration(port, &observee.grpc, leaves, header, &home);
        std::fs::write(&path, text).unwrap();
        let nginx = serve(program, directory.path(), port).await;
        Self { keys, port, ingress: format!("127.0.0.1:{port}"), observee, nginx, directory }
    }

    fn section(&self, name: &str) -> Value {
        json!({"name": name, "address": self.ingress, "server_name": server_name("eu-1")})
    }
}

/// nginx with the configuration in `directory`, once it listens.
async fn serve(program: &Path, directory: &Path, port: u16) -> Process {
    let home = directory.join("nginx");
    let mut command = Command::new(program);
    command.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).args(["-e", "stderr"]);
    let mut nginx = Process::spawn(&mut command, &directory.join("nginx.log")).unwrap();
    nginx.wait_for_tcp(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).await.unwrap();
    nginx
}

fn nginx(test: &str) -> Option<PathBuf> {
    program_or_leave_out("nginx", test)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_with_its_certificate_gets_data_through_the_ingress() {
    let Some(program) = nginx("an_observer_with_its_certificate_gets_data_through_the_ingress") else {
        return;
    };
    let cluster = Cluster::start(&program).await;
    let leaf = cluster.keys.observer("hub");
    let mut observer = observer(&[cluster.section("eu-1")], Some(&leaf), cluster.directory.path());
    let url = observer.http().await;
    let answer = ask_until(&url, MACHINES_UP, |answer| {
        answer.warnings().is_empty() && !answer.by("cluster").is_empty()
    })
    .await;
    assert_eq!(answer.by("cluster").get("eu-1"), Some(&MACHINES));
    let many = ask(&url, "count({__name__=~\".+\"}) by (cluster)").await;
    assert!(many.by("cluster")["eu-1"] > 20.0, "{many:?}");

    // What is beside series takes the same way.
    let beside = async |path: &str| {
        let answer = get(&url, path, &[]).await;
        assert!(answer.status == 200 && answer.warnings().is_empty(), "{path}: {answer:?}");
        answer.data().clone()
    };
    assert_eq!(beside("/api/v1/metadata").await["demo_requests_total"][0]["type"], "counter");
    let targets = beside("/api/v1/targets?state=active").await;
    let active = targets["activeTargets"].as_array().unwrap();
    assert_eq!(active.len() as f64, MACHINES, "both replicas scrape the same machines: {active:?}");
    assert!(active.iter().all(|target| target["labels"]["cluster"] == "eu-1"), "{active:?}");
    assert_eq!(beside("/api/v1/rules").await["groups"], json!([]));
    assert_eq!(beside("/api/v1/query_exemplars?query=up").await, json!([]));
    assert!(beside("/api/v1/status/tsdb").await["headStats"]["numSeries"].as_f64().unwrap() > 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_ends_is_a_warning_until_it_is_back() {
    let Some(program) = nginx("an_ingress_that_ends_is_a_warning_until_it_is_back") else { return };
    let cluster = Cluster::start(&program).await;
    let leaf = cluster.keys.observer("hub");
    let mut observer = observer(&[cluster.section("eu-1")], Some(&leaf), cluster.directory.path());
    let url = observer.http().await;
    ask_until(&url, MACHINES_UP, |answer| !answer.by("cluster").is_empty()).await;
    let Cluster { nginx, ingress, port, directory, observee, .. } = cluster;
    nginx.terminate(PATIENCE).await.unwrap();
    let answer = ask(&url, MACHINES_UP).await;
    let warning = answer.warning_about("eu-1").unwrap_or_else(|| panic!("no warning: {answer:?}"));
    assert!(warning.contains(&ingress), "{warning}");
    let again = serve(&program, directory.path(), port).await;
    let answer = ask_until(&url, MACHINES_UP, |answer| answer.warnings().is_empty()).await;
    assert_eq!(answer.by("cluster").get("eu-1"), Some(&MACHINES), "without a restart of anything else");
    drop((again, observee, directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_mesh_is_refused_and_the_answer_says_why() {
    let Some(program) = nginx("a_certificate_of_another_mesh_is_refused_and_the_answer_says_why") else {
        return;
    };
    let cluster = Cluster::start(&program).await;
    // Another authority that claims the same trust domain; its leaf trusts ours, so that only the ingress can object.
    let stranger = Keys::new(&cluster.directory.path().join("strangers"), "mesh.test").observer("hub");
    let ours = cluster.keys.observer("hub");
    std::fs::copy(ours.file("ca.crt"), stranger.file("ca.crt")).unwrap();
    let mut observer = observer(&[cluster.section("eu-1")], Some(&stranger), cluster.directory.path());
    let url = observer.ready().await;
    ask_until_refused(&url, MACHINES_UP, &[&cluster.ingress, "certificate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused_and_the_answer_says_why() {
    let Some(program) = nginx("a_client_without_a_certificate_is_refused_and_the_answer_says_why") else {
        return;
    };
    let cluster = Cluster::start(&program).await;
    let ca = cluster.keys.observer("hub").file("ca.crt");
    let arguments = [
        "query".to_owned(),
        "--http-address=127.0.0.1:0".to_owned(),
        "--grpc-address=127.0.0.1:0".to_owned(),
        "--grpc-client-tls-secure".to_owned(),
        format!("--grpc-client-tls-ca={ca}"),
        format!("--grpc-client-server-name={}", server_name("eu-1")),
        format!("--endpoint={}", cluster.ingress),
    ];
    let mut query = Program::start(&mut command(arguments), cluster.directory.path(), "query");
    let url = query.ready().await;
    ask_until_refused(&url, MACHINES_UP, &[&cluster.ingress, "certificate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observee_behind_the_ingress_tells_observers_apart_by_the_certificates_it_forwards() {
    let Some(program) =
        nginx("an_observee_behind_the_ingress_tells_observers_apart_by_the_certificates_it_forwards")
    else {
        return;
    };
    // The second is what Kubernetes' ingress-nginx has its nginx write.
    for (kind, header) in [("nginx", HEADER), ("ingress-nginx", "ssl-client-cert")] {
        let more = json!({"allowed_observers": ["hub"], "forwarded_certificates": kind});
        tells_observers_apart(&Cluster::start_with(&program, more, header).await).await;
    }
}

async fn tells_observers_apart(cluster: &Cluster) {
    let sections = [cluster.section("eu-1")];
    let directory = cluster.directory.path();
    let mut hub = named_observer("hub", &sections, Some(&cluster.keys.observer("hub")), directory);
    let answer = ask_until(&hub.http().await, MACHINES_UP, |answer| {
        answer.warnings().is_empty() && !answer.by("cluster").is_empty()
    })
    .await;
    assert_eq!(answer.by("cluster").get("eu-1"), Some(&MACHINES));
    let mut other = named_observer("other", &sections, Some(&cluster.keys.observer("other")), directory);
    ask_until_refused(
        &other.ready().await,
        MACHINES_UP,
        &["spiffe://mesh.test/observer/other is not on this server's list"],
    )
    .await;
}
