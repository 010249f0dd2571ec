//! Thanos' objstore YAML: `type` (any case), `config`, `prefix`, and beside them `hedging_config`.
//!
//! Every key is known or refused, with its line and, where it has a successor, the key to use instead. Secrets are held in
//! [`Secret`], so that no dump or message shows them. Source: Thanos `docs/storage.md`.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use crate::BucketError;

mod azure;
mod gcs;
mod http;
mod keys;
mod s3;
mod secret;

pub use azure::{AzureConfig, AzureCredential};
pub use gcs::GcsConfig;
pub use http::{HttpConfig, TlsConfig};
use keys::{Key, Tree};
pub use s3::{AccessKeys, BucketLookup, Encryption, S3Config};
pub use secret::Secret;

/// A bucket as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketConfig {
    pub provider: Provider,
    /// Beneath which every object lies; empty for the root.
    pub prefix: String,
    /// Second requests for reads that take long.
    pub hedging: Option<HedgingConfig>,
}

/// Where the objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// A local directory.
    Filesystem {
        directory: PathBuf,
    },
    S3(Box<S3Config>),
    Gcs(Box<GcsConfig>),
    Azure(Box<AzureConfig>),
}

/// When a read is asked for a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgingConfig {
    /// Requests for one read at most, the first included.
    pub up_to: u32,
    /// The share of recent reads, in thousandths, after whose duration the next request goes out.
    pub quantile_permille: u32,
}

impl BucketConfig {
    /// A directory as a bucket.
    pub fn filesystem(directory: impl Into<PathBuf>) -> Self {
        Self {
            provider: Provider::Filesystem { directory: directory.into() },
            prefix: String::new(),
            hedging: None,
        }
    }

    /// # Errors
    /// [`BucketError::Config`], [`BucketError::UnknownKey`] or [`BucketError::Unsupported`].
    pub fn from_yaml(text: &str) -> Result<Self, BucketError> {
        let tree: Tree = parse(text)?;
        if matches!(tree, Tree::Other) {
            return Err(invalid("it is not a map with the keys type, config and prefix"));
        }
        tree.check(keys::TOP)?;
        let head: Head = parse(text)?;
        let Some(kind) = head.kind else {
            return Err(invalid("the key \"type\" is missing"));
        };
        let Some(known) = KINDS.iter().find(|known| known.name.eq_ignore_ascii_case(&kind.value)) else {
            let names: Vec<&str> = KINDS.iter().map(|known| known.name).collect();
            let reason = format!("unknown type {:?}; types are {}", kind.value, names.join(", "));
            let line = Some(kind.referenced.line()).filter(|line| *line > 0);
            return Err(BucketError::Config { line, reason });
        };
        let (Some(keys), Some(read)) = (known.keys, known.read) else {
            return Err(BucketError::Unsupported { provider: known.name });
        };
        if let Some(section) = tree.get("config") {
            section.check(keys)?;
        }
        let prefix = head.prefix.unwrap_or_default();
        crate::path::prefix(&prefix)?;
        let hedging = head.hedging_config.unwrap_or_default().resolve()?;
        Ok(Self { provider: read(text)?, prefix, hedging })
    }
}

/// Reads `config` out of a document.
type Reader = fn(&str) -> Result<Provider, BucketError>;

struct Kind {
    name: &'static str,
    /// Keys of `config` and how to read it; `None` where Thanos knows the kind and this version does not.
    keys: Option<&'static [Key]>,
    read: Option<Reader>,
}

const fn foreign(name: &'static str) -> Kind {
    Kind { name, keys: None, read: None }
}

const KINDS: &[Kind] = &[
    Kind { name: "FILESYSTEM", keys: Some(keys::FILESYSTEM), read: Some(filesystem) },
    Kind {
        name: "S3",
        keys: Some(keys::S3),
        read: Some(|text| Ok(Provider::S3(Box::new(section::<s3::S3Section>(text)?.resolve()?)))),
    },
    Kind {
        name: "GCS",
        keys: Some(keys::GCS),
        read: Some(|text| Ok(Provider::Gcs(Box::new(section::<gcs::GcsSection>(text)?.resolve()?)))),
    },
    Kind {
        name: "AZURE",
        keys: Some(keys::AZURE),
        read: Some(|text| Ok(Provider::Azure(Box::new(section::<azure::AzureSection>(text)?.resolve()?)))),
    },
    foreign("SWIFT"),
    foreign("COS"),
    foreign("ALIYUNOSS"),
    foreign("BOS"),
    foreign("OCI"),
    foreign("OBS"),
];

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: Option<Spanned<String>>,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    hedging_config: Option<HedgingSection>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HedgingSection {
    enabled: Option<bool>,
    up_to: Option<u32>,
    quantile: Option<f64>,
}

/// Thanos' defaults.
const HEDGE_UP_TO: u32 = 3;
const HEDGE_QUANTILE: f64 = 0.9;
/// More requests for one read than this help nobody.
const HEDGE_UP_TO_LIMIT: u32 = 5;

impl HedgingSection {
    fn resolve(self) -> Result<Option<HedgingConfig>, BucketError> {
        let quantile = self.quantile.unwrap_or(HEDGE_QUANTILE);
        if !(quantile > 0.0 && quantile < 1.0) {
            return Err(invalid(&format!("hedging_config.quantile {quantile} is not between 0 and 1")));
        }
        let up_to = self.up_to.unwrap_or(HEDGE_UP_TO);
        if !(1..=HEDGE_UP_TO_LIMIT).contains(&up_to) {
            return Err(invalid(&format!(
                "hedging_config.up_to {up_to} is not between 1 and {HEDGE_UP_TO_LIMIT}"
            )));
        }
        let quantile_permille = (1..1000).find(|p| f64::from(*p) >= quantile * 1000.0).unwrap_or(999);
        let on = self.enabled.unwrap_or(false) && up_to > 1;
        Ok(on.then_some(HedgingConfig { up_to, quantile_permille }))
    }
}

fn filesystem(text: &str) -> Result<Provider, BucketError> {
    #[derive(Default, Deserialize)]
    struct Section {
        #[serde(default)]
        directory: Option<String>,
    }
    let directory = section::<Section>(text)?.directory.filter(|directory| !directory.is_empty());
    let directory = directory.ok_or_else(|| invalid("type FILESYSTEM needs config.directory"))?;
    Ok(Provider::Filesystem { directory: directory.into() })
}

/// The value of `config`, or its defaults where there is none.
fn section<T: DeserializeOwned + Default>(text: &str) -> Result<T, BucketError> {
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

/// Without the snippet that the parser offers: it would show the lines around, and with them secrets.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, BucketError> {
    serde_saphyr::from_str(text).map_err(|error| BucketError::Config {
        line: error.location().map(|location| location.line()).filter(|line| *line > 0),
        reason: error.without_snippet().to_string(),
    })
}

fn invalid(reason: &str) -> BucketError {
    BucketError::Config { line: None, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
