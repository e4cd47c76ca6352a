//! The steps of the test, in order, and what they hand to each other.

pub(crate) mod arm64;
pub(crate) mod life;
pub(crate) mod measure;
pub(crate) mod power;
pub(crate) mod serve;
pub(crate) mod tamper;
pub(crate) mod update;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::machine::{Machine, Parts, Places};
use crate::site::Fleet;

/// For a boot in emulation, on a machine with other work to do.
pub(crate) const BOOT: Duration = Duration::from_secs(900);
/// For a unit to become ready.
pub(crate) const READY: Duration = Duration::from_secs(420);
/// For a short command in the machine.
pub(crate) const COMMAND: Duration = Duration::from_secs(120);

/// What the steps share.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where everything is.
    pub(crate) places: Places,
    /// The test's own directory.
    pub(crate) work: PathBuf,
    /// The shipped image.
    pub(crate) image: PathBuf,
    /// Its version.
    pub(crate) version: String,
    /// Broker and controller.
    pub(crate) fleet: Fleet,
    /// The box, switched off.
    pub(crate) parts: Option<Parts>,
    /// The box, while it is on.
    pub(crate) machine: Option<Machine>,
}

impl Lab {
    /// Start the site.
    pub(crate) fn new(places: Places, work: PathBuf, image: PathBuf, version: String) -> Result<Self> {
        let fleet = Fleet::start(&work.join("site"))?;
        Ok(Self { places, work, image, version, fleet, parts: None, machine: None })
    }
}
