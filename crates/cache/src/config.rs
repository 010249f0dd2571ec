//! Thanos' YAML of caches: `type` IN-MEMORY, MEMCACHED or REDIS (any case), and `config`.
//!
//! Keys that mean nothing here are accepted where leaving them out changes nothing that can be seen (`max_idle_connections`,
//! `dns_provider_update_interval`, circuit breakers, which are always on), and refused where it would (`auto_discovery`, `tls_enabled`,
//! `master_name`, `cache_size`). Unknown keys are errors with their line. Source: Thanos `pkg/cacheutil`, `pkg/cache`, `docs/components/store.md`.

use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::CacheError;

/// One kind of cache, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Memory(MemoryConfig),
    Memcached(MemcachedConfig),
    Redis(RedisConfig),
}

/// `type: IN-MEMORY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Keys, values and what an entry costs.
    pub max_size_bytes: u64,
    pub max_item_size_bytes: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { max_size_bytes: 250 << 20, max_item_size_bytes: 125 << 20 }
    }
}

/// What both remote caches have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteLimits {
    /// For one batch, connecting included.
    pub timeout: Duration,
    pub max_item_size_bytes: u64,
    /// Keys of one request.
    pub batch_keys: usize,
    /// Requests at a time.
    pub get_concurrency: usize,
    /// Values waiting to be written; more are dropped.
    pub set_queue: usize,
    pub set_concurrency: usize,
}

/// `type: MEMCACHED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemcachedConfig {
    /// `host:port` each; a key belongs to one of them.
    pub addresses: Vec<String>,
    pub limits: RemoteLimits,
}

/// `type: REDIS`.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    pub address: String,
    pub username: String,
    pub password: String,
    pub database: u32,
    pub limits: RemoteLimits,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.address)
            .field("username", &self.username)
            .field("password", &if self.password.is_empty() { "<none>" } else { "<redacted>" })
            .field("database", &self.database)
            .field("limits", &self.limits)
            .finish()
    }
}

/// Keys of one request where the configuration does not bound them.
const BATCH_KEYS: usize = 200;

