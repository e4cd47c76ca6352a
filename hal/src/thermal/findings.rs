//! What readings say, as findings for the ladders.
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::ladder::Level;
use super::{Cause, GpuReadings, HeatLimits, Limits, Readings, ThrottleReason};
use crate::sensors::Fan;
use crate::units::Celsius;

/// One thing that readings say.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) cause: Cause,
    pub(super) source: String,
    pub(super) level: Level,
    pub(super) text: String,
}

/// What must be known of readings before, to judge these.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// Counters of events, when they were last seen.
    counters: BTreeMap<&'static str, Counter>,
    /// Time spent throttled, by source.
    throttled: BTreeMap<String, Window>,
    /// The most that was allowed since this began, by source.
    allowed: BTreeMap<String, f64>,
}

/// A counter that only rises.
#[derive(Debug, Clone, Copy)]
struct Counter {
    value: u64,
    rose: Option<Duration>,
}

/// An event counts as going on for so long after it.
const RECENT: Duration = Duration::from_secs(30);
/// No more than this passes between two looks; what was not looked at does not count as throttled.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

impl Memory {
    /// Did the counter rise, now or shortly before?
    fn rises(&mut self, name: &'static str, value: u64, now: Duration) -> bool {
        let counter = self.counters.entry(name).or_insert(Counter { value, rose: None });
        // A counter that fell was reset; what it counted since is unknown.
        if value > counter.value {
            counter.rose = Some(now);
        }
        counter.value = value;
        counter.rose.is_some_and(|rose| now.saturating_sub(rose) <= RECENT)
    }

    /// Share of what was allowed at most since this began.
    fn share(&mut self, source: String, allowed: f64) -> f64 {
        let most = self.allowed.entry(source).or_insert(allowed);
        *most = most.max(allowed);
        if *most > 0.0 { allowed / *most } else { 1.0 }
    }
}

/// Time spent throttled within the last quarter of an hour, in slots.
#[derive(Debug, Clone, Default)]
struct Window(VecDeque<(u64, Duration)>);

impl Window {
    const LENGTH: Duration = Duration::from_secs(900);
    const SLOT: u64 = 15;
    /// So much of it is too much.
    const TOO_MUCH: Duration = Duration::from_secs(300);

    fn note(&mut self, throttled: bool, now: Duration, passed: Duration) -> Level {
        let slot = now.as_secs() / Self::SLOT;
        let first = slot.saturating_sub(Self::LENGTH.as_secs() / Self::SLOT);
        self.0.retain(|(slot, _)| *slot >= first);
        if throttled {
            let passed = passed.min(LONGEST_LOOK);
            match self.0.back_mut().filter(|(last, _)| *last == slot) {
                Some((_, time)) => *time = time.saturating_add(passed),
                None => self.0.push_back((slot, passed)),
            }
        }
        let sum = self.0.iter().fold(Duration::ZERO, |sum, (_, time)| sum.saturating_add(*time));
        match throttled {
            true if sum >= Self::TOO_MUCH => Level::Bad { deepest: 2, stride: 1 },
            true => Level::Between,
            false => Level::Good,
        }
    }
}

/// All that readings say.
pub(super) fn gather(
    limits: &Limits,
    memory: &mut Memory,
    readings: &Readings,
    gpus: &[GpuReadings],
    now: Duration,
    passed: Duration,
) -> Vec<Finding> {
    let mut findings = heat(limits, readings, !gpus.is_empty());
    findings.extend(gpus.iter().filter_map(|gpu| gpu_heat(limits, gpu)));
    findings.extend(throttling(memory, readings, gpus, now, passed));
    findings.extend(power(memory, readings, gpus, now));
    findings.extend(caps(memory, readings, gpus));
    findings.extend(readings.fans.iter().filter_map(|(name, fan)| fan_failure(name, *fan)));
    findings
}

/// What a sensor measures, by its name.
fn kind(sensor: &str) -> Cause {
    let name = sensor.to_ascii_lowercase();
    let gpu = name.starts_with("gpu") || of_gpu_driver(&name);
    let processor = ["cpu", "core", "package", "k10temp", "zenpower", "x86_pkg", "soc", "cluster"];
    if gpu {
        Cause::GpuHeat
    } else if processor.iter().any(|part| name.contains(part)) || name.starts_with("tj") || name.starts_with("cv") {
        Cause::ProcessorHeat
    } else {
        Cause::DeviceHeat
    }
}

