//! `pki issue`, `sign`, `renew`, `revoke`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use parallax_pki::authority::{Home, RenewPolicy, Renewed};
use parallax_pki::certificate::format_time;
use parallax_pki::csr::CertificateRequest;
use parallax_pki::ledger::Leaf;
use parallax_pki::{Authority, Error, LeafRequest, RevocationReason};
use serde_json::json;

use super::{
    columns, days, days_arg, identity, identity_args, identity_group, needed_identity, open, passphrase,
    print, state_arg, text, texts,
};

fn name_args() -> [Arg; 2] {
    [
        Arg::new("dns")
            .long("dns")
            .action(ArgAction::Append)
            .value_name("NAME")
            .help("DNS name; may be repeated"),
        Arg::new("ip")
            .long("ip")
            .action(ArgAction::Append)
            .value_name("ADDRESS")
            .help("IP address; may be repeated"),
    ]
}

pub(super) fn issue_cli() -> Command {
    Command::new("issue")
        .about("Issue a leaf certificate: tls.crt, tls.key and ca.crt in --out")
        .args([
            state_arg(),
            passphrase::file_arg(),
            days_arg("days", "30", 825, "Days until the leaf expires"),
        ])
        .args(identity_args())
        .group(identity_group(true))
        .args(name_args())
        .arg(Arg::new("out").long("out").value_name("DIR").help(
            "Directory for the files, which `renew` follows (else leaves/<role>/<name> within the state)",
        ))
}

pub(super) fn sign_cli() -> Command {
    Command::new("sign")
        .about("Sign a certificate request: its key, and the names granted here")
        .args([
            state_arg(),
            passphrase::file_arg(),
            days_arg("days", "30", 825, "Days until the leaf expires"),
        ])
        .args(identity_args())
        .group(identity_group(true))
        .args(name_args())
        .args([
            Arg::new("csr").long("csr").required(true).value_name("FILE").help("The request, PEM or DER"),
            Arg::new("drop-extra")
                .long("drop-extra")
                .action(ArgAction::SetTrue)
                .help("Leave out what is asked for beyond that, instead of refusing"),
            Arg::new("out")
                .long("out")
                .required(true)
                .value_name("FILE")
                .help("File for the certificate, which `renew` follows"),
        ])
}

pub(super) fn renew_cli() -> Command {
    let part = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).value_parser(clap::value_parser!(f64)).help(help)
    };
    Command::new("renew")
        .about("Replace leaves that are due, where they were issued to; revocation lists as well")
        .args([state_arg(), passphrase::file_arg()])
        .args(identity_args())
        .group(identity_group(false))
        .args([
            Arg::new("all").long("all").action(ArgAction::SetTrue).help("All leaves (without an identity)"),
            part("at", "0.66", "The part of its life after which a leaf is due"),
            part("jitter", "0.05", "The part of its life by which that moves from leaf to leaf"),
            Arg::new("force").long("force").action(ArgAction::SetTrue).help("Also what is not due"),
            Arg::new("keep-key").long("keep-key").action(ArgAction::SetTrue).help("Keep the private key"),
            Arg::new("daemon").long("daemon").action(ArgAction::SetTrue).help("Go on until stopped"),
            Arg::new("every")
                .long("every")
                .default_value("60s")
                .value_name("DURATION")
                .help("How often --daemon looks"),
            Arg::new("exec")
                .long("exec")
                .value_name("PROGRAM")
                .help("Run this after leaves were renewed, without arguments"),
        ])
}

pub(super) fn revoke_cli() -> Command {
    Command::new("revoke")
        .about("Revoke a leaf: its handshakes are refused and its open connections cut where the new bundle arrives")
        .args([state_arg(), passphrase::file_arg()])
        .arg(Arg::new("serial").value_name("SERIAL").help("Serial number; or name an identity, all of whose leaves are meant"))
        .args(identity_args())
        .group(identity_group(false))
        .arg(
            Arg::new("reason")
                .long("reason")
                .default_value("unspecified")
                .value_parser(["unspecified", "key_compromise", "superseded", "cessation_of_operation"])
                .help("Why"),
        )
}

