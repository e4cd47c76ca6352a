//! How a command ends: what went wrong, and what to do about it.
use std::fmt;
use std::process::ExitCode;

/// What a command that ran to its end has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it.
    Done,
    /// Some of it; the output says what not.
    Partly,
}

/// How every command ends.
pub(crate) type Result<T = Outcome> = std::result::Result<T, Failure>;

/// Exit codes: 1 and the sysexits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Partly = 1,
    Usage = 64,
    Data = 65,
    NoInput = 66,
    Unavailable = 69,
    Software = 70,
    CannotCreate = 73,
    Permission = 77,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    text: String,
    advice: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), advice: None }
    }

    /// An error with all its causes.
    pub(crate) fn from_error(code: Code, error: &dyn std::error::Error) -> Self {
        Self::new(code, service::with_causes(error))
    }

    /// Adds what to do about it.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "millrace: {}", self.text)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n  {}", advice.replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

/// The code for a file that could not be read.
pub(crate) fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    let code = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Code::Permission,
        _ => Code::NoInput,
    };
    Failure::new(code, format!("cannot read {}: {error}", path.display()))
}

/// The code for a file that could not be written.
pub(crate) fn unwritable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::CannotCreate, format!("cannot write {}: {error}", path.display()))
}
