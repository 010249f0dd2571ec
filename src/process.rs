//! What every command that runs needs: logs, the TLS provider, a runtime, a context that a stop signal shuts down.

use std::future::Future;

use anyhow::Context as _;
use parallax_net::Context;
use parallax_telemetry::{LogFormat, LogLevel, Metrics};
use tokio::signal::unix::{SignalKind, signal};

/// Why the program ends, and the code it ends with.
pub struct Failure {
    pub error: anyhow::Error,
    pub exit_code: u8,
}

/// The exit code for a wrong command line or configuration.
const USAGE: u8 = 2;

impl Failure {
    /// Something the user wrote is wrong.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), exit_code: USAGE }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, exit_code: 1 }
    }
}

/// Starts logging.
///
/// # Errors
/// For a level or a format that does not exist.
pub fn start_logging(level: &str, format: &str) -> anyhow::Result<()> {
    let level: LogLevel = level.parse().context("--log.level")?;
    // journald takes lines of either form.
    let format: LogFormat =
        if format == "journald" { LogFormat::Logfmt } else { format.parse().context("--log.format")? };
    parallax_telemetry::init_logging(level, format)?;
    Ok(())
}

/// Runs `work` on a runtime, with a context that SIGINT and SIGTERM shut down. SIGHUP ends nothing: it says to read files again, which whoever does that listens
/// for itself, and from the first moment on it may come.
pub fn run<F>(work: impl FnOnce(Context) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    parallax_pki::install_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(async {
        let context = Context::new(Metrics::with_process());
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        // Whoever listens at all takes the default, which is to end, away.
        let _hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let shutdown = context.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::info!("stopping");
            shutdown.cancel();
        });
        work(context).await
    });
    // Blocking reads that nobody waits for any more must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
