//! Certificates and whole CAs are replaced under a running mesh, and nobody who asks notices: no failed query, no partial answer.
//!
//! Real processes and the real `parallax pki`: a hub over three observees, one reached directly, one through a proxy that passes TCP on (as load balancers
//! do), one behind Debian's nginx that ends mTLS. Everything that the API answers is asked all the while, and every answer has to be whole.

#[path = "support/desk.rs"]
mod desk;
#[path = "support/program.rs"]
mod program;
#[path = "support/question.rs"]
mod question;
#[path = "support/sides.rs"]
mod sides;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use desk::Desk;
use parallax_simulate::stand_in::now_ms;
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use program::{PATIENCE, Program};
use question::{Answer, ask_until, get};
use serde_json::{Value, json};
use sides::{Leaf, MACHINES, MACHINES_UP, Observee, named_observer, server_name};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CLUSTERS: [&str; 3] = ["ap-1", "eu-1", "us-1"];
/// The one behind nginx.
const BEHIND_NGINX: &str = "us-1";
/// The one behind a proxy of TCP.
const BEHIND_PROXY: &str = "eu-1";
/// Between two looks at a gate that is not met yet.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const CALLERS: usize = 3;

struct Mesh {
    desk: Desk,
    nginx: Process,
    hub: Program,
    url: String,
    observees: Vec<Observee>,
}

impl Mesh {
    async fn start(nginx: &Path) -> Self {
        let desk = Desk::new();
        for cluster in CLUSTERS {
            let name = server_name(cluster);
            desk.ok(&format!(
                "issue --state file:pki --observee {cluster} --dns {name} --out certs/{cluster}"
            ));
        }
        let name = server_name(BEHIND_NGINX);
        desk.ok(&format!("issue --state file:pki --observee {BEHIND_NGINX} --dns {name} --out certs/nginx"));
        desk.ok(&format!("issue --state file:pki --ingress {BEHIND_NGINX} --out certs/ingress"));
        desk.ok("issue --state file:pki --observer hub --out certs/hub");

        let (mut observees, mut sections, mut peers, mut ingress) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        for cluster in CLUSTERS {
            let leaf = Leaf(desk.path(&format!("certs/{cluster}")));
            let mut observee = Observee::start(cluster, Some(&leaf), &desk.path("")).await;
            let metrics = format!("{}/metrics", observee.program.http().await);
            let mut peer = json!({"identity": format!("observee/{cluster}"), "metrics": [metrics]});
            let address = match cluster {
                BEHIND_NGINX => {
                    let (process, address) = serve_nginx(nginx, &desk, &observee.grpc).await;
                    ingress = Some(process);
                    peer["connect"] = address.clone().into();
                    peer["server_name"] = server_name(cluster).into();
                    address
                }
                BEHIND_PROXY => proxy(&observee.grpc).await,
                _ => observee.grpc.clone(),
            };
            peers.push(peer);
            sections.push(json!({"name": cluster, "address": address, "server_name": server_name(cluster)}));
            observees.push(observee);
        }
        let leaf = Leaf(desk.path("certs/hub"));
        let mut hub = named_observer("hub", &sections, Some(&leaf), &desk.path(""));
        let url = hub.ready().await;
        peers.push(json!({"identity": "observer/hub", "metrics": [format!("{url}/metrics")]}));
        fs::write(desk.path("peers.yaml"), json!({"peers": peers}).to_string()).unwrap();
        ask_until(&url, MACHINES_UP, |answer| {
            answer.warnings().is_empty() && answer.by("cluster").len() == CLUSTERS.len()
        })
        .await;
        Self { desk, nginx: ingress.unwrap(), hub, url, observees }
    }

    fn pki(&self, words: &str) -> program::Finished {
        tokio::task::block_in_place(|| self.desk.pki(words))
    }

    /// A step of a rotation, repeated while its gate is not met. nginx as a client cannot be looked at: the operator answers for it.
    async fn step(&self, hierarchy: &str, phase: &str) {
        let words = format!(
            "rotate ca {hierarchy} --state file:pki --phase {phase} --peers peers.yaml --accept-missing ingress/{BEHIND_NGINX} --reason reloaded"
        );
        let began = Instant::now();
        loop {
            let finished = self.pki(&words);
            match finished.code {
                Some(0) => return,
                Some(6) if began.elapsed() < PATIENCE => tokio::time::sleep(LOOK_AGAIN).await,
                _ => panic!("{words}: {finished:?}\nhub:\n{}", tail(&self.hub.log())),
            }
        }
    }

