//! What can go wrong in a sidecar; each message names Prometheus' URL, the block or the file.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Prometheus cannot be reached, or the connection broke. Try again later.
    #[error("prometheus {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// Prometheus answered with an HTTP error.
    #[error("prometheus {url}: {path} answered {status}: {body}")]
    Refused { url: String, path: String, status: u16, body: String },
    /// Prometheus answered something that is not what its API promises.
    #[error("prometheus {url}: unreadable answer of {path}: {reason}")]
    Unreadable { url: String, path: String, reason: String },
    #[error(
        "prometheus {url} has no external labels; set global.external_labels in its configuration so that its series \
         can be told from those of other clusters and replicas"
    )]
    NoExternalLabels { url: String },
    /// Prometheus would compact blocks under the shipper's hands.
    #[error(
        "prometheus {url}: storage.tsdb.min-block-duration ({min}) and storage.tsdb.max-block-duration ({max}) differ, so \
         it compacts blocks before they are uploaded; set both to 2h, or pass --shipper.ignore-unequal-block-size"
    )]
    UnequalBlockDurations { url: String, min: String, max: String },
    #[error("prometheus {url} was not ready within {waited_seconds} s: {last}")]
    NotReady { url: String, waited_seconds: u64, last: String },
    #[error("http client configuration: {0}")]
    HttpClient(String),
    /// A file of the shipper or of Prometheus' data directory.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// One block could not be uploaded; the others go on.
    #[error("block {block}: {reason}")]
    Block { block: String, reason: String },
    /// Another process ships from the same directory. Its turn ends with it.
    #[error(
        "{}: another process ships these blocks; stop one of the two, or give each Prometheus a directory of its own",
        path.display()
    )]
    ShippedByAnother { path: PathBuf },
    /// The bucket has a block of another Prometheus that says it is this one.
    #[error(
        "block {block}: block {other} in the bucket covers the same time, has the same external labels {labels}, and is not from this \
         Prometheus; give every Prometheus external labels of its own, then delete the blocks that have the wrong ones"
    )]
    SameLabels { block: String, other: String, labels: String },
    #[error("reloader: {0}")]
    ReloaderConfig(String),
    /// Prometheus keeps the configuration that it has. Tried again.
    #[error("prometheus {url} did not reload its configuration: {reason}")]
    Reload { url: String, reason: String },
    /// A process that should get a signal.
    #[error("process {name:?}: {reason}")]
    Process { name: String, reason: String },
    /// Too many remote reads at once. Try again later.
    #[error("prometheus {url}: all {reads} remote reads have been busy for {waited_seconds} s")]
    Busy { url: String, reads: usize, waited_seconds: f64 },
    /// A limit of the request was passed.
    #[error("{0}")]
    Limit(String),
}

impl SidecarError {
    /// As the StoreAPI reports it.
    pub fn to_status(&self) -> tonic::Status {
        match self {
            Self::Unreachable { .. } | Self::NotReady { .. } => tonic::Status::unavailable(self.to_string()),
            Self::Refused { status: 400, .. } => tonic::Status::invalid_argument(self.to_string()),
            Self::Refused { status: 422, .. } => tonic::Status::aborted(self.to_string()),
            Self::Refused { status: 413 | 429, .. } => tonic::Status::resource_exhausted(self.to_string()),
            // Credentials, or an API that is not there: not the caller's fault, and not going away by itself.
            Self::Refused { status: 300..500, .. } => tonic::Status::failed_precondition(self.to_string()),
            Self::Refused { .. } => tonic::Status::unavailable(self.to_string()),
            Self::Limit(_) | Self::Busy { .. } => tonic::Status::resource_exhausted(self.to_string()),
            Self::NoExternalLabels { .. } | Self::UnequalBlockDurations { .. } => {
                tonic::Status::failed_precondition(self.to_string())
            }
            Self::Unreadable { .. }
            | Self::HttpClient(_)
            | Self::File { .. }
            | Self::Block { .. }
            | Self::ShippedByAnother { .. }
            | Self::SameLabels { .. }
            | Self::ReloaderConfig(_)
            | Self::Reload { .. }
            | Self::Process { .. } => tonic::Status::internal(self.to_string()),
        }
    }

    /// What kind of failure of Prometheus this is, as a label of a metric; `None` if it is none of Prometheus'.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some("unreachable"),
            Self::Refused { status: 500.., .. } => Some("failed"),
            Self::Refused { .. } => Some("refused"),
            Self::Unreadable { .. } => Some("unreadable"),
            Self::NoExternalLabels { .. } => Some("no_external_labels"),
            Self::Busy { .. } => Some("busy"),
            _ => None,
        }
    }
}
