//! The errors of this crate. Each names the address, flag or URL it is about.

use std::io;

/// Why something could not be bound, reached or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be opened. Often: the port is in use.
    #[error("cannot listen on {address} ({flag}): {reason}")]
    Bind { flag: &'static str, address: String, reason: String },
    /// An address that is not `host:port`. Not worth a retry.
    #[error("address {address:?} is not valid: {reason}")]
    Address { address: String, reason: String },
    /// Credentials that do not fit their use.
    #[error(transparent)]
    Credentials(#[from] parallax_pki::Error),
    /// Callers shall be told apart where none has to show who it is.
    #[error(
        "{address} ({flag}): allowed identities and forwarded certificates need clients that show certificates; give the server's certificate, key and client CA"
    )]
    Access { address: String, flag: &'static str },
    /// Not worth a retry.
    #[error(
        "{text:?} is no field of a certificate's subject: use organization, organizationalUnit or commonName"
    )]
    SubjectField { text: String },
    /// A change that would take TLS or passwords off a server that has them.
    #[error("it would take TLS or passwords away from a server that has them; for that, restart it")]
    Weaker,
    /// A user of an HTTP server. Not worth a retry.
    #[error("user {user:?}: {reason}")]
    User { user: String, reason: String },
    /// The gRPC server ended with an error.
    #[error("gRPC server on {address}: {reason}")]
    Serve { address: String, reason: String },
    /// A URL or header that cannot be sent. Not worth a retry.
    #[error("request to {url}: {reason}")]
    Request { url: String, reason: String },
    /// The server could not be reached, or the connection broke. A retry may help.
    #[error("{url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The server was too slow. A retry may help.
    #[error("{url}: no {what} within {seconds} s")]
    Timeout { url: String, what: &'static str, seconds: f64 },
    /// The answer is larger than the caller takes.
    #[error("{url}: the answer is larger than {limit_bytes} bytes")]
    TooLarge { url: String, limit_bytes: usize },
}

impl Error {
    pub(crate) fn bind(flag: &'static str, address: &str, source: &io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is in use by another process; choose another one".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied (ports below 1024 need a privilege)".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            _ => source.to_string(),
        };
        Self::Bind { flag, address: address.to_owned(), reason }
    }
}
