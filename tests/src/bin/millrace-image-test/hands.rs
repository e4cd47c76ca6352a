//! The test's hands in the machine: a line to the shell that only images of the profile `test` have.
//!
//! One line out is one script, one line back its status and output. Every boot says hello first, so a hello with a
//! new boot id is how a restart is seen.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How long one look at the line lasts.
const LOOK: Duration = Duration::from_millis(200);

/// What a boot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Different on every boot.
    pub(crate) boot: String,
    /// The version of the image that runs.
    pub(crate) version: String,
}

/// What became of a script.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Its exit status.
    pub(crate) status: i32,
    /// What it wrote, both streams, without the last line break.
    pub(crate) text: String,
}

/// The line to the machine.
#[derive(Debug)]
pub(crate) struct Hands {
    stream: UnixStream,
    pending: Vec<u8>,
    number: u64,
    /// The newest hello.
    hello: Option<Hello>,
}

impl Hands {
    /// Connect to the machine's end of the line, which appears shortly after it was switched on.
    pub(crate) fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LOOK))?;
                    return Ok(Self { stream, pending: Vec::new(), number: 0, hello: None });
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("no line to the machine at {}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The newest boot that said hello.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Take in what the machine says until a boot other than `before` says hello, or the time is over.
    pub(crate) fn next_boot(&mut self, before: Option<&Hello>, limit: Duration) -> Result<Option<Hello>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(hello) = self.hello.clone().filter(|hello| Some(hello) != before) {
                return Ok(Some(hello));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            self.line()?;
        }
    }

    /// Run a script as root in the machine.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<Output> {
        self.number += 1;
        let number = self.number.to_string();
        let boot = self.hello.clone();
        writeln!(self.stream, "{number} {}", STANDARD.encode(script)).context("the machine's line is closed")?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let Some(line) = self.line()? else { continue };
            let mut words = line.split(' ');
            if words.next() != Some(&number) {
                if self.hello != boot {
                    bail!("the machine started again while it ran: {script}");
                }
                continue;
            }
            let status = words.next().and_then(|word| word.parse().ok()).context("an answer without a status")?;
            let text = STANDARD.decode(words.next().unwrap_or_default()).context("an answer that is not base64")?;
            return Ok(Output { status, text: String::from_utf8_lossy(&text).into_owned() });
        }
        bail!("no answer within {limit:?} to: {script}")
    }

    /// The next whole line, if one comes soon; a hello is remembered on its way through.
    fn line(&mut self) -> Result<Option<String>> {
        if !self.pending.contains(&b'\n') {
            let mut buffer = [0_u8; 16384];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the machine is off"),
                Ok(read) => self.pending.extend(buffer.iter().take(read)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).context("the machine's line"),
            }
        }
        let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if let Some((boot, version)) = line.strip_prefix("hello ").and_then(|rest| rest.split_once(' ')) {
            self.hello = Some(Hello { boot: boot.to_owned(), version: version.to_owned() });
        }
        Ok(Some(line))
    }
}
