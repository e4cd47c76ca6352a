//! What a box shows of itself, as one text: to send along with a question, and to test with afterwards.
//!
//! [`take`] notes every file that detection and sensors look at; [`unpack`] lays them out below a directory that
//! can then stand in for `/`. One line says one thing:
//!
//! ```text
//! # a remark
//! /etc/file: text of one line
//! /etc/longer:
//! <tab>text of
//! <tab>several lines
//! /sys/a/driver -> ../../drivers/i915
//! /dev/node
//! ```
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::read::{Entry, Root, Seen};
use crate::sensors::{LinuxSensors, Sensors as _};
use crate::watchdog::{LinuxWatchdog, Watchdog as _};
use crate::{encoders, gpus, power};

/// No snapshot is longer; servers with hundreds of processors come near half of it.
const MAX_TEXT: usize = 8 * 1024 * 1024;
/// No snapshot has more lines that say something.
const MAX_ENTRIES: usize = 50_000;

/// Why a snapshot could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is longer than any box would write.
    #[error("the snapshot is too long")]
    TooLong,
    /// A line is not of the form it should be.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Notes what the system below `root` (`/` on a real one) shows. Serial numbers, machine ids and network interfaces
/// are left out.
#[must_use]
pub fn take(root: &Path) -> String {
    let root = Root::noting(root);
    // All of it is read only to be noted.
    let _ = encoders::detect_in(&root);
    let _ = LinuxSensors::within(root.clone(), Vec::new()).read();
    let _ = LinuxWatchdog::within(root.clone()).state();
    let _ = power::PowerModes::read_in(&root);
    let _ = gpus::Gpus::read(&gpus::LinuxGpus::files_only(root.clone()));
    let mut seen = root.seen();
    redact(&mut seen);
    render(&seen)
}

fn redact(seen: &mut Seen) {
    seen.remove(Path::new("proc/net/dev"));
    for (path, entry) in seen {
        let Entry::File(text) = entry else { continue };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name == "machine-id" || name.ends_with("serial") || name == "serial-number" {
            *text = "redacted".to_owned();
        }
        if path == Path::new("proc/stat") {
            let kept: Vec<&str> = text.lines().filter(|line| line.starts_with("cpu")).collect();
            *text = kept.join("\n");
        }
        if path.starts_with("proc/driver/nvidia/gpus") {
            let kept: Vec<&str> = text.lines().filter(|line| !line.contains("UUID")).collect();
            *text = kept.join("\n");
        }
    }
}

fn render(seen: &Seen) -> String {
    let mut text = String::new();
    for (path, entry) in seen {
        let path = path.display().to_string();
        let odd = |path: &str| path.contains(": ") || path.contains(" -> ") || path.ends_with(':');
        if path.is_empty() || odd(&path) || path.chars().any(char::is_control) || path.contains('\u{fffd}') {
            continue;
        }
        match entry {
            Entry::File(content) if content.contains('\n') => {
                text.push_str(&format!("/{path}:\n"));
                for line in content.split('\n') {
                    text.push_str(&format!("\t{}\n", escape(line)));
                }
            }
            Entry::File(content) => text.push_str(&format!("/{path}: {}\n", escape(content))),
            Entry::Link(to) => text.push_str(&format!("/{path} -> {}\n", escape(&to.display().to_string()))),
            Entry::Present => text.push_str(&format!("/{path}\n")),
        }
    }
    text
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => escaped.push_str("\\0"),
            '\t' => escaped.push_str("\\t"),
            '\r' => escaped.push_str("\\r"),
            '\\' => escaped.push_str("\\\\"),
            // Lines end at this one alone, and it never gets here.
            c => escaped.push(c),
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                '0' => '\0',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(plain)
}

fn parse(text: &str) -> Result<Seen, SnapshotError> {
    if text.len() > MAX_TEXT {
        return Err(SnapshotError::TooLong);
    }
    let mut seen = Seen::new();
    let mut lines = text.split('\n').zip(1..).peekable();
    while let Some((line, number)) = lines.next() {
        let wrong = |what| SnapshotError::Line { line: number, what };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let plain = |text: &str| unescape(text).ok_or_else(|| wrong("an unknown escape"));
        let (path, entry) =
            if let Some(path) = line.strip_suffix(':').filter(|path| !path.contains(": ") && !path.contains(" -> ")) {
                let mut content = Vec::new();
                while let Some(line) = lines.peek().and_then(|(line, _)| line.strip_prefix('\t')) {
                    content.push(plain(line)?);
                    lines.next();
                }
                (path, Entry::File(content.join("\n")))
            } else if let Some((path, to)) = line.split_once(" -> ").filter(|(path, _)| !path.contains(": ")) {
                (path, Entry::Link(plain(to)?.into()))
            } else if let Some((path, content)) = line.split_once(": ") {
                (path, Entry::File(plain(content)?))
            } else {
                (line, Entry::Present)
            };
        let path = Path::new(path.strip_prefix('/').ok_or_else(|| wrong("no absolute path"))?);
        let plain_parts = path.components().all(|part| matches!(part, Component::Normal(_)));
        if path.as_os_str().is_empty() || !plain_parts {
            return Err(wrong("no plain path"));
        }
        if seen.len() >= MAX_ENTRIES {
            return Err(SnapshotError::TooLong);
        }
        if seen.insert(path.to_owned(), entry).is_some() {
            return Err(wrong("a path that was there before"));
        }
    }
    Ok(seen)
}

/// Lays a snapshot out below `dir`, which must be empty.
///
/// # Errors
///
/// [`SnapshotError::Line`] for a text that is no snapshot, [`SnapshotError::Write`] when a file cannot be made, among
/// them one that would lie behind a link of the snapshot.
pub fn unpack(text: &str, dir: &Path) -> Result<(), SnapshotError> {
    let seen = parse(text)?;
    let parents: BTreeSet<&Path> = seen.keys().flat_map(|path| path.ancestors().skip(1)).collect();
    for (path, entry) in &seen {
        // What other things lie in is a directory, and there already or soon.
        if *entry == Entry::Present && parents.contains(path.as_path()) {
            continue;
        }
        let target = dir.join(path);
        let wrong = |source| SnapshotError::Write { path: path.clone(), source };
        if parents.contains(path.as_path()) {
            return Err(wrong(std::io::Error::other("it is a file and a directory")));
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(wrong)?;
        }
        match entry {
            Entry::File(content) => fs::write(&target, format!("{content}\n")),
            Entry::Link(to) => std::os::unix::fs::symlink(to, &target),
            Entry::Present => fs::write(&target, ""),
        }
        .map_err(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
