//! TCP connections to a name that has several addresses.
//!
//! Invariant: an address that does not answer costs the others at most [`STAGGER`]: the next one is tried beside it, and whichever accepts first is
//! taken (RFC 8305, "happy eyeballs", without its sorting: the resolver has sorted already).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// How long an attempt has before the next address is tried beside it. RFC 8305, section 5.
pub const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 32;

/// Resolves `host` and connects. The caller bounds the whole.
///
/// # Errors
/// [`DialError`], by the step that failed.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(DialError::Resolve)?;
    first_open(addresses, TcpStream::connect).await.map_err(DialError::Connect)
}

/// At which step there was no connection.
#[derive(Debug)]
pub enum DialError {
    /// The name has no address, or its server did not answer.
    Resolve(io::Error),
    /// No address took the connection; the last refusal.
    Connect(io::Error),
}

/// The first address that accepts, or the error of the one that failed last.
async fn first_open<T, F: Future<Output = io::Result<T>>>(
    addresses: impl Iterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut addresses = addresses.take(MAX_ADDRESSES);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    let mut open = FuturesUnordered::new();
    let mut exhausted = false;
    loop {
        match addresses.next() {
            Some(address) => open.push(connect(address)),
            None => exhausted = true,
        }
        // Until the next address is due: at once when nothing is under way.
        tokio::select! {
            biased;
            attempt = open.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None if exhausted => return Err(last),
                None => {}
            },
            () = tokio::time::sleep(STAGGER), if !exhausted => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::sync::Mutex;

    use futures::FutureExt as _;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }

    /// Ports below 100 hang, those below 200 refuse, the others accept.
    async fn scripted(tried: &Mutex<Vec<u16>>, address: SocketAddr) -> io::Result<u16> {
        tried.lock().unwrap().push(address.port());
        match address.port() {
            0..100 => std::future::pending().await,
            100..200 => Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{address}"))),
            port => Ok(port),
        }
    }

    async fn open(ports: &[u16]) -> (io::Result<u16>, Vec<u16>) {
        let tried = Mutex::default();
        let result =
            first_open(ports.iter().copied().map(address), |address| scripted(&tried, address)).await;
        (result, tried.into_inner().unwrap())
    }

    #[tokio::test]
    async fn addresses_that_hang_do_not_keep_the_others_from_their_turn() {
        let (result, tried) = open(&[1, 2, 100, 200, 201]).await;
        assert_eq!((result.unwrap(), tried), (200, vec![1, 2, 100, 200]));
    }

    #[tokio::test]
    async fn a_refusal_lets_the_next_one_try_at_once_and_the_last_error_is_told() {
        // Polled once, without any time passing: nobody is waited for.
        let all = open(&[101, 102, 103]).now_or_never();
        let (result, tried) = all.expect("nobody was waited for");
        assert!(result.unwrap_err().to_string().ends_with(":103"));
        assert_eq!(tried, [101, 102, 103]);
        assert_eq!(open(&[]).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open(&[200, 1]).await.1, [200]);
    }
}
