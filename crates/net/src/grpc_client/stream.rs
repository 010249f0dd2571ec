//! The bytes of a client's connection, watched: the first of the server prove that it accepts us, an error is put into words.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parallax_pki::credentials::CountedConnection;
use parallax_pki::{Explanation, FailureReason, Side, explain_to};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::connector::ConnectFailure;
use super::health::Health;

/// First bytes of a TLS alert record: what a TLS port answers to plain text.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(crate) struct ClientStream {
    transport: Transport,
    health: Arc<Health>,
    heard: bool,
    watched: Option<Watched>,
}

/// Ends the connection when its server is no longer trusted.
pub(super) struct Watched {
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends the watching with the connection.
    _end: DropGuard,
    _counted: CountedConnection,
    parties: Parties,
}

/// The identities in the two certificates of a connection, as far as they have any.
#[derive(Clone, Debug, Default)]
pub(super) struct Parties {
    pub(super) own: Option<String>,
    pub(super) server: Option<String>,
}

impl Watched {
    pub(super) fn new(cut: CancellationToken, counted: CountedConnection, parties: Parties) -> Self {
        let ending = Box::pin(cut.clone().cancelled_owned());
        Self { cut: ending, _end: cut.drop_guard(), _counted: counted, parties }
    }
}

impl ClientStream {
    pub(super) fn plain(stream: TcpStream, health: Arc<Health>) -> Self {
        Self { transport: Transport::Plain(stream), health, heard: false, watched: None }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, health: Arc<Health>, watched: Watched) -> Self {
        Self { transport: Transport::Tls(Box::new(stream)), health, heard: false, watched: Some(watched) }
    }

    /// The server may have refused our certificate only after the handshake.
    fn explain(&self, error: &io::Error) -> Explanation {
        let own = self.watched.as_ref().and_then(|watched| watched.parties.own.as_deref());
        explain_to(error, Side::Client, own)
    }

    fn failed(&self, explanation: Explanation, kind: io::ErrorKind) -> io::Error {
        self.health.note_failure(explanation.clone());
        io::Error::new(kind, ConnectFailure { explanation })
    }

    /// Judges the first bytes of the server.
    fn note_first(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            let text = "the server closed the connection before it said anything".to_owned();
            // Not an error of the stream: its end is for HTTP/2 to judge.
            self.health.note_failure(Explanation { reason: FailureReason::Closed, text });
        } else if matches!(self.transport, Transport::Plain(_)) && bytes.starts_with(&TLS_ALERT) {
            let text = "the server speaks TLS on this port, and we sent plain text".to_owned();
            let explanation = Explanation { reason: FailureReason::PlainText, text };
            return Err(self.failed(explanation, io::ErrorKind::InvalidData));
        } else {
            self.health.note_heard();
        }
        self.heard = true;
        Ok(())
    }

    /// A write failed: if the server said why, that is the better error.
    fn write_failed(&mut self, context: &mut Context<'_>, error: io::Error) -> io::Error {
        let mut scratch = [0_u8; 1024];
        let mut buffer = ReadBuf::new(&mut scratch);
        let said = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, &mut buffer),
        };
        let (explanation, kind) = match said {
            Poll::Ready(Err(better)) => (self.explain(&better), better.kind()),
            _ => (self.explain(&error), error.kind()),
        };
        self.failed(explanation, kind)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(watched) = &mut self.watched
            && watched.cut.as_mut().poll(context).is_ready()
        {
            let sentence = "the server's certificate is revoked, or its CA is no longer trusted";
            let explanation =
                Explanation::refusal(FailureReason::Revoked, sentence, watched.parties.server.as_deref());
            return Poll::Ready(Err(self.failed(explanation, io::ErrorKind::ConnectionAborted)));
        }
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        };
        match read {
            Poll::Ready(Ok(())) if !self.heard => {
                Poll::Ready(self.note_first(buffer.filled().get(before..).unwrap_or_default()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(self.explain(&error), error.kind()))),
            other => other,
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        };
        match written {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.write_failed(context, error))),
            other => other,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        };
        match written {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.write_failed(context, error))),
            other => other,
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        };
        match flushed {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.write_failed(context, error))),
            other => other,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
