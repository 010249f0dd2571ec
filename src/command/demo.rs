//! `parallax demo`: a mesh on loopback, started by one command and gone with Ctrl-C.
//!
//! Two observee clusters with two Prometheus replicas each, an ingress that ends mTLS, a filesystem bucket per cluster with
//! hours of history, and an observer. The sides are child processes of this binary with configuration files like anybody's,
//! so killing one is killing a cluster. Everything lives in one temporary directory.

mod children;
mod history;
mod ingress;
mod layout;
mod oracle;
mod prometheus;
mod questions;
mod smoke;
mod start;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use parallax_net::Context;

use crate::process::{self, Failure};
use start::Mesh;

/// How long the whole mesh may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// Which programs the mesh is made of.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// `None` takes the built-in stand-in.
    prometheus: Option<PathBuf>,
    /// `None` lets mTLS end in the observee.
    nginx: Option<PathBuf>,
}

pub fn cli() -> Command {
    let program = |name: &'static str, without: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("PATH")
            .default_value("auto")
            .help(format!("The {name} to use; `auto` looks on PATH, `none` takes {without}"))
    };
    Command::new("demo")
        .about("A whole mesh on loopback: two clusters, mTLS, buckets, history, one observer")
        .arg(
            Arg::new("smoke")
                .long("smoke")
                .action(ArgAction::SetTrue)
                .help("Ask the mesh queries whose answers are known, print them, and exit 0 or 1"),
        )
        .arg(program("prometheus", "a built-in stand-in"))
        .arg(program("nginx", "no ingress: mTLS ends in the observee"))
        .arg(
            Arg::new("http-address")
                .long("http-address")
                .default_value("127.0.0.1:10902")
                .help("Address of the observer's HTTP API; port 0 takes a free one"),
        )
}

pub fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let programs = Programs {
        prometheus: program(matches, "prometheus").map_err(Failure::usage)?,
        nginx: program(matches, "nginx").map_err(Failure::usage)?,
    };
    let http_address = matches.get_one::<String>("http-address").cloned().unwrap_or_default();
    let smoke = matches.get_flag("smoke");
    // A smoke test must not fall over a port that somebody uses.
    let http_address = if smoke { "127.0.0.1:0".to_owned() } else { http_address };
    process::run(|context| async move {
        let mesh = Mesh::start(programs, &http_address, &context).await?;
        let result = if smoke { smoke::run(&mesh).await } else { watch(&mesh, &context).await };
        mesh.stop().await;
        Ok(result?)
    })
}

/// Shows the mesh until Ctrl-C.
async fn watch(mesh: &Mesh, context: &Context) -> anyhow::Result<()> {
    tokio::select! {
        () = context.shutdown.cancelled() => Ok(()),
        shown = table::show(mesh) => shown,
    }
}

/// The program a flag names: a path, the one on PATH, or none.
fn program(matches: &ArgMatches, name: &str) -> anyhow::Result<Option<PathBuf>> {
    match matches.get_one::<String>(name).map_or("auto", String::as_str) {
        "none" => Ok(None),
        "auto" => Ok(on_path(name)),
        path if std::path::Path::new(path).is_file() => {
            std::path::absolute(path).map(Some).with_context(|| format!("--{name}={path}"))
        }
        path => bail!("--{name}={path}: there is no such file; give a path, `auto` or `none`"),
    }
}

/// The first executable called `name` on PATH; Debian keeps servers in `/usr/sbin`, which is not on everybody's.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
