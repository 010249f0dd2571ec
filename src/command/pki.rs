//! `parallax pki init` and `parallax pki issue`.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use parallax_pki::{Authority, AuthorityOptions, LeafRequest, PeerIdentity, Role, TrustDomain};

use crate::process::Failure;

pub fn cli() -> Command {
    let state = || {
        Arg::new("state")
            .long("state")
            .required(true)
            .value_name("file:DIR")
            .help("Where the authority keeps its keys")
    };
    Command::new("pki")
        .about("Certificates for every hop of the mesh")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("init")
                .about("Make an authority: one CA for observers (clients), one for observees (servers)")
                .arg(state())
                .arg(
                    Arg::new("trust-domain")
                        .long("trust-domain")
                        .required(true)
                        .value_name("NAME")
                        .help("Name of the mesh, such as mesh.example.com"),
                ),
        )
        .subcommand(
            Command::new("issue")
                .about("Issue a leaf certificate: tls.crt, tls.key and ca.crt in --out")
                .arg(state())
                .arg(
                    Arg::new("observee")
                        .long("observee")
                        .value_name("CLUSTER")
                        .help("Server leaf of an observee cluster"),
                )
                .arg(
                    Arg::new("observer")
                        .long("observer")
                        .value_name("HUB")
                        .help("Client leaf of an observer hub"),
                )
                .arg(
                    Arg::new("ingress")
                        .long("ingress")
                        .value_name("NAME")
                        .help("Client leaf of an ingress proxy"),
                )
                .group(ArgGroup::new("identity").args(["observee", "observer", "ingress"]).required(true))
                .arg(
                    Arg::new("dns")
                        .long("dns")
                        .action(ArgAction::Append)
                        .value_name("NAME")
                        .help("DNS name; may be repeated"),
                )
                .arg(
                    Arg::new("ip")
                        .long("ip")
                        .action(ArgAction::Append)
                        .value_name("ADDRESS")
                        .help("IP address; may be repeated"),
                )
                .arg(
                    Arg::new("days")
                        .long("days")
                        .default_value("30")
                        .value_parser(clap::value_parser!(u32).range(1..=825))
                        .help("Days until the leaf expires"),
                )
                .arg(
                    Arg::new("out")
                        .long("out")
                        .required(true)
                        .value_name("DIR")
                        .help("Directory for the files"),
                ),
        )
}

pub fn run(matches: &ArgMatches) -> Result<(), Failure> {
    parallax_pki::install_provider();
    match matches.subcommand() {
        Some(("init", matches)) => init(matches).map_err(Failure::usage),
        Some(("issue", matches)) => issue(matches).map_err(Failure::usage),
        _ => Err(Failure::usage(anyhow::anyhow!("parallax pki: init or issue"))),
    }
}

fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn state(matches: &ArgMatches) -> anyhow::Result<PathBuf> {
    let state = text(matches, "state").unwrap_or_default();
    match state.strip_prefix("file:") {
        Some(directory) if !directory.is_empty() => Ok(PathBuf::from(directory)),
        _ => bail!("--state={state}: write it as file:DIR"),
    }
}

fn init(matches: &ArgMatches) -> anyhow::Result<()> {
    let directory = state(matches)?;
    let trust_domain = text(matches, "trust-domain").unwrap_or_default();
    Authority::init(&directory, &AuthorityOptions::new(TrustDomain::new(&trust_domain)?))?;
    println!("authority of {trust_domain} in {}", directory.display());
    eprintln!(
        "warning: the CA keys are not encrypted; keep {} where only this account can read it",
        directory.display()
    );
    Ok(())
}

fn issue(matches: &ArgMatches) -> anyhow::Result<()> {
    let authority = Authority::open(&state(matches)?)?;
    let identity = identity(matches, authority.trust_domain())?;
    let repeated =
        |name: &str| matches.get_many::<String>(name).map(|v| v.cloned().collect()).unwrap_or_default();
    let ip: Vec<String> = repeated("ip");
    let request = LeafRequest {
        dns_names: repeated("dns"),
        addresses: ip
            .iter()
            .map(|address| address.parse().with_context(|| format!("--ip={address} is no IP address")))
            .collect::<anyhow::Result<_>>()?,
        lifetime: std::time::Duration::from_secs(
            86_400 * u64::from(matches.get_one::<u32>("days").copied().unwrap_or(30)),
        ),
        ..LeafRequest::new(identity.clone())
    };
    let out = PathBuf::from(text(matches, "out").unwrap_or_default());
    authority.issue(&request)?.write(&out)?;
    println!("{identity}: tls.crt, tls.key and ca.crt in {}", out.display());
    Ok(())
}

fn identity(matches: &ArgMatches, trust_domain: &TrustDomain) -> anyhow::Result<PeerIdentity> {
    for (flag, role) in
        [("observee", Role::Observee), ("observer", Role::Observer), ("ingress", Role::Ingress)]
    {
        if let Some(name) = text(matches, flag) {
            return Ok(PeerIdentity::new(trust_domain, role, &name)?);
        }
    }
    bail!("one of --observee, --observer and --ingress is needed")
}
