//! Reaching a gRPC endpoint step by step, each told: what `parallax doctor` shows up to HTTP/2.
//!
//! Invariant: a step is tried only if those before it went well, with a connection of its own and within its time; nothing is repeated, so that what is
//! told is what happened once. Calls above HTTP/2 are left to whoever knows them.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use parallax_pki::certificate::{Facts, format_time};
use parallax_pki::{FailureReason, Side, explain};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::grpc_client::{ClientTls, GrpcTarget};
use crate::listen::split_host_port;

/// A certificate that ends sooner is worth a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 86_400);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// What an HTTP/2 client says first, and an empty SETTINGS frame. RFC 9113, sections 3.4 and 6.5.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of a SETTINGS frame, at its place in a frame's head.
const SETTINGS: u8 = 4;
const FRAME_HEAD_BYTES: usize = 9;

/// What is looked at, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Dns,
    Tcp,
    /// The handshake, with the checks of the server's chain, name and identity.
    Tls,
    /// How long the server's certificate is good for.
    Expiry,
    Alpn,
    /// The server's first word, which also says that it accepts our certificate.
    Http2,
    Health,
    Info,
    Series,
}

impl Step {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Expiry => "expiry",
            Self::Alpn => "alpn",
            Self::Http2 => "http2",
            Self::Health => "health",
            Self::Info => "info",
            Self::Series => "series",
        }
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// It works, and something about it should be looked at.
    Doubtful,
    Failed,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Doubtful => "doubtful",
            Self::Failed => "failed",
        }
    }
}

/// One step, told.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub step: Step,
    pub outcome: Outcome,
    /// What was found, or what went wrong.
    pub detail: String,
    /// What usually causes it; empty if all is well.
    pub advice: String,
    pub took: Duration,
}

impl Finding {
    pub fn good(step: Step, began: Instant, detail: impl Into<String>) -> Self {
        let took = began.elapsed();
        Self { step, outcome: Outcome::Good, detail: detail.into(), advice: String::new(), took }
    }

    pub fn doubtful(
        step: Step,
        began: Instant,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { outcome: Outcome::Doubtful, advice: advice.into(), ..Self::good(step, began, detail) }
    }

    pub fn failed(step: Step, began: Instant, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, advice: advice.into(), ..Self::good(step, began, detail) }
    }
}

/// Reaches `target` as far as HTTP/2; the last finding is the one that failed, if one did. Each step may take `limit`.
pub async fn inspect(target: &GrpcTarget, limit: Duration) -> Vec<Finding> {
    let mut inspection = Inspection { target, limit, findings: Vec::new() };
    // What stops it is among the findings.
    let _ = inspection.run().await;
    inspection.findings
}

struct Inspection<'a> {
    target: &'a GrpcTarget,
    limit: Duration,
    findings: Vec<Finding>,
}

/// A step failed, and is told.
struct Stopped;

