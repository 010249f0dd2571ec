//! Certificates of gRPC servers and clients, from flags or from a configuration file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_net::{GrpcServerConfig, ServerAccess};
use parallax_pki::{
    AllowedClients, CredentialFiles, CredentialSource, ExpectedServer, PeerIdentity, Purpose, Role,
    TlsProfile, TlsVersion,
};
use serde::Deserialize;

use crate::flags::Values;

/// How often certificate files are looked at for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate files of one side of a connection, in a configuration file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// What the other side must chain to.
    pub ca: PathBuf,
    /// Lowest version of TLS: `"1.2"`, or `"1.3"` if it is not said.
    #[serde(default)]
    pub min_version: Option<String>,
}

impl TlsFiles {
    /// Credentials that follow the files.
    pub fn load(&self, purpose: Purpose) -> anyhow::Result<CredentialSource> {
        let files = CredentialFiles {
            cert: Some(self.cert.clone()),
            key: Some(self.key.clone()),
            ca: Some(self.ca.clone()),
        };
        let min_version = tls_version(self.min_version.as_deref()).context("min_version")?;
        watched(files, TlsProfile { purpose, min_version })
    }
}

/// The lowest version, as it is written.
pub fn tls_version(text: Option<&str>) -> anyhow::Result<TlsVersion> {
    match text {
        Some("1.3") | None => Ok(TlsVersion::Tls13),
        Some("1.2") => Ok(TlsVersion::Tls12),
        Some(other) => bail!("{other:?}: only \"1.2\" and \"1.3\" are supported"),
    }
}

pub fn watched(files: CredentialFiles, profile: TlsProfile) -> anyhow::Result<CredentialSource> {
    Ok(CredentialSource::from_files(files, profile)?.poll_every(RELOAD_INTERVAL))
}

/// Who may call a gRPC server: the identities that are allowed (`None`: whoever shows a certificate of the CA), and the header of forwarded certificates.
pub fn access(allowed: Option<&[String]>, forwarded: Option<&str>) -> anyhow::Result<ServerAccess> {
    let allowed = match allowed {
        None => AllowedClients::Anybody,
        Some([]) => {
            bail!("the list of allowed identities is empty: nobody could call; name one, or leave it out")
        }
        Some(entries) => AllowedClients::Listed(
            entries.iter().map(|entry| Ok(entry.parse()?)).collect::<anyhow::Result<_>>()?,
        ),
    };
    let forwarded = forwarded.map(str::parse).transpose()?;
    Ok(ServerAccess { allowed, forwarded })
}

/// Which server is the right one for an endpoint that is declared as `cluster`: `identity` is a SPIFFE name, or `dns` for any certificate with the dialled
/// name.
pub fn expected_server(identity: Option<&str>, cluster: Option<&str>) -> anyhow::Result<ExpectedServer> {
    Ok(match (identity.filter(|text| !text.is_empty()), cluster.filter(|name| !name.is_empty())) {
        (Some("dns"), _) | (None, None) => ExpectedServer::Name,
        (Some(text), _) => {
            let identity: PeerIdentity = text.parse().context("identity (or write dns)")?;
            ensure!(
                identity.role() == Role::Observee,
                "identity: {identity} is no observee's, and only those serve"
            );
            ExpectedServer::Identity(identity)
        }
        (None, Some(cluster)) => ExpectedServer::NameOfCluster(cluster.to_owned()),
    })
}

/// The gRPC server of `--grpc-address` and `--grpc-server-tls-*`.
pub fn grpc_server(values: &Values) -> anyhow::Result<GrpcServerConfig> {
    let address = values.text("grpc-address").context("--grpc-address is empty")?;
    let files = CredentialFiles {
        cert: values.path("grpc-server-tls-cert"),
        key: values.path("grpc-server-tls-key"),
        ca: values.path("grpc-server-tls-client-ca"),
    };
    let min_version = min_version(values, "grpc-server-tls-min-version")?;
    let tls = match (&files.cert, &files.key, &files.ca) {
        (None, None, None) => None,
        (Some(_), Some(_), _) => {
            let source = watched(files, TlsProfile { purpose: Purpose::Server, min_version });
            Some(source.context("--grpc-server-tls-cert, -key and -client-ca")?)
        }
        (None, None, Some(_)) => {
            bail!("--grpc-server-tls-client-ca needs --grpc-server-tls-cert and --grpc-server-tls-key");
        }
        _ => bail!("--grpc-server-tls-cert and --grpc-server-tls-key belong together; give both"),
    };
    let allowed = values.list("grpc-server-allowed-identity");
    let allowed = (!allowed.is_empty()).then_some(allowed.as_slice());
    let access = access(allowed, values.text("grpc-server-forwarded-certificates").as_deref())
        .context("--grpc-server-allowed-identity, --grpc-server-forwarded-certificates")?;
    let grace_period = values.duration("grpc-grace-period");
    Ok(GrpcServerConfig { tls, access, grace_period, ..GrpcServerConfig::new(address) })
}

/// The credentials of `--grpc-client-tls-*`, if TLS is asked for.
pub fn grpc_client(values: &Values) -> anyhow::Result<Option<CredentialSource>> {
    let files = CredentialFiles {
        cert: values.path("grpc-client-tls-cert"),
        key: values.path("grpc-client-tls-key"),
        ca: values.path("grpc-client-tls-ca"),
    };
    let min_version = min_version(values, "grpc-client-tls-min-version")?;
    let named = files.cert.is_some() || files.key.is_some() || files.ca.is_some();
    if !values.switch("grpc-client-tls-secure") {
        if named {
            bail!(
                "certificate files are given, but connections would be plain text; add --grpc-client-tls-secure"
            );
        }
        return Ok(None);
    }
    let purpose = Purpose::Client { skip_verify: values.switch("grpc-client-tls-skip-verify") };
    watched(files, TlsProfile { purpose, min_version })
        .context("--grpc-client-tls-cert, -key and -ca")
        .map(Some)
}

fn min_version(values: &Values, flag: &str) -> anyhow::Result<TlsVersion> {
    tls_version(values.text(flag).as_deref()).with_context(|| format!("--{flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_version_stands_with_the_files_and_another_one_is_named() {
        let read = |more: &str| -> TlsFiles {
            serde_saphyr::from_str(&format!("{{cert: a, key: b, ca: c{more}}}")).unwrap()
        };
        assert_eq!(tls_version(read("").min_version.as_deref()).unwrap(), TlsVersion::Tls13);
        assert_eq!(
            tls_version(read(", min_version: '1.2'").min_version.as_deref()).unwrap(),
            TlsVersion::Tls12
        );
        let refused = read(", min_version: '1.1'").load(Purpose::Client { skip_verify: false });
        let refused = format!("{:#}", refused.err().unwrap());
        assert!(refused.contains("min_version") && refused.contains("\"1.1\""), "{refused}");
    }
}
