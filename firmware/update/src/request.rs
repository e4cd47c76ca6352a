//! What the fleet agent asks for: small files that a path unit waits for. The agent may say which manifest and when; that it
//! is signed, and what is in it, is judged here.

use std::io;
use std::path::Path;

use fleet_protocol::strict::{self, StrictError};
use fleet_protocol::version::Version;
use millrace_hal::{Clock as _, LinuxClock};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::files::{self, FileError, io_at};

/// Largest request.
const REQUEST_MAX: usize = 4096;

/// Why a request is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("request")]
    Strict(#[from] StrictError),
    #[error("request")]
    Shape(#[from] serde_json::Error),
}

/// Stage this.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) id: String,
    pub(crate) manifest: String,
    #[serde(default)]
    pub(crate) rate_mbit: Option<u32>,
}

/// Install what is staged.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Install {
    pub(crate) id: String,
    pub(crate) version: Version,
    #[serde(default)]
    pub(crate) deadline_s: Option<u64>,
    #[serde(default)]
    pub(crate) go_at_deadline: bool,
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, RequestError> {
    let limit = u64::try_from(REQUEST_MAX).unwrap_or(u64::MAX);
    let bytes = files::get(path, limit)?.ok_or_else(|| io_at(path)(io::ErrorKind::NotFound.into()))?;
    Ok(serde_json::from_value(strict::parse(&bytes, REQUEST_MAX)?)?)
}

/// The id of what a person asks for by hand.
pub(crate) fn own_id() -> String {
    format!("by-hand-{}", LinuxClock.unix_millis())
}
