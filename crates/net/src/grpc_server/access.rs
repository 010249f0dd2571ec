//! Who may call a server: each call is judged before any service sees it.
//!
//! Invariants: a call that is refused has reached no service; the refusal names the rule, the identity and what to do, to the client and in the log. A
//! forwarded certificate is looked at only where that is switched on; then it counts only from an ingress, and one that is not in order is a
//! refusal, never ignored. The open connection of an ingress is not cut when a certificate it forwards is revoked: calls that begin later are refused.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::future::Either;
use parallax_pki::certificate::Facts;
use parallax_pki::forwarded::{self, HeaderFormat};
use parallax_pki::{AllowedClients, CredentialSource};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::refusal_log::RefusalLog;
use crate::connection_metrics::ConnectionMetrics;
use crate::peer::PeerInfo;

/// Who may call a server. By default whoever its handshake lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerAccess {
    pub allowed: AllowedClients,
    /// Clients that reach the server through an ingress that ends TLS are known by the header in which it passes their certificates on.
    pub forwarded: Option<HeaderFormat>,
}

impl ServerAccess {
    /// Whether the rule needs to know who calls.
    pub fn needs_certificates(&self) -> bool {
        self.allowed != AllowedClients::Anybody || self.forwarded.is_some()
    }
}

/// The rule of one server, with what it takes to judge.
pub(super) struct AccessRule {
    pub(super) access: ServerAccess,
    /// Verifies forwarded certificates as handshakes verify those of connections.
    pub(super) source: Option<CredentialSource>,
    pub(super) metrics: ConnectionMetrics,
    pub(super) refusals: Arc<RefusalLog>,
}

/// Why a call is refused: a word for the metric, a text for the client.
struct Refusal {
    reason: &'static str,
    text: String,
}

impl AccessRule {
    /// Judges a call by its connection and headers, and settles in `request` who it is from.
    fn judge(&self, request: &mut http::Request<Body>) -> Result<(), Status> {
        let Some(mut peer) = request.extensions().get::<PeerInfo>().cloned() else {
            return Err(Status::permission_denied(
                "rule of allowed identities: it is not known who calls; call over TLS",
            ));
        };
        let judged = self.forwarded(&mut peer, request.headers()).and_then(|()| self.admit(&peer));
        match judged {
            Ok(()) => {
                if peer.forwarded_by.is_some() {
                    request.extensions_mut().insert(peer);
                }
                Ok(())
            }
            Err(Refusal { reason, text }) => {
                self.metrics.call_refused(reason);
                self.refusals.note(peer.address, &text);
                Err(Status::permission_denied(text))
            }
        }
    }

    /// Puts the client that an ingress forwards in the place of the ingress.
    fn forwarded(&self, peer: &mut PeerInfo, headers: &http::HeaderMap) -> Result<(), Refusal> {
        let Some(format) = self.access.forwarded else { return Ok(()) };
        let values: Vec<&[u8]> =
            headers.get_all(format.header_name()).iter().map(http::HeaderValue::as_bytes).collect();
        let verify = |chain: &[rustls_pki_types::CertificateDer<'static>]| match &self.source {
            None => Err("there is nothing to verify it with".to_owned()),
            Some(source) => source
                .current()
                .recheck_client(chain, SystemTime::now())
                .map_err(|explanation| explanation.text),
        };
        let accepted =
            forwarded::accept(peer.identity.as_ref(), &values, format, verify).map_err(|error| {
                let header = format.header_name();
                let who = peer.identity.as_ref().map_or("no identity".to_owned(), ToString::to_string);
                Refusal {
                    reason: error.reason(),
                    text: format!("rule of forwarded certificates: {header} from {who}: {error}"),
                }
            })?;
        if let Some(accepted) = accepted {
            peer.forwarded_by = peer.identity.replace(accepted.identity);
            peer.certificate = accepted.chain.into_iter().next();
        }
        Ok(())
    }

    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal> {
        // Of what an ingress forwards, the identity counts.
        let certificate = peer.certificate.as_ref().filter(|_| peer.forwarded_by.is_none());
        let dns_names = || {
            certificate.and_then(|der| Facts::read(der).ok()).map(|facts| facts.dns_names).unwrap_or_default()
        };
        self.access
            .allowed
            .admit(peer.identity.as_ref(), dns_names)
            .map_err(|denied| Refusal { reason: denied.reason(), text: denied.to_string() })
    }
}

/// Puts the rule before services; `None`: everybody who is let in may call.
#[derive(Clone)]
pub(super) struct AccessLayer(pub(super) Option<Arc<AccessRule>>);

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, rule: self.0.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    rule: Option<Arc<AccessRule>>,
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let judged = self.rule.as_ref().map_or(Ok(()), |rule| rule.judge(&mut request));
        match judged {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
