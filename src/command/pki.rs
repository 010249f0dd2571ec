//! `parallax pki`: the authority of a mesh, on the command line.
//!
//! Exit codes, which scripts may rely on: 0 done; 1 something failed that is nobody's input (a disk, a network); 2 a wrong command line or file; 3 refused
//! by policy, or a certificate that does not verify; 4 something is due soon; 5 something has expired or is about to; 6 a gate of a rotation is not met;
//! 7 the state exists already, or another command holds it; 8 the state is damaged. With `--output json`, standard output is one JSON document, and an
//! error is `{"error":{"code":…,"message":…}}` on standard error.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use parallax_pki::{Authority, Error, OpenOptions, Passphrase, PeerIdentity, Role, TrustDomain, Unlock};
use serde::Serialize;

use crate::process::Failure;

mod export;
mod leaves;
mod passphrase;
mod peers;
mod rotate;
mod status;
mod verify;

/// Something is due soon.
const DUE: u8 = 4;
/// Something has expired, or is about to.
const CRITICAL: u8 = 5;
/// A certificate does not verify, or a policy says no.
const REFUSED: u8 = 3;
/// What the shell reports for a wrong command line.
const USAGE: u8 = 2;

pub fn cli() -> Command {
    let output = Arg::new("output")
        .long("output")
        .global(true)
        .default_value("table")
        .value_parser(["table", "json"])
        .help("How to print the result");
    Command::new("pki")
        .about("Certificates for every hop of the mesh")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(output)
        .subcommand(init_cli())
        .subcommand(leaves::issue_cli())
        .subcommand(leaves::sign_cli())
        .subcommand(leaves::renew_cli())
        .subcommand(leaves::revoke_cli())
        .subcommand(rotate::cli())
        .subcommand(peers::observe_cli())
        .subcommand(status::cli())
        .subcommand(verify::verify_cli())
        .subcommand(verify::inspect_cli())
        .subcommand(export::bundle_cli())
        .subcommand(export::export_cli())
}

pub fn run(matches: &ArgMatches) -> Result<(), Failure> {
    parallax_pki::install_provider();
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::usage(anyhow::anyhow!("parallax pki: a command is needed; see --help")));
    };
    let result = match name {
        "init" => init(matches),
        "issue" => leaves::issue(matches),
        "sign" => leaves::sign(matches),
        "renew" => leaves::renew(matches),
        "revoke" => leaves::revoke(matches),
        "rotate" => rotate::run(matches),
        "observe" => peers::observe(matches),
        "status" => status::run(matches),
        "verify" => verify::verify(matches),
        "inspect" => verify::inspect(matches),
        "bundle" => export::bundle(matches),
        _ => export::export(matches),
    };
    let exit_code = match result {
        Ok(code) => code,
        Err(error) => return Err(failure(matches, error)),
    };
    match exit_code {
        0 => Ok(()),
        code => Err(Failure { error: anyhow::anyhow!("{}", exit_text(code)), exit_code: code }),
    }
}

fn exit_text(code: u8) -> &'static str {
    match code {
        DUE => "something is due soon (exit code 4)",
        CRITICAL => "something has expired or is about to (exit code 5)",
        _ => "it does not verify (exit code 3)",
    }
}

fn failure(matches: &ArgMatches, error: anyhow::Error) -> Failure {
    let of_pki = error.downcast_ref::<Error>();
    let exit_code = of_pki.map_or(USAGE, exit_code);
    if wants_json(matches) {
        let code = of_pki.map_or("usage", Error::code);
        eprintln!("{}", serde_json::json!({"error": {"code": code, "message": format!("{error:#}")}}));
    }
    Failure { error, exit_code }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Io { .. } | Error::Signing { .. } => 1,
        Error::Refused { .. }
        | Error::KeyMismatch { .. }
        | Error::AnchorsExpired { .. }
        | Error::WrongPurpose { .. }
        | Error::NotValidNow { .. }
        | Error::Tls { .. } => REFUSED,
        Error::GateNotMet { .. } => 6,
        Error::StateExists(_) | Error::StateLocked(_) => 7,
        Error::StateDamaged { .. } => 8,
        _ => USAGE,
    }
}

fn init_cli() -> Command {
    Command::new("init")
        .about("Make an authority: one CA for observers (clients), one for observees (servers)")
        .args([
            state_arg(),
            Arg::new("trust-domain")
                .long("trust-domain")
                .required(true)
                .value_name("NAME")
                .help("Name of the mesh, such as mesh.example.com"),
            passphrase::file_arg(),
            Arg::new("no-encrypt")
                .long("no-encrypt")
                .action(ArgAction::SetTrue)
                .help("Store the CA keys as they are; only for tests, or on an encrypted disk"),
            Arg::new("key-alg").long("key-alg").default_value("p256").help("Keys of the CAs: p256 or p384"),
            days_arg("ca-days", "730", 7300, "Days until the CAs expire"),
            Arg::new("import-ca-cert")
                .long("import-ca-cert")
                .value_name("FILE")
                .requires("import-ca-key")
                .help("Take over a CA that is there already, with --import-ca-key"),
            Arg::new("import-ca-key")
                .long("import-ca-key")
                .value_name("FILE")
                .requires("import-ca-cert")
                .help("Its private key: PKCS#8 (encrypted or not), SEC1 or PKCS#1"),
            Arg::new("import-for")
                .long("import-for")
                .default_value("both")
                .value_parser(["observers", "observees", "both"])
                .help("What the imported CA signs"),
        ])
}