    /// As the page says it.
    async fn rotate(&self, hierarchy: &str, load: &Load) {
        load.say(&format!("{hierarchy} prepare"));
        self.step(hierarchy, "prepare").await;
        self.nginx.reload().unwrap();
        load.say(&format!("{hierarchy} activate"));
        self.step(hierarchy, "activate").await;
        let renewed = self.pki("renew --state file:pki --all");
        assert_eq!(renewed.code, Some(0), "{renewed:?}");
        self.nginx.reload().unwrap();
        load.say(&format!("{hierarchy} drain"));
        self.step(hierarchy, "drain").await;
        load.say(&format!("{hierarchy} retire"));
        self.step(hierarchy, "retire").await;
        self.nginx.reload().unwrap();
        load.say(&format!("{hierarchy} retired"));
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// nginx before `backend`, with a leaf of its own as server and one as client. It reads files when it is told to.
async fn serve_nginx(program: &Path, desk: &Desk, backend: &str) -> (Process, String) {
    let (home, port) = (desk.path("nginx"), free_port().unwrap());
    fs::create_dir(&home).unwrap();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temporary, "{kind}_temp_path {}/{kind};", home.display()).unwrap();
    }
    let file = |leaf: &str, name: &str| desk.path(&format!("certs/{leaf}/{name}")).display().to_string();
    let text = format!(
        "user root; daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off; {temporary}
  server {{
    listen 127.0.0.1:{port} ssl http2;
    server_name {name};
    ssl_certificate {server_crt}; ssl_certificate_key {server_key};
    ssl_client_certificate {server_ca}; ssl_verify_client on;
    ssl_protocols TLSv1.3; client_max_body_size 0;
    location / {{
      grpc_pass grpcs://{backend};
      grpc_ssl_certificate {client_crt}; grpc_ssl_certificate_key {client_key};
      grpc_ssl_trusted_certificate {client_ca}; grpc_ssl_verify on;
      grpc_ssl_name {name}; grpc_ssl_server_name on; grpc_ssl_protocols TLSv1.3;
    }}
  }}
}}
",
        home = home.display(),
        name = server_name(BEHIND_NGINX),
        server_crt = file("nginx", "tls.crt"),
        server_key = file("nginx", "tls.key"),
        server_ca = file("nginx", "ca.crt"),
        client_crt = file("ingress", "tls.crt"),
        client_key = file("ingress", "tls.key"),
        client_ca = file("ingress", "ca.crt"),
    );
    fs::write(home.join("nginx.conf"), text).unwrap();
    let mut command = Command::new(program);
    command.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).args(["-e", "stderr"]);
    let mut process = Process::spawn(&mut command, &desk.path("nginx.log")).unwrap();
    process.wait_for_tcp(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).await.unwrap();
    (process, format!("127.0.0.1:{port}"))
}

/// Passes TCP on, as a load balancer does that does not look inside.
async fn proxy(backend: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let backend = backend.to_owned();
    tokio::spawn(async move {
        while let Ok((mut front, _)) = listener.accept().await {
            let backend = backend.clone();
            tokio::spawn(async move {
                if let Ok(mut back) = TcpStream::connect(&backend).await {
                    let _ = tokio::io::copy_bidirectional(&mut front, &mut back).await;
                }
            });
        }
    });
    address
}

/// Callers that ask everything again and again, and what was wrong with any answer.
struct Load {
    stop: Arc<AtomicBool>,
    moment: Arc<Mutex<String>>,
    callers: JoinSet<(BTreeMap<&'static str, u64>, Vec<String>)>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (stop, moment) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new("begin".to_owned())));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (url, stop, moment) = (url.to_owned(), Arc::clone(&stop), Arc::clone(&moment));
            callers.spawn(async move {
                let (mut asked, mut faults) = (BTreeMap::new(), Vec::new());
                // Not all of them the same at the same time.
                let mut questions = QUESTIONS.iter().cycle().skip(caller * 3);
                while let Some((question, parameters)) =
                    questions.next().filter(|_| !stop.load(Ordering::Relaxed))
                {
                    let (now, before) = (now_ms() / 1000, now_ms() / 1000 - 1800);
                    let times = [("start", before.to_string()), ("end", now.to_string())];
                    let times = times.iter().map(|(name, time)| (*name, time.as_str()));
                    let is_range = *question == "/api/v1/query_range";
                    let parameters: Vec<(&str, &str)> =
                        parameters.iter().copied().chain(times.filter(|_| is_range)).collect();
                    let answer = get(&url, question, &parameters).await;
                    *asked.entry(*question).or_default() += 1;
                    if let Some(fault) = fault(question, &answer) {
                        let moment = moment.lock().unwrap().clone();
                        faults.push(format!("at {moment:?}, {question}: {fault}"));
                    }
                }
                (asked, faults)
            });
        }
        Self { stop, moment, callers }
    }

    /// What is being done now, for the text of faults.
    fn say(&self, moment: &str) {
        *self.moment.lock().unwrap() = moment.to_owned();
    }

    /// How often each question was asked, once nothing is asked any more; no answer may have had a fault.
    async fn finish(mut self) -> BTreeMap<&'static str, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut asked, mut faults) = (BTreeMap::<&str, u64>::new(), Vec::new());
        while let Some(result) = self.callers.join_next().await {
            let (one, more) = result.unwrap();
            one.into_iter().for_each(|(question, count)| *asked.entry(question).or_default() += count);
            faults.extend(more);
        }
        println!("asked: {asked:?}");
        assert!(faults.is_empty(), "{} of {asked:?} had a fault, first:\n{}", faults.len(), first(&faults));
        asked
    }
}

