//! `--http.config`: TLS and basic authentication of HTTP servers, as Prometheus' and Thanos' web configuration writes it.
//!
//! The file is looked at every second, and so are the certificates it names. One that turns bad, or would take TLS or passwords away, leaves the last good one
//! in use and is an error in the log. Source of the format: `web-config.yml` of the Prometheus exporter toolkit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_net::{Context, HttpRules, HttpSecurity, Users, watch_credentials};
use parallax_pki::{CredentialFiles, CredentialSource, Purpose, TlsProfile, TlsVersion};
use serde::Deserialize;

use super::tls;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct WebConfig {
    tls_server_config: Option<TlsServerConfig>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    http_server_config: HttpServerConfig,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct TlsServerConfig {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_auth_type: Option<String>,
    client_ca_file: Option<PathBuf>,
    min_version: Option<String>,
    max_version: Option<String>,
    /// TLS 1.3 has a fixed set, and ours of TLS 1.2 are all safe: accepted, without effect.
    cipher_suites: Vec<String>,
    curve_preferences: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct HttpServerConfig {
    /// HTTP/2 is spoken with those who ask for it, whatever this says.
    http2: Option<bool>,
}

/// The security of the file at `path`, which is followed until the context shuts down; without a path there is none.
pub async fn security(path: Option<PathBuf>, context: &Context) -> anyhow::Result<HttpSecurity> {
    let Some(path) = path else { return Ok(HttpSecurity::default()) };
    let subject = || format!("--http.config={}", path.display());
    let text = std::fs::read_to_string(&path).with_context(subject)?;
    let config = parse(&text).with_context(subject)?;
    let (rules, source) = rules(&config, &path, None).with_context(subject)?;
    if let Some(source) = &source {
        watch_credentials(&context.metrics, "http_server", source);
    }
    let security = HttpSecurity::new(rules);
    let follower = Follower { path, security: security.clone(), config, source, seen: Ok(text) };
    let shutdown = context.shutdown.clone();
    tokio::spawn(async move { shutdown.run_until_cancelled(follower.follow()).await });
    Ok(security)
}

fn parse(text: &str) -> anyhow::Result<WebConfig> {
    if text.trim().is_empty() {
        return Ok(WebConfig::default());
    }
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))
}

/// What `config` asks for; `known` are the credentials in use, for a configuration whose TLS has not changed.
fn rules(
    config: &WebConfig,
    path: &Path,
    known: Option<&CredentialSource>,
) -> anyhow::Result<(HttpRules, Option<CredentialSource>)> {
    let source = match (&config.tls_server_config, known) {
        (None, _) => None,
        (Some(_), Some(known)) => Some(known.clone()),
        (Some(tls), None) => Some(tls.load(path).context("tls_server_config")?),
    };
    let users = config.basic_auth_users.clone().filter(|users| !users.is_empty());
    let users = users.map(Users::new).transpose().context("basic_auth_users")?;
    Ok((HttpRules { tls: source.clone(), users }, source))
}

impl TlsServerConfig {
    fn load(&self, path: &Path) -> anyhow::Result<CredentialSource> {
        ensure!(!self.cert_file.as_os_str().is_empty(), "cert_file is missing");
        ensure!(!self.key_file.as_os_str().is_empty(), "key_file is missing");
        let ca = self.client_ca_file.as_ref().filter(|file| !file.as_os_str().is_empty());
        let ca = match (self.client_auth_type.as_deref().unwrap_or_default(), ca) {
            ("" | "NoClientCert", None) => None,
            ("RequireAndVerifyClientCert", Some(ca)) => Some(ca),
            ("" | "NoClientCert", Some(_)) => {
                bail!("client_ca_file is set and client_auth_type is not: set RequireAndVerifyClientCert")
            }
            ("RequireAndVerifyClientCert", None) => bail!("client_auth_type needs client_ca_file"),
            (other, _) => bail!(
                "client_auth_type {other:?}: a certificate that may be missing or is not verified proves nothing; use NoClientCert or RequireAndVerifyClientCert"
            ),
        };
        if let Some(other) = self.max_version.as_deref().filter(|version| *version != "TLS13") {
            bail!("max_version {other:?}: TLS13 is always spoken");
        }
        let min_version = match self.min_version.as_deref() {
            Some("TLS12") | None => TlsVersion::Tls12,
            Some("TLS13") => TlsVersion::Tls13,
            Some(other) => bail!("min_version {other:?}: only TLS12 and TLS13 are supported"),
        };
        // As in Prometheus, names of files are relative to the file they stand in.
        let beside =
            |file: &PathBuf| path.parent().map_or_else(|| file.clone(), |directory| directory.join(file));
        let files = CredentialFiles {
            cert: Some(beside(&self.cert_file)),
            key: Some(beside(&self.key_file)),
            ca: ca.map(beside),
        };
        tls::watched(files, TlsProfile { purpose: Purpose::Server, min_version })
    }
}

struct Follower {
    path: PathBuf,
    security: HttpSecurity,
    config: WebConfig,
    source: Option<CredentialSource>,
    /// The content or the error that was seen last.
    seen: Result<String, String>,
}

impl Follower {
    async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let path = self.path.clone();
            let reading = tokio::task::spawn_blocking(move || {
                std::fs::read_to_string(path).map_err(|error| error.to_string())
            });
            let content = reading.await.unwrap_or_else(|error| Err(error.to_string()));
            if content == self.seen {
                continue;
            }
            self.seen.clone_from(&content);
            match content.map_err(anyhow::Error::msg).and_then(|text| self.take(&text)) {
                Ok(()) => tracing::info!(file = %self.path.display(), "http configuration is applied"),
                Err(error) => tracing::error!(
                    file = %self.path.display(),
                    error = format!("{error:#}"),
                    "http configuration is bad; the last good one stays in use"
                ),
            }
        }
    }

    fn take(&mut self, text: &str) -> anyhow::Result<()> {
        let config = parse(text)?;
        let is_same = config.tls_server_config == self.config.tls_server_config;
        let known = self.source.clone().filter(|_| is_same);
        let (rules, source) = rules(&config, &self.path, known.as_ref())?;
        self.security.replace(rules)?;
        (self.config, self.source) = (config, source);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let config = parse(text).unwrap();
        format!("{:#}", rules(&config, Path::new("web.yml"), None).err().unwrap())
    }

    #[test]
    fn what_is_not_safe_or_not_there_is_refused_by_name() {
        for (text, part) in [
            ("tls_server_config: {cert_file: a}", "key_file is missing"),
            ("tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}", "client_auth_type"),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}",
                "RequestClientCert",
            ),
            ("tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}", "TLS10"),
            ("basic_auth_users: {admin: secret}", "no bcrypt hash"),
            (
                "basic_auth_users: {admin: $2y$20$b1KKCVb8PmsRr7ifnMwZwumLTtdDDoRzGwVvh3SHSmAoKlq2JBSFC}",
                "cost 20",
            ),
        ] {
            let said = refusal(text);
            assert!(said.contains(part), "{text}: {said}");
        }
        assert!(parse("tls_sever_config: {}").is_err());
        let (rules, _) = rules(&parse("").unwrap(), Path::new("web.yml"), None).unwrap();
        assert!(rules.tls.is_none() && rules.users.is_none());
    }
}
