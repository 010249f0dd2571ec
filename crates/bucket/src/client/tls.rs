//! TLS of a cloud's client: the system's authorities or `ca_file`, an identity if configured, and words for what went wrong.
//!
//! The provider is named, not looked up, so that a program that installed none still gets aws-lc-rs.

use std::path::Path;
use std::sync::Arc;

use parallax_pki::verify::any_server;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::BucketError;
use crate::config::TlsConfig;

/// A certificate bundle larger than this is no certificate bundle.
const MAX_PEM_BYTES: u64 = 8 << 20;

/// # Errors
/// [`BucketError::Config`], naming the file that cannot be used.
pub(super) fn client_config(config: &TlsConfig) -> Result<ClientConfig, BucketError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let wrong = |reason: String| BucketError::Config { line: None, reason };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let builder = if config.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(any_server(provider))
    } else {
        builder.with_root_certificates(authorities(config.ca_file.as_deref())?)
    };
    let mut client = match &config.identity {
        None => builder.with_no_client_auth(),
        Some((cert_file, key_file)) => {
            let chain = certificates(cert_file, "cert_file")?;
            let text = read(key_file, "key_file")?;
            let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
                wrong(format!("http_config.tls_config.key_file {key_file:?}: no private key: {error}"))
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                wrong(format!(
                    "http_config.tls_config: {cert_file:?} and {key_file:?} do not belong together: {error}"
                ))
            })?
        }
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(client)
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, BucketError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        for certificate in certificates(file, "ca_file")? {
            roots.add(certificate).map_err(|error| BucketError::Config {
                line: None,
                reason: format!("http_config.tls_config.ca_file {file:?}: {error}"),
            })?;
        }
        return Ok(roots);
    }
    let loaded = rustls_native_certs::load_native_certs();
    // Systems carry certificates that nothing can parse; the others still count.
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let why = loaded.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        tracing::warn!(
            "no certificate authorities on this system{why}: install ca-certificates, or set http_config.tls_config.ca_file"
        );
    }
    Ok(roots)
}

fn certificates(file: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, BucketError> {
    let text = read(file, key)?;
    let wrong = |reason: String| BucketError::Config {
        line: None,
        reason: format!("http_config.tls_config.{key} {file:?}: {reason}"),
    };
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("not PEM: {error}")))?;
    if all.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(all) }
}

fn read(file: &Path, key: &str) -> Result<Vec<u8>, BucketError> {
    let wrong = |reason: String| BucketError::Config {
        line: None,
        reason: format!("http_config.tls_config.{key} {file:?}: {reason}"),
    };
    let size_bytes = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?.len();
    if size_bytes > MAX_PEM_BYTES {
        return Err(wrong(format!("{size_bytes} bytes are too many for a PEM file")));
    }
    std::fs::read(file).map_err(|error| wrong(error.to_string()))
}

/// Adds what to do to what rustls says.
pub(super) fn explain(text: &str) -> String {
    const HINTS: &[(&str, &str)] = &[
        (
            "UnknownIssuer",
            "its certificate is not signed by a known authority: set http_config.tls_config.ca_file",
        ),
        (
            "BadSignature",
            "its certificate is not signed by the authority of that name: set http_config.tls_config.ca_file",
        ),
        ("NotValidForName", "its certificate is for another name: set http_config.tls_config.server_name"),
        ("certificate not valid for name", "set http_config.tls_config.server_name if the name is right"),
        ("Expired", "its certificate has expired"),
        ("InvalidContentType", "it does not speak TLS: set insecure: true for plain HTTP"),
        ("corrupt message", "it does not speak TLS: set insecure: true for plain HTTP"),
        (
            "CertificateRequired",
            "it asks for a client certificate: set http_config.tls_config.cert_file and key_file",
        ),
    ];
    match HINTS.iter().find(|(what, _)| text.contains(what)) {
        Some((_, hint)) => format!("{text}; {hint}"),
        None => text.to_owned(),
    }
}
