//! Told to stop, the test leaves nothing running: no machine, no broker, no chain.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// What a program says that was ended by a signal.
const STOPPED: i32 = 130;
/// How often new children of dying ones are looked for.
const ROUNDS: u32 = 5;

/// From here on Ctrl-C and the signals that ask a program to end take everything that was started down with it.
pub(crate) fn take_all_along() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(_inside);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        eprintln!("image-test: stopped; what was begun is switched off");
        for _ in 0..ROUNDS {
            for child in descendants(std::process::id()).unwrap_or_default() {
                let _gone = kill(Pid::from_raw(child), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::process::exit(STOPPED);
    });
    Ok(())
}

/// All processes below one, the farthest first.
fn descendants(of: u32) -> Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        // After the name, which may hold anything: the state, then the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        parents.push((id, parent.context("a process without a parent")?));
    }
    let mut found = vec![i32::try_from(of)?];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        at += 1;
    }
    Ok(found.into_iter().skip(1).rev().collect())
}

#[cfg(test)]
mod tests {

    use std::process::Command;

    use super::*;

    #[test]
    fn children_of_children_are_found() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let found = loop {
            let found = descendants(std::process::id()).unwrap();
            if found.len() > 1 && found.contains(&id) {
                break found;
            }
        };
        assert!(found.iter().position(|one| *one == id) > Some(0), "{found:?} has {id} before its child");
        for one in found {
            kill(Pid::from_raw(one), Signal::SIGKILL).unwrap();
        }
        child.wait().unwrap();
    }
}