fn first(faults: &[String]) -> String {
    faults.iter().take(5).cloned().collect::<Vec<_>>().join("\n")
}

/// Paths with their parameters.
const QUESTIONS: [(&str, &[(&str, &str)]); 8] = [
    ("/api/v1/query", &[("query", MACHINES_UP)]),
    ("/api/v1/query_range", &[("query", "sum by (cluster) (rate(demo_requests_total[5m]))"), ("step", "60")]),
    ("/api/v1/series", &[("match[]", "up")]),
    ("/api/v1/labels", &[]),
    ("/api/v1/label/cluster/values", &[]),
    ("/api/v1/targets", &[("state", "active")]),
    ("/api/v1/metadata", &[]),
    ("/api/v1/rules", &[]),
];

/// What is wrong with an answer; every one has to be whole.
fn fault(question: &str, answer: &Answer) -> Option<String> {
    let data = answer.data();
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    let is_whole = match question {
        "/api/v1/query" => {
            let by = answer.by("cluster");
            CLUSTERS.iter().all(|cluster| by.get(*cluster) == Some(&MACHINES))
        }
        "/api/v1/query_range" => count(&data["result"]) == CLUSTERS.len(),
        "/api/v1/series" => count(data) == 2 * CLUSTERS.len(),
        "/api/v1/label/cluster/values" => *data == json!(CLUSTERS),
        "/api/v1/targets" => count(&data["activeTargets"]) as f64 == MACHINES * CLUSTERS.len() as f64,
        "/api/v1/metadata" => data["demo_requests_total"].is_array(),
        "/api/v1/rules" => data["groups"].is_array(),
        _ => count(data) > 5,
    };
    // An observee is a querier over its sidecars, and what it answers to these says in warnings alone what is missing.
    let is_side = ["/api/v1/targets", "/api/v1/metadata", "/api/v1/rules"].contains(&question);
    let state = &answer.body["coverage"]["state"];
    let is_covered = state.is_null() || state == "complete" || (is_side && state == "unattested");
    let is_good = answer.status == 200 && answer.warnings().is_empty() && is_whole && is_covered;
    (!is_good).then(|| answer.body.to_string().chars().take(1500).collect())
}

fn nginx(test: &str) -> Option<PathBuf> {
    program_or_leave_out("nginx", test)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn both_cas_are_replaced_under_load_without_a_failed_query_or_a_partial_answer() {
    let Some(program) = nginx("both_cas_are_replaced_under_load_without_a_failed_query_or_a_partial_answer")
    else {
        return;
    };
    let mesh = Mesh::start(&program).await;
    let load = Load::start(&mesh.url);
    let began = Instant::now();
    for hierarchy in ["observees", "observers"] {
        mesh.rotate(hierarchy, &load).await;
    }
    println!("both rotations took {:?}", began.elapsed());
    let asked = load.finish().await;
    assert_eq!(asked.len(), QUESTIONS.len(), "{asked:?}");
    let status = mesh.desk.json("status --state file:pki");
    let phases: Vec<&Value> =
        status["rotations"].as_array().unwrap().iter().map(|one| &one["phase"]).collect();
    assert_eq!(phases, ["steady g2", "steady g2"], "{status}");
    // Who holds a leaf of a former CA is out.
    let bundle = mesh.desk.text("certs/hub/ca.crt");
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 1, "{bundle}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn leaves_that_a_daemon_renews_every_second_fail_no_query() {
    let Some(program) = nginx("leaves_that_a_daemon_renews_every_second_fail_no_query") else { return };
    let mesh = Mesh::start(&program).await;
    let script = mesh.desk.path("reload-nginx");
    fs::write(&script, format!("#!/bin/sh\nkill -HUP {}\n", mesh.nginx.id())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let load = Load::start(&mesh.url);
    let words = format!(
        "renew --state file:pki --all --daemon --every 1s --at 0 --jitter 0 --exec {}",
        script.display()
    );
    let daemon = Program::start(&mut mesh.desk.command(&words), &mesh.desk.path(""), "daemon");
    let began = Instant::now();
    let taken = |log: &str| log.matches("new credentials are in use").count();
    loop {
        let counts: Vec<usize> = mesh.observees.iter().map(|one| taken(&one.program.log())).collect();
        let hub = taken(&mesh.hub.log());
        load.say(&format!("renewed {hub} times"));
        if counts.iter().chain([&hub]).all(|count| *count >= 8) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{counts:?}, hub {hub}; daemon:\n{}", tail(&daemon.log()));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let log = daemon.log();
    assert!(log.contains("renewed") && !log.contains("renewing failed"), "{log}");
    drop(daemon);
    load.finish().await;
}
