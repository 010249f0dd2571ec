//! Thanos' `--prometheus.http-client` YAML: how Prometheus is reached, and how the sidecar authenticates.
//!
//! Certificates matter for `https` only. The Prometheus Operator passes `tls_config` whatever the scheme is, so for `http` it is read and left.
//! Files of secrets and certificates are followed: what is in them may change at any time.

use std::path::{Path, PathBuf};

use parallax_net::{HttpAuth, HttpClientConfig, Secret};
use parallax_pki::credentials::POLL_INTERVAL;
use parallax_pki::{CredentialFiles, CredentialSource, Purpose, TlsProfile, TlsVersion};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::SidecarError;

/// Where systems keep the authorities that they trust; the first that is there counts.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    basic_auth: Option<BasicAuth>,
    bearer_token: Option<String>,
    bearer_token_file: Option<String>,
    tls_config: Option<TlsOptions>,
    /// Sizes and times of Go's HTTP client.
    transport_config: Option<IgnoredAny>,
}

/// Prometheus' `tls_config`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsOptions {
    insecure_skip_verify: bool,
    ca_file: String,
    cert_file: String,
    key_file: String,
    server_name: String,
    min_version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    password_file: Option<String>,
}

/// The client of the Prometheus at `url`. For `https` it has to be called within a tokio runtime, which follows the certificates.
///
/// # Errors
/// If the options are not what they should be, or a file that they name cannot be read.
pub(crate) fn config(url: &str, yaml: &str) -> Result<HttpClientConfig, SidecarError> {
    let options: Options = if yaml.trim().is_empty() {
        Options::default()
    } else {
        serde_saphyr::from_str(yaml).map_err(|error| SidecarError::HttpClient(error.to_string()))?
    };
    if options.transport_config.is_some() {
        tracing::warn!(
            "transport_config of the http client has no effect: this client has limits of its own"
        );
    }
    let tls_options = options.tls_config.unwrap_or_default();
    let server_name = Some(tls_options.server_name.clone()).filter(|name| !name.is_empty());
    let is_https = url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    let tls = if is_https { Some(credentials(&tls_options)?) } else { None };
    let auth = auth(options.basic_auth, options.bearer_token, options.bearer_token_file)?;
    Ok(HttpClientConfig { auth, tls, server_name, ..HttpClientConfig::new(url) })
}

fn auth(
    basic: Option<BasicAuth>,
    bearer_token: Option<String>,
    bearer_token_file: Option<String>,
) -> Result<HttpAuth, SidecarError> {
    match (basic, bearer_token, bearer_token_file) {
        (None, None, None) => Ok(HttpAuth::None),
        (Some(basic), None, None) => {
            let password = secret("basic_auth.password", basic.password, basic.password_file)?;
            Ok(HttpAuth::Basic { username: basic.username, password })
        }
        (None, token, file) => Ok(HttpAuth::Bearer { token: secret("bearer_token", token, file)? }),
        _ => Err(SidecarError::HttpClient(
            "basic_auth and bearer_token are both set; give one of them".to_owned(),
        )),
    }
}

fn secret(name: &str, value: Option<String>, file: Option<String>) -> Result<Secret, SidecarError> {
    match (value, file) {
        (Some(value), None) => Ok(Secret::Text(value)),
        (None, Some(path)) => match std::fs::metadata(Path::new(&path)) {
            Ok(_) => Ok(Secret::File(path.into())),
            Err(error) => Err(SidecarError::HttpClient(format!("{name}_file {path}: {error}"))),
        },
        (None, None) => Ok(Secret::Text(String::new())),
        (Some(_), Some(_)) => Err(SidecarError::HttpClient(format!("{name} and {name}_file are both set"))),
    }
}

fn credentials(options: &TlsOptions) -> Result<CredentialSource, SidecarError> {
    let wrong = |reason: String| SidecarError::HttpClient(format!("tls_config: {reason}"));
    let file = |name: &str| Some(name).filter(|name| !name.is_empty()).map(PathBuf::from);
    let min_version = match options.min_version.as_str() {
        "TLS13" => TlsVersion::Tls13,
        "" | "TLS12" => TlsVersion::Tls12,
        other => return Err(wrong(format!("min_version {other:?}: there are TLS12 and TLS13"))),
    };
    let (cert, key) = (file(&options.cert_file), file(&options.key_file));
    if cert.is_some() != key.is_some() {
        return Err(wrong("cert_file and key_file belong together; give both".to_owned()));
    }
    let skip_verify = options.insecure_skip_verify;
    let ca = match file(&options.ca_file) {
        None if !skip_verify => Some(system_authorities().map_err(wrong)?),
        given => given,
    };
    let profile = TlsProfile { purpose: Purpose::Client { skip_verify }, min_version };
    let source = CredentialSource::from_files(CredentialFiles { cert, key, ca }, profile);
    Ok(source.map_err(|error| wrong(error.to_string()))?.poll_every(POLL_INTERVAL))
}

fn system_authorities() -> Result<PathBuf, String> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_AUTHORITIES.iter().map(PathBuf::from);
    named.into_iter().chain(usual).find(|file| file.is_file()).ok_or_else(|| {
        "no ca_file is given, and this system has no certificate authorities: install ca-certificates, give ca_file, or set \
         insecure_skip_verify"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "http://localhost:9090";

    fn error(url: &str, yaml: &str) -> String {
        config(url, yaml).err().unwrap().to_string()
    }

    #[test]
    fn authentication_is_read_and_unknown_keys_are_named() {
        let auth = |yaml: &str| config(PLAIN, yaml).unwrap().auth;
        assert!(matches!(auth(""), HttpAuth::None));
        let basic = auth("basic_auth:\n  username: a\n  password: b\n");
        assert!(
            matches!(basic, HttpAuth::Basic { username, password: Secret::Text(text) } if username == "a" && text == "b")
        );
        // Word for word what the Prometheus Operator passes.
        assert!(matches!(auth(r#"{"tls_config": {"insecure_skip_verify":true}}"#), HttpAuth::None));
        assert!(error(PLAIN, "tls_config: {ca_fil: x}").contains("ca_fil"));
        assert!(error(PLAIN, "proxy_url: x").contains("proxy_url"));
        assert!(error(PLAIN, "basic_auth: {username: a}\nbearer_token: b").contains("both set"));
        let missing = error(PLAIN, "bearer_token_file: /no/such/token");
        assert!(missing.contains("/no/such/token"), "{missing}");
    }

    #[tokio::test]
    async fn certificates_count_for_https_alone_and_wrong_ones_are_named() {
        const SECURE: &str = "https://localhost:9090";
        let absent = "tls_config: {ca_file: /no/such/ca.crt}";
        assert!(config(PLAIN, absent).unwrap().tls.is_none());
        assert!(error(SECURE, absent).contains("/no/such/ca.crt"));
        let blind =
            config(SECURE, "tls_config: {insecure_skip_verify: true, server_name: prometheus}").unwrap();
        assert!(blind.tls.is_some());
        assert_eq!(blind.server_name.as_deref(), Some("prometheus"));
        assert!(error(SECURE, "tls_config: {insecure_skip_verify: true, cert_file: a}").contains("key_file"));
        assert!(error(SECURE, "tls_config: {min_version: SSL3}").contains("SSL3"));
    }
}
