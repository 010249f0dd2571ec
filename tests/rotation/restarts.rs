//! T9: nodes that are killed and started again, in each phase of a rotation of each CA. What they read when they start is what the others understand at that moment.

use std::fs;
use std::time::Instant;

use parallax_testkit::process::free_port;
use serde_json::{Value, json};

use super::LOOK_AGAIN;
use crate::desk::Desk;
use crate::program::{PATIENCE, Program};
use crate::question::{ask, ask_until};
use crate::sides::{Leaf, MACHINES, MACHINES_UP, Observee, named_observer, server_name};

/// A cluster and a hub, each of which can be killed and started again where it was.
struct Pair {
    desk: Desk,
    addresses: Value,
    observee: Option<Observee>,
    hub: Option<Program>,
    /// Of the hub, which takes another port each time.
    url: String,
    starts: usize,
}

impl Pair {
    async fn start() -> Self {
        let desk = Desk::new();
        let name = server_name("eu-1");
        desk.ok(&format!("issue --state file:pki --observee eu-1 --dns {name} --out certs/eu-1"));
        desk.ok("issue --state file:pki --observer hub --out certs/hub");
        let address = || format!("127.0.0.1:{}", free_port().unwrap());
        let addresses = json!({"http_address": address(), "grpc_address": address()});
        let mut pair = Self { desk, addresses, observee: None, hub: None, url: String::new(), starts: 0 };
        pair.start_observee().await;
        pair.start_hub().await;
        pair
    }

    async fn start_observee(&mut self) {
        let leaf = Leaf(self.desk.path("certs/eu-1"));
        let directory = self.desk.path("");
        let started = Observee::start_with("eu-1", Some(&leaf), self.addresses.clone(), &directory).await;
        self.observee = Some(started);
    }

    async fn start_hub(&mut self) {
        self.starts += 1;
        let address = self.addresses["grpc_address"].clone();
        let section = json!({"name": "eu-1", "address": address, "server_name": server_name("eu-1")});
        let leaf = Leaf(self.desk.path("certs/hub"));
        let name = format!("hub-{}", self.starts);
        let mut hub = named_observer(&name, &[section], Some(&leaf), &self.desk.path(""));
        self.url = hub.ready().await;
        self.hub = Some(hub);
        let metrics = |url: &str| json!([format!("{url}/metrics")]);
        let observee = format!("http://{}", self.addresses["http_address"].as_str().unwrap());
        let peers = json!({"peers": [
            {"identity": "observee/eu-1", "metrics": metrics(&observee)},
            {"identity": "observer/hub", "metrics": metrics(&self.url)},
        ]});
        fs::write(self.desk.path("peers.yaml"), peers.to_string()).unwrap();
    }

    async fn is_whole(&self) {
        ask_until(&self.url, MACHINES_UP, |answer| {
            answer.warnings().is_empty() && answer.by("cluster").get("eu-1") == Some(&MACHINES)
        })
        .await;
    }

    /// Kills each, looks at what the other says then, and starts it again.
    async fn survives_restarts(&mut self) {
        self.is_whole().await;
        self.observee = None;
        let without = ask(&self.url, MACHINES_UP).await;
        assert!(without.status == 200 && without.warning_about("eu-1").is_some(), "{without:?}");
        self.start_observee().await;
        self.is_whole().await;
        self.hub = None;
        self.start_hub().await;
        self.is_whole().await;
    }

    /// A step, repeated while its gate is not met.
    async fn step(&self, hierarchy: &str, phase: &str) {
        let words = format!("rotate ca {hierarchy} --state file:pki --phase {phase} --peers peers.yaml");
        let began = Instant::now();
        loop {
            let finished = tokio::task::block_in_place(|| self.desk.pki(&words));
            match finished.code {
                Some(0) => return,
                Some(6) if began.elapsed() < PATIENCE => tokio::time::sleep(LOOK_AGAIN).await,
                _ => panic!("{words}: {finished:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn t9_nodes_that_are_killed_and_started_again_in_any_phase_of_a_rotation_answer() {
    let mut pair = Pair::start().await;
    for hierarchy in ["observees", "observers"] {
        for phase in ["prepare", "activate", "renew", "drain", "retire"] {
            match phase {
                "renew" => _ = tokio::task::block_in_place(|| pair.desk.ok("renew --state file:pki --all")),
                phase => pair.step(hierarchy, phase).await,
            }
            println!("{hierarchy}: {phase}");
            pair.survives_restarts().await;
        }
    }
    let status = pair.desk.json("status --state file:pki");
    let phases: Vec<&Value> =
        status["rotations"].as_array().unwrap().iter().map(|one| &one["phase"]).collect();
    assert_eq!(phases, ["steady g2", "steady g2"], "{status}");
}
