//! Who may talk to whom: identities, the authority that issues certificates, and credentials that servers and clients pick up while running.
//!
//! Invariants:
//! - No key, no handshake; unreadable trust never means plain text or the system's roots.
//! - One direction, one authority: `observers` sign client certificates, `observees` sign server certificates, so a stolen observee key cannot
//!   query another observee.
//! - A change of credentials is all or nothing: a set is checked in full before anybody sees it, and a bad one leaves the good one in place.
//!
//! Opening sockets, metrics and flags are left to `net` and `src/`. The crate knows time only as an argument or as the clock of a handshake.

#![forbid(unsafe_code)]

pub mod access;
pub mod authority;
pub mod bundle;
pub mod caller_rules;
pub mod certificate;
pub mod credentials;
pub mod crl;
pub mod csr;
pub mod disk;
pub mod error;
pub mod explain;
pub mod export;
pub mod forwarded;
pub mod identity;
pub mod inventory;
mod issuing;
pub mod journal;
pub mod key_file;
pub mod leaf_files;
pub mod ledger;
pub mod material;
pub mod observations;
pub mod profile;
mod refusal;
pub mod rotation;
mod state;
pub mod verify;

pub use access::{AllowedClient, AllowedClients};
pub use authority::{Authority, AuthorityOptions, ImportedAuthority, OpenOptions};
pub use bundle::TrustBundle;
pub use caller_rules::{CallerRule, CallerRules, CallerRulesError, NamedCaller};
pub use credentials::{CredentialFiles, CredentialSource, CredentialStatus};
pub use error::Error;
pub use explain::{Explanation, FailureReason, Side, explain, explain_to};
pub use identity::{PeerIdentity, Role, TrustDomain};
pub use issuing::Unlock;
pub use key_file::Passphrase;
pub use leaf_files::LeafFiles;
pub use ledger::{Ledger, RevocationReason};
pub use material::{CredentialPem, Material, Purpose, TlsProfile, TlsVersion};
pub use profile::{Hierarchy, KeyKind, LeafRequest};
pub use state::read_bounded;
pub use verify::{ExpectedServer, PeerRejection};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The one cryptography provider of the binary (aws-lc-rs), for `builder_with_provider`.
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// Makes aws-lc-rs the default of the process, for libraries that call rustls' plain builders. `main` calls it first; calling it again is harmless.
pub fn install_provider() {
    // The error says that a default is already installed, which is what was wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
