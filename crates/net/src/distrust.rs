//! A client's look back at the server it is connected to: when the trust changes so that a new handshake would be refused, the connection ends.
//!
//! Invariant: a revoked server is left at once. One whose CA is no longer trusted is left after [`DISTRUST_GRACE`], in which the channel moves over to a new
//! connection and running calls end: that is what a rotation of CAs looks like from here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parallax_pki::{CredentialSource, ExpectedServer, Explanation, FailureReason, Material};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_util::sync::CancellationToken;

/// How long a connection goes on after its peer's CA has left the bundle.
pub(crate) const DISTRUST_GRACE: Duration = Duration::from_secs(30);

/// A server as it was accepted.
pub(crate) struct AcceptedServer {
    pub(crate) address: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) name: ServerName<'static>,
    pub(crate) expected: ExpectedServer,
}

impl AcceptedServer {
    /// Cancels `cut` when the server is not trusted any more; ends when `cut` is cancelled by others. `accepted_by`: the digest of the trust that let it in.
    pub(crate) async fn watch(
        self,
        source: CredentialSource,
        accepted_by: Option<String>,
        cut: CancellationToken,
    ) {
        let mut changes = source.subscribe();
        // The task must not be what keeps the credentials alive.
        drop(source);
        let mut trust = accepted_by;
        loop {
            let material = Arc::clone(&changes.borrow_and_update());
            if material.trust_digest() != trust.as_deref() {
                trust = material.trust_digest().map(str::to_owned);
                let mut refusal = self.judge(&material);
                if refusal.as_ref().is_some_and(|refusal| refusal.reason != FailureReason::Revoked) {
                    tokio::select! {
                        () = cut.cancelled() => return,
                        () = tokio::time::sleep(DISTRUST_GRACE) => {}
                    }
                    let material = Arc::clone(&changes.borrow_and_update());
                    trust = material.trust_digest().map(str::to_owned);
                    refusal = self.judge(&material);
                }
                if let Some(refusal) = refusal {
                    let (address, reason) = (&self.address, refusal.text);
                    tracing::warn!(address, reason, "gRPC connection ended: the server is no longer trusted");
                    cut.cancel();
                    return;
                }
            }
            tokio::select! {
                () = cut.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn judge(&self, material: &Material) -> Option<Explanation> {
        material.recheck_server(&self.chain, &self.name, &self.expected, SystemTime::now()).err()
    }
}
