//! Names of services looked up in DNS: which servers stand behind `dns+host:port`, `dnssrv+name` and `dnssrvnoa+name` now, and for how long that is true.
//!
//! Invariants: a look-up ends within its time; an answer without any address is an error, not an empty success, so that whoever asked can keep what it knew.
//! Source of the schemes: Thanos `pkg/discovery/dns` (an address record needs a port in the text; of service records the text's port wins over theirs).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::xfer::Protocol;

use crate::Error;

mod metrics;

pub use metrics::LookupMetrics;

/// How long one look-up may take, all its questions together.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the resolver waits for one server before it asks again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Most servers behind one name.
pub const MAX_TARGETS: usize = 1000;
/// Service records whose hosts are looked up.
const MAX_SERVICE_RECORDS: usize = 200;

/// What a name says how to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// `dns+` and `dnsdualstack+`: IPv4 and IPv6 addresses.
    Addresses,
    /// `dnssrv+`: service records, and the addresses of their hosts.
    Services,
    /// `dnssrvnoa+`: service records, whose hosts are looked up on connecting.
    ServicesOnly,
}

/// A name to look up, as a configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName {
    pub lookup: Lookup,
    pub host: String,
    /// Always there for [`Lookup::Addresses`].
    pub port: Option<u16>,
}

impl FromStr for DnsName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::Address { address: text.to_owned(), reason: reason.to_owned() };
        let (scheme, rest) = text.split_once('+').ok_or_else(|| refuse("it begins with no dns…+ scheme"))?;
        let lookup = match scheme {
            "dns" | "dnsdualstack" => Lookup::Addresses,
            "dnssrv" => Lookup::Services,
            "dnssrvnoa" => Lookup::ServicesOnly,
            _ => return Err(refuse("schemes are dns+, dnsdualstack+, dnssrv+ and dnssrvnoa+")),
        };
        let (host, port) = match rest.rsplit_once(':') {
            None => (rest, None),
            Some((host, port)) => {
                let port = port.parse::<u16>().ok().filter(|port| *port != 0);
                (host, Some(port.ok_or_else(|| refuse("its port is not a number from 1 to 65535"))?))
            }
        };
        if host.is_empty() {
            return Err(refuse("the name is missing"));
        }
        if lookup == Lookup::Addresses && port.is_none() {
            return Err(refuse("the port is missing (dns+host:port)"));
        }
        Ok(Self { lookup, host: host.to_owned(), port })
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.lookup {
            Lookup::Addresses => "dns",
            Lookup::Services => "dnssrv",
            Lookup::ServicesOnly => "dnssrvnoa",
        };
        write!(f, "{scheme}+{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// One server that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// `host:port`, the host an IP address or a name.
    pub address: String,
    /// The name by which it was found: what its certificate says, rather than an IP address.
    pub host: String,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Sorted, at least one.
    pub targets: Vec<Target>,
    /// Until when the answer holds, by its TTLs.
    pub valid_until: Instant,
}