fn of_gpu_driver(name: &str) -> bool {
    ["amdgpu/", "radeon/", "nouveau/", "i915/", "xe/"].iter().any(|driver| name.starts_with(driver))
}

/// The worst sensor of each kind.
fn heat(limits: &Limits, readings: &Readings, gpus_tell: bool) -> Vec<Finding> {
    let mut worst: BTreeMap<Cause, (Level, f32, Finding)> = BTreeMap::new();
    for (name, celsius) in readings.temperatures.iter().filter(|(_, celsius)| celsius.0.is_finite()) {
        // A driver that tells of its card elsewhere is not heard twice.
        if gpus_tell && of_gpu_driver(&name.to_ascii_lowercase()) {
            continue;
        }
        let critical = readings.critical.get(name).copied().filter(|critical| critical.0.is_finite());
        let cause = kind(name);
        let own = match (cause, critical) {
            (Cause::ProcessorHeat, critical) => lowered(limits.processor, critical),
            (Cause::GpuHeat, critical) => {
                let inside = name.ends_with("/junction") || name.ends_with("/mem");
                lowered(if inside { limits.gpu_inside } else { limits.gpu }, critical)
            }
            // Of other devices only they themselves know what is too hot.
            (_, None) => continue,
            (_, Some(Celsius(critical))) => HeatLimits {
                warm: Celsius(critical - 10.0),
                hot: Celsius(critical - 5.0),
                stop: Celsius(critical - 1.0),
            },
        };
        let (level, over) = (judge(*celsius, own, limits), celsius.0 - own.warm.0);
        let text = format!("{name} is at {celsius}, its limit {}", own.warm);
        let source = match cause {
            Cause::GpuHeat => "gpu",
            Cause::ProcessorHeat => "processor",
            _ => "device",
        };
        let finding = Finding { cause, source: source.to_owned(), level, text };
        let worse = worst.get(&cause).is_none_or(|(other, by, _)| (level, over) > (*other, *by));
        if worse {
            worst.insert(cause, (level, over, finding));
        }
    }
    worst.into_values().map(|(_, _, finding)| finding).collect()
}

fn gpu_heat(limits: &Limits, gpu: &GpuReadings) -> Option<Finding> {
    // Slowing down is not yet shutting down.
    let critical = gpu.slowdown_at.map(|slowdown| Celsius(slowdown.0 + 3.0));
    let told = [
        (gpu.temperature, lowered(limits.gpu, critical), "chip"),
        (gpu.hotspot, limits.gpu_inside, "hottest spot"),
        (gpu.memory_temperature, limits.gpu_inside, "memory"),
    ];
    let told = told.into_iter().filter_map(|(celsius, own, what)| {
        let celsius = celsius.filter(|celsius| celsius.0.is_finite())?;
        Some((judge(celsius, own, limits), celsius, own, what))
    });
    let (level, celsius, own, what) = told.max_by_key(|(level, ..)| *level)?;
    let text = format!("the {what} of the graphics at {} is at {celsius}, its limit {}", gpu.address, own.warm);
    Some(Finding { cause: Cause::GpuHeat, source: gpu.address.clone(), level, text })
}

/// Limits that keep away from a sensor's own critical temperature.
fn lowered(limits: HeatLimits, critical: Option<Celsius>) -> HeatLimits {
    let Some(Celsius(critical)) = critical else { return limits };
    let below = |limit: Celsius, by: f32| Celsius(limit.0.min(critical - by));
    HeatLimits { warm: below(limits.warm, 15.0), hot: below(limits.hot, 8.0), stop: below(limits.stop, 3.0) }
}

fn judge(celsius: Celsius, own: HeatLimits, limits: &Limits) -> Level {
    match celsius {
        celsius if celsius >= own.stop => Level::Stop,
        celsius if celsius >= own.hot => Level::Bad { deepest: 3, stride: 2 },
        celsius if celsius >= own.warm => Level::Bad { deepest: 2, stride: 1 },
        celsius if celsius.0 > own.warm.0 - limits.hysteresis => Level::Between,
        _ => Level::Good,
    }
}