impl Inspection<'_> {
    async fn run(&mut self) -> Result<(), Stopped> {
        let began = Instant::now();
        let (host, port) = match split_host_port(&self.target.address) {
            Ok(parts) => parts,
            Err(error) => return self.fail(Step::Dns, began, error, "write host:port"),
        };
        let addresses = self.resolve(&host, port).await?;
        let stream = self.connect(&addresses).await?;
        match &self.target.tls {
            None => self.http2(stream, false).await,
            Some(tls) => {
                let stream = self.handshake(tls, &host, stream).await?;
                self.judge(tls, &stream)?;
                self.http2(stream, true).await
            }
        }
    }

    fn fail<T>(
        &mut self,
        step: Step,
        began: Instant,
        detail: impl fmt::Display,
        advice: &str,
    ) -> Result<T, Stopped> {
        self.findings.push(Finding::failed(step, began, detail.to_string(), advice));
        Err(Stopped)
    }

    async fn resolve(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Stopped> {
        const ADVICE: &str = "the name is wrong, or this machine's resolver (/etc/resolv.conf) does not know it; look it up with `getent hosts`";
        let began = Instant::now();
        let found = match tokio::time::timeout(self.limit, tokio::net::lookup_host((host, port))).await {
            Err(_) => {
                let detail = format!("no answer for {host} within {:?}", self.limit);
                return self.fail(
                    Step::Dns,
                    began,
                    detail,
                    "the DNS server does not answer: is it reachable from here?",
                );
            }
            Ok(Err(error)) => {
                return self.fail(Step::Dns, began, format!("{host} cannot be resolved ({error})"), ADVICE);
            }
            Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect::<Vec<_>>(),
        };
        if found.is_empty() {
            return self.fail(Step::Dns, began, format!("{host} has no address"), ADVICE);
        }
        let texts: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
        self.findings.push(Finding::good(Step::Dns, began, format!("{host} is {}", texts.join(", "))));
        Ok(found)
    }

    async fn connect(&mut self, addresses: &[SocketAddr]) -> Result<TcpStream, Stopped> {
        let began = Instant::now();
        let (mut open, mut failures) = (None, Vec::new());
        for address in addresses {
            match tokio::time::timeout(self.limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => open = open.or(Some((*address, stream))),
                Ok(Err(error)) => failures.push(format!("{address}: {}", explain(&error, Side::Client).text)),
                Err(_) => failures.push(format!("{address}: no connection within {:?}", self.limit)),
            }
        }
        match open {
            None => self.fail(
                Step::Tcp,
                began,
                failures.join("; "),
                "refused: nothing listens on that port; no answer: a firewall, security group or wrong address is in between",
            ),
            Some((address, stream)) if failures.is_empty() => {
                self.findings.push(Finding::good(Step::Tcp, began, format!("{address} accepts")));
                Ok(stream)
            }
            Some((address, stream)) => {
                let detail = format!("{address} accepts, but {}", failures.join("; "));
                let advice = "take addresses that do not answer out of DNS: each new connection may have to wait for one";
                self.findings.push(Finding::doubtful(Step::Tcp, began, detail, advice));
                Ok(stream)
            }
        }
    }

    async fn handshake(
        &mut self,
        tls: &ClientTls,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Stopped> {
        let began = Instant::now();
        let name = tls.server_name.clone().unwrap_or_else(|| host.to_owned());
        let Ok(server_name) = ServerName::try_from(name.clone()) else {
            return self.fail(
                Step::Tls,
                began,
                format!("{name:?} cannot be a server name"),
                "set the server name",
            );
        };
        let config = match tls.source.current().client_config(&tls.expected) {
            Ok(config) => config,
            Err(error) => return self.fail(Step::Tls, began, error, "these are a server's credentials"),
        };
        let connecting = TlsConnector::from(config).connect(server_name, stream);
        match tokio::time::timeout(self.limit, connecting).await {
            Err(_) => {
                let detail = format!("no handshake within {:?}", self.limit);
                self.fail(
                    Step::Tls,
                    began,
                    detail,
                    "what accepts the connection is not a TLS server, or it hangs",
                )
            }
            Ok(Err(error)) => {
                let explanation = explain(&error, Side::Client);
                let advice = advice_for(explanation.reason);
                self.fail(Step::Tls, began, explanation.text, advice)
            }
            Ok(Ok(stream)) => {
                let (_, session) = stream.get_ref();
                let version =
                    session.protocol_version().map_or("?".to_owned(), |version| format!("{version:?}"));
                let chain = session.peer_certificates().unwrap_or_default();
                let facts = chain.first().and_then(|leaf| Facts::read(leaf).ok());
                let names = facts.map_or("?".to_owned(), |facts| names_of(&facts));
                let detail = format!("{version}, a chain of {}, for {names}", chain.len());
                self.findings.push(Finding::good(Step::Tls, began, detail));
                Ok(stream)
            }
        }
    }

    /// What the certificates and the handshake say about the days to come, and the protocol.
    fn judge(&mut self, tls: &ClientTls, stream: &TlsStream<TcpStream>) -> Result<(), Stopped> {
        let began = Instant::now();
        let (_, session) = stream.get_ref();
        let theirs = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|leaf| Facts::read(leaf).ok());
        let ours = tls.source.current().leaf().map(|leaf| leaf.not_after);
        let ends = [("the server's", theirs.map(|facts| facts.not_after)), ("ours", ours)];
        let ends: Vec<(&str, SystemTime)> =
            ends.into_iter().filter_map(|(whose, end)| Some((whose, end?))).collect();
        let detail: Vec<String> =
            ends.iter().map(|(whose, end)| format!("{whose} ends {}", format_time(*end))).collect();
        let soon = SystemTime::now() + EXPIRES_SOON;
        self.findings.push(if ends.iter().any(|(_, end)| *end < soon) {
            let advice = "renew it: less than a week is left";
            Finding::doubtful(Step::Expiry, began, detail.join(", "), advice)
        } else {
            Finding::good(Step::Expiry, began, detail.join(", "))
        });
        let began = Instant::now();
        match session.alpn_protocol() {
            Some(b"h2") => {
                self.findings.push(Finding::good(Step::Alpn, began, "h2"));
                Ok(())
            }
            None => {
                let advice = "the server or an ingress does not negotiate HTTP/2; it may still speak it";
                self.findings.push(Finding::doubtful(Step::Alpn, began, "none was negotiated", advice));
                Ok(())
            }
            Some(other) => {
                let detail = format!("the server chose {:?}", String::from_utf8_lossy(other));
                self.fail(Step::Alpn, began, detail, "switch HTTP/2 on for this port of the ingress")
            }
        }
    }

    async fn http2(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        is_tls: bool,
    ) -> Result<(), Stopped> {
        let began = Instant::now();
        let mut head = [0_u8; FRAME_HEAD_BYTES];
        let talking = async {
            stream.write_all(PREFACE).await?;
            stream.flush().await?;
            let mut got = 0;
            while let Some(rest) = head.get_mut(got..).filter(|rest| !rest.is_empty()) {
                match stream.read(rest).await? {
                    // What came before the end may say why.
                    0 if got == 0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
                    0 => break,
                    more => got += more,
                }
            }
            Ok(())
        };
        let spoken = tokio::time::timeout(self.limit, talking).await;
        let no_tls = "TLS is expected on this port: give the certificates";
        match spoken {
            Err(_) => {
                let detail = format!("the server says nothing within {:?}", self.limit);
                self.fail(Step::Http2, began, detail, "the process behind the port hangs, or waits for TLS")
            }
            Ok(Err(error)) => {
                let explanation = explain(&error, Side::Client);
                let advice = match explanation.reason {
                    FailureReason::Closed if !is_tls => no_tls,
                    FailureReason::Closed => "the server hangs up on us: it may not accept our certificate",
                    reason => advice_for(reason),
                };
                self.fail(Step::Http2, began, explanation.text, advice)
            }
            Ok(Ok(())) if head.get(3) == Some(&SETTINGS) && !head.starts_with(b"HTTP") => {
                let detail = if is_tls {
                    "the server speaks it, and accepts our certificate"
                } else {
                    "the server speaks it"
                };
                self.findings.push(Finding::good(Step::Http2, began, detail));
                Ok(())
            }
            Ok(Ok(())) if head.starts_with(b"HTTP") => {
                let detail = "the server answers with HTTP/1";
                self.fail(
                    Step::Http2,
                    began,
                    detail,
                    "this is a port for HTTP, not for gRPC: is it the port of the metrics?",
                )
            }
            Ok(Ok(())) if head.starts_with(&[0x15, 0x03]) => self.fail(
                Step::Http2,
                began,
                "the server speaks TLS on this port, and we sent plain text",
                no_tls,
            ),
            Ok(Ok(())) => self.fail(
                Step::Http2,
                began,
                "what the server says is not HTTP/2",
                "another service listens on that port",
            ),
        }
    }
}

