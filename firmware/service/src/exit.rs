//! How a daemon ends: sysexits numbers, so that systemd knows what is worth a restart.
use std::fmt;
use std::process::{ExitCode, Termination};

use crate::causes::with_causes;

/// Why a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// Asked to.
    Stopped,
    /// Called wrongly (64).
    Usage,
    /// Something it needs is not there (69).
    Unavailable,
    /// Our own fault (70).
    Software,
    /// Not allowed (77).
    Permission,
    /// The configuration is wrong (78); a restart cannot help and the unit does none.
    Config,
}

impl ExitReason {
    fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }
}

/// The end of a daemon, with the error that caused it.
pub struct Exit {
    reason: ExitReason,
    error: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Exit {
    /// The clean end.
    #[must_use]
    pub fn stopped() -> Self {
        Self { reason: ExitReason::Stopped, error: None }
    }

    /// An end with a cause.
    pub fn because(reason: ExitReason, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { reason, error: Some(error.into()) }
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            None => write!(f, "{:?}", self.reason),
            Some(error) => write!(f, "{:?}: {}", self.reason, with_causes(error.as_ref())),
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        if let Some(error) = &self.error {
            tracing::error!(reason = ?self.reason, "{}", with_causes(error.as_ref()));
        }
        ExitCode::from(self.reason.code())
    }
}
