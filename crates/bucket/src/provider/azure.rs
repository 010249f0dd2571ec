//! Azure: an account's key, a shared access signature, a client's secret, a managed or a workload identity.

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::{Attributes, ClientOptions};

use super::{Environment, Opened, connector, refused, retry};
use crate::BucketError;
use crate::config::{AzureConfig, AzureCredential};

/// The Azure SDK's block size.
const PART_SIZE_BYTES: usize = 8 << 20;

pub(crate) fn open(config: &AzureConfig, environment: &Environment) -> Result<Opened, BucketError> {
    let allow_http = config.url.starts_with("http://");
    let builder = MicrosoftAzureBuilder::new()
        .with_http_connector(connector(&config.http, &config.url, environment)?)
        .with_client_options(ClientOptions::new().with_allow_http(allow_http))
        .with_retry(retry(config.max_attempts, config.retry_delay, config.max_retry_delay))
        .with_account(&config.account)
        .with_container_name(&config.container)
        .with_endpoint(config.url.clone());
    let builder = match &config.credential {
        AzureCredential::AccountKey(key) => builder.with_access_key(key.expose()),
        AzureCredential::SharedAccess(signature) => {
            builder.with_config(AzureConfigKey::SasKey, signature.expose())
        }
        AzureCredential::Client { tenant_id, client_id, secret } => {
            builder.with_client_secret_authorization(client_id, secret.expose(), tenant_id)
        }
        AzureCredential::UserAssigned(id) => builder.with_client_id(id),
        AzureCredential::Environment => from_environment(builder, environment),
    };
    let store = builder.build().map_err(|error| match &config.credential {
        AzureCredential::AccountKey(_) | AzureCredential::SharedAccess(_) => BucketError::Config {
            line: None,
            reason:
                "the storage account's key or connection string is not valid: copy it whole from the portal"
                    .to_owned(),
        },
        _ => refused(error),
    })?;
    Ok(Opened {
        store: Arc::new(store),
        name: config.container.clone(),
        attributes: Attributes::new(),
        part_size_bytes: PART_SIZE_BYTES,
    })
}

/// A client's secret, a workload identity, or, with none of the variables, the machine's managed identity.
fn from_environment(mut builder: MicrosoftAzureBuilder, environment: &Environment) -> MicrosoftAzureBuilder {
    for (variable, key) in [
        ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
        ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
        ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
        ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
        ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
        ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
    ] {
        if let Some(value) = environment.get(variable) {
            builder = builder.with_config(key, value.trim_end_matches('/'));
        }
    }
    builder
}
