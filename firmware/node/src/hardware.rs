//! Heat and power: the task that looks at the hardware and holds the box down when it must.
//!
//! Walk 3, step 1. Every few seconds a look goes through the policy of `hal::thermal`; what it leaves goes to the load
//! that newcomers are measured against. At its lowest steps the work at hand is slowed down too: fewer segments at
//! a time on fewer threads, and less processor time for the workers' control group. Sessions go on all the same.
use std::time::Duration;

use livepeer::wire::net;
use millrace_hal::thermal::{Cause, Reason};
use millrace_hal::{Derate, GpuReadings, Percent, Thermal as Policy};
use orchestrator::pool::{Parallel, Pool, Transcoder};
use sandbox::launch::CgroupRoot;
use service::Heartbeat;
use service::status::{Alarm, Gpu, Hardware, NodeStatus};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::Thermal;
use crate::sensing::{Eyes, Look};

/// From here on down the workers are slowed down …
const WORST: f32 = 25.0;
/// … to so many percent of what they have.
const SLOWED: u8 = 50;
/// Nothing seen for so long is an alarm.
const BLIND: Duration = Duration::from_secs(60);

/// What the box is held down by.
#[derive(Debug)]
pub(crate) struct Throttle {
    pub(crate) pool: Pool,
    /// How much runs at a time while nothing holds it down.
    pub(crate) parallel: Parallel,
    pub(crate) cgroups: Option<CgroupRoot>,
}

impl Throttle {
    fn apply(&self, percent: Percent) {
        if let Some(load) = self.pool.load() {
            load.set_derate(percent.0);
        }
        let slowed = percent.0 <= WORST;
        self.pool.set_parallel(if slowed { self.parallel.percent(SLOWED) } else { self.parallel });
        let Some(cgroups) = &self.cgroups else { return };
        let threads = u32::try_from(self.parallel.threads).unwrap_or(u32::MAX);
        let limit = slowed.then(|| threads.saturating_mul(u32::from(SLOWED)));
        if let Err(error) = cgroups.limit_cpu(limit) {
            tracing::warn!(%error, "processor time of workers not limited");
        }
    }
}

/// What was last seen, for the status.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    seen: Option<(Instant, Look)>,
    derate: Option<Derate>,
    /// Why nothing was seen of late.
    blind: Option<String>,
}

impl Board {
    /// Tells the status.
    pub(crate) fn tell(&self, status: &mut NodeStatus) {
        let reasons = self.derate.iter().flat_map(|derate| &derate.reasons);
        status.alarms.extend(reasons.clone().filter_map(alarm));
        if let Some(reason) = &self.blind {
            status.alarms.push(Alarm {
                id: "SENSORS-SILENT".to_owned(),
                severity: "warn".to_owned(),
                instance: String::new(),
                text: format!("the hardware's sensors cannot be read: {reason}"),
            });
        }
        let Some((when, Look { readings, gpus })) = &self.seen else { return };
        let hottest = readings.hottest();
        status.hardware = Some(Hardware {
            age_s: when.elapsed().as_secs(),
            hottest: hottest.map(|(name, _)| name.to_owned()).unwrap_or_default(),
            hottest_celsius: hottest.map(|(_, celsius)| celsius.0),
            watts: readings.drawn().map(|watts| watts.0),
            held_down_by: reasons.map(|reason| format!("{} %: {}", reason.percent.0, reason.text)).collect(),
            gpus: gpus.iter().map(gpu).collect(),
        });
    }
}

impl Board {
    /// The hardware as gateways are told of it: one entry for the box, with its graphics processors.
    pub(crate) fn offered(&self, model: &str) -> Vec<net::HardwareInformation> {
        let gpus = self.seen.iter().flat_map(|(_, look)| &look.gpus).filter(|gpu| gpu.fault.is_none());
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let gpus = gpus.enumerate().map(|(index, gpu)| {
            let total = gpu.memory_total.map_or(0, |bytes| bytes.0);
            let free = total.saturating_sub(gpu.memory_used.map_or(0, |bytes| bytes.0));
            let told = net::GpuComputeInfo {
                id: gpu.address.clone(),
                name: gpu.name.clone().unwrap_or_default(),
                memory_free: bytes(free),
                memory_total: bytes(total),
                ..net::GpuComputeInfo::default()
            };
            (index.to_string(), told)
        });
        let (pipeline, model_id) = ("transcoding".to_owned(), model.to_owned());
        vec![net::HardwareInformation { pipeline, model_id, gpu_info: gpus.collect() }]
    }
}

/// Looks at the hardware for ever.
pub(crate) async fn watch(config: Thermal, throttle: Throttle, tell: watch::Sender<Board>, beat: Heartbeat) {
    let (mut eyes, mut policy) = (Eyes::new(&config.hardware_root), Policy::new(config.limits()));
    let started = Instant::now();
    let mut seen_at = started;
    let mut last = Percent(100.0);
    let mut tick = tokio::time::interval(Duration::from_secs(config.sample_s.into()));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match eyes.look().await {
            Ok(look) => {
                let derate = policy.step(&look.readings, &look.gpus, started.elapsed());
                if derate.percent != last {
                    let reason = derate.reasons.first().map_or("all is well again", |worst| worst.text.as_str());
                    tracing::warn!(
                        percent = derate.percent.0,
                        before = last.0,
                        reason,
                        "capacity follows heat and power"
                    );
                    throttle.apply(derate.percent);
                    last = derate.percent;
                }
                seen_at = Instant::now();
                tell.send_replace(Board { seen: Some((seen_at, look)), derate: Some(derate), blind: None });
            }
            Err(error) => {
                tracing::debug!(reason = %error, "the hardware was not seen");
                if seen_at.elapsed() >= BLIND {
                    // What held the box down before still does.
                    tell.send_if_modified(|board| board.blind.replace(error.to_string()).is_none());
                }
            }
        }
        beat.beat();
    }
}

