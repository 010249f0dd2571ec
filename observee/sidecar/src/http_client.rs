//! Thanos' `--prometheus.http-client` YAML: how to authenticate against Prometheus.

use std::path::Path;

use parallax_net::{HttpAuth, Secret};
use serde::Deserialize;

use crate::SidecarError;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    basic_auth: Option<BasicAuth>,
    bearer_token: Option<String>,
    bearer_token_file: Option<String>,
    /// Only matters for `https`, which the client itself refuses; the Prometheus Operator always passes it.
    #[serde(rename = "tls_config")]
    _tls: Option<TlsOptions>,
}

/// Prometheus' `tls_config`, read so that a wrong key is still an error.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsOptions {
    #[serde(rename = "insecure_skip_verify")]
    _insecure_skip_verify: bool,
    #[serde(rename = "ca_file")]
    _ca_file: Option<String>,
    #[serde(rename = "cert_file")]
    _cert_file: Option<String>,
    #[serde(rename = "key_file")]
    _key_file: Option<String>,
    #[serde(rename = "server_name")]
    _server_name: Option<String>,
    #[serde(rename = "min_version")]
    _min_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicAuth {
    username: String,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    password_file: Option<String>,
}

/// Reads the options. Files of secrets have to be there; what is in them is read by the client, again and again.
pub(crate) fn auth(yaml: &str) -> Result<HttpAuth, SidecarError> {
    if yaml.trim().is_empty() {
        return Ok(HttpAuth::None);
    }
    let options: Options =
        serde_saphyr::from_str(yaml).map_err(|error| SidecarError::HttpClient(error.to_string()))?;
    match (options.basic_auth, options.bearer_token, options.bearer_token_file) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_is_read_and_unknown_keys_are_named() {
        assert!(matches!(auth("").unwrap(), HttpAuth::None));
        let basic = auth("basic_auth:\n  username: a\n  password: b\n").unwrap();
        assert!(
            matches!(basic, HttpAuth::Basic { username, password: Secret::Text(text) } if username == "a" && text == "b")
        );
        // Word for word what the Prometheus Operator passes.
        let operator = auth(r#"{"tls_config": {"insecure_skip_verify":true}}"#).unwrap();
        assert!(matches!(operator, HttpAuth::None));
        assert!(auth("tls_config: {ca_fil: x}").err().unwrap().to_string().contains("ca_fil"));
        assert!(auth("proxy_url: x").err().unwrap().to_string().contains("proxy_url"));
        assert!(auth("basic_auth: {username: a}\nbearer_token: b").is_err());
        let missing = auth("bearer_token_file: /no/such/token").err().unwrap().to_string();
        assert!(missing.contains("/no/such/token"), "{missing}");
    }
}
