//! How the graphics processors feel.
//!
//! NVIDIA's are asked through NVML, their driver's library, opened at run time; the others through their drivers'
//! files. A machine without either has no readings, which is no error. The feature `nvml` leaves NVML out of programs
//! that have no use for it.
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::read::Root;
use crate::units::{Bytes, Celsius, Megahertz, Percent, Watts};

mod files;
#[cfg(feature = "nvml")]
mod nvml;
#[cfg(not(feature = "nvml"))]
#[path = "gpus/without_nvml.rs"]
mod nvml;

/// Takes the readings of all graphics processors.
pub trait Gpus: Send + Sync + 'static {
    /// All readings now. May talk to a driver: not to be called from an async task's own thread.
    fn read(&self) -> Vec<GpuReadings>;
}

/// One round of readings of one graphics processor; what it does not tell is missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuReadings {
    /// Where on the bus, as in [`crate::encoders::Gpu`]; on a Jetson the name of the device.
    pub address: String,
    /// Its name.
    pub name: Option<String>,
    /// Share of the time in which it computed.
    pub busy: Option<Percent>,
    /// Share of its encoders in use.
    pub encoder: Option<Percent>,
    /// Share of its decoders in use.
    pub decoder: Option<Percent>,
    /// Sessions its encoders have open.
    pub encoder_sessions: Option<u32>,
    /// Its own memory in use.
    pub memory_used: Option<Bytes>,
    /// All of its own memory.
    pub memory_total: Option<Bytes>,
    /// Temperature of the chip.
    pub temperature: Option<Celsius>,
    /// Temperature of the chip's hottest spot.
    pub hotspot: Option<Celsius>,
    /// Temperature of its memory.
    pub memory_temperature: Option<Celsius>,
    /// Temperature at which it slows down by itself.
    pub slowdown_at: Option<Celsius>,
    /// Power drawn.
    pub power: Option<Watts>,
    /// Power it may draw.
    pub power_limit: Option<Watts>,
    /// Power it may draw as delivered.
    pub power_limit_default: Option<Watts>,
    /// What holds it back now.
    pub throttle: Vec<ThrottleReason>,
    /// Memory errors since its driver started that were set right.
    pub ecc_corrected: Option<u64>,
    /// Memory errors since its driver started that were not.
    pub ecc_uncorrected: Option<u64>,
    /// Clock of the chip.
    pub clock: Option<Megahertz>,
    /// Clock of the memory.
    pub memory_clock: Option<Megahertz>,
    /// How hard its fan is driven.
    pub fan: Option<Percent>,
    /// Why it cannot be read at all: it fell off the bus, or its driver lost it.
    pub fault: Option<String>,
}

/// What holds a graphics processor back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleReason {
    /// It draws what it may draw; ordinary under full load.
    PowerCap,
    /// Its driver slows it down for heat.
    Heat,
    /// Its hardware slows it down for heat, to half or less.
    HardwareHeat,
    /// Its supply asks it to draw less, to half or less.
    PowerBrake,
    /// Its hardware slows it down and does not say why.
    Hardware,
}

/// The system's graphics processors, below a root directory.
#[derive(Debug)]
pub struct LinuxGpus {
    root: Root,
    nvml: Mutex<nvml::Library>,
}

impl LinuxGpus {
    /// Reads below `root`; NVIDIA's library, which knows this machine only, is asked when that is `/`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = Root::new(root);
        let library = if root.is_real() { nvml::Library::usual() } else { nvml::Library::none() };
        Self { root, nvml: Mutex::new(library) }
    }

    /// The same with NVIDIA's library at a path of its own, below whatever root.
    #[must_use]
    pub fn with_library(root: impl Into<PathBuf>, library: impl Into<PathBuf>) -> Self {
        Self { root: Root::new(root), nvml: Mutex::new(nvml::Library::at(library.into())) }
    }

    /// Without NVIDIA's library, whatever the root.
    pub(crate) fn files_only(root: Root) -> Self {
        Self { root, nvml: Mutex::new(nvml::Library::none()) }
    }
}

impl Gpus for LinuxGpus {
    fn read(&self) -> Vec<GpuReadings> {
        let mut all = self.nvml.lock().unwrap_or_else(PoisonError::into_inner).read(&self.root);
        for readings in files::read(&self.root) {
            if !all.iter().any(|known| known.address == readings.address) {
                all.push(readings);
            }
        }
        all.sort_by(|a, b| a.address.cmp(&b.address));
        all
    }
}

/// Graphics processors that read what they are told.
#[derive(Debug, Default)]
pub struct SimGpus(Mutex<Vec<GpuReadings>>);

impl SimGpus {
    /// Graphics processors with these readings.
    #[must_use]
    pub fn new(readings: Vec<GpuReadings>) -> Self {
        Self(Mutex::new(readings))
    }

    /// Changes the readings from now on.
    pub fn set(&self, readings: Vec<GpuReadings>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = readings;
    }
}

impl Gpus for SimGpus {
    fn read(&self) -> Vec<GpuReadings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests;
