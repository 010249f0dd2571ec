//! What can keep a querier from starting. What goes wrong while it answers is a warning or a gRPC status.

/// Names what cannot be used as configured: an endpoint, or a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("endpoint {endpoint:?}: {source}")]
    Endpoint { endpoint: String, source: parallax_net::Error },
    #[error("endpoint {endpoint:?} is configured twice")]
    DuplicateEndpoint { endpoint: String },
    #[error("endpoint {endpoint:?}: {reason}")]
    Delegation { endpoint: String, reason: String },
    #[error("the log of running queries in {}: {reason}", path.display())]
    ActiveQueries { path: std::path::PathBuf, reason: String },
    #[error("{count} endpoints are more than the {limit} a querier takes")]
    TooManyEndpoints { count: usize, limit: usize },
}
