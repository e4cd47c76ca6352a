//! How much of its capacity a box may offer, by heat, throttling and power.
//!
//! Pure: readings and the time go in, a share of the capacity comes out. Each thing that goes wrong has a ladder
//! of its own; the lowest of them counts.
//!
//! ```text
//!            bad for 60 s            bad for 60 s
//!   100 % ─────────────────▶ 75 % ─────────────────▶ 50 % ──▶ 25 %        past the last limit: 0 % at once
//!         ◀───────────────── 75 % ◀───────────────── …
//!           good for 300 s          good for 300 s
//! ```
//!
//! Good is 8 °C below where bad begins; in between nothing moves. *Source:* fleet runbook, rows on heat and power.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gpus::{GpuReadings, ThrottleReason};
use crate::sensors::Readings;
use crate::units::{Celsius, Percent};

mod findings;
mod ladder;

use findings::{Memory, gather};
use ladder::Ladder;

/// Temperatures at which admission falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeatLimits {
    /// From here on it falls step by step, to half.
    pub warm: Celsius,
    /// From here on it falls faster, to a quarter.
    pub hot: Celsius,
    /// From here on nothing is admitted.
    pub stop: Celsius,
}

/// All limits. A sensor whose own critical temperature is near has lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Of the main processor and the board.
    pub processor: HeatLimits,
    /// Of graphics processors.
    pub gpu: HeatLimits,
    /// Of the hottest spots and the memory of graphics processors.
    pub gpu_inside: HeatLimits,
    /// How long something is bad before admission falls by a step.
    pub raise: Duration,
    /// How long all is good before it rises by a step.
    pub clear: Duration,
    /// How far below `warm` good begins, in degrees.
    pub hysteresis: f32,
}

impl Default for Limits {
    fn default() -> Self {
        let heat = |warm, hot, stop| HeatLimits { warm: Celsius(warm), hot: Celsius(hot), stop: Celsius(stop) };
        Self {
            processor: heat(85.0, 95.0, 103.0),
            gpu: heat(83.0, 90.0, 96.0),
            gpu_inside: heat(98.0, 104.0, 108.0),
            raise: Duration::from_secs(60),
            clear: Duration::from_secs(300),
            hysteresis: 8.0,
        }
    }
}

/// What holds admission down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The main processor or the board is too hot.
    ProcessorHeat,
    /// A graphics processor is too hot.
    GpuHeat,
    /// Another device is near its own limit.
    DeviceHeat,
    /// Something slowed itself down for heat for a good part of the last quarter of an hour.
    Throttled,
    /// The input voltage sags.
    UnderVoltage,
    /// The supply gives less than is wanted.
    PowerShort,
    /// Less power or speed is allowed than when this began.
    Capped,
    /// A fan does not turn as it should.
    FanFailed,
}

impl Cause {
    /// The event of the fleet's runbook that tells of it, if one does.
    #[must_use]
    pub fn event(self) -> Option<&'static str> {
        match self {
            Self::ProcessorHeat => Some("CPU-TEMP-HIGH"),
            Self::GpuHeat => Some("GPU-TEMP-HIGH"),
            Self::DeviceHeat => None,
            Self::Throttled => Some("THROTTLED"),
            Self::UnderVoltage => Some("PWR-UNDERVOLT"),
            Self::PowerShort | Self::Capped => Some("PWR-CAP"),
            Self::FanFailed => Some("FAN-FAIL"),
        }
    }
}

/// How much of its capacity the box may offer, and why not all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Derate {
    /// Share of the capacity: 100 is all of it, 0 admits nothing new.
    pub percent: Percent,
    /// What holds it down, the worst first; empty when nothing does.
    pub reasons: Vec<Reason>,
}

/// One thing that holds admission down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of thing.
    pub cause: Cause,
    /// Which sensor or device.
    pub source: String,
    /// Share of the capacity it leaves.
    pub percent: Percent,
    /// In words.
    pub text: String,
}

/// The policy: what was seen so far, and where each ladder stands.
#[derive(Debug, Clone, Default)]
pub struct Thermal {
    limits: Limits,
    ladders: BTreeMap<(Cause, String), Standing>,
    memory: Memory,
    last: Option<Duration>,
}

/// A ladder with what was last said of it.
#[derive(Debug, Clone)]
struct Standing {
    ladder: Ladder,
    seen: Duration,
    text: String,
}

/// A sensor that says nothing any more is waited for so long before it is forgotten.
const FORGET: Duration = Duration::from_secs(900);

impl Thermal {
    /// A policy with limits of its own; [`Default`] has the usual ones.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes readings and says how much may be offered from now on. To be called every few seconds; `now` is time
    /// since any start, from a clock that does not jump.
    pub fn step(&mut self, readings: &Readings, gpus: &[GpuReadings], now: Duration) -> Derate {
        let back = self.last.is_some_and(|last| now < last);
        let passed = self.last.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.last = Some(now);
        if back {
            // A clock that jumped back cannot say how long anything lasted.
            self.ladders.values_mut().for_each(|standing| standing.restart(now));
            self.memory = Memory::default();
        }
        for finding in gather(&self.limits, &mut self.memory, readings, gpus, now, passed) {
            let standing = self.ladders.entry((finding.cause, finding.source)).or_insert_with(|| Standing {
                ladder: Ladder::default(),
                seen: now,
                text: String::new(),
            });
            standing.seen = now;
            standing.ladder.advance(finding.level, &self.limits, now);
            standing.text = finding.text;
        }
        // What said nothing this time neither falls nor rises, and is forgotten in the end.
        self.ladders.retain(|_, standing| now.saturating_sub(standing.seen) < FORGET);
        self.derate(now)
    }

    fn derate(&self, now: Duration) -> Derate {
        let mut reasons: Vec<Reason> = self
            .ladders
            .iter()
            .filter(|(_, standing)| standing.ladder.step() > 0)
            .map(|((cause, source), standing)| Reason {
                cause: *cause,
                source: source.clone(),
                percent: standing.ladder.percent(),
                text: if standing.seen == now {
                    standing.text.clone()
                } else {
                    format!("{}; nothing was heard of it since", standing.text)
                },
            })
            .collect();
        reasons.sort_by(|a, b| a.percent.0.total_cmp(&b.percent.0));
        Derate { percent: reasons.first().map_or(Percent(100.0), |worst| worst.percent), reasons }
    }
}

impl Standing {
    fn restart(&mut self, now: Duration) {
        self.ladder.restart();
        self.seen = now;
    }
}

#[cfg(test)]
mod tests;