fn request(matches: &ArgMatches, authority: &Authority) -> anyhow::Result<LeafRequest> {
    let addresses = texts(matches, "ip");
    Ok(LeafRequest {
        dns_names: texts(matches, "dns"),
        addresses: addresses
            .iter()
            .map(|address| address.parse().with_context(|| format!("--ip={address} is no IP address")))
            .collect::<anyhow::Result<_>>()?,
        lifetime: days(matches, "days"),
        ..LeafRequest::new(needed_identity(matches, authority.trust_domain())?)
    })
}

fn absolute(path: &str) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("--out={path}"))
}

pub(super) fn issue(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let request = request(matches, &authority)?;
    let home = match text(matches, "out") {
        Some(out) => Home::Place(absolute(&out)?),
        None => Home::State,
    };
    let leaf = authority.issue_to(&request, &home, SystemTime::now())?;
    report_undelivered(&authority)?;
    let place = match &home {
        Home::Place(path) => path.clone(),
        _ => authority.directory().unwrap_or(Path::new("")).join(format!(
            "leaves/{}/{}",
            leaf.identity.role(),
            leaf.identity.name()
        )),
    };
    let printed = json!({
        "identity": leaf.identity.to_string(),
        "serial": leaf.serial,
        "not_after": format_time(leaf.not_after),
        "directory": place.display().to_string(),
    });
    print(matches, &printed, || {
        format!("{}: tls.crt, tls.key and ca.crt in {}", leaf.identity, place.display())
    })?;
    Ok(0)
}

pub(super) fn sign(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let granted = request(matches, &authority)?;
    let file = text(matches, "csr").unwrap_or_default();
    let limit = parallax_pki::csr::MAX_REQUEST_BYTES as u64;
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(&file).with_context(|| format!("--csr={file}"))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(opened, limit + 1), &mut bytes)
        .with_context(|| format!("--csr={file}"))?;
    // A bad request is a refusal, whatever is bad about it.
    let request = CertificateRequest::parse(&file, &bytes).map_err(|error| Error::Refused {
        identity: granted.identity.to_string(),
        reason: format!("{error}; have its holder make the request again"),
    })?;
    let out = absolute(&text(matches, "out").unwrap_or_default())?;
    let drop_extra = matches.get_flag("drop-extra");
    let signed = authority.sign_request(
        &request,
        &granted,
        &Home::Place(out.clone()),
        drop_extra,
        SystemTime::now(),
    )?;
    report_undelivered(&authority)?;
    let printed = json!({
        "identity": signed.identity.to_string(),
        "serial": signed.serial,
        "not_after": format_time(signed.not_after),
        "file": out.display().to_string(),
        "dropped": signed.dropped,
    });
    print(matches, &printed, || {
        let mut text = format!("{}: certificate in {}", signed.identity, out.display());
        for dropped in &signed.dropped {
            text.push_str(&format!("\nnot granted: {dropped}"));
        }
        text
    })?;
    Ok(0)
}

/// A leaf that could not be put into its place is in the state, and is delivered by the next command; this one has not done its job.
fn report_undelivered(authority: &Authority) -> anyhow::Result<()> {
    let problems = authority.undelivered();
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "recorded, but not everything could be written: {}; run `pki renew` when that is mended",
        problems.join("; ")
    )
}

pub(super) fn renew(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let wanted = identity(matches, authority.trust_domain())?;
    if wanted.is_none() && !matches.get_flag("all") {
        bail!("which leaves? name one (--observee, --observer, --ingress), or say --all");
    }
    let part = |name: &str| matches.get_one::<f64>(name).copied().unwrap_or_default();
    let policy = RenewPolicy {
        at: part("at"),
        jitter: part("jitter"),
        force: matches.get_flag("force"),
        keep_key: matches.get_flag("keep-key"),
    };
    if !(0.0..=1.0).contains(&policy.at) || !(0.0..=0.5).contains(&policy.jitter) {
        bail!("--at is a part of 1, --jitter one of at most 0.5");
    }
    let select = |leaf: &Leaf| wanted.as_ref().is_none_or(|wanted| leaf.identity == *wanted);
    let exec = text(matches, "exec");
    if matches.get_flag("daemon") {
        let every = text(matches, "every").unwrap_or_default();
        let every = crate::flags::parse_duration(&every).with_context(|| format!("--every={every}"))?;
        if !(DAEMON_INTERVALS.0..=DAEMON_INTERVALS.1).contains(&every) {
            bail!("--every={every:?}: between one second and one day");
        }
        return keep_renewing(&authority, select, policy, exec.as_deref(), every);
    }
    let renewed = renew_once(&authority, select, policy, exec.as_deref())?;
    report_undelivered(&authority)?;
    let printed: Vec<_> = renewed
        .iter()
        .map(|leaf| {
            json!({
                "identity": leaf.identity.to_string(),
                "former_serial": leaf.former_serial,
                "serial": leaf.serial,
                "not_after": format_time(leaf.not_after),
                "home": leaf.home,
            })
        })
        .collect();
    print(matches, &printed, || renewed_table(&renewed))?;
    Ok(0)
}

