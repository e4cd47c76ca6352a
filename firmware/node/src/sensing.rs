//! How the hardware is looked at: by a child of the node, which answers each line with one of JSON.
//!
//! Walk 3, step 1. A sensor's driver may hang or crash whoever asks it, and NVIDIA's library is a large one to load
//! into a process that faces gateways; the child has no key, no socket and no peer, and is ended when it is late.
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use millrace_hal::{GpuReadings, Gpus, LinuxGpus, LinuxSensors, Readings, Sensors};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long one look may take; NVIDIA's library is opened by the first.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;

/// One look at the hardware.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Look {
    /// The board.
    pub(crate) readings: Readings,
    /// The graphics processors.
    pub(crate) gpus: Vec<GpuReadings>,
}

/// The child: answers until its input ends.
pub(crate) fn answer(root: &Path) -> io::Result<()> {
    let (sensors, gpus) = (LinuxSensors::new(root, Vec::new()), LinuxGpus::new(root));
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        line?;
        let look = Look { readings: sensors.read(), gpus: gpus.read() };
        serde_json::to_writer(&mut out, &look)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

/// The node's end of the child, which is started when it is first needed and again after it was lost.
#[derive(Debug)]
pub(crate) struct Eyes {
    root: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Killed when dropped.
    _child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Eyes {
    /// Eyes for the hardware below `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: None }
    }

    /// Looks once. Not cancel safe: whoever gives up must look with new eyes.
    ///
    /// # Errors
    /// When the child cannot be started, is gone, or did not answer in time; it is started anew next time.
    pub(crate) async fn look(&mut self) -> io::Result<Look> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => open_child(&self.root)?,
        };
        let look = tokio::time::timeout(PATIENCE, ask(&mut open))
            .await
            .map_err(|_| io::Error::other(format!("no answer within {PATIENCE:?}: a driver hangs")))??;
        self.open = Some(open);
        Ok(look)
    }
}

fn open_child(root: &Path) -> io::Result<Open> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--sense")
        .arg(root)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (ask, answers) = pipes.ok_or_else(|| io::Error::other("a child without pipes"))?;
    Ok(Open { _child: child, ask, answers: BufReader::new(answers) })
}

async fn ask(open: &mut Open) -> io::Result<Look> {
    open.ask.write_all(b"\n").await?;
    let mut line = Vec::new();
    (&mut open.answers).take(MAX_ANSWER).read_until(b'\n', &mut line).await?;
    if !line.ends_with(b"\n") {
        return Err(io::Error::other("it ended, or said too much"));
    }
    serde_json::from_slice(&line).map_err(io::Error::other)
}

/// Runs what waits for files off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_comes_through_the_line_as_it_was() {
        let look = Look {
            readings: LinuxSensors::new("/", Vec::new()).read(),
            gpus: vec![GpuReadings { address: "0000:01:00.0".to_owned(), ..GpuReadings::default() }],
        };
        let line = serde_json::to_vec(&look).unwrap();
        assert!(!line.contains(&b'\n') && line.len() < 1 << 20);
        assert_eq!(serde_json::from_slice::<Look>(&line).unwrap(), look);
    }
}