fn init(matches: &ArgMatches) -> anyhow::Result<u8> {
    use parallax_pki::{AuthorityOptions, Hierarchy, ImportedAuthority};
    let directory = state_directory(matches)?;
    let trust_domain = TrustDomain::new(&text(matches, "trust-domain").unwrap_or_default())?;
    let plain = matches.get_flag("no-encrypt");
    let passphrase = match passphrase::given(matches)? {
        Some(given) if !plain => Some(Passphrase::for_new_authority(&given)?),
        Some(_) => bail!("--no-encrypt and a passphrase exclude each other"),
        None if plain => None,
        None => Some(passphrase::ask_for_new()?),
    };
    let mut imported = Vec::new();
    if let (Some(cert), Some(key)) = (text(matches, "import-ca-cert"), text(matches, "import-ca-key")) {
        let wanted = text(matches, "import-for").unwrap_or_default();
        let cert_pem = parallax_pki::read_bounded(&PathBuf::from(&cert))?;
        let key_pem = parallax_pki::read_bounded(&PathBuf::from(&key))?;
        for hierarchy in Hierarchy::ALL {
            if wanted == "both" || wanted == hierarchy.as_str() {
                imported.push(ImportedAuthority {
                    hierarchy,
                    subject: format!("{cert} and {key}"),
                    cert_pem: cert_pem.clone(),
                    key_pem: key_pem.clone().into(),
                    passphrase: passphrase.clone(),
                });
            }
        }
    }
    let options = AuthorityOptions {
        key: text(matches, "key-alg").unwrap_or_default().parse()?,
        lifetime: days(matches, "ca-days"),
        passphrase,
        imported,
        operator: operator(),
        ..AuthorityOptions::new(trust_domain.clone())
    };
    Authority::init(&directory, &options)?;
    if plain {
        eprintln!(
            "warning: the CA keys are not encrypted; keep {} where only this account can read it",
            directory.display()
        );
    }
    let printed = serde_json::json!({
        "trust_domain": trust_domain.as_str(),
        "state": directory.display().to_string(),
        "encrypted": !plain,
    });
    print(matches, &printed, || format!("authority of {trust_domain} in {}", directory.display()))?;
    Ok(0)
}

fn state_arg() -> Arg {
    Arg::new("state")
        .long("state")
        .required(true)
        .value_name("file:DIR")
        .help("Where the authority keeps its keys and its journal")
}

fn days_arg(name: &'static str, default: &'static str, most: i64, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .default_value(default)
        .value_parser(clap::value_parser!(u32).range(1..=most))
        .help(help)
}

fn days(matches: &ArgMatches, name: &str) -> std::time::Duration {
    std::time::Duration::from_secs(86_400 * u64::from(matches.get_one::<u32>(name).copied().unwrap_or(1)))
}

/// `--observee`, `--observer` or `--ingress`.
fn identity_args() -> [Arg; 3] {
    let arg = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    [
        arg("observee", "CLUSTER", "Server leaf of an observee cluster"),
        arg("observer", "HUB", "Client leaf of an observer hub"),
        arg("ingress", "NAME", "Client leaf of an ingress proxy"),
    ]
}

fn identity_group(required: bool) -> ArgGroup {
    ArgGroup::new("identity").args(["observee", "observer", "ingress"]).required(required)
}

fn identity(matches: &ArgMatches, trust_domain: &TrustDomain) -> anyhow::Result<Option<PeerIdentity>> {
    for (flag, role) in
        [("observee", Role::Observee), ("observer", Role::Observer), ("ingress", Role::Ingress)]
    {
        if let Some(name) = text(matches, flag) {
            return Ok(Some(PeerIdentity::new(trust_domain, role, &name)?));
        }
    }
    Ok(None)
}

fn needed_identity(matches: &ArgMatches, trust_domain: &TrustDomain) -> anyhow::Result<PeerIdentity> {
    identity(matches, trust_domain)?.context("one of --observee, --observer and --ingress is needed")
}

/// `None` also for a command that has no such flag.
fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.try_get_one::<String>(name).ok().flatten().cloned()
}

fn texts(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many::<String>(name).map(|values| values.cloned().collect()).unwrap_or_default()
}

fn state_directory(matches: &ArgMatches) -> anyhow::Result<PathBuf> {
    let state = text(matches, "state").unwrap_or_default();
    match state.strip_prefix("file:") {
        Some(directory) if !directory.is_empty() => Ok(PathBuf::from(directory)),
        _ => bail!("--state={state}: write it as file:DIR"),
    }
}

/// The authority of `--state`; its passphrase is asked for when it is needed.
fn open(matches: &ArgMatches) -> anyhow::Result<Authority> {
    let file = text(matches, "passphrase-file");
    let unlock: Unlock = Arc::new(move || passphrase::for_existing(file.as_deref()));
    let options = OpenOptions { unlock: Some(unlock), operator: operator(), ..OpenOptions::default() };
    Ok(Authority::open_with(&state_directory(matches)?, options)?)
}

/// Who runs the command, as far as the system says.
fn operator() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let uid = rustix::process::getuid().as_raw();
    format!("{} (uid {uid})", name.as_deref().unwrap_or("unknown")).chars().take(120).collect()
}

fn wants_json(matches: &ArgMatches) -> bool {
    text(matches, "output").as_deref() == Some("json")
}

/// Prints `value` as JSON, or what `table` says.
fn print(matches: &ArgMatches, value: &impl Serialize, table: impl FnOnce() -> String) -> anyhow::Result<()> {
    use std::io::Write as _;
    let text = if wants_json(matches) { serde_json::to_string_pretty(value)? } else { table() };
    // A reader that has seen enough (`| head`) is no error.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}

/// Rows in columns of equal width.
fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}
