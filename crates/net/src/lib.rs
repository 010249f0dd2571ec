//! gRPC and HTTP servers and clients over mTLS, probes, shutdown.
//!
//! The shape of the crate (bodies follow):
//!
//! ```ignore
//! // context.rs
//! #[derive(Clone)] pub struct Context { pub metrics: Metrics, pub shutdown: CancellationToken, pub readiness: Readiness }
//! impl Context { pub fn new(metrics: Metrics) -> Self; pub fn for_test() -> Self; pub fn scoped(&self, labels) -> Self }
//! impl Readiness {
//!     pub fn condition(&self, name: &str) -> Condition;      // starts not ready
//!     pub fn is_ready(&self) -> bool;                         // all conditions ready
//!     pub fn reasons(&self) -> Vec<String>;                   // "name: reason" of those that are not
//!     pub fn subscribe(&self) -> watch::Receiver<bool>;
//! }
//! impl Condition { pub fn ready(&self); pub fn not_ready(&self, reason: impl Into<String>) }
//!
//! // grpc_server.rs
//! pub struct GrpcServerConfig { pub address: String, pub flag: &'static str, pub tls: Option<CredentialSource>, pub max_connection_age: Option<Duration>,
//!     pub handshake_timeout: Duration, pub max_connections: usize, pub max_pending_handshakes: usize, pub keepalive_interval: Duration, pub keepalive_timeout: Duration, pub grace_period: Duration }
//! impl GrpcServerConfig { pub fn new(address: impl Into<String>) -> Self }            // defaults
//! impl GrpcServer {
//!     pub async fn bind(config: GrpcServerConfig, metrics: &Metrics) -> Result<Self, Error>;
//!     pub fn local_addr(&self) -> SocketAddr;
//!     pub async fn serve(self, routes: tonic::service::Routes, shutdown: CancellationToken) -> Result<(), Error>;
//! }
//! #[derive(Clone)] pub struct PeerInfo { pub address: SocketAddr, pub identity: Option<PeerIdentity>, pub certificate: Option<CertificateDer<'static>> } // request.extensions().get::<PeerInfo>()
//!
//! // grpc_client.rs
//! pub struct GrpcTarget { pub address: String /* host:port */, pub tls: Option<ClientTls>, pub authority: Option<String>, pub connect_timeout: Duration }
//! impl GrpcTarget { pub fn plain(address: impl Into<String>) -> Self; pub fn tls(address: impl Into<String>, source: CredentialSource) -> Self }
//! pub struct ClientTls { pub source: CredentialSource, pub server_name: Option<String>, pub expected_identity: Option<PeerIdentity> }
//! pub fn connect(target: &GrpcTarget) -> Result<GrpcChannel, Error>;                  // lazy; in a tokio runtime
//! #[derive(Clone)] pub struct GrpcChannel;  // tower::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>, Error = tonic::Status>: `StoreClient::new(channel)` works
//!
//! // http_server.rs
//! impl HttpServer { pub async fn bind(address: &str, flag: &'static str) -> Result<Self, Error>; pub fn local_addr(&self) -> SocketAddr;
//!     pub async fn serve(self, router: axum::Router, shutdown: CancellationToken) -> Result<(), Error>; }
//! pub fn base_router(context: &Context) -> axum::Router;                              // /metrics, /-/healthy, /-/ready
//!
//! // http_client.rs
//! pub struct HttpClientConfig { pub base_url: String, pub tls: Option<CredentialSource>, pub auth: HttpAuth, pub connect_timeout: Duration, pub response_timeout: Duration /* until headers */, pub idle_timeout: Duration /* between body chunks */ }
//! pub enum HttpAuth { None, Basic { username: String, password: String }, Bearer { token: String } }
//! impl HttpClient {
//!     pub fn new(config: HttpClientConfig) -> Result<Self, Error>;                     // Clone, cheap
//!     pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<HttpResponse, Error>;
//!     pub async fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Result<HttpResponse, Error>;
//!     pub async fn post_bytes(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<HttpResponse, Error>;
//! }
//! impl HttpResponse { pub fn status(&self) -> http::StatusCode; pub fn headers(&self) -> &http::HeaderMap;
//!     pub async fn bytes(self, max_bytes: usize) -> Result<Bytes, Error>; pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin }
//!
//! // parallax-pki
//! impl CredentialSource {
//!     pub fn from_pem(pem: CredentialPem, purpose: Purpose) -> Result<Self, pki::Error>;           // in memory, swappable
//!     pub fn from_files(files: CredentialFiles, purpose: Purpose) -> Result<Self, pki::Error>;     // loads once; `watch(interval)` polls
//!     pub fn swap(&self, pem: CredentialPem) -> Result<(), pki::Error>; pub fn current(&self) -> Arc<Material>; pub fn subscribe(&self) -> watch::Receiver<Arc<Material>>;
//! }
//! pub struct CredentialPem { pub cert: Option<String>, pub key: Option<String>, pub ca: Option<String> }
//! pub struct CredentialFiles { pub cert: Option<PathBuf>, pub key: Option<PathBuf>, pub ca: Option<PathBuf> }
//! pub enum Purpose { Server, Client { skip_verify: bool } }
//! ```
