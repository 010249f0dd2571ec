//! Certificates and whole CAs are replaced under a running mesh, and nobody who asks notices: no failed query, no partial answer.
//!
//! Real processes and the real `parallax pki`: a hub over three observees, one reached directly, one through a proxy that passes TCP on (as load balancers
//! do), one behind Debian's nginx that ends mTLS; and over a pair of Thanos' sidecars. Everything that the API answers is asked all the while, and every answer
//! has to be whole.

#[path = "rotation/edges.rs"]
mod edges;
#[path = "rotation/load.rs"]
mod load;
#[path = "rotation/pair.rs"]
mod pair;
#[path = "peers_support/peer.rs"]
#[allow(dead_code, reason = "only the way to the program is needed here")]
mod peer;
#[path = "rotation/restarts.rs"]
mod restarts;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::desk::Desk;
use crate::program::{self, PATIENCE, Program};
use crate::question::ask_until;
use crate::sides::{Leaf, MACHINES_UP, Observee, named_observer, server_name};
use edges::{proxy, serve_nginx};
use load::{Load, QUESTIONS};
use pair::{ThanosPair, thanos_or_leave_out};
use parallax_testkit::process::{Process, program_or_leave_out};
use serde_json::{Value, json};

/// Ours.
const CLUSTERS: [&str; 3] = ["ap-1", "eu-1", "us-1"];
/// Served by Thanos.
const THANOS: &str = "th-1";
/// The one behind nginx.
const BEHIND_NGINX: &str = "us-1";
/// The one behind a proxy of TCP.
const BEHIND_PROXY: &str = "eu-1";
/// Between two looks at a gate that is not met yet.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

struct Mesh {
    desk: Desk,
    nginx: Process,
    hub: Program,
    url: String,
    observees: Vec<Observee>,
    thanos: Option<ThanosPair>,
    clusters: Vec<&'static str>,
}

impl Mesh {
    /// With a pair of Thanos' sidecars as one more cluster, where `thanos` is given.
    async fn start(nginx: &Path, thanos: Option<&Path>) -> Self {
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
                    let (process, address) = serve_nginx(nginx, &desk, cluster, &observee.grpc).await;
                    ingress = Some(process);
                    peer["connect"] = address.clone().into();
                    peer["server_name"] = server_name(cluster).into();
                    address
                }
                BEHIND_PROXY => proxy(vec![observee.grpc.clone()]).await,
                _ => observee.grpc.clone(),
            };
            peers.push(peer);
            sections.push(json!({"name": cluster, "address": address, "server_name": server_name(cluster)}));
            observees.push(observee);
        }
        let mut clusters = CLUSTERS.to_vec();
        let mut pair = None;
        if let Some(program) = thanos {
            let name = server_name(THANOS);
            desk.ok(&format!("issue --state file:pki --observee {THANOS} --dns {name} --out certs/{THANOS}"));
            let leaf = Leaf(desk.path(&format!("certs/{THANOS}")));
            let started = ThanosPair::start(program, THANOS, &leaf, &desk.path("")).await;
            let identity = format!("observee/{THANOS}");
            peers.push(json!({"identity": identity, "connect": started.each(), "server_name": name}));
            sections.push(json!({"name": THANOS, "address": started.address, "server_name": name}));
            clusters.push(THANOS);
            clusters.sort_unstable();
            pair = Some(started);
        }
        let leaf = Leaf(desk.path("certs/hub"));
        let mut hub = named_observer("hub", &sections, Some(&leaf), &desk.path(""));
        let url = hub.ready().await;
        peers.push(json!({"identity": "observer/hub", "metrics": [format!("{url}/metrics")]}));
        fs::write(desk.path("peers.yaml"), json!({"peers": peers}).to_string()).unwrap();
        ask_until(&url, MACHINES_UP, |answer| {
            answer.warnings().is_empty() && answer.by("cluster").len() == clusters.len()
        })
        .await;
        Self { desk, nginx: ingress.unwrap(), hub, url, observees, thanos: pair, clusters }
    }

    fn pki(&self, words: &str) -> program::Finished {
        tokio::task::block_in_place(|| self.desk.pki(words))
    }

    /// A step of a rotation, repeated while its gate is not met. nginx as a client cannot be looked at, nor whose connections Thanos has: the operator
    /// answers for these.
    async fn step(&self, hierarchy: &str, phase: &str) {
        let mut words = format!(
            "rotate ca {hierarchy} --state file:pki --phase {phase} --peers peers.yaml --accept-missing ingress/{BEHIND_NGINX} --reason reloaded"
        );
        if self.thanos.is_some() && phase == "retire" {
            words.push_str(&format!(" --accept-missing observee/{THANOS}"));
        }
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
    async fn rotate(&mut self, hierarchy: &str, load: &Load) {
        load.say(&format!("{hierarchy} prepare"));
        self.step(hierarchy, "prepare").await;
        self.nginx.reload().unwrap();
        self.let_thanos_read(hierarchy, load).await;
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
        self.let_thanos_read(hierarchy, load).await;
        load.say(&format!("{hierarchy} retired"));
    }

    /// The bundle in which Thanos looks its clients up has changed, and it reads that only when it starts.
    async fn let_thanos_read(&mut self, hierarchy: &str, load: &Load) {
        if let Some(pair) = self.thanos.as_mut().filter(|_| hierarchy == "observers") {
            load.say("Thanos starts again");
            pair.restart_one_at_a_time().await;
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn nginx(test: &str) -> Option<PathBuf> {
    program_or_leave_out("nginx", test)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn both_cas_are_replaced_under_load_without_a_failed_query_or_a_partial_answer() {
    let test = "both_cas_are_replaced_under_load_without_a_failed_query_or_a_partial_answer";
    let Some(nginx) = nginx(test) else { return };
    let thanos = thanos_or_leave_out(test);
    let mut mesh = Mesh::start(&nginx, thanos.as_deref()).await;
    let load = Load::start(&mesh.url, &mesh.clusters);
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
    let mesh = Mesh::start(&program, None).await;
    let script = mesh.desk.path("reload-nginx");
    fs::write(&script, format!("#!/bin/sh\nkill -HUP {}\n", mesh.nginx.id())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let load = Load::start(&mesh.url, &mesh.clusters);
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
