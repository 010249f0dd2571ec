//! Google Cloud Storage: a service account's JSON from the configuration, `GOOGLE_APPLICATION_CREDENTIALS` or gcloud's file, else the
//! metadata server (which is also how workload identity on GKE arrives). `STORAGE_EMULATOR_HOST` points at an emulator, unsigned.

use std::sync::Arc;

use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{Attributes, ClientOptions, StaticCredentialProvider};

use super::{Environment, Opened, connector, refused, retry};
use crate::BucketError;
use crate::config::GcsConfig;

const ENDPOINT: &str = "https://storage.googleapis.com";

pub(crate) fn open(config: &GcsConfig, environment: &Environment) -> Result<Opened, BucketError> {
    let emulator = environment.get("STORAGE_EMULATOR_HOST").map(|host| match host.contains("://") {
        true => host,
        false => format!("http://{host}"),
    });
    let allow_http = emulator.as_ref().is_some_and(|url| url.starts_with("http://"));
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_http_connector(connector(&config.http, emulator.as_deref().unwrap_or(ENDPOINT), environment)?)
        .with_client_options(ClientOptions::new().with_allow_http(allow_http))
        .with_retry(retry(config.max_attempts, None, None))
        .with_bucket_name(&config.bucket);
    if let Some(url) = emulator {
        // Writes are signed all the same, so that without these the metadata server would be asked.
        let nobody = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
        builder = builder.with_base_url(&url).with_skip_signature(true).with_credentials(Arc::new(nobody));
    }
    let account = config.service_account.expose();
    if !account.is_empty() {
        builder = builder.with_service_account_key(account);
    } else if let Some(file) = application_credentials(environment) {
        builder = builder.with_application_credentials(file);
    }
    let store = builder.build().map_err(|error| match account.is_empty() {
        true => refused(error),
        // What the parser says may quote what it read.
        false => BucketError::Config {
            line: None,
            reason: "service_account is not the JSON of a service account (type, client_email, private_key): copy the \
                     whole key file"
                .to_owned(),
        },
    })?;
    Ok(Opened {
        store: Arc::new(store),
        name: config.bucket.clone(),
        attributes: Attributes::new(),
        part_size_bytes: config.part_size_bytes,
    })
}

fn application_credentials(environment: &Environment) -> Option<String> {
    let named = environment.get("GOOGLE_APPLICATION_CREDENTIALS");
    named.or_else(|| {
        let file = environment.home(".config/gcloud/application_default_credentials.json")?;
        file.exists().then(|| file.to_string_lossy().into_owned())
    })
}
