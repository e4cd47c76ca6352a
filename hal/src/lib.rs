//! What the board has and how it feels.
//!
//! Walk 3, step 1, and the start of every daemon. Layer 0: knows nobody. Each power comes as a trait with a
//! real body that reads the system below a root directory (so that a fixture can stand in for a board) and
//! a simulated one. It reports silicon; what truly encodes is proved by `worker::probe`.

pub mod clock;
pub mod encoders;
pub mod identity;
pub mod sensors;
pub mod units;
pub mod watchdog;

mod read;

pub use clock::{Clock, LinuxClock, SimClock};
pub use encoders::{Candidate, Encoders, Engine, Hardware, LinuxEncoders, SimEncoders, Verdict};
pub use identity::Identity;
pub use sensors::{LinuxSensors, Readings, Sensors, SimSensors};
pub use units::{Bytes, Celsius, Percent, Watts};
pub use watchdog::{LinuxWatchdog, SimWatchdog, Watchdog, WatchdogState};
