//! A worker's own log, as lines of ours, bounded: a worker under attack may say anything, at any length.
use std::io::Read;
use std::process::ChildStderr;
use std::thread;

/// Bytes of one worker's log that are passed on in its life.
const MAX_BYTES: usize = 64 * 1024;
/// Longest line.
const MAX_LINE: usize = 512;

/// Passes the log on until the worker closes it.
pub(super) fn follow(mut stderr: ChildStderr, worker: u32) {
    let body = move || {
        let mut lines = Lines::default();
        let mut buffer = [0; 4096];
        // A worker's log ends with the worker.
        while let Ok(count @ 1..) = stderr.read(&mut buffer) {
            lines.push(buffer.get(..count).unwrap_or_default(), |line| tracing::info!(worker, line, "worker said"));
        }
        lines.finish(|line| tracing::info!(worker, line, "worker said"));
        if lines.dropped > 0 {
            tracing::warn!(worker, bytes = lines.dropped, "worker's log was cut");
        }
    };
    if let Err(error) = thread::Builder::new().name("worker-log".to_owned()).spawn(body) {
        tracing::warn!(worker, %error, "worker's log is not read");
    }
}

/// Cuts bytes into printable lines, within bounds.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    passed: usize,
    dropped: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        for byte in bytes {
            if self.passed >= MAX_BYTES {
                self.dropped += 1;
                continue;
            }
            self.passed += 1;
            if *byte != b'\n' {
                self.pending.push(*byte);
            }
            if *byte == b'\n' || self.pending.len() >= MAX_LINE {
                self.finish(&mut emit);
            }
        }
    }

    fn finish(&mut self, mut emit: impl FnMut(&str)) {
        let line = printable(&std::mem::take(&mut self.pending));
        if !line.trim().is_empty() {
            emit(&line);
        }
    }
}

/// The bytes as text without control characters, which could rewrite a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Vec<String>, usize) {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        lines.push(text, |line| out.push(line.to_owned()));
        lines.finish(|line| out.push(line.to_owned()));
        (out, lines.dropped)
    }

    #[test]
    fn lines_come_out_as_lines() {
        assert_eq!(read(b"one\ntwo\n\nlast").0, ["one", "two", "last"]);
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(read(b"\x1b[2Jgone\n").0, [" [2Jgone"]);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (lines, dropped) = read(&vec![b'x'; MAX_BYTES + 10]);
        assert_eq!(dropped, 10);
        assert!(lines.iter().all(|line| line.len() <= MAX_LINE));
    }
}