/// Asks DNS servers. Cloning shares its cache.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// As the system is configured: `/etc/resolv.conf` and `/etc/hosts`.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn system() -> Result<Self, Error> {
        let (config, options) = hickory_resolver::system_conf::read_system_conf().map_err(|error| {
            Error::Address { address: "/etc/resolv.conf".to_owned(), reason: error.to_string() }
        })?;
        Ok(Self::new(config, options))
    }

    /// With one server, over UDP and TCP.
    pub fn with_server(address: SocketAddr) -> Self {
        let mut config = ResolverConfig::new();
        config.add_name_server(NameServerConfig::new(address, Protocol::Udp));
        config.add_name_server(NameServerConfig::new(address, Protocol::Tcp));
        Self::new(config, ResolverOpts::default())
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts) -> Self {
        options.timeout = ATTEMPT_TIMEOUT.min(options.timeout);
        options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
        let builder = TokioResolver::builder_with_config(config, TokioConnectionProvider::default());
        Self { inner: builder.with_options(options).build() }
    }

    /// Looks `name` up.
    ///
    /// # Errors
    /// In words, if nothing is found in time.
    pub async fn look_up(&self, name: &DnsName) -> Result<Found, String> {
        let looking = async {
            match name.lookup {
                Lookup::Addresses => self.addresses(name).await,
                Lookup::Services => self.services(name, true).await,
                Lookup::ServicesOnly => self.services(name, false).await,
            }
        };
        let (targets, valid_until) = tokio::time::timeout(LOOKUP_TIMEOUT, looking)
            .await
            .map_err(|_| format!("no answer for {} within {LOOKUP_TIMEOUT:?}", name.host))??;
        if targets.is_empty() {
            return Err(format!("there is no server behind {}", name.host));
        }
        Ok(Found { targets: targets.into_iter().take(MAX_TARGETS).collect(), valid_until })
    }

    async fn addresses(&self, name: &DnsName) -> Result<(BTreeSet<Target>, Instant), String> {
        let found = self.ips(&name.host).await?;
        let port = name.port.unwrap_or_default();
        let targets = found.iter().map(|ip| target(ip, port, &name.host)).collect();
        Ok((targets, found.valid_until()))
    }

    async fn ips(&self, host: &str) -> Result<LookupIp, String> {
        self.inner.lookup_ip(host).await.map_err(|error| format!("looking up {host}: {error}"))
    }

    async fn services(
        &self,
        name: &DnsName,
        with_addresses: bool,
    ) -> Result<(BTreeSet<Target>, Instant), String> {
        let records = self.inner.srv_lookup(name.host.as_str()).await;
        let records = records.map_err(|error| format!("looking up services of {}: {error}", name.host))?;
        let mut valid_until = records.as_lookup().valid_until();
        let hosts: Vec<(String, u16)> = records
            .iter()
            .take(MAX_SERVICE_RECORDS)
            .map(|record| {
                let host = record.target().to_string();
                let port = name.port.unwrap_or_else(|| record.port());
                (host.strip_suffix('.').unwrap_or(&host).to_owned(), port)
            })
            .collect();
        if !with_addresses {
            let targets =
                hosts.into_iter().map(|(host, port)| Target { address: format!("{host}:{port}"), host });
            return Ok((targets.collect(), valid_until));
        }
        let mut targets = BTreeSet::new();
        let mut last_error = None;
        for (found, (host, port)) in
            join_all(hosts.iter().map(|(host, _)| self.ips(host))).await.into_iter().zip(&hosts)
        {
            match found {
                Ok(found) => {
                    valid_until = valid_until.min(found.valid_until());
                    targets.extend(found.iter().map(|ip| target(ip, *port, host)));
                }
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if targets.is_empty() => Err(error),
            _ => Ok((targets, valid_until)),
        }
    }
}

fn target(ip: IpAddr, port: u16, host: &str) -> Target {
    Target { address: SocketAddr::new(ip, port).to_string(), host: host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_how_to_look_up() {
        let name = |text: &str| text.parse::<DnsName>();
        let of = |lookup, host: &str, port| DnsName { lookup, host: host.to_owned(), port };
        assert_eq!(name("dns+a.b:1").unwrap(), of(Lookup::Addresses, "a.b", Some(1)));
        assert_eq!(name("dnsdualstack+a.b:1").unwrap(), of(Lookup::Addresses, "a.b", Some(1)));
        assert_eq!(name("dnssrv+_grpc._tcp.a").unwrap(), of(Lookup::Services, "_grpc._tcp.a", None));
        assert_eq!(
            name("dnssrvnoa+_grpc._tcp.a:9").unwrap(),
            of(Lookup::ServicesOnly, "_grpc._tcp.a", Some(9))
        );
        for (text, reason) in [
            ("a:1", "no dns"),
            ("dnsx+a:1", "schemes are"),
            ("dns+a", "port is missing"),
            ("dns+:1", "name is missing"),
            ("dns+a:0", "1 to 65535"),
            ("dnssrv+a:x", "1 to 65535"),
        ] {
            let error = name(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
