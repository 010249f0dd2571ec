//! `type: AZURE`: Thanos' keys, and the connection strings of Azure.
//!
//! `msi_resource` has no effect (Thanos has retired it), nor has `storage_create_container`: a container is never made here, and one
//! that does not exist is an error that says so. `reader_config.max_retry_requests` counts with the other retries.

use std::time::Duration;

use serde::Deserialize;

use super::http::{DurationText, HttpConfig, HttpSection};
use super::{Secret, invalid};
use crate::BucketError;

/// A container of an Azure storage account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureConfig {
    pub account: String,
    pub container: String,
    /// `https://<account>.blob.core.windows.net`, or what the configuration says.
    pub url: String,
    pub credential: AzureCredential,
    /// Attempts in all.
    pub max_attempts: u32,
    pub retry_delay: Option<Duration>,
    pub max_retry_delay: Option<Duration>,
    pub http: HttpConfig,
}

/// How to sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureCredential {
    AccountKey(Secret),
    /// Key and value pairs of a shared access signature, as a query string.
    SharedAccess(Secret),
    Client {
        tenant_id: String,
        client_id: String,
        secret: Secret,
    },
    /// A managed identity by its client ID.
    UserAssigned(String),
    /// From the environment: a client's secret, a workload identity, or the machine's managed identity.
    Environment,
}

const ENDPOINT: &str = "blob.core.windows.net";
/// The Azure SDK's default of three retries.
const MAX_ATTEMPTS: u32 = 4;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AzureSection {
    az_tenant_id: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    storage_account: Option<String>,
    storage_account_key: Option<String>,
    storage_connection_string: Option<String>,
    container: Option<String>,
    endpoint: Option<String>,
    user_assigned_id: Option<String>,
    max_retries: Option<i32>,
    pipeline_config: Option<PipelineSection>,
    http_config: Option<HttpSection>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PipelineSection {
    max_tries: Option<i32>,
    try_timeout: Option<DurationText>,
    retry_delay: Option<DurationText>,
    max_retry_delay: Option<DurationText>,
}

impl AzureSection {
    pub(super) fn resolve(self) -> Result<AzureConfig, BucketError> {
        let text = |value: Option<String>| value.filter(|value| !value.is_empty());
        let container = text(self.container).ok_or_else(|| invalid("type AZURE needs config.container"))?;
        let account =
            text(self.storage_account).ok_or_else(|| invalid("type AZURE needs config.storage_account"))?;
        let endpoint = text(self.endpoint).unwrap_or_else(|| ENDPOINT.to_owned());
        let connection = text(self.storage_connection_string);
        let chosen = Chosen {
            account_key: text(self.storage_account_key),
            user_assigned: text(self.user_assigned_id),
            client: [text(self.az_tenant_id), text(self.client_id), text(self.client_secret)],
        };
        let (account, url, credential) = match connection {
            Some(connection) => {
                if chosen.account_key.is_some() {
                    return Err(invalid(
                        "storage_account_key and storage_connection_string exclude each other: leave one out",
                    ));
                }
                if chosen.user_assigned.is_some() {
                    return Err(invalid(
                        "user_assigned_id and storage_connection_string exclude each other: leave one out",
                    ));
                }
                connection_string(&connection)?
            }
            None => {
                let url = format!("https://{account}.{endpoint}");
                (account, url, chosen.resolve()?)
            }
        };
        let pipeline = self.pipeline_config.unwrap_or_default();
        let mut http = self.http_config.unwrap_or_default().resolve()?;
        let positive = |value: Option<DurationText>| value.map(|v| v.0).filter(|v| !v.is_zero());
        if let Some(limit) = positive(pipeline.try_timeout) {
            http.response_timeout = limit;
        }
        let retries = pipeline.max_tries.filter(|count| *count != 0).or(self.max_retries).unwrap_or(0);
        let max_attempts = match u32::try_from(retries) {
            Ok(0) => MAX_ATTEMPTS,
            Ok(count) => count.saturating_add(1),
            Err(_) => 1,
        };
        Ok(AzureConfig {
            account,
            container,
            url,
            credential,
            max_attempts,
            retry_delay: positive(pipeline.retry_delay),
            max_retry_delay: positive(pipeline.max_retry_delay),
            http,
        })
    }
}

struct Chosen {
    account_key: Option<String>,
    user_assigned: Option<String>,
    /// Tenant, client, secret.
    client: [Option<String>; 3],
}

impl Chosen {
    fn resolve(self) -> Result<AzureCredential, BucketError> {
        let [tenant_id, client_id, secret] = self.client;
        let any_client = tenant_id.is_some() || client_id.is_some() || secret.is_some();
        let client = match (tenant_id, client_id, secret) {
            (Some(tenant_id), Some(client_id), Some(secret)) => Some((tenant_id, client_id, secret)),
            _ if any_client => {
                return Err(invalid(
                    "az_tenant_id, client_id and client_secret belong together: give all three",
                ));
            }
            _ => None,
        };
        match (self.account_key, self.user_assigned, client) {
            (Some(_), Some(_), _) => {
                Err(invalid("user_assigned_id and storage_account_key exclude each other: leave one out"))
            }
            (_, Some(_), Some(_)) => {
                Err(invalid("user_assigned_id and client_id exclude each other: leave one out"))
            }
            (Some(key), None, _) => Ok(AzureCredential::AccountKey(Secret::new(key))),
            (None, Some(id), None) => Ok(AzureCredential::UserAssigned(id)),
            (None, None, Some((tenant_id, client_id, secret))) => {
                Ok(AzureCredential::Client { tenant_id, client_id, secret: Secret::new(secret) })
            }
            (None, None, None) => Ok(AzureCredential::Environment),
        }
    }
}

/// Account, URL and credential of `Key=value;Key=value`. Messages name keys, never values.
fn connection_string(text: &str) -> Result<(String, String, AzureCredential), BucketError> {
    let mut parts = std::collections::BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(invalid("storage_connection_string: a part has no \"=\""));
        };
        parts.insert(key.to_ascii_lowercase(), value.to_owned());
    }
    let protocol = parts.get("defaultendpointsprotocol").map_or("https", String::as_str).to_owned();
    let suffix = parts.get("endpointsuffix").map_or("core.windows.net", String::as_str).to_owned();
    let endpoint = parts.remove("blobendpoint");
    let name = parts.remove("accountname");
    let url = match (&endpoint, &name) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(account)) => format!("{protocol}://{account}.blob.{suffix}"),
        (None, None) => {
            return Err(invalid("storage_connection_string has neither AccountName nor BlobEndpoint"));
        }
    };
    let account = name.or_else(|| {
        let host = url.split_once("://")?.1;
        host.split_once('.').map(|(account, _)| account.to_owned())
    });
    let account = account.ok_or_else(|| invalid("storage_connection_string has no AccountName"))?;
    let credential = match (parts.remove("accountkey"), parts.remove("sharedaccesssignature")) {
        (Some(key), _) => AzureCredential::AccountKey(Secret::new(key)),
        (None, Some(signature)) => AzureCredential::SharedAccess(Secret::new(signature)),
        (None, None) => {
            return Err(invalid(
                "storage_connection_string has neither AccountKey nor SharedAccessSignature",
            ));
        }
    };
    Ok((account, url, credential))
}
