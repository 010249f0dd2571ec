//! The errors of this crate. Each names the object it is about (a file, a certificate, an identity) and what to do.

use std::path::PathBuf;

/// Why identity, issuing or credentials failed. None of these is worth a retry without a change of input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A trust domain, cluster, hub or SPIFFE URI that does not follow the rules of [`crate::identity`].
    #[error("{what} {text:?} is not valid: {reason}")]
    Name { what: &'static str, text: String, reason: &'static str },
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A file that is larger than any certificate bundle may be.
    #[error("{subject} is larger than {limit_bytes} bytes")]
    TooLarge { subject: String, limit_bytes: u64 },
    /// PEM or DER that does not parse. `subject` names the file (or flag) and the number of the block.
    #[error("{subject}: {reason}")]
    Malformed { subject: String, reason: String },
    /// The private key does not belong to the certificate.
    #[error("the private key in {key} does not belong to the certificate in {cert}")]
    KeyMismatch { cert: String, key: String },
    /// One of a pair is given, the other is not.
    #[error("{given} is given without {missing}")]
    Incomplete { given: &'static str, missing: &'static str },
    /// A client without anything to verify servers with.
    #[error(
        "TLS is asked for without a CA to verify servers with: give a CA file (the system's roots are never used)"
    )]
    NoTrust,
    /// A trust anchor outside its validity.
    #[error("{subject}: every CA certificate is outside its validity ({detail})")]
    AnchorsExpired { subject: String, detail: String },
    /// A leaf that cannot play the part it was given.
    #[error("{subject} cannot be used by a {side}: {reason}")]
    WrongPurpose { subject: String, side: &'static str, reason: String },
    /// A new leaf outside its validity, offered in place of one that is valid.
    #[error("{subject} is not valid now ({detail}); the certificate in use stays")]
    NotValidNow { subject: String, detail: String },
    /// rustls refused a configuration.
    #[error("TLS configuration for {subject}: {source}")]
    Tls { subject: String, source: rustls::Error },
    /// An authority exists where a new one was to be made.
    #[error("{} already holds an authority; choose another --state or use `pki issue`", .0.display())]
    StateExists(PathBuf),
    /// No authority where one was expected.
    #[error("{} holds no authority; make one with `pki init`", .0.display())]
    StateMissing(PathBuf),
    /// The state was changed by something else, or is readable by others.
    #[error("authority state {}: {reason}", path.display())]
    StateDamaged { path: PathBuf, reason: String },
    /// Another process is changing the state.
    #[error("{} is in use by another `pki` command", .0.display())]
    StateLocked(PathBuf),
    /// A key is encrypted and nothing was given to open it with.
    #[error("{subject} is encrypted: give its passphrase with --passphrase-file or PARALLAX_PKI_PASSPHRASE")]
    PassphraseNeeded { subject: String },
    /// The passphrase does not open the key.
    #[error("{subject}: the passphrase does not open it (wrong passphrase, or a damaged file)")]
    WrongPassphrase { subject: String },
    /// The state has no such thing.
    #[error("{} has no {what}; `pki status` lists what there is", state.display())]
    Unknown { state: PathBuf, what: String },
    /// A step of a rotation that is not safe yet, or not possible.
    #[error("rotation of {hierarchy}: {}", .unmet.join("; "))]
    GateNotMet { hierarchy: &'static str, unmet: Vec<String> },
    /// The clock stands before something that has happened already.
    #[error("the clock says {now}, but {what} is dated {then}; set the clock, then run this again")]
    ClockBehind { now: String, what: String, then: String },
    /// A request for a leaf that the policy does not allow.
    #[error("rule of issuing: certificate for {identity} refused: {reason}")]
    Refused { identity: String, reason: String },
    /// Making a key or signing failed.
    #[error("signing {subject}: {reason}")]
    Signing { subject: String, reason: String },
}

impl Error {
    /// A stable word for the kind of the error, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name",
            Self::Io { .. } => "io",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::Incomplete { .. } => "incomplete",
            Self::NoTrust => "no_trust",
            Self::AnchorsExpired { .. } => "anchors_expired",
            Self::WrongPurpose { .. } => "wrong_purpose",
            Self::NotValidNow { .. } => "not_valid_now",
            Self::Tls { .. } => "tls",
            Self::StateExists(_) => "state_exists",
            Self::StateMissing(_) => "state_missing",
            Self::StateDamaged { .. } => "state_damaged",
            Self::StateLocked(_) => "state_locked",
            Self::PassphraseNeeded { .. } => "passphrase_needed",
            Self::WrongPassphrase { .. } => "wrong_passphrase",
            Self::Unknown { .. } => "unknown",
            Self::GateNotMet { .. } => "gate_not_met",
            Self::ClockBehind { .. } => "clock_behind",
            Self::Refused { .. } => "refused",
            Self::Signing { .. } => "signing",
        }
    }
}
