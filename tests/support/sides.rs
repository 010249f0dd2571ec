//! The sides of a small mesh: certificates, stand-ins for Prometheus, observees and an observer as processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parallax_net::HttpServer;
use parallax_pki::{Authority, AuthorityOptions, LeafRequest, PeerIdentity, TrustDomain};
use parallax_simulate::Fleet;
use parallax_simulate::stand_in::{StandIn, now_ms, router};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::program::{Program, command};

/// How many machines of a cluster are up, whichever replica saw them.
pub const MACHINES_UP: &str = "count by (cluster) (up{job=\"demo\"} == 1)";
/// Machines in every simulated cluster.
pub const MACHINES: f64 = 2.0;
pub const REPLICA_LABEL: &str = "prometheus_replica";

/// An authority and the directory for its leaves.
pub struct Keys {
    authority: Authority,
    directory: PathBuf,
}

/// A directory with `tls.crt`, `tls.key` and `ca.crt`.
pub struct Leaf(pub PathBuf);

impl Keys {
    pub fn new(directory: &Path, trust_domain: &str) -> Self {
        parallax_pki::install_provider();
        let options = AuthorityOptions::new(TrustDomain::new(trust_domain).unwrap());
        // Valid since long ago, so that leaves can be, too.
        let authority =
            Authority::in_memory(&options, SystemTime::now() - Duration::from_secs(30 * 86_400)).unwrap();
        Self { authority, directory: directory.join(trust_domain) }
    }

    fn domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    fn write(&self, name: &str, request: &LeafRequest, now: SystemTime) -> Leaf {
        let directory = self.directory.join(name);
        self.authority.issue_at(request, now).unwrap().write(&directory).unwrap();
        Leaf(directory)
    }

    /// The server leaf of a cluster; its name is [`server_name`].
    pub fn observee(&self, cluster: &str) -> Leaf {
        let identity = PeerIdentity::observee(self.domain(), cluster).unwrap();
        self.write(cluster, &LeafRequest::new(identity).dns(server_name(cluster)), SystemTime::now())
    }

    pub fn observer(&self, hub: &str) -> Leaf {
        let identity = PeerIdentity::observer(self.domain(), hub).unwrap();
        self.write(hub, &LeafRequest::new(identity), SystemTime::now())
    }

    /// A client leaf that ended days ago.
    pub fn expired_observer(&self, hub: &str) -> Leaf {
        let identity = PeerIdentity::observer(self.domain(), hub).unwrap();
        let request = LeafRequest { lifetime: Duration::from_secs(3600), ..LeafRequest::new(identity) };
        self.write(hub, &request, SystemTime::now() - Duration::from_secs(5 * 86_400))
    }

    /// The client leaf of the ingress before a cluster.
    pub fn ingress(&self, cluster: &str) -> Leaf {
        let identity = PeerIdentity::ingress(self.domain(), cluster).unwrap();
        self.write(&format!("ingress-{cluster}"), &LeafRequest::new(identity), SystemTime::now())
    }
}

impl Leaf {
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// As configuration files of both sides take it.
    pub fn section(&self) -> Value {
        json!({"cert": self.file("tls.crt"), "key": self.file("tls.key"), "ca": self.file("ca.crt")})
    }

    /// As flags of a gRPC client.
    pub fn client_flags(&self) -> Vec<String> {
        vec![
            "--grpc-client-tls-secure".to_owned(),
            format!("--grpc-client-tls-cert={}", self.file("tls.crt")),
            format!("--grpc-client-tls-key={}", self.file("tls.key")),
            format!("--grpc-client-tls-ca={}", self.file("ca.crt")),
        ]
    }

    /// As flags of a gRPC server.
    pub fn server_flags(&self) -> Vec<String> {
        vec![
            format!("--grpc-server-tls-cert={}", self.file("tls.crt")),
            format!("--grpc-server-tls-key={}", self.file("tls.key")),
            format!("--grpc-server-tls-client-ca={}", self.file("ca.crt")),
        ]
    }
}

