//! One connection: lines and blocks of bytes, each with a bound.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// No line of either protocol is longer.
const MAX_LINE_BYTES: u64 = 1024;

#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        // An error here means that the peer has gone; the request will notice.
        let _ = stream.set_nodelay(true);
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// A line without its end.
    pub(super) async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut line).await?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => String::from_utf8(line.to_vec()).map_err(|_| wrong("a line that is no text")),
            None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Err(wrong("a line without end")),
        }
    }

    /// `size` bytes and the end of a line.
    pub(super) async fn block(&mut self, size: u64, max_bytes: u64) -> io::Result<Bytes> {
        if size > max_bytes {
            return Err(wrong("a value larger than any that was put there"));
        }
        let size = usize::try_from(size).map_err(|_| wrong("a value that does not fit this machine"))?;
        let mut block = vec![0; size];
        self.stream.read_exact(&mut block).await?;
        let mut end = [0; 2];
        self.stream.read_exact(&mut end).await?;
        if end == *b"\r\n" {
            Ok(block.into())
        } else {
            Err(wrong("a value that does not end where it should"))
        }
    }
}

pub(super) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}