impl Backend {
    /// Reads `type` and `config` of a document; `others` are further keys that its owner reads.
    ///
    /// # Errors
    /// [`CacheError::Config`] with the line where there is one.
    pub fn from_yaml(text: &str, others: &[&str]) -> Result<Self, CacheError> {
        let head: Head = parse(text)?;
        let known = |name: &str| name == "type" || name == "config" || others.contains(&name);
        if let Some((name, line)) = head.keys.iter().find(|(name, _)| !known(name)) {
            let line = Some(*line).filter(|line| *line > 0);
            return Err(CacheError::Config { line, reason: format!("unknown key {name:?}") });
        }
        let kind = head.kind.ok_or_else(|| CacheError::config("the key \"type\" is missing"))?;
        match kind.to_ascii_uppercase().as_str() {
            "IN-MEMORY" => section::<MemorySection>(text)?.resolve().map(Self::Memory),
            "MEMCACHED" => section::<MemcachedSection>(text)?.resolve().map(Self::Memcached),
            "REDIS" => section::<RedisSection>(text)?.resolve().map(Self::Redis),
            "GROUPCACHE" => Err(CacheError::config(
                "type GROUPCACHE is not supported: use MEMCACHED or REDIS for a cache that several gateways share",
            )),
            _ => Err(CacheError::config(format!(
                "unknown type {kind:?}; types are IN-MEMORY, MEMCACHED, REDIS"
            ))),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MemorySection {
    max_size: Option<ByteSize>,
    max_item_size: Option<ByteSize>,
}

impl MemorySection {
    fn resolve(self) -> Result<MemoryConfig, CacheError> {
        let defaults = MemoryConfig::default();
        let max_size_bytes = self.max_size.map_or(defaults.max_size_bytes, |size| size.0);
        let max_item_size_bytes =
            self.max_item_size.map_or(defaults.max_item_size_bytes.min(max_size_bytes), |size| size.0);
        if max_item_size_bytes > max_size_bytes {
            return Err(CacheError::config(format!(
                "max_item_size ({max_item_size_bytes} bytes) is more than max_size ({max_size_bytes} bytes)"
            )));
        }
        Ok(MemoryConfig { max_size_bytes, max_item_size_bytes })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MemcachedSection {
    addresses: Option<Vec<String>>,
    timeout: Option<GoDuration>,
    #[serde(rename = "max_idle_connections")]
    _max_idle_connections: Option<u32>,
    max_async_concurrency: Option<u32>,
    max_async_buffer_size: Option<u32>,
    max_get_multi_concurrency: Option<u32>,
    max_item_size: Option<ByteSize>,
    max_get_multi_batch_size: Option<u32>,
    #[serde(rename = "dns_provider_update_interval")]
    _dns_provider_update_interval: Option<GoDuration>,
    auto_discovery: Option<bool>,
    #[serde(rename = "set_async_circuit_breaker_config")]
    _set_async_circuit_breaker_config: Option<IgnoredAny>,
}

impl MemcachedSection {
    fn resolve(self) -> Result<MemcachedConfig, CacheError> {
        if self.auto_discovery == Some(true) {
            return Err(CacheError::config(
                "auto_discovery: true is not supported: list the servers in addresses",
            ));
        }
        let mut addresses = Vec::new();
        for address in self.addresses.unwrap_or_default() {
            if address.starts_with("dnssrv") {
                return Err(CacheError::config(format!(
                    "address {address:?}: SRV records are not supported; write host:port, or dns+host:port"
                )));
            }
            addresses.push(host_port(address.strip_prefix("dns+").unwrap_or(&address))?);
        }
        if addresses.is_empty() {
            return Err(CacheError::config("type MEMCACHED needs config.addresses"));
        }
        addresses.sort();
        addresses.dedup();
        Ok(MemcachedConfig {
            addresses,
            limits: RemoteLimits {
                timeout: timeout(self.timeout, 500),
                max_item_size_bytes: self.max_item_size.map_or(1 << 20, |size| size.0),
                batch_keys: count(self.max_get_multi_batch_size, BATCH_KEYS),
                get_concurrency: count(self.max_get_multi_concurrency, 100),
                set_queue: count(self.max_async_buffer_size, 10_000),
                set_concurrency: count(self.max_async_concurrency, 20),
            },
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RedisSection {
    addr: Option<String>,
    username: Option<String>,
    password: Option<String>,
    db: Option<u32>,
    dial_timeout: Option<GoDuration>,
    read_timeout: Option<GoDuration>,
    write_timeout: Option<GoDuration>,
    max_get_multi_concurrency: Option<u32>,
    get_multi_batch_size: Option<u32>,
    max_set_multi_concurrency: Option<u32>,
    #[serde(rename = "set_multi_batch_size")]
    _set_multi_batch_size: Option<u32>,
    tls_enabled: Option<bool>,
    #[serde(rename = "tls_config")]
    _tls_config: Option<IgnoredAny>,
    cache_size: Option<ByteSize>,
    master_name: Option<String>,
    max_async_buffer_size: Option<u32>,
    max_async_concurrency: Option<u32>,
    #[serde(rename = "set_async_circuit_breaker_config")]
    _set_async_circuit_breaker_config: Option<IgnoredAny>,
}

/// Redis itself takes values of up to 512 MiB; nothing cached here is larger than this.
const REDIS_ITEM_BYTES: u64 = 16 << 20;

impl RedisSection {
    fn resolve(self) -> Result<RedisConfig, CacheError> {
        if self.tls_enabled == Some(true) {
            return Err(CacheError::config(
                "tls_enabled: true is not supported: keep the cache on a private network, or put a TLS proxy beside it",
            ));
        }
        if self.master_name.is_some_and(|name| !name.is_empty()) {
            return Err(CacheError::config("master_name is not supported: addr has to be the server itself"));
        }
        if self.cache_size.is_some_and(|size| size.0 > 0) {
            return Err(CacheError::config(
                "cache_size is not supported: leave it out, or use type IN-MEMORY",
            ));
        }
        let address = self.addr.filter(|addr| !addr.is_empty());
        let address = address.ok_or_else(|| CacheError::config("type REDIS needs config.addr"))?;
        if address.contains(',') {
            return Err(CacheError::config(
                "a cluster of Redis servers is not supported: addr has to be one server",
            ));
        }
        let connect = timeout(self.dial_timeout, 5000);
        let read = timeout(self.read_timeout, 3000);
        let write = timeout(self.write_timeout, 3000);
        Ok(RedisConfig {
            address: host_port(&address)?,
            username: self.username.unwrap_or_default(),
            password: self.password.unwrap_or_default(),
            database: self.db.unwrap_or(0),
            limits: RemoteLimits {
                timeout: connect.max(read).max(write),
                max_item_size_bytes: REDIS_ITEM_BYTES,
                batch_keys: count(self.get_multi_batch_size, 100),
                get_concurrency: count(self.max_get_multi_concurrency, 100),
                set_queue: count(self.max_async_buffer_size, 10_000),
                set_concurrency: count(self.max_async_concurrency.or(self.max_set_multi_concurrency), 20),
            },
        })
    }
}

fn host_port(address: &str) -> Result<String, CacheError> {
    let port =
        address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
    match port {
        Some(Ok(_)) => Ok(address.to_owned()),
        _ => Err(CacheError::config(format!("address {address:?} is not host:port"))),
    }
}

/// More of anything than this is a mistake.
const MAX_COUNT: usize = 1_000_000;

/// Zero and absent mean the default.
fn count(value: Option<u32>, default: usize) -> usize {
    value
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count > 0)
        .unwrap_or(default)
        .min(MAX_COUNT)
}

fn timeout(value: Option<GoDuration>, default_ms: u64) -> Duration {
    value.map(|value| value.0).filter(|value| !value.is_zero()).unwrap_or(Duration::from_millis(default_ms))
}

/// The top level: `type`, and all keys with their lines.
struct Head {
    kind: Option<String>,
    keys: Vec<(String, u64)>,
}

/// More keys than a document has.
const MAX_KEYS: usize = 64;

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with the keys type and config")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
                let mut head = Head { kind: None, keys: Vec::new() };
                while let Some(key) = map.next_key::<serde_saphyr::Spanned<String>>()? {
                    if key.value == "type" {
                        head.kind = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                    head.keys.push((key.value, key.referenced.line()));
                    if head.keys.len() > MAX_KEYS {
                        return Err(A::Error::custom("too many keys"));
                    }
                }
                Ok(head)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The value of `config`, or its defaults where there is none.
fn section<T: DeserializeOwned + Default>(text: &str) -> Result<T, CacheError> {
    #[derive(Deserialize)]
    struct Document<T> {
        #[serde(default = "none")]
        config: Option<T>,
    }
    const fn none<T>() -> Option<T> {
        None
    }
    Ok(parse::<Document<T>>(text)?.config.unwrap_or_default())
}

/// Parses a document for this crate's and its users' configurations. Messages show no neighbouring lines, which may hold passwords.
///
/// # Errors
/// [`CacheError::Config`] with the line.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, CacheError> {
    serde_saphyr::from_str(text).map_err(|error| CacheError::Config {
        line: error.location().map(|location| location.line()).filter(|line| *line > 0),
        reason: error.without_snippet().to_string(),
    })
}

/// A size as Thanos writes them: `250MB`, `1MiB` (both of 1024), or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_size(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no size; write it as 250MB, 1GiB or a number of bytes"))
        })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text.get(..split)?.parse().ok()?;
    let unit: u64 = match text.get(split..)?.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" | "KIB" => 1 << 10,
        "MB" | "MIB" => 1 << 20,
        "GB" | "GIB" => 1 << 30,
        "TB" | "TIB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A duration as Go writes them: `500ms`, `1h30m`, `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no duration; write it as 500ms, 90s or 1h30m"))
        })
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_us: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_us: u64 = match rest.get(..letters)? {
            "us" | "µs" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return None,
        };
        rest = rest.get(letters..)?;
        total_us = total_us.checked_add(number.checked_mul(unit_us)?)?;
    }
    (!text.is_empty()).then(|| Duration::from_micros(total_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Backend, String> {
        Backend::from_yaml(text, &["ttl"]).map_err(|error| error.to_string())
    }

    #[test]
    fn every_documented_key_is_accepted() {
        let memory =
            read("type: in-memory\nconfig:\n  max_size: 250MB\n  max_item_size: 1MiB\nttl: 0s\n").unwrap();
        let config = MemoryConfig { max_size_bytes: 250 << 20, max_item_size_bytes: 1 << 20 };
        assert_eq!(memory, Backend::Memory(config));
        assert_eq!(read("type: IN-MEMORY").unwrap(), Backend::Memory(MemoryConfig::default()));
        let memcached = "type: MEMCACHED\nconfig:\n  addresses: [\"b:11211\", \"dns+a:11211\"]\n  timeout: 500ms\n  max_idle_connections: 100\n  \
                         max_item_size: 1MiB\n  max_async_concurrency: 20\n  max_async_buffer_size: 10000\n  max_get_multi_concurrency: 100\n  \
                         max_get_multi_batch_size: 0\n  dns_provider_update_interval: 10s\n  auto_discovery: false\n  \
                         set_async_circuit_breaker_config: {enabled: false, half_open_max_requests: 0}\n";
        let Backend::Memcached(memcached) = read(memcached).unwrap() else { panic!() };
        assert_eq!(memcached.addresses, ["a:11211", "b:11211"]);
        assert_eq!((memcached.limits.timeout.as_millis(), memcached.limits.batch_keys), (500, BATCH_KEYS));
        let redis = "type: REDIS\nconfig:\n  addr: \"r:6379\"\n  username: u\n  password: hunter2\n  db: 2\n  dial_timeout: 5s\n  read_timeout: 3s\n  \
                     write_timeout: 3s\n  max_get_multi_concurrency: 100\n  get_multi_batch_size: 100\n  max_set_multi_concurrency: 100\n  \
                     set_multi_batch_size: 100\n  tls_enabled: false\n  tls_config: {ca_file: \"\"}\n  cache_size: 0\n  master_name: \"\"\n  \
                     max_async_buffer_size: 10000\n  max_async_concurrency: 20\n  set_async_circuit_breaker_config: {}\n";
        let redis = read(redis).unwrap();
        assert!(!format!("{redis:?}").contains("hunter2"), "{redis:?}");
        let Backend::Redis(redis) = redis else { panic!() };
        assert_eq!(
            (redis.address.as_str(), redis.database, redis.password.as_str()),
            ("r:6379", 2, "hunter2")
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_what_to_do() {
        for (text, words) in [
            ("config: {}", "\"type\""),
            ("type: FLOPPY", "IN-MEMORY, MEMCACHED, REDIS"),
            ("type: GROUPCACHE", "MEMCACHED or REDIS"),
            ("type: IN-MEMORY\nconfg: {}", "line 2"),
            ("type: IN-MEMORY\nconfig:\n  maxsize: 1", "maxsize"),
            ("type: IN-MEMORY\nconfig: {max_size: many}", "many"),
            ("type: IN-MEMORY\nconfig: {max_size: 1MB, max_item_size: 2MB}", "more than max_size"),
            ("type: MEMCACHED", "config.addresses"),
            ("type: MEMCACHED\nconfig: {addresses: [dnssrv+_m._tcp.x]}", "SRV"),
            ("type: MEMCACHED\nconfig: {addresses: [nowhere]}", "host:port"),
            ("type: MEMCACHED\nconfig: {addresses: [\"a:1\"], auto_discovery: true}", "auto_discovery"),
            ("type: MEMCACHED\nconfig: {addresses: [\"a:1\"], timeout: soon}", "soon"),
            ("type: REDIS", "config.addr"),
            ("type: REDIS\nconfig: {addr: \"a:1,b:1\"}", "one server"),
            ("type: REDIS\nconfig: {addr: \"a:1\", tls_enabled: true}", "tls_enabled"),
            ("type: REDIS\nconfig: {addr: \"a:1\", master_name: m}", "master_name"),
            ("type: REDIS\nconfig: {addr: \"a:1\", cache_size: 1MB}", "cache_size"),
            ("- type: REDIS", "cache configuration"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_as_thanos_does() {
        assert_eq!(
            (parse_size("250MB"), parse_size("1KiB"), parse_size("7")),
            (Some(250 << 20), Some(1024), Some(7))
        );
        assert_eq!((parse_size("1XB"), parse_size(""), parse_size("99999999999TB")), (None, None, None));
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!((parse_duration("1"), parse_duration(""), parse_duration("1d")), (None, None, None));
    }
}