fn names_of(facts: &Facts) -> String {
    let addresses = facts.addresses.iter().map(ToString::to_string);
    let all: Vec<String> =
        facts.dns_names.iter().cloned().chain(addresses).chain(facts.uris.iter().cloned()).collect();
    if all.is_empty() { format!("no names ({})", facts.subject) } else { all.join(", ") }
}

/// What usually causes it.
fn advice_for(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::WrongCa => {
            "the CA bundles of the two sides do not match: compare the CA file with who signed the other's certificate"
        }
        FailureReason::Expired => "the certificate has ended: renew it, and see why it was not",
        FailureReason::NotYetValid => "a clock is wrong, or the certificate was made for later",
        FailureReason::MissingCertificate => "give a client certificate and its key",
        FailureReason::WrongName => {
            "set the server name to one that the certificate has, or issue one with this name"
        }
        FailureReason::WrongRole => "the certificate is for another role or cluster: see its identity",
        FailureReason::Revoked => "the certificate was revoked: issue another",
        FailureReason::BadCertificate => "the certificate is not one that TLS takes: see how it was made",
        FailureReason::PlainText => {
            "the port does not speak TLS: leave the certificates out, or see what listens there"
        }
        FailureReason::ProtocolVersion => {
            "the sides have no TLS version in common: allow 1.2 on this side, or 1.3 on the other"
        }
        FailureReason::Protocol => "the sides have no protocol in common (ALPN): switch HTTP/2 on",
        FailureReason::Timeout | FailureReason::Unreachable => {
            "a firewall, a security group or a wrong address is in between"
        }
        FailureReason::Refused => "the other side refuses us: see its log",
        FailureReason::Closed => {
            "the other side hung up: it may expect a client certificate, or not speak TLS on this port"
        }
        FailureReason::Other => "see the log of the other side",
    }
}
