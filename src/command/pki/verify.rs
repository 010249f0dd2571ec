//! `pki verify` and `pki inspect`: what the servers would say of a certificate, and what is in a file or behind a port.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgMatches, Command};
use parallax_net::{ServerProbe, probe_server};
use parallax_pki::certificate::{Facts, format_time, parse_bundle};
use parallax_pki::{
    CredentialFiles, CredentialSource, ExpectedServer, Material, PeerIdentity, Purpose, TrustBundle,
};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use super::status::PEER_TIMEOUT;
use super::{columns, print, text};

fn file_arg(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("FILE").help(help)
}

pub(super) fn verify_cli() -> Command {
    Command::new("verify")
        .about("Would this certificate be accepted? The same code as the servers and clients use")
        .args([
            file_arg("cert", "The certificate, with what leads to its CA"),
            file_arg("key", "Its private key, to see that they belong together"),
            file_arg("bundle", "The CAs (and revocation lists) that verify it").required(true),
            Arg::new("connect")
                .long("connect")
                .value_name("HOST:PORT")
                .help("The certificate of this server, instead"),
            Arg::new("server-name")
                .long("server-name")
                .value_name("NAME")
                .help("Name that is asked for and must be in it"),
            Arg::new("expect-identity")
                .long("expect-identity")
                .value_name("SPIFFE-URI")
                .help("The identity that it must carry; also says whether it is a server's or a client's"),
            Arg::new("as")
                .long("as")
                .value_parser(["client", "server"])
                .help("What it is used as (default: as its identity's role says)"),
            Arg::new("at")
                .long("at")
                .value_name("TIME")
                .help("At another time than now, such as 2027-01-01T00:00:00Z"),
        ])
}

pub(super) fn inspect_cli() -> Command {
    Command::new("inspect")
        .about("Show certificates, bundles and revocation lists of a file, or what a TLS server shows")
        .args([
            Arg::new("file").value_name("FILE").help("PEM file"),
            Arg::new("connect").long("connect").value_name("HOST:PORT").help("A TLS server"),
            Arg::new("server-name").long("server-name").value_name("NAME").help("Name that it is asked for"),
        ])
}

fn probe(address: &str, server_name: Option<&str>) -> anyhow::Result<ServerProbe> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(probe_server(address, server_name, None, PEER_TIMEOUT))?)
}

pub(super) fn verify(matches: &ArgMatches) -> anyhow::Result<u8> {
    let bundle_file = text(matches, "bundle").unwrap_or_default();
    let bundle = parallax_pki::read_bounded(Path::new(&bundle_file))?;
    let at = match text(matches, "at") {
        Some(time) => {
            let parsed: jiff::Timestamp = time.parse().with_context(|| format!("--at={time}"))?;
            SystemTime::from(parsed)
        }
        None => SystemTime::now(),
    };
    let (subject, chain) = match (text(matches, "cert"), text(matches, "connect")) {
        (Some(file), None) => {
            let pem = parallax_pki::read_bounded(Path::new(&file))?;
            (file.clone(), parse_bundle(&file, &pem)?)
        }
        (None, Some(address)) => {
            let shown = probe(&address, text(matches, "server-name").as_deref())?;
            (address, shown.chain)
        }
        _ => bail!("what shall be verified? --cert FILE or --connect HOST:PORT"),
    };
    let expected: Option<PeerIdentity> =
        text(matches, "expect-identity").map(|identity| identity.parse()).transpose()?;
    let leaf = chain.first().context("it is empty")?;
    let facts = Facts::read(leaf).map_err(|reason| anyhow::anyhow!("{subject}: {reason}"))?;
    let problem = judge(matches, (&chain, &facts), (&bundle_file, &bundle), expected.as_ref(), at)?;
    let printed = json!({
        "subject": subject,
        "verifies": problem.is_none(),
        "problem": problem,
        "certificate": described(&facts),
    });
    print(matches, &printed, || match &problem {
        None => format!("{subject}: verifies, until {}", format_time(facts.not_after)),
        Some(problem) => format!("{subject}: {problem}"),
    })?;
    Ok(if problem.is_none() { 0 } else { super::REFUSED })
}

