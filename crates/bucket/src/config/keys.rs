//! Which keys an objstore configuration may have: every other one is refused with its line.
//!
//! Source: Thanos `docs/storage.md`; keys that older configurations have are answered with what took their place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::BucketError;

/// A known key; `inner` lists the keys beneath it, and is empty for values and for maps that the user names.
pub(super) struct Key {
    name: &'static str,
    inner: &'static [Key],
}

const fn key(name: &'static str) -> Key {
    Key { name, inner: &[] }
}

const fn map(name: &'static str, inner: &'static [Key]) -> Key {
    Key { name, inner }
}

pub(super) const TOP: &[Key] = &[key("type"), key("config"), key("prefix"), map("hedging_config", HEDGING)];

const HEDGING: &[Key] = &[key("enabled"), key("up_to"), key("quantile")];

pub(super) const FILESYSTEM: &[Key] = &[key("directory")];

const HTTP: &[Key] = &[
    key("idle_conn_timeout"),
    key("response_header_timeout"),
    key("insecure_skip_verify"),
    key("tls_handshake_timeout"),
    key("expect_continue_timeout"),
    key("max_idle_conns"),
    key("max_idle_conns_per_host"),
    key("max_conns_per_host"),
    map("tls_config", TLS),
    key("disable_compression"),
];

const TLS: &[Key] =
    &[key("ca_file"), key("cert_file"), key("key_file"), key("server_name"), key("insecure_skip_verify")];

pub(super) const S3: &[Key] = &[
    key("bucket"),
    key("endpoint"),
    key("region"),
    key("disable_dualstack"),
    key("aws_sdk_auth"),
    key("access_key"),
    key("insecure"),
    key("signature_version2"),
    key("secret_key"),
    key("session_token"),
    key("put_user_metadata"),
    map("http_config", HTTP),
    map("trace", &[key("enable")]),
    key("list_objects_version"),
    key("bucket_lookup_type"),
    key("send_content_md5"),
    key("disable_multipart"),
    key("part_size"),
    map(
        "sse_config",
        &[key("type"), key("kms_key_id"), key("kms_encryption_context"), key("encryption_key")],
    ),
    key("sts_endpoint"),
    key("max_retries"),
];

pub(super) const GCS: &[Key] = &[
    key("bucket"),
    key("service_account"),
    key("use_grpc"),
    key("grpc_conn_pool_size"),
    map("http_config", HTTP),
    key("chunk_size_bytes"),
    key("max_retries"),
];

pub(super) const AZURE: &[Key] = &[
    key("az_tenant_id"),
    key("client_id"),
    key("client_secret"),
    key("storage_account"),
    key("storage_account_key"),
    key("storage_connection_string"),
    key("storage_create_container"),
    key("container"),
    key("endpoint"),
    key("user_assigned_id"),
    key("max_retries"),
    map("reader_config", &[key("max_retry_requests")]),
    map(
        "pipeline_config",
        &[key("max_tries"), key("try_timeout"), key("retry_delay"), key("max_retry_delay")],
    ),
    map("http_config", HTTP),
    key("msi_resource"),
];

/// Keys that older or foreign configurations have, and what to write instead.
const REPLACED: &[(&str, &str)] = &[
    ("encryptsse", "sse_config"),
    ("encrypt_sse", "sse_config"),
    ("encrypt-sse", "sse_config"),
    ("sse_encryption", "sse_config"),
    ("signature_version", "signature_version2"),
    ("signature-version2", "signature_version2"),
    ("s3_endpoint", "endpoint"),
    ("access_key_id", "access_key"),
    ("access-key", "access_key"),
    ("secret_access_key", "secret_key"),
    ("secret-key", "secret_key"),
    ("s3forcepathstyle", "bucket_lookup_type: path"),
    ("force_path_style", "bucket_lookup_type: path"),
    ("list_objects_v1", "list_objects_version"),
    ("bucketnames", "bucket"),
    ("bucket_name", "bucket"),
    ("container_name", "container"),
    ("account_name", "storage_account"),
    ("account_key", "storage_account_key"),
    ("path", "directory"),
    ("dir", "directory"),
    ("msi_resource_id", "user_assigned_id"),
    ("ca_file", "http_config.tls_config.ca_file"),
    ("insecure_skip_verify", "http_config.insecure_skip_verify"),
    ("idle_conn_timeout", "http_config.idle_conn_timeout"),
];

/// The keys of a document with their places, whatever the values are.
pub(super) enum Tree {
    Map(Vec<(Spanned<String>, Tree)>),
    Other,
}

impl Tree {
    /// # Errors
    /// [`BucketError::UnknownKey`] for the first key of this map, or beneath it, that `known` does not have.
    pub(super) fn check(&self, known: &[Key]) -> Result<(), BucketError> {
        let Self::Map(entries) = self else { return Ok(()) };
        for (name, value) in entries {
            let Some(key) = known.iter().find(|key| key.name == name.value) else {
                let line = Some(name.referenced.line()).filter(|line| *line > 0);
                return Err(BucketError::UnknownKey {
                    key: name.value.clone(),
                    line,
                    instead: replaced(&name.value),
                });
            };
            if !key.inner.is_empty() {
                value.check(key.inner)?;
            }
        }
        Ok(())
    }

    /// The value of a key of this map.
    pub(super) fn get(&self, name: &str) -> Option<&Tree> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| key.value == name).map(|(_, value)| value)
    }
}

fn replaced(key: &str) -> Option<&'static str> {
    REPLACED.iter().find(|(old, _)| old.eq_ignore_ascii_case(key)).map(|(_, new)| *new)
}

/// More keys than any one map has.
const MAX_KEYS: usize = 64;

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with the keys type, config and prefix")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key, map.next_value()?));
            if entries.len() > MAX_KEYS {
                return Err(A::Error::custom("too many keys"));
            }
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Tree::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}
