//! `pki bundle` and `pki export`.

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use parallax_pki::export::{Export, Format, bundle_configmap};
use parallax_pki::leaf_files::{CA_FILE, CERTIFICATE_FILE, KEY_FILE};
use parallax_pki::{Error, Hierarchy};
use serde_json::json;

use super::{identity_args, identity_group, needed_identity, open, print, state_arg, text};

pub(super) fn bundle_cli() -> Command {
    Command::new("bundle")
        .about("Print what verifies the leaves of a hierarchy: its CAs and their revocation lists")
        .args([
            state_arg(),
            Arg::new("hierarchy")
                .required(true)
                .value_parser(["observers", "observees"])
                .help("observers: what observees verify their clients with; observees: what observers verify servers with"),
            Arg::new("format").long("format").default_value("pem").value_parser(["pem", "configmap"]).help("PEM, or a Kubernetes config map"),
            Arg::new("name").long("name").value_name("NAME").help("Name of the config map"),
            Arg::new("namespace").long("namespace").value_name("NAME").help("Its namespace"),
            Arg::new("expect-digest").long("expect-digest").value_name("SHA256").help("Fail unless the bundle is this one"),
        ])
}

pub(super) fn export_cli() -> Command {
    let formats: Vec<&'static str> = Format::ALL.iter().map(|(name, _)| *name).collect();
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("export")
        .about("Print a leaf, or the configuration that uses it, for other programs")
        .arg(state_arg())
        .args(identity_args())
        .group(identity_group(true))
        .args([
            Arg::new("format").long("format").required(true).value_parser(formats).help("The form"),
            value(
                "directory",
                "DIR",
                "Where the other program finds tls.crt, tls.key and ca.crt (default: where they are)",
            ),
            value("name", "NAME", "Name of Kubernetes objects (default: parallax-<role>-<name>)"),
            value("namespace", "NAME", "Namespace of Kubernetes objects"),
            value("address", "HOST:PORT", "What a proxy passes on to, or the endpoint's address"),
            value("server-name", "NAME", "The server's name (default: the leaf's first DNS name)"),
            Arg::new("with-key")
                .long("with-key")
                .action(ArgAction::SetTrue)
                .help("Print the private key as well; a Kubernetes secret always has it"),
        ])
}

pub(super) fn bundle(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let hierarchy = match text(matches, "hierarchy").as_deref() {
        Some("observers") => Hierarchy::Observers,
        _ => Hierarchy::Observees,
    };
    let pem = authority.bundle_pem(hierarchy);
    let digest = parallax_pki::bundle::digest_text(&pem);
    if let Some(expected) = text(matches, "expect-digest").filter(|expected| *expected != digest) {
        return Err(Error::Refused {
            identity: format!("the bundle of {}", hierarchy.as_str()),
            reason: format!("its SHA-256 is {digest}, not {expected}"),
        }
        .into());
    }
    let rendered = match text(matches, "format").as_deref() {
        Some("configmap") => {
            let name = text(matches, "name").unwrap_or_else(|| format!("parallax-{}", hierarchy.as_str()));
            bundle_configmap(&name, text(matches, "namespace").as_deref(), &pem)?
        }
        _ => pem,
    };
    let printed = json!({"hierarchy": hierarchy, "sha256": digest, "text": rendered});
    print(matches, &printed, || rendered.clone())?;
    Ok(0)
}

pub(super) fn export(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let identity = needed_identity(matches, authority.trust_domain())?;
    let format: Format = text(matches, "format").unwrap_or_default().parse()?;
    let ledger = authority.ledger();
    let leaf =
        ledger.current().into_iter().find(|leaf| leaf.identity == identity && leaf.record.home.is_some());
    let state = authority.directory().context("the state has no directory")?;
    let Some(leaf) = leaf else {
        let what = format!("leaf of {identity} with a directory");
        return Err(Error::Unknown { state: state.to_owned(), what }.into());
    };
    if leaf.record.requested {
        bail!(
            "{identity} made its own key: its certificate is in {}",
            leaf.record.home.as_deref().unwrap_or_default()
        );
    }
    let home = std::path::absolute(state.join(leaf.record.home.as_deref().unwrap_or_default()))?;
    let read = |name: &str| parallax_pki::read_bounded(&home.join(name));
    let with_key = matches.get_flag("with-key") || format == Format::KubernetesSecret;
    let key = if with_key { Some(read(KEY_FILE)?) } else { None };
    let (cert, ca) = (read(CERTIFICATE_FILE)?, read(CA_FILE)?);
    let lists = ca.matches("BEGIN X509 CRL").count();
    let directory = text(matches, "directory").unwrap_or_else(|| home.display().to_string());
    let default_name = format!("parallax-{}-{}", identity.role(), identity.name()).replace('.', "-");
    let first_name = leaf.record.dns_names.first().cloned();
    let server_name = text(matches, "server-name")
        .or(first_name)
        .unwrap_or_else(|| format!("{}.{}", identity.name(), identity.trust_domain()));
    let object = text(matches, "name").unwrap_or(default_name);
    let namespace = text(matches, "namespace");
    let address = text(matches, "address").unwrap_or_else(|| "127.0.0.1:10901".to_owned());
    let export = Export {
        identity: &identity,
        cert_pem: &cert,
        key_pem: key.as_deref(),
        ca_pem: &ca,
        has_lists: lists > 0 && lists == ca.matches("BEGIN CERTIFICATE").count(),
        directory: &directory,
        object: &object,
        namespace: namespace.as_deref(),
        address: &address,
        server_name: &server_name,
    };
    let rendered = export.render(format)?;
    let printed = json!({"identity": identity.to_string(), "text": rendered});
    print(matches, &printed, || rendered.clone())?;
    Ok(0)
}