fn throttling(
    memory: &mut Memory,
    readings: &Readings,
    gpus: &[GpuReadings],
    now: Duration,
    passed: Duration,
) -> Vec<Finding> {
    let events = memory.rises("processor heat", readings.throttle.heat_events(), now);
    let mut told = vec![("processor".to_owned(), events || readings.throttle.for_heat())];
    for gpu in gpus {
        let slowed =
            [ThrottleReason::Heat, ThrottleReason::HardwareHeat].iter().any(|heat| gpu.throttle.contains(heat));
        told.push((gpu.address.clone(), slowed));
    }
    let finding = |(source, throttled): (String, bool)| {
        let level = memory.throttled.entry(source.clone()).or_default().note(throttled, now, passed);
        let text = format!("{source} slowed itself down for heat for 5 of the last 15 minutes");
        Finding { cause: Cause::Throttled, source, level, text }
    };
    told.into_iter().map(finding).collect()
}

fn power(memory: &mut Memory, readings: &Readings, gpus: &[GpuReadings], now: Duration) -> Vec<Finding> {
    let bad = |bad: bool, deepest: u8| if bad { Level::Bad { deepest, stride: 1 } } else { Level::Good };
    let throttle = &readings.throttle;
    let sags = memory.rises("under-voltage", throttle.under_voltage_events.unwrap_or(0), now);
    let short = memory.rises("over-current", throttle.over_current_events.unwrap_or(0), now);
    let mut findings = vec![
        Finding {
            cause: Cause::UnderVoltage,
            source: "board".to_owned(),
            level: bad(sags || throttle.under_voltage == Some(true), 2),
            text: "the board's input voltage is too low: see its supply and cable".to_owned(),
        },
        Finding {
            cause: Cause::PowerShort,
            source: "board".to_owned(),
            level: bad(short, 2),
            text: "the board draws more than its supply should give".to_owned(),
        },
    ];
    // A card at its own power limit is ordinary under full load; one that its supply holds back is not.
    findings.extend(gpus.iter().map(|gpu| {
        let held =
            [ThrottleReason::PowerBrake, ThrottleReason::Hardware].iter().any(|brake| gpu.throttle.contains(brake));
        Finding {
            cause: Cause::PowerShort,
            source: gpu.address.clone(),
            level: bad(held, 2),
            text: format!("the graphics at {} are held back by their supply", gpu.address),
        }
    }));
    findings
}

/// Power and speed that are allowed, against the most since this began: capacity was measured with that.
fn caps(memory: &mut Memory, readings: &Readings, gpus: &[GpuReadings]) -> Vec<Finding> {
    let mut told = Vec::new();
    let clocks = readings.frequencies.values().filter_map(|frequency| frequency.allowed);
    let clocks: f64 = clocks.map(|clock| f64::from(clock.0)).sum();
    if clocks > 0.0 {
        told.push(("processor clocks".to_owned(), clocks));
    }
    let limits = gpus.iter().filter_map(|gpu| Some((gpu.address.clone(), f64::from(gpu.power_limit?.0))));
    told.extend(limits.filter(|(_, limit)| limit.is_finite()));
    let finding = |(source, allowed): (String, f64)| {
        let share = memory.share(source.clone(), allowed);
        let level = match share {
            share if share >= 0.9 => Level::Good,
            share if share >= 0.7 => Level::At(1),
            share if share >= 0.5 => Level::At(2),
            _ => Level::At(3),
        };
        let text = format!("{source}: {:.0} % of what was allowed before", share * 100.0);
        Finding { cause: Cause::Capped, source, level, text }
    };
    told.into_iter().map(finding).collect()
}

/// A fan is told to turn and hardly does.
fn fan_failure(name: &str, fan: Fan) -> Option<Finding> {
    let rpm = f64::from(fan.rpm?);
    let duty = fan.duty.map(|duty| f64::from(duty.0)).filter(|duty| duty.is_finite());
    let expected = match (fan.target, fan.most, duty) {
        (Some(target), _, _) => f64::from(target),
        // A fan that is hardly driven may stand still.
        (None, Some(most), Some(duty)) if duty >= 20.0 => f64::from(most) * duty / 100.0,
        // Without a measure only one that stands still although driven hard has surely failed.
        (None, None, Some(duty)) if duty >= 40.0 => 1.0,
        _ => return None,
    };
    let failed = rpm < expected * 0.2;
    let level = if failed { Level::Bad { deepest: 2, stride: 2 } } else { Level::Good };
    let text = format!("fan {name} turns {rpm:.0} times a minute: see whether it is blocked or broken");
    Some(Finding { cause: Cause::FanFailed, source: name.to_owned(), level, text })
}
