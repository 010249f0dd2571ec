//! Opening listeners: addresses as flags give them, and errors that name address and flag.
//!
//! Invariant: `:port` listens on all addresses, as in Go: IPv6 with IPv4 where the machine has IPv6, else IPv4.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::Error;

/// Opens a listener on `host:port` or `:port`; port 0 takes a free one.
pub(crate) async fn listen(address: &str, flag: &'static str) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source: std::io::Error| Error::bind(flag, address, &source);
    let bound = match address.strip_prefix(':') {
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                TcpListener::bind(format!("0.0.0.0:{port}")).await
            }
            result => result,
        },
        None => TcpListener::bind(address).await,
    };
    let listener = bound.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Splits `host:port`; the host of an IPv6 address comes without its brackets. Errors say what is wrong with the text.
pub(crate) fn split_host_port(address: &str) -> Result<(String, u16), Error> {
    let refuse = |reason: &str| Error::Address { address: address.to_owned(), reason: reason.to_owned() };
    if address.contains("://") {
        return Err(refuse("it must be host:port, without a scheme"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| refuse("the port is missing (host:port)"))?;
    let port = port.parse::<u16>().map_err(|_| refuse("its port is not a number from 1 to 65535"))?;
    if port == 0 {
        return Err(refuse("its port is not a number from 1 to 65535"));
    }
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
        Some(_) => return Err(refuse("what stands in brackets is not an IPv6 address")),
        None if host.is_empty() => return Err(refuse("the host is missing (host:port)")),
        None if host.contains(':') => return Err(refuse("an IPv6 address needs brackets ([::1]:10901)")),
        None => host,
    };
    if host.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b"/@?#\\\"".contains(&b)) {
        return Err(refuse("its host holds a character that no host name has"));
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_reported_with_address_and_flag() {
        let (_held, address) = listen("127.0.0.1:0", "--grpc-address").await.unwrap();
        let error = listen(&address.to_string(), "--grpc-address").await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--grpc-address"), "{error}");
        assert!(error.contains("in use"), "{error}");
    }

    #[test]
    fn addresses_are_split_or_refused_by_reason() {
        assert_eq!(split_host_port("eu-1.example:10901").unwrap(), ("eu-1.example".to_owned(), 10901));
        assert_eq!(split_host_port("[::1]:1").unwrap(), ("::1".to_owned(), 1));
        for (text, reason) in [
            ("eu-1", "port is missing"),
            ("eu-1:0", "1 to 65535"),
            ("eu-1:99999", "1 to 65535"),
            (":10901", "host is missing"),
            ("::1:10901", "brackets"),
            ("[eu]:1", "not an IPv6"),
            ("http://eu-1:10901", "without a scheme"),
            ("a b:1", "character"),
            ("user@eu:1", "character"),
        ] {
            let error = split_host_port(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