fn renewed_table(renewed: &[Renewed]) -> String {
    if renewed.is_empty() {
        return "nothing is due".to_owned();
    }
    let rows: Vec<Vec<String>> = renewed
        .iter()
        .map(|leaf| {
            vec![
                leaf.identity.to_string(),
                leaf.serial.clone(),
                format_time(leaf.not_after),
                leaf.home.clone().unwrap_or_default(),
            ]
        })
        .collect();
    columns(&["IDENTITY", "SERIAL", "UNTIL", "WHERE"], &rows)
}

fn renew_once(
    authority: &Authority,
    select: impl Fn(&Leaf) -> bool,
    policy: RenewPolicy,
    exec: Option<&str>,
) -> anyhow::Result<Vec<Renewed>> {
    let now = SystemTime::now();
    authority.repair()?;
    authority.refresh_lists(now)?;
    let renewed = authority.renew(select, policy, now)?;
    if let Some(program) = exec.filter(|_| !renewed.is_empty()) {
        let status =
            std::process::Command::new(program).status().with_context(|| format!("--exec={program}"))?;
        if !status.success() {
            bail!("--exec={program} ended with {status}");
        }
    }
    Ok(renewed)
}

/// How often a daemon may look: at least, at most.
const DAEMON_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

fn keep_renewing(
    authority: &Authority,
    select: impl Fn(&Leaf) -> bool,
    policy: RenewPolicy,
    exec: Option<&str>,
    every: Duration,
) -> anyhow::Result<u8> {
    crate::process::start_logging("info", "logfmt")?;
    if policy.force {
        bail!("--daemon with --force would renew without end");
    }
    loop {
        match renew_once(authority, &select, policy, exec) {
            Ok(renewed) => {
                for leaf in renewed {
                    tracing::info!(identity = %leaf.identity, serial = leaf.serial, until = %format_time(leaf.not_after), "renewed");
                }
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "renewing failed; it is tried again with the next look"
                );
            }
        }
        std::thread::sleep(every);
    }
}

pub(super) fn revoke(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let wanted = identity(matches, authority.trust_domain())?;
    let serial = text(matches, "serial").map(|serial| serial.to_lowercase().replace(':', ""));
    let what = match (&wanted, &serial) {
        (Some(identity), None) => identity.to_string(),
        (None, Some(serial)) => serial.clone(),
        _ => bail!("which leaf? give a serial number, or an identity (--observee, --observer, --ingress)"),
    };
    let reason = text(matches, "reason").unwrap_or_default();
    let reason = RevocationReason::ALL.into_iter().find(|known| known.as_str() == reason).unwrap_or_default();
    let select = |leaf: &Leaf| match (&wanted, &serial) {
        (Some(identity), _) => leaf.identity == *identity,
        (None, serial) => serial.as_ref() == Some(&leaf.record.serial),
    };
    let revoked = authority.revoke(&what, select, reason, SystemTime::now())?;
    report_undelivered(&authority)?;
    let printed: Vec<_> = revoked
        .iter()
        .map(|leaf| json!({"identity": leaf.record.identity, "serial": leaf.record.serial, "reason": reason.as_str()}))
        .collect();
    print(matches, &printed, || {
        let rows: Vec<Vec<String>> = revoked
            .iter()
            .map(|leaf| vec![leaf.record.identity.clone(), leaf.record.serial.clone()])
            .collect();
        format!(
            "{}\nrevoked; it takes effect where ca.crt is replaced: directories known to this state have been, carry the others (pki bundle)",
            columns(&["IDENTITY", "SERIAL"], &rows)
        )
    })?;
    Ok(0)
}
