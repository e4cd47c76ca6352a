//! What the board has and how it feels.
//!
//! Walk 3, step 1, and the start of every daemon. Layer 0: knows nobody. Each power comes as a trait with a
//! real body that reads the system below a root directory (so that a fixture can stand in for a board) and
//! a simulated one. It reports silicon; what truly encodes is proved by `worker::probe`.

pub mod board;
pub mod clock;
pub mod encoders;
pub mod fingerprint;
pub mod gpus;
pub mod identity;
pub mod power;
pub mod sensors;
pub mod snapshot;
pub mod thermal;
pub mod units;
pub mod watchdog;

#[cfg(test)]
mod machines;
mod read;

pub use board::Board;
pub use clock::{Clock, LinuxClock, SimClock};
pub use encoders::{Candidate, Choice, Encoders, Engine, Hardware, LinuxEncoders, SimEncoders, Verdict};
pub use fingerprint::Fingerprint;
pub use gpus::{GpuReadings, Gpus, LinuxGpus, SimGpus};
pub use identity::Identity;
pub use power::PowerModes;
pub use sensors::{LinuxSensors, Readings, Sensors, SimSensors};
pub use thermal::{Derate, Thermal};
pub use units::{Amperes, Bytes, Celsius, Megahertz, Percent, Volts, Watts};
pub use watchdog::{LinuxWatchdog, SimWatchdog, Watchdog, WatchdogState};
