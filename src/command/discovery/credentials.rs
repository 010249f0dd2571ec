//! The credentials of endpoints: each set of files is loaded once and followed from then on, whoever uses it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use parallax_net::Context;
use parallax_net::watch_credentials;
use parallax_pki::{CredentialFiles, CredentialSource, Purpose, TlsProfile};

use super::entries::TlsConfig;
use crate::command::tls;

/// Most sets of credentials. None is forgotten: their metrics stay, and an entry may come back.
const MAX_SETS: usize = 10_000;

/// Credentials by what they are made from.
#[derive(Default)]
pub struct Credentials {
    loaded: BTreeMap<TlsConfig, CredentialSource>,
}

impl Credentials {
    /// Those of `config`. Files that are not there are an error, and looked for again next time.
    pub fn of(&mut self, config: &TlsConfig, context: &Context) -> anyhow::Result<CredentialSource> {
        if let Some(known) = self.loaded.get(config) {
            return Ok(known.clone());
        }
        if self.loaded.len() >= MAX_SETS {
            bail!("more than {MAX_SETS} sets of credentials were used; restart to forget old ones");
        }
        let min_version =
            tls::tls_version(config.min_version.as_deref()).context("tls_config.min_version")?;
        let path = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let files = CredentialFiles {
            cert: path(&config.cert_file),
            key: path(&config.key_file),
            ca: path(&config.ca_file),
        };
        let purpose = Purpose::Client { skip_verify: config.insecure_skip_verify };
        let source = tls::watched(files, TlsProfile { purpose, min_version })?;
        let named = config.cert_file.as_ref().or(config.ca_file.as_ref());
        let name = named.map_or("system".to_owned(), |path| path.display().to_string());
        let version = config.min_version.as_deref().unwrap_or("1.3");
        watch_credentials(&context.metrics, format!("endpoint {name} tls {version}"), &source);
        self.loaded.insert(config.clone(), source.clone());
        Ok(source)
    }
}
