//! The two programs of systemd that are called, each with a bound on its time and with what it said kept for the journal.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Lines of a program's own words that are kept.
const WORDS: usize = 400;

/// Why a program did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("{0} cannot be run")]
    Start(PathBuf, #[source] std::io::Error),
    #[error("{0} did not end within {1:?}")]
    Late(PathBuf, Duration),
    #[error("{program} ended with {status}: {words}")]
    Failed { program: PathBuf, status: std::process::ExitStatus, words: String },
}

/// Runs a program to its end.
pub(crate) async fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S], limit: Duration) -> Result<(), CommandError> {
    said(program, arguments, limit).await.map(|_| ())
}

/// Runs a program to its end and returns what it said on standard output. Its other words are kept only when it fails.
pub(crate) async fn said<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    limit: Duration,
) -> Result<Vec<u8>, CommandError> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(limit, command.output()).await;
    let output = ended
        .map_err(|_| CommandError::Late(program.to_owned(), limit))?
        .map_err(|source| CommandError::Start(program.to_owned(), source))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let words: String = said.trim().chars().rev().take(WORDS).collect::<Vec<_>>().into_iter().rev().collect();
    Err(CommandError::Failed { program: program.to_owned(), status: output.status, words })
}

/// systemd's own tools, where they are.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) systemctl: PathBuf,
    pub(crate) sysupdate: PathBuf,
}

impl Tools {
    pub(crate) async fn systemctl(&self, arguments: &[&str]) -> Result<(), CommandError> {
        run(&self.systemctl, arguments, Duration::from_secs(90)).await
    }
}
