//! [`Proxy`]: `HTTPS_PROXY` and `NO_PROXY`, as Go programs read them. TLS goes through the proxy by `CONNECT`; plain HTTP is never sent to one.

use std::net::IpAddr;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connection::open_tcp;
use crate::config::Secret;

/// A proxy's answer to `CONNECT` is no longer than this.
const MAX_ANSWER_BYTES: usize = 8 << 10;

/// Where requests go first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    host: String,
    port: u16,
    authorization: Option<Secret>,
    /// Hosts that are asked directly.
    direct: Vec<String>,
}

impl Proxy {
    /// Reads the values of the two variables.
    ///
    /// # Errors
    /// What is wrong with the proxy's URL, without its password.
    pub(crate) fn parse(url: &str, no_proxy: &str) -> Result<Self, String> {
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(format!("a proxy over {scheme} is not supported: use http://host:port"));
            }
            None => url,
        };
        let rest = rest.trim_end_matches('/');
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        let (host, port) = match address.rsplit_once(':') {
            // The colons of an IPv6 address stand within brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
            _ => (address, Some(80)),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let Some(port) = port.filter(|_| !host.is_empty() && !address.contains('/')) else {
            return Err("it is not http://host:port".to_owned());
        };
        let authorization = login.map(|login| {
            // In a URL what would end the name or the password is escaped.
            let login: Vec<u8> = percent_encoding::percent_decode_str(login).collect();
            let text = base64::engine::general_purpose::STANDARD.encode(login);
            Secret::new(format!("Basic {text}"))
        });
        let direct = no_proxy.split(',').map(|host| host.trim().to_ascii_lowercase());
        Ok(Self {
            host: host.to_owned(),
            port,
            authorization,
            direct: direct.filter(|host| !host.is_empty()).collect(),
        })
    }

    /// Whether a host is asked through the proxy. This machine never is.
    pub(super) fn is_for(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return false;
        }
        let with_port = format!("{host}:{port}");
        !self.direct.iter().any(|entry| {
            entry == "*"
                || *entry == host
                || *entry == with_port
                || host.strip_suffix(entry.trim_start_matches('.')).is_some_and(|head| head.ends_with('.'))
                || address.is_some_and(|address| in_network(address, entry))
        })
    }

    /// A connection to a host, through the proxy.
    pub(super) async fn connect(&self, host: &str, port: u16) -> std::io::Result<TcpStream> {
        let refused =
            |what: String| std::io::Error::other(format!("proxy {}:{}: {what}", self.host, self.port));
        let mut stream = open_tcp(&self.host, self.port).await.map_err(|error| refused(error.to_string()))?;
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.expose()));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // One byte at a time: what follows the answer belongs to TLS.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_ANSWER_BYTES {
                return Err(refused("its answer is too long".to_owned()));
            }
            answer.push(stream.read_u8().await.map_err(|error| refused(error.to_string()))?);
        }
        let text = String::from_utf8_lossy(&answer);
        let first = text.lines().next().unwrap_or_default();
        match first.split(' ').nth(1) {
            Some("200") => Ok(stream),
            _ => Err(refused(format!("it answered {first:?}"))),
        }
    }
}

/// Whether an address lies in a network such as `10.0.0.0/8`.
fn in_network(address: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match (address, base.parse()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(base))) if bits <= 32 => {
            let shift = 32 - bits;
            u32::from(address).checked_shr(shift).unwrap_or(0)
                == u32::from(base).checked_shr(shift).unwrap_or(0)
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(base))) if bits <= 128 => {
            let shift = 128 - bits;
            u128::from(address).checked_shr(shift).unwrap_or(0)
                == u128::from(base).checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_hosts_are_asked_directly() {
        let direct = "svc.cluster.local, .internal,10.0.0.0/8,minio:9000,exact.example";
        let proxy = Proxy::parse("http://proxy:3128", direct).unwrap();
        for (host, through) in [
            ("s3.amazonaws.com", true),
            ("localhost", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("minio", false),
            ("a.svc.cluster.local", false),
            ("a.internal", false),
            ("notinternal", true),
            ("10.1.2.3", false),
            ("11.1.2.3", true),
            ("EXACT.example", false),
        ] {
            assert_eq!(proxy.is_for(host, 9000), through, "{host}");
        }
        assert!(proxy.is_for("minio", 9001));
        assert!(!Proxy::parse("proxy", "*").unwrap().is_for("anything", 1));
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        let proxy = Proxy::parse("http://user:hunter2@proxy/", "").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy", 80));
        assert!(!format!("{proxy:?}").contains("hunter2") && proxy.authorization.is_some());
        let error = Proxy::parse("socks5://user:hunter2@proxy", "").unwrap_err();
        assert!(error.contains("socks5") && !error.contains("hunter2"), "{error}");
        for bad in ["", "http://proxy:port", "http://:3128", "http://proxy/path"] {
            assert!(Proxy::parse(bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_escaped_in_a_proxys_login_is_sent_as_it_was_meant() {
        let sent = |url: &str| Proxy::parse(url, "").unwrap().authorization.unwrap().expose().to_owned();
        // "user:p@ss/word" and "user:50%"
        assert_eq!(sent("http://user:p%40ss%2Fword@proxy:3128"), "Basic dXNlcjpwQHNzL3dvcmQ=");
        assert_eq!(sent("http://user:50%25@[::1]:3128"), "Basic dXNlcjo1MCU=");
        assert_eq!(sent("http://user:plain@proxy"), "Basic dXNlcjpwbGFpbg==");
        let proxy = Proxy::parse("http://[::1]:3128", "").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 3128));
    }
}
