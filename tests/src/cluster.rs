//! A whole box on one machine: node, signer, fleet agent, with throw-away keys.
//!
//! Each program is the real one, started with a configuration file of its own, its output in a log file.
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bins::bin;

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// Set once, by a program that hears Ctrl-C itself.
static APART: AtomicBool = AtomicBool::new(false);

/// Keeps the terminal's Ctrl-C from all programs started after this, so that the caller can stop them in order. It must
/// then hear the signal itself, or they outlive it.
pub fn keep_from_terminal() {
    APART.store(true, Ordering::Relaxed);
}

/// The process group a new program goes to, when it is kept from the terminal.
pub(crate) fn group_apart() -> Option<i32> {
    APART.load(Ordering::Relaxed).then_some(0)
}

/// A running program of ours; killed when dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts one of our binaries with its output in `logs/NAME.log` (appended).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, args: &[&str], logs: &Path) -> Result<Self> {
        Self::start_with(name, args, logs, &[])
    }

    /// The same with further environment variables.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(name: &str, args: &[&str], logs: &Path, env: &[(&str, &str)]) -> Result<Self> {
        Self::start_other(&bin(name), name, args, logs, env)
    }

    /// Starts a program that is not ours, under a name for its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_other(program: &Path, name: &str, args: &[&str], logs: &Path, env: &[(&str, &str)]) -> Result<Self> {
        std::fs::create_dir_all(logs)?;
        let log = logs.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        if let Some(group) = group_apart() {
            command.process_group(group);
        }
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Has it ended? Then how.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end and waits; kills it when it takes longer than twenty seconds, which is an error.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill()?;
        bail!("{} did not stop within {PATIENCE:?}; see {}", self.name, self.log.display())
    }

    /// Kills it at once, as a power cut would.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until `ready` answers, or says why not: the program ended, or time ran out.
    ///
    /// # Errors
    /// With the tail of its log.
    pub async fn wait_until<T>(&mut self, patience: Duration, mut ready: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = ready().await {
                return Ok(answer);
            }
            if let Some(status) = self.ended()? {
                bail!("{} ended early ({status}):\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {patience:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The last lines it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// A loopback port nobody listens on at the moment.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
