//! The measured speed of the box, kept across restarts: it holds for the same hardware, engine and threads.
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_hal::encoders::detect;
use orchestrator::admission::load::Speed;
use orchestrator::pool::{Parallel, Pool, Transcoder};
use sandbox::preset::Preset;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::sensing::blocking;

/// How often it is written down.
const EVERY: Duration = Duration::from_secs(60);

/// What is written down.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// What it was measured on.
    on: String,
    speed: Speed,
}

/// Keeps the pool's speed in a file.
#[derive(Debug)]
pub(crate) struct SpeedMemory {
    file: PathBuf,
    root: PathBuf,
    parallel: Parallel,
    preset: Preset,
    pool: Pool,
}

impl SpeedMemory {
    /// In a file of the state directory, for the hardware below `root`.
    pub(crate) fn new(state_dir: &Path, root: &Path, parallel: Parallel, preset: Preset, pool: Pool) -> Self {
        Self { file: state_dir.join("speed.json"), root: root.to_owned(), parallel, preset, pool }
    }

    /// Recalls the speed once a worker is ready, then keeps it until `stop`, and once more at the end.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let Some(on) = self.recall(&stop).await else { return stop.cancelled().await };
        let mut written = None;
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(EVERY) => false,
                () = stop.cancelled() => true,
            };
            let speed = self.pool.load().map(|load| load.speed()).filter(|speed| speed.rate().is_some());
            if let Some(speed) = speed.filter(|speed| written != Some(*speed)) {
                let (file, kept) = (self.file.clone(), Kept { on: on.clone(), speed });
                match blocking(move || write(&file, &kept)).await {
                    Ok(()) => written = Some(speed),
                    Err(error) => tracing::warn!(%error, "measured speed not kept: it is learned anew after a restart"),
                }
            }
            if last {
                return;
            }
        }
    }

    /// What the speed holds for; `None` when the pool ends before anybody knows.
    async fn recall(&self, stop: &CancellationToken) -> Option<String> {
        let ready = tokio::select! {
            ready = self.pool.proved() => ready.ok()?,
            () = stop.cancelled() => return None,
        };
        let (root, file) = (self.root.clone(), self.file.clone());
        let found = blocking(move || Ok((detect(&root).fingerprint().hash, read(&file)))).await;
        let (hash, kept) = found.ok()?;
        let Parallel { slots, threads } = self.parallel;
        let on = format!("{hash} {} {threads} {slots} {}", ready.engine, self.preset);
        match kept {
            Ok(Some(kept)) if kept.on == on => {
                if let Some(load) = self.pool.load() {
                    load.remember(kept.speed);
                    tracing::info!(mpx_per_s = kept.speed.rate().map(|rate| rate / 1e6), "measured speed recalled");
                }
            }
            Ok(Some(_)) => tracing::info!("the hardware is another than before: its speed is learned anew"),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "measured speed cannot be read: it is learned anew"),
        }
        Some(on)
    }
}

fn read(file: &Path) -> io::Result<Option<Kept>> {
    match std::fs::read(file) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all; losing it costs nothing but some minutes of learning.
fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    let draft = file.with_extension("new");
    std::fs::write(&draft, serde_json::to_vec(kept)?)?;
    std::fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_read_as_it_was_written_and_a_torn_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("speed.json");
        assert!(read(&file).unwrap().is_none());
        let kept = Kept { on: "this box".to_owned(), speed: Speed::default() };
        write(&file, &kept).unwrap();
        assert_eq!(read(&file).unwrap(), Some(kept));
        std::fs::write(&file, "{").unwrap();
        assert!(read(&file).is_err());
    }
}
