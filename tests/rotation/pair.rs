//! Thanos' sidecar as a pair over one Prometheus, behind one address. It reads its CA bundle only when it starts, so the two are started again one after the
//! other, while the other one answers.

use std::path::{Path, PathBuf};
use std::process::Command;

use parallax_model::TimeRange;
use parallax_simulate::stand_in::now_ms;
use parallax_testkit::process::{Process, find_program, free_port};

use super::edges::proxy;
use super::peer;
use crate::program::PATIENCE;
use crate::sides::{Leaf, Prometheus, replicas};

pub struct ThanosPair {
    sidecars: Vec<Sidecar>,
    /// Of the balancer before them.
    pub address: String,
    _prometheus: Vec<Prometheus>,
}

struct Sidecar {
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    grpc: String,
    http: String,
    /// `None` only while it is started again.
    process: Option<Process>,
}

/// Thanos itself, where `THANOS_BIN` or `PATH` has it; else what the Go program `tests/peers` makes of its libraries.
pub fn thanos_or_leave_out(test: &str) -> Option<PathBuf> {
    find_program("thanos").or_else(|| peer::program_or_leave_out(test))
}

impl ThanosPair {
    /// Both serve with `leaf`, and their logs are in `directory`.
    pub async fn start(program: &Path, cluster: &str, leaf: &Leaf, directory: &Path) -> Self {
        let prometheus = replicas(cluster).await;
        // Each of them is down for ten minutes in ninety, never both; the pair stands over one, and that has to be up while a test takes.
        let soon = TimeRange::new(now_ms(), now_ms() + 15 * 60_000);
        let source = prometheus.iter().max_by_key(|one| one.fleet.scrapes(soon).count()).unwrap();
        let mut sidecars = Vec::new();
        for number in 0..2 {
            let address = || format!("127.0.0.1:{}", free_port().unwrap());
            let (grpc, http) = (address(), address());
            let mut arguments = vec![
                "sidecar".to_owned(),
                format!("--prometheus.url={}", source.url),
                format!("--grpc-address={grpc}"),
                format!("--http-address={http}"),
            ];
            arguments.extend(leaf.server_flags());
            let log = directory.join(format!("thanos-{number}.log"));
            let mut sidecar =
                Sidecar { program: program.to_owned(), arguments, log, grpc, http, process: None };
            sidecar.start().await;
            sidecars.push(sidecar);
        }
        let address = proxy(sidecars.iter().map(|sidecar| sidecar.grpc.clone()).collect()).await;
        Self { sidecars, address, _prometheus: prometheus }
    }

    /// Where each of the two is reached, past the balancer.
    pub fn each(&self) -> Vec<String> {
        self.sidecars.iter().map(|sidecar| sidecar.grpc.clone()).collect()
    }

    /// As an operator does after the bundle has changed.
    pub async fn restart_one_at_a_time(&mut self) {
        for sidecar in &mut self.sidecars {
            if let Some(process) = sidecar.process.take() {
                let status = process.terminate(PATIENCE).await.unwrap();
                assert!(status.success(), "it did not end by itself: {status}");
            }
            sidecar.start().await;
        }
    }
}

impl Sidecar {
    async fn start(&mut self) {
        let mut process =
            Process::spawn(Command::new(&self.program).args(&self.arguments), &self.log).unwrap();
        process.wait_for_http(&format!("http://{}/-/ready", self.http), PATIENCE).await.unwrap();
        process.wait_for_tcp(self.grpc.parse().unwrap(), PATIENCE).await.unwrap();
        self.process = Some(process);
    }
}