/// `None`: it verifies.
fn judge(
    matches: &ArgMatches,
    (chain, facts): (&[CertificateDer<'static>], &Facts),
    (bundle_file, bundle): (&str, &str),
    expected: Option<&PeerIdentity>,
    at: SystemTime,
) -> anyhow::Result<Option<String>> {
    if let (Some(cert), Some(key)) = (text(matches, "cert"), text(matches, "key")) {
        let files = CredentialFiles { cert: Some(cert.into()), key: Some(key.into()), ca: None };
        let purpose = if facts.usage.is_some_and(|usage| usage.server) {
            Purpose::Server
        } else {
            Purpose::Client { skip_verify: true }
        };
        if let Err(error) = CredentialSource::from_files(files, purpose) {
            return Ok(Some(error.to_string()));
        }
    }
    if let Some(expected) = expected
        && facts.uris != [expected.to_string()]
    {
        return Ok(Some(format!("it carries {:?}, not {expected}", facts.uris)));
    }
    let as_client = match text(matches, "as").as_deref() {
        Some(side) => side == "client",
        None => facts.usage.is_some_and(|usage| usage.client),
    };
    TrustBundle::parse(bundle_file, bundle)?;
    let judged = if as_client {
        Material::judge_client(bundle, chain, at)
    } else {
        let name = text(matches, "server-name").or_else(|| facts.dns_names.first().cloned());
        let name = name.unwrap_or_else(|| "localhost".to_owned());
        let name = ServerName::try_from(name.clone()).with_context(|| format!("--server-name={name}"))?;
        let expected =
            expected.map_or(ExpectedServer::Name, |identity| ExpectedServer::Identity(identity.clone()));
        Material::judge_server(bundle, chain, &name, &expected, at)
    };
    Ok(judged?.err().map(|explanation| explanation.text))
}

pub(super) fn inspect(matches: &ArgMatches) -> anyhow::Result<u8> {
    match (text(matches, "file"), text(matches, "connect")) {
        (Some(file), None) => inspect_file(matches, &file),
        (None, Some(address)) => inspect_server(matches, &address),
        _ => bail!("what shall be shown? a FILE or --connect HOST:PORT"),
    }
}

fn described(facts: &Facts) -> Value {
    json!({
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial": facts.serial,
        "not_before": format_time(facts.not_before),
        "not_after": format_time(facts.not_after),
        "uris": facts.uris,
        "dns_names": facts.dns_names,
        "addresses": facts.addresses,
        "is_authority": facts.is_authority,
        "client": facts.usage.is_some_and(|usage| usage.client),
        "server": facts.usage.is_some_and(|usage| usage.server),
    })
}

fn row(facts: &Facts) -> Vec<String> {
    let usage = match (facts.is_authority, facts.usage) {
        (true, _) => "CA",
        (false, Some(usage)) if usage.client && usage.server => "client, server",
        (false, Some(usage)) if usage.client => "client",
        (false, Some(usage)) if usage.server => "server",
        _ => "none stated",
    };
    let mut names = facts.uris.clone();
    names.extend(facts.dns_names.iter().cloned());
    names.extend(facts.addresses.iter().map(ToString::to_string));
    vec![
        facts.subject.clone(),
        usage.to_owned(),
        format_time(facts.not_after),
        facts.serial.clone(),
        names.join(" "),
    ]
}

const HEAD: [&str; 5] = ["SUBJECT", "USAGE", "UNTIL", "SERIAL", "NAMES"];

fn inspect_file(matches: &ArgMatches, file: &str) -> anyhow::Result<u8> {
    let pem = parallax_pki::read_bounded(Path::new(file))?;
    let certificates = parse_bundle(file, &pem)?;
    let facts: Vec<Facts> = certificates.iter().filter_map(|der| Facts::read(der).ok()).collect();
    // A chain has no lists; a bundle has, and they must be its own.
    let lists =
        if pem.contains("BEGIN X509 CRL") { TrustBundle::parse(file, &pem)?.lists } else { Vec::new() };
    let printed = json!({
        "certificates": facts.iter().map(described).collect::<Vec<_>>(),
        "revocation_lists": lists.iter().map(|list| json!({
            "number": list.number_text(),
            "revoked": list.len(),
            "next_update": list.next_update().map(format_time),
        })).collect::<Vec<_>>(),
    });
    print(matches, &printed, || {
        let mut text = columns(&HEAD, &facts.iter().map(row).collect::<Vec<_>>());
        for list in &lists {
            let due = list.next_update().map(format_time).unwrap_or_default();
            text.push_str(&format!(
                "\nrevocation list {}: {} revoked, next by {due}",
                list.number_text(),
                list.len()
            ));
        }
        text
    })?;
    Ok(0)
}

fn inspect_server(matches: &ArgMatches, address: &str) -> anyhow::Result<u8> {
    let shown = probe(address, text(matches, "server-name").as_deref())?;
    let facts: Vec<Facts> = shown.chain.iter().filter_map(|der| Facts::read(der).ok()).collect();
    let cas: Option<Vec<String>> = shown
        .client_cas
        .as_ref()
        .map(|names| names.iter().map(|name| parallax_pki::certificate::name_text(name)).collect());
    let without = match &shown.accepted {
        Some(Ok(())) => "serves",
        Some(Err(_)) => "refuses",
        None => "did not say",
    };
    let printed = json!({
        "certificates": facts.iter().map(described).collect::<Vec<_>>(),
        "version": shown.version,
        "alpn": shown.alpn,
        "client_cas": cas,
        "without_certificate": without,
    });
    print(matches, &printed, || {
        let mut text = columns(&HEAD, &facts.iter().map(row).collect::<Vec<_>>());
        text.push_str(&format!(
            "\nprotocol: {} {}",
            shown.version,
            shown.alpn.as_deref().unwrap_or("without ALPN")
        ));
        match &cas {
            None => text.push_str("\nasks for no client certificate"),
            Some(names) if names.is_empty() => text.push_str("\nasks for a client certificate of any CA"),
            Some(names) => {
                names.iter().for_each(|name| text.push_str(&format!("\ntakes clients of: {name}")))
            }
        }
        text.push_str(&format!("\na client without certificate: {without}"));
        text
    })?;
    Ok(0)
}