/// The alarm of a reason, where the fleet's runbook has one.
fn alarm(reason: &Reason) -> Option<Alarm> {
    let grave = reason.percent.0 <= WORST || reason.cause == Cause::FanFailed;
    Some(Alarm {
        id: reason.cause.event()?.to_owned(),
        severity: if grave { "err" } else { "warn" }.to_owned(),
        instance: reason.source.clone(),
        text: format!("{}; newcomers get {} % of what the box can do", reason.text, reason.percent.0),
    })
}

fn gpu(readings: &GpuReadings) -> Gpu {
    use millrace_hal::gpus::ThrottleReason as T;
    let percent = |of: Option<Percent>| of.map(|percent| percent.0);
    let inside = readings.hotspot.into_iter().chain(readings.memory_temperature).map(|celsius| celsius.0);
    let memory = readings.memory_used.zip(readings.memory_total).filter(|(_, total)| total.0 > 0);
    let bits = readings.throttle.iter().map(|reason| match reason {
        T::Heat | T::HardwareHeat => 1,
        T::PowerCap | T::PowerBrake => 2,
        T::Hardware => 8,
    });
    Gpu {
        address: readings.address.clone(),
        name: readings.name.clone().unwrap_or_default(),
        busy_percent: percent(readings.busy),
        encoder_percent: percent(readings.encoder),
        decoder_percent: percent(readings.decoder),
        encoder_sessions: readings.encoder_sessions,
        memory_percent: memory.and_then(|(used, total)| {
            let tenths = u128::from(used.0) * 1000 / u128::from(total.0);
            Some(f32::from(u16::try_from(tenths).ok()?) / 10.0)
        }),
        celsius: readings.temperature.map(|celsius| celsius.0),
        inside_celsius: inside.reduce(f32::max),
        watts: readings.power.map(|watts| watts.0),
        watts_limit: readings.power_limit.map(|watts| watts.0),
        megahertz: readings.clock.map(|clock| clock.0),
        memory_megahertz: readings.memory_clock.map(|clock| clock.0),
        throttle_bits: bits.fold(0, |all, bit| all | bit),
        ecc_uncorrected: readings.ecc_uncorrected,
        fault: readings.fault.clone(),
    }
}

#[cfg(test)]
mod tests {
    use millrace_hal::{Bytes, Celsius};

    use super::*;

    fn told(board: &Board) -> NodeStatus {
        let mut status = NodeStatus::default();
        board.tell(&mut status);
        status
    }

    #[tokio::test]
    async fn what_holds_the_box_down_is_an_alarm_of_the_runbook() {
        let reason = |cause, percent| Reason {
            cause,
            source: "processor".to_owned(),
            percent: Percent(percent),
            text: "too hot".to_owned(),
        };
        let reasons = vec![
            reason(Cause::ProcessorHeat, 25.0),
            reason(Cause::FanFailed, 50.0),
            reason(Cause::Capped, 75.0),
            reason(Cause::DeviceHeat, 75.0),
        ];
        let derate = Derate { percent: Percent(25.0), reasons };
        let board = Board { seen: Some((Instant::now(), Look::default())), derate: Some(derate), blind: None };
        let status = told(&board);
        let alarms: Vec<_> = status.alarms.iter().map(|alarm| (alarm.id.as_str(), alarm.severity.as_str())).collect();
        assert_eq!(alarms, [("CPU-TEMP-HIGH", "err"), ("FAN-FAIL", "err"), ("PWR-CAP", "warn")]);
        assert_eq!(status.hardware.unwrap().held_down_by.len(), 4);
    }

    #[test]
    fn a_box_nobody_saw_says_nothing_of_its_hardware_and_a_blind_one_says_so() {
        assert_eq!(told(&Board::default()), NodeStatus::default());
        let blind = Board { blind: Some("a driver hangs".to_owned()), ..Board::default() };
        assert_eq!(told(&blind).alarms[0].id, "SENSORS-SILENT");
    }

    #[test]
    fn a_graphics_processor_is_told_in_plain_numbers() {
        let readings = GpuReadings {
            memory_used: Some(Bytes(3 << 30)),
            memory_total: Some(Bytes(4 << 30)),
            hotspot: Some(Celsius(80.0)),
            memory_temperature: Some(Celsius(92.0)),
            throttle: vec![
                millrace_hal::gpus::ThrottleReason::HardwareHeat,
                millrace_hal::gpus::ThrottleReason::PowerCap,
            ],
            ..GpuReadings::default()
        };
        let told = gpu(&readings);
        assert_eq!((told.memory_percent, told.inside_celsius, told.throttle_bits), (Some(75.0), Some(92.0), 3));
    }
}
