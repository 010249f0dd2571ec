//! A mesh of one authority, servers that answer gRPC health checks, and clients that ask them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use parallax_net::{GrpcChannel, GrpcServer, GrpcServerConfig, GrpcTarget, PeerInfo, RpcMethods, connect};
use parallax_pki::certificate::Facts;
use parallax_pki::{
    Authority, AuthorityOptions, CredentialPem, CredentialSource, Hierarchy, LeafFiles, LeafRequest,
    PeerIdentity, Purpose, TrustDomain,
};
use parallax_telemetry::Metrics;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// What the servers serve.
pub const METHODS: RpcMethods =
    &[("/grpc.health.v1.Health/Check", "unary"), ("/grpc.health.v1.Health/Watch", "server_stream")];
pub const CLIENT: Purpose = Purpose::Client { skip_verify: false };

pub struct Mesh {
    pub authority: Authority,
}

impl Mesh {
    /// An authority that has existed for a while, so that leaves of the past can be issued.
    pub fn new() -> Self {
        let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
        Self { authority: Authority::in_memory(&options, SystemTime::now() - 100 * DAY).unwrap() }
    }

    pub fn server_leaf(&self) -> LeafFiles {
        self.authority.issue_observee("eu-1", &["localhost", "127.0.0.1"]).unwrap()
    }

    pub fn client_leaf(&self) -> LeafFiles {
        self.authority.issue_observer("hub").unwrap()
    }

    /// A client leaf that was issued at another time.
    pub fn client_leaf_at(&self, time: SystemTime) -> LeafFiles {
        let identity = PeerIdentity::observer(self.authority.trust_domain(), "hub").unwrap();
        self.authority.issue_at(&LeafRequest::new(identity), time).unwrap()
    }

    pub fn server_source(&self) -> CredentialSource {
        CredentialSource::from_pem(self.server_leaf().credentials(), Purpose::Server).unwrap()
    }

    pub fn client_source(&self) -> CredentialSource {
        CredentialSource::from_pem(self.client_leaf().credentials(), CLIENT).unwrap()
    }

    pub fn bundle(&self, hierarchy: Hierarchy) -> String {
        self.authority.bundle_pem(hierarchy)
    }
}

/// `leaf` with another bundle.
pub fn with_ca(leaf: &LeafFiles, ca: String) -> CredentialPem {
    CredentialPem { ca: Some(ca), ..leaf.credentials() }
}

pub struct TestServer {
    pub address: SocketAddr,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
    pub reporter: HealthReporter,
    last_peer: Arc<Mutex<Option<PeerInfo>>>,
}

impl TestServer {
    pub async fn start(tls: Option<CredentialSource>) -> Self {
        Self::start_with(tls, |_| {}).await
    }

    pub async fn start_with(
        tls: Option<CredentialSource>,
        change: impl FnOnce(&mut GrpcServerConfig),
    ) -> Self {
        let metrics = Metrics::new();
        let mut config = GrpcServerConfig::new("127.0.0.1:0");
        config.tls = tls;
        change(&mut config);
        let server = GrpcServer::bind(config, &metrics).await.unwrap().counting(METHODS);
        let address = server.local_addr();
        let shutdown = CancellationToken::new();
        let (reporter, health) = tonic_health::server::health_reporter();
        let last_peer = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&last_peer);
        let watched = InterceptedService::new(health, move |request: tonic::Request<()>| {
            *seen.lock().unwrap() = request.extensions().get::<PeerInfo>().cloned();
            Ok(request)
        });
        let serving = server.serve(Routes::new(watched), shutdown.clone());
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, metrics, shutdown, task, reporter, last_peer }
    }

    pub fn localhost(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub fn channel(&self, source: &CredentialSource) -> GrpcChannel {
        connect(&GrpcTarget::tls(self.localhost(), source.clone())).unwrap()
    }

    /// Who sent the last request.
    pub fn last_peer(&self) -> PeerInfo {
        self.last_peer.lock().unwrap().clone().unwrap()
    }

    /// Waits until a request came on a connection that presented `leaf`. Somebody else must be sending.
    pub async fn expect_leaf(&self, leaf: &LeafFiles) {
        let serial = || Facts::read(&self.last_peer().certificate.unwrap()).unwrap().serial;
        let moved = async {
            while serial() != leaf.serial {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), moved)
            .await
            .expect("calls stay on the old connection");
    }

    /// The value of a counter of failed handshakes.
    pub fn failures(&self, reason: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let wanted = format!("parallax_tls_handshake_failures_total{{side=\"server\",reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until the server has counted a failure: the client may learn of it first.
    pub async fn expect_failure(&self, reason: &str) {
        let counted = async {
            while self.failures(reason) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), counted).await.is_err() {
            panic!("no failure counted as {reason}:\n{}", self.metrics.encode().unwrap());
        }
    }
}

/// One health check.
pub async fn ask(channel: &GrpcChannel) -> Result<(), Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(|_| ())
}

/// The message of a check that fails with `Unavailable`.
pub async fn refusal(channel: &GrpcChannel) -> String {
    let status = ask(channel).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    status.message().to_owned()
}
