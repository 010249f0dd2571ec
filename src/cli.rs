//! The command line: which commands there are, and which function each one runs.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::command;
use crate::flags::{self, COMPONENTS, Values};
use crate::process::{self, Failure};

/// The whole command line, for clap.
pub fn command() -> Command {
    let mut root = Command::new("parallax")
        .about(
            "One question over many Prometheus clusters: a multi-cluster observer/observee federation mesh",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_log_flags(command::demo::cli()))
        .subcommand(with_log_flags(side(
            "observee",
            "One observee cluster in one process: sidecars and shippers",
        )))
        .subcommand(with_log_flags(side(
            "observer",
            "The observer in one process: a querier per cluster, store gateways, the global querier",
        )))
        .subcommand(command::tools::cli())
        .subcommand(command::pki::cli());
    for component in COMPONENTS {
        root = root.subcommand(flags::command(component));
    }
    root
}

/// `observee --config F` and `observer --config F`.
fn side(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .arg(
            Arg::new("config")
                .long("config")
                .required(true)
                .value_name("FILE")
                .help("YAML file of this side"),
        )
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Only read the file and say whether it is right"),
        )
}

fn with_log_flags(command: Command) -> Command {
    let log = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).help(help)
    };
    command.arg(log("log.level", "info", "error, warn, info or debug")).arg(log(
        "log.format",
        "logfmt",
        "logfmt or json",
    ))
}

/// Runs the command that was given.
pub fn dispatch(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::usage(anyhow::anyhow!("no command; see parallax --help")));
    };
    match name {
        "pki" => command::pki::run(matches),
        "tools" => command::tools::run(matches),
        "demo" => {
            start_logging(matches)?;
            command::demo::run(matches)
        }
        "observee" => run_side(matches, command::observee::run),
        "observer" => run_side(matches, command::observer::run),
        name => run_component(name, matches),
    }
}

fn start_logging(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    process::start_logging(&text("log.level"), &text("log.format")).map_err(Failure::usage)
}

fn run_side(
    matches: &ArgMatches,
    run: fn(path: &str, check_only: bool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    start_logging(matches)?;
    let path = matches.get_one::<String>("config").cloned().unwrap_or_default();
    run(&path, matches.get_flag("check"))
}

fn run_component(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let Some(component) = COMPONENTS.iter().find(|component| component.name == name) else {
        return Err(Failure::usage(anyhow::anyhow!("unknown command {name}")));
    };
    if let Some(instead) = component.unbuilt {
        return Err(Failure::usage(anyhow::anyhow!("`parallax {name}` is not in this version; {instead}")));
    }
    let values = Values::settle((component.flags)(), matches).map_err(Failure::usage)?;
    let level = values.text("log.level").unwrap_or_default();
    let format = values.text("log.format").unwrap_or_default();
    process::start_logging(&level, &format).map_err(Failure::usage)?;
    values.report_flags_without_effect();
    match name {
        "sidecar" => command::sidecar::run(values),
        "store" => command::store::run(values),
        "compact" => command::compact::run(values),
        "doctor" => command::doctor::run(values),
        _ => command::query::run(values),
    }
}
