//! Real programs (Prometheus, nginx, …) as children of a test.
//!
//! A child never outlives its [`Process`]: dropping kills it and waits for it, also when the test panics. What it prints goes
//! to a file, which errors quote, so that a test that fails says why its program did not start.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parallax_net::{HttpClient, HttpClientConfig};
use rustix::process::{Pid, Signal, kill_process};

/// Where programs are looked for besides `PATH`: a service's program often lies where only root looks.
const MORE_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Between two looks at something that is not there yet.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait for a program that was told to stand.
const SUSPEND_LIMIT: Duration = Duration::from_secs(60);
/// How much of a program's output an error quotes.
const QUOTED_LINES: usize = 20;

/// The program called `name`: what the variable `NAME_BIN` names, or else the one on `PATH` or in a directory of system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    if let Some(named) = std::env::var_os(variable).map(PathBuf::from) {
        return named.is_file().then_some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = MORE_DIRECTORIES.iter().map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// As [`find_program`], for a test that is nothing without it. `None` means: leave the test out, which is said on its output.
///
/// # Panics
/// Where `CI=true`: there, a test that is left out unnoticed is worse than one that fails.
pub fn program_or_leave_out(name: &str, test: &str) -> Option<PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci, "{test} needs the program {name}, and CI has to have it: install it");
        println!("left out: {test} (the program {name} is neither on PATH nor in {MORE_DIRECTORIES:?})");
    }
    found
}

pub use parallax_net::free_port;

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. Its output, both streams, is appended to the file `log`.
    ///
    /// # Errors
    /// If the program cannot be started or the file not be written.
    pub fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output =
            File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let errors = output.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { name, child, log: log.to_path_buf() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines that the program printed.
    pub fn output(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
    }

    /// Waits until `url` answers with success.
    ///
    /// # Errors
    /// If the program ends first or the time is up, with the last answer and what it printed.
    pub async fn wait_for_http(&mut self, url: &str, limit: Duration) -> anyhow::Result<()> {
        let host = url.find("://").map_or(0, |at| at + "://".len());
        let (base, path) = url.split_at(url[host..].find('/').map_or(url.len(), |at| host + at));
        let timeouts = HttpClientConfig {
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(2),
            ..HttpClientConfig::new(base)
        };
        let client = HttpClient::new(timeouts)?;
        let deadline = Instant::now() + limit;
        loop {
            let answer = match client.get(if path.is_empty() { "/" } else { path }, &[]).await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => format!("{url} answers {}", response.status()),
                Err(error) => error.to_string(),
            };
            self.look_again(deadline, &answer).await?;
        }
    }

    /// Waits until `address` accepts a connection.
    ///
    /// # Errors
    /// As [`Process::wait_for_http`].
    pub async fn wait_for_tcp(&mut self, address: SocketAddr, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while let Err(error) = tokio::net::TcpStream::connect(address).await {
            self.look_again(deadline, &format!("{address}: {error}")).await?;
        }
        Ok(())
    }

    async fn look_again(&mut self, deadline: Instant, last: &str) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}; it printed:\n{}", self.name, self.output());
        }
        ensure!(
            Instant::now() < deadline,
            "{} is not ready in time: {last}; it printed:\n{}",
            self.name,
            self.output()
        );
        tokio::time::sleep(POLL_INTERVAL).await;
        Ok(())
    }

    /// Stops the program where it stands: its sockets stay open and nothing answers. Comes back when each of its threads stands.
    ///
    /// # Errors
    /// If it has ended, or does not stand after a minute.
    pub fn suspend(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        // One thread takes the signal when its turn comes; until then the others go on.
        let deadline = Instant::now() + SUSPEND_LIMIT;
        while !self.is_suspended()? {
            ensure!(Instant::now() < deadline, "{} goes on after it was stopped", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether every thread is stopped.
    fn is_suspended(&self) -> anyhow::Result<bool> {
        let threads = format!("/proc/{}/task", self.child.id());
        for thread in std::fs::read_dir(&threads).with_context(|| threads.clone())? {
            // A thread that has ended meanwhile has no file.
            let Ok(stat) = std::fs::read_to_string(thread?.path().join("stat")) else { continue };
            let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
            if !state.starts_with('T') {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets a suspended program go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Tells the program to read its configuration again, as servers understand `SIGHUP`.
    ///
    /// # Errors
    /// If it has ended.
    pub fn reload(&self) -> anyhow::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Asks the program to end and waits; kills it when the time is up.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn terminate(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.child.kill()?;
                return Ok(self.child.wait()?);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new(find_program("sh").unwrap());
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_program_that_ends_early_is_an_error_with_its_output() {
        let directory = tempfile::tempdir().unwrap();
        let mut process =
            Process::spawn(&mut shell("echo no such option; exit 3"), &directory.path().join("log")).unwrap();
        let port = free_port().unwrap();
        let url = format!("http://127.0.0.1:{port}/-/ready");
        let error = process.wait_for_http(&url, Duration::from_secs(60)).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such option"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone_and_a_terminated_one_says_how() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let process = Process::spawn(&mut shell("exec sleep 600"), &log).unwrap();
        let id = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        let process = Process::spawn(&mut shell("exec sleep 600"), &log).unwrap();
        assert!(!process.terminate(Duration::from_secs(60)).await.unwrap().success());
    }

    #[test]
    fn a_suspended_program_stands_until_it_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let beats = directory.path().join("log");
        let process = Process::spawn(&mut shell("while :; do echo beat; done"), &beats).unwrap();
        let size = || std::fs::metadata(&beats).unwrap().len();
        let goes_on = |from: u64| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while size() <= from {
                assert!(Instant::now() < deadline, "it does not go on");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        goes_on(0);
        process.suspend().unwrap();
        let stopped_at = size();
        std::thread::sleep(POLL_INTERVAL);
        assert_eq!(size(), stopped_at);
        process.resume().unwrap();
        goes_on(stopped_at);
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }
}
