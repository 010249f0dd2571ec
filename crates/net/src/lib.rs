//! gRPC and HTTP servers and clients over mTLS, probes, shutdown.
//!
//! Invariants: every wait and every queue has a bound; a listener that cannot be opened names its address and flag; a peer that is refused is refused for
//! a reason that both sides can read. Certificates change without a restart and without a failed call.
//!
//! The protocol spoken over these connections is left to `storeapi` and the components, credentials to `pki`.

#![forbid(unsafe_code)]

pub mod compression;
mod connection_metrics;
pub mod context;
mod credential_metrics;
pub mod discovery;
mod distrust;
pub mod error;
mod free_port;
pub mod grpc_client;
pub mod grpc_server;
pub mod http_client;
mod http_metrics;
pub mod http_server;
pub mod inspect;
mod listen;
pub mod peer;
mod probes;
mod rpc_metrics;
pub mod tls_probe;

pub use compression::Compression;
pub use context::{Condition, Context, Readiness};
pub use credential_metrics::{watch_credentials, watch_credentials_in_use};
pub use error::Error;
pub use free_port::free_port;
pub use grpc_client::{ClientTls, GrpcChannel, GrpcTarget, connect};
pub use grpc_server::{GrpcServer, GrpcServerConfig, ServerAccess};
pub use http_client::{
    BodyStream, BulkBody, BulkResponse, HttpAuth, HttpClient, HttpClientConfig, HttpResponse, Secret,
};
pub use http_metrics::counted;
pub use http_server::{HttpRules, HttpSecurity, HttpServer, Users};
pub use peer::{PeerInfo, SubjectField};
pub use probes::base_router;
pub use rpc_metrics::{ClientCalls, EndpointCalls, RpcMethods};
pub use tls_probe::{ServerProbe, probe_server};
