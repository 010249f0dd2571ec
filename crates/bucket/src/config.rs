//! Thanos' objstore YAML: `type` (any case), `config`, `prefix`.
//!
//! Every key is known or refused, with its line and, where it has a successor, the key to use instead. Kinds of buckets
//! that this version does not read are checked as far as their keys and then refused by name.
//! Source: Thanos `docs/storage.md`.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use crate::BucketError;

/// A bucket as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketConfig {
    pub provider: Provider,
    /// Beneath which every object lies; empty for the root.
    pub prefix: String,
}

/// Where the objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// A local directory.
    Filesystem { directory: PathBuf },
}

impl BucketConfig {
    /// A directory as a bucket.
    pub fn filesystem(directory: impl Into<PathBuf>) -> Self {
        Self { provider: Provider::Filesystem { directory: directory.into() }, prefix: String::new() }
    }

    /// # Errors
    /// [`BucketError::Config`], [`BucketError::UnknownKey`] or [`BucketError::Unsupported`].
    pub fn from_yaml(text: &str) -> Result<Self, BucketError> {
        let document: Document = serde_saphyr::from_str(text).map_err(|error| BucketError::Config {
            line: error.location().map(|location| location.line()).filter(|line| *line > 0),
            reason: error.without_snippet().to_string(),
        })?;
        if let Some(unknown) = document.unknown {
            return Err(unknown_key(&unknown, None));
        }
        let Some(kind) = document.kind else {
            return Err(config_error(None, "the key \"type\" is missing"));
        };
        let Some(known) = KNOWN_TYPES.iter().find(|known| known.name.eq_ignore_ascii_case(&kind.value))
        else {
            let names: Vec<&str> = KNOWN_TYPES.iter().map(|known| known.name).collect();
            let reason = format!("unknown type {:?}; types are {}", kind.value, names.join(", "));
            return Err(config_error(Some(&kind), &reason));
        };
        let section = document.config.unwrap_or_default();
        let is_unknown =
            |key: &&Spanned<String>| known.keys.is_some_and(|keys| !keys.contains(&key.value.as_str()));
        if let Some(key) = section.keys.iter().find(is_unknown) {
            return Err(unknown_key(key, replaced(&key.value)));
        }
        if known.name != FILESYSTEM {
            return Err(BucketError::Unsupported { provider: known.name });
        }
        let directory = section.directory.unwrap_or_default();
        if directory.is_empty() {
            return Err(config_error(None, "type FILESYSTEM needs config.directory"));
        }
        let prefix = document.prefix.unwrap_or_default();
        crate::path::prefix(&prefix)?;
        Ok(Self { provider: Provider::Filesystem { directory: directory.into() }, prefix })
    }
}

const FILESYSTEM: &str = "FILESYSTEM";

struct KnownType {
    name: &'static str,
    /// Keys of `config`; `None` where they are not checked yet.
    keys: Option<&'static [&'static str]>,
}

const KNOWN_TYPES: &[KnownType] = &[
    KnownType { name: FILESYSTEM, keys: Some(&["directory"]) },
    KnownType { name: "S3", keys: Some(S3_KEYS) },
    KnownType { name: "GCS", keys: Some(GCS_KEYS) },
    KnownType { name: "AZURE", keys: Some(AZURE_KEYS) },
    KnownType { name: "SWIFT", keys: None },
    KnownType { name: "COS", keys: None },
    KnownType { name: "ALIYUNOSS", keys: None },
    KnownType { name: "BOS", keys: None },
    KnownType { name: "OCI", keys: None },
    KnownType { name: "OBS", keys: None },
];

const S3_KEYS: &[&str] = &[
    "bucket",
    "endpoint",
    "region",
    "disable_dualstack",
    "aws_sdk_auth",
    "access_key",
    "insecure",
    "signature_version2",
    "secret_key",
    "session_token",
    "put_user_metadata",
    "http_config",
    "trace",
    "list_objects_version",
    "bucket_lookup_type",
    "send_content_md5",
    "disable_multipart",
    "part_size",
    "sse_config",
    "sts_endpoint",
    "max_retries",
];

const GCS_KEYS: &[&str] = &[
    "bucket",
    "service_account",
    "use_grpc",
    "grpc_conn_pool_size",
    "http_config",
    "chunk_size_bytes",
    "max_retries",
];

const AZURE_KEYS: &[&str] = &[
    "az_tenant_id",
    "client_id",
    "client_secret",
    "storage_account",
    "storage_account_key",
    "storage_connection_string",
    "storage_create_container",
    "container",
    "endpoint",
    "user_assigned_id",
    "max_retries",
    "reader_config",
    "pipeline_config",
    "http_config",
    "msi_resource",
];

/// Keys that older configurations have, and what took their place.
const REPLACED: &[(&str, &str)] = &[
    ("encryptsse", "sse_config"),
    ("encrypt_sse", "sse_config"),
    ("sse_encryption", "sse_config"),
    ("signature_version", "signature_version2"),
    ("s3_endpoint", "endpoint"),
    ("path", "directory"),
    ("dir", "directory"),
    ("msi_resource_id", "user_assigned_id"),
];

