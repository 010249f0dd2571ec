//! What observees and observers have in common: reading their files, the forms of values, and how their gRPC servers are set up.

use std::time::Duration;

use anyhow::Context as _;
use parallax_net::GrpcServerConfig;
use parallax_querier::EndpointLimits;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::flags::{parse_bytes, parse_duration, parse_time_ms};

/// Reads a YAML file; an unknown key or a wrong value is an error with its place.
pub fn read<T: DeserializeOwned>(path: &str) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{path}: {error}"))
}

/// `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationText(pub Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(D::Error::custom)
    }
}

/// `250MB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeText(pub usize);

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size_bytes = parse_bytes(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        usize::try_from(size_bytes).map(Self).map_err(D::Error::custom)
    }
}

/// `max_frame_size` and `max_response_size` of one endpoint.
pub fn endpoint_limits(frame: Option<SizeText>, response: Option<SizeText>) -> EndpointLimits {
    EndpointLimits {
        frame_bytes: frame.map(|size| size.0),
        response_bytes: response.map(|size| u64::try_from(size.0).unwrap_or(u64::MAX)),
    }
}

/// RFC 3339 or `-2w`, in milliseconds; by default the beginning of time.
#[derive(Clone, Copy, Debug)]
pub struct TimeText(pub i64);

impl Default for TimeText {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

impl<'de> Deserialize<'de> for TimeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_time_ms(&text).map(Self).map_err(D::Error::custom)
    }
}

/// How long streams may finish after a stop signal; a query that hangs must not hold the process up.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// A gRPC server with the settings of a side.
pub fn grpc_server(address: &str) -> GrpcServerConfig {
    GrpcServerConfig { grace_period: GRACE_PERIOD, ..GrpcServerConfig::new(address) }
}

pub fn http_address() -> String {
    "0.0.0.0:10902".to_owned()
}

pub fn grpc_address() -> String {
    "0.0.0.0:10901".to_owned()
}