/// The name in the certificate of a cluster.
pub fn server_name(cluster: &str) -> String {
    format!("{cluster}.mesh.test")
}

/// A stand-in for one Prometheus, in this process.
pub struct Prometheus {
    pub url: String,
    pub fleet: Fleet,
    _stop: DropGuard,
}

/// Both replicas of a cluster: what one misses the other has.
pub async fn replicas(cluster: &str) -> Vec<Prometheus> {
    let mut all = Vec::new();
    for replica in 0..2 {
        let fleet = Fleet { cluster: cluster.to_owned(), replica, instances: MACHINES as u32, seed: 5 };
        let server = HttpServer::bind("127.0.0.1:0", "stand-in").await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let stop = CancellationToken::new();
        let start_ms = now_ms() - 2 * 3_600_000;
        tokio::spawn(server.serve(router(StandIn { fleet: fleet.clone(), start_ms }), stop.clone()));
        all.push(Prometheus { url, fleet, _stop: stop.drop_guard() });
    }
    all
}

/// A cluster's observee with the stand-ins behind it.
pub struct Observee {
    pub program: Program,
    pub grpc: String,
    _prometheus: Vec<Prometheus>,
}

impl Observee {
    /// Without a leaf it speaks plain text. Comes back when it serves data.
    pub async fn start(cluster: &str, leaf: Option<&Leaf>, directory: &Path) -> Self {
        Self::start_with(cluster, leaf, json!({}), directory).await
    }

    /// With more keys in its file.
    pub async fn start_with(cluster: &str, leaf: Option<&Leaf>, more: Value, directory: &Path) -> Self {
        let prometheus = replicas(cluster).await;
        let sections: Vec<Value> =
            prometheus.iter().map(|one| json!({"url": one.url, "heartbeat_interval": "1s"})).collect();
        let mut config = json!({
            "cluster": cluster,
            "http_address": "127.0.0.1:0",
            "grpc_address": "127.0.0.1:0",
            "tls": leaf.map(Leaf::section),
            "prometheus": sections,
        });
        let keys = config.as_object_mut().unwrap();
        keys.extend(more.as_object().unwrap().clone());
        let mut program = side("observee", &config, directory, &format!("observee-{cluster}"));
        program.ready().await;
        let grpc = program.grpc().await;
        Self { program, grpc, _prometheus: prometheus }
    }
}

/// Starts one side with `config` (JSON is YAML).
pub fn side(side: &str, config: &Value, directory: &Path, name: &str) -> Program {
    let path = directory.join(format!("{name}.yaml"));
    std::fs::write(&path, config.to_string()).unwrap();
    Program::start(command([side, "--config"]).arg(&path), directory, name)
}

/// What an observer bears of silence: nobody here is silent but where the machine is busy, and a file that says otherwise is a test's own.
pub const PATIENT: &str = "60s";

/// An observer of these clusters that looks at them every second; its own leaf is for clusters that have no other.
pub fn observer(clusters: &[Value], leaf: Option<&Leaf>, directory: &Path) -> Program {
    named_observer("observer", clusters, leaf, directory)
}

/// The same, for several in one directory.
pub fn named_observer(name: &str, clusters: &[Value], leaf: Option<&Leaf>, directory: &Path) -> Program {
    observer_that_waits(PATIENT, name, clusters, leaf, directory)
}

/// The same, where somebody hangs: how long an endpoint may be silent is the first parameter.
pub fn observer_that_waits(
    response_timeout: &str,
    name: &str,
    clusters: &[Value],
    leaf: Option<&Leaf>,
    directory: &Path,
) -> Program {
    let config = json!({
        "http_address": "127.0.0.1:0",
        "tls": leaf.map(Leaf::section),
        "replica_labels": [REPLICA_LABEL],
        "data_dir": directory.join(format!("{name}-data")),
        "info_interval": "1s",
        "sync_interval": "1s",
        "response_timeout": response_timeout,
        "clusters": clusters,
    });
    side("observer", &config, directory, name)
}