fn replaced(key: &str) -> Option<&'static str> {
    REPLACED.iter().find(|(old, _)| old.eq_ignore_ascii_case(key)).map(|(_, new)| *new)
}

fn line_of<T>(spanned: &Spanned<T>) -> Option<u64> {
    Some(spanned.referenced.line()).filter(|line| *line > 0)
}

fn unknown_key(key: &Spanned<String>, instead: Option<&'static str>) -> BucketError {
    BucketError::UnknownKey { key: key.value.clone(), line: line_of(key), instead }
}

fn config_error(at: Option<&Spanned<String>>, reason: &str) -> BucketError {
    BucketError::Config { line: at.and_then(line_of), reason: reason.to_owned() }
}

/// The top level, with the first key that does not belong there.
#[derive(Default)]
struct Document {
    kind: Option<Spanned<String>>,
    config: Option<Section>,
    prefix: Option<String>,
    unknown: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;
        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with the keys type, config and prefix")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.value.as_str() {
                        "type" => document.kind = Some(map.next_value()?),
                        "config" => document.config = map.next_value()?,
                        "prefix" => document.prefix = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            document.unknown.get_or_insert(key);
                        }
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(DocumentVisitor)
    }
}

/// The `config` map: its keys with their places, and the values that this version uses.
#[derive(Default)]
struct Section {
    keys: Vec<Spanned<String>>,
    directory: Option<String>,
}

/// More keys than any kind of bucket has.
const MAX_KEYS: usize = 64;

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SectionVisitor;
        impl<'de> Visitor<'de> for SectionVisitor {
            type Value = Section;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of the bucket's settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
                let mut section = Section::default();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    if key.value == "directory" {
                        section.directory = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                    section.keys.push(key);
                    if section.keys.len() > MAX_KEYS {
                        return Err(A::Error::custom("too many keys"));
                    }
                }
                Ok(section)
            }
        }
        deserializer.deserialize_map(SectionVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_bucket_or_a_clear_error(
            text in r#"(type|config|prefix|[a-z:\-{}\[\]&*"' \n]|: |\n  ){0,40}"#,
        ) {
            if let Err(error) = BucketConfig::from_yaml(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    fn message(text: &str) -> String {
        BucketConfig::from_yaml(text).unwrap_err().to_string()
    }

    #[test]
    fn a_filesystem_bucket_in_any_case() {
        for kind in ["FILESYSTEM", "filesystem", "FileSystem"] {
            let text = format!("type: {kind}\nconfig:\n  directory: \"/data/bucket\"\nprefix: a/b\n");
            let config = BucketConfig::from_yaml(&text).unwrap();
            assert_eq!(config.provider, Provider::Filesystem { directory: "/data/bucket".into() });
            assert_eq!(config.prefix, "a/b");
        }
        let bare = BucketConfig::from_yaml("type: FILESYSTEM\nconfig: {directory: d}\n").unwrap();
        assert_eq!(bare.prefix, "");
    }

    #[test]
    fn clouds_are_refused_by_name() {
        let text =
            "type: s3\nconfig:\n  bucket: b\n  endpoint: e\n  http_config:\n    idle_conn_timeout: 1m\n";
        let message = message(text);
        assert!(message.contains("S3") && message.contains("FILESYSTEM buckets only"), "{message}");
        for kind in ["GCS", "AZURE", "SWIFT", "COS", "ALIYUNOSS", "BOS", "OCI", "OBS"] {
            let error = BucketConfig::from_yaml(&format!("type: {kind}\nconfig: {{}}\n")).unwrap_err();
            assert!(matches!(error, BucketError::Unsupported { provider } if provider == kind));
        }
    }

    #[test]
    fn unknown_keys_are_named_with_their_line_and_successor() {
        let old = message("type: S3\nconfig:\n  bucket: b\n  encryptsse: true\n");
        assert!(old.contains("encryptsse") && old.contains("line 4") && old.contains("sse_config"), "{old}");
        let top = message("type: FILESYSTEM\nconfg:\n  directory: d\n");
        assert!(top.contains("\"confg\"") && top.contains("line 2"), "{top}");
        let inner = message("type: FILESYSTEM\nconfig:\n  directory: d\n  bucket: x\n");
        assert!(inner.contains("\"bucket\"") && inner.contains("line 4"), "{inner}");
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        assert!(message("config: {}\n").contains("type"));
        assert!(message("type: FTP\n").contains("FTP"));
        assert!(message("type: FILESYSTEM\n").contains("directory"));
        assert!(message("type: FILESYSTEM\nconfig: {directory: d}\nprefix: ../up\n").contains("../up"));
        assert!(message("type: [").contains("objstore configuration"));
        assert!(message("").contains("objstore configuration"));
        assert!(message("- type: FILESYSTEM").contains("objstore configuration"));
    }
}
