use proptest::prelude::*;

use super::*;
use crate::clock::{Clock as _, SimClock};
use crate::gpus::{Gpus as _, SimGpus};
use crate::sensors::{Fan, Frequency, Sensors as _, SimSensors, Throttle};
use crate::units::{Megahertz, Watts};

/// A box with simulated sensors and clock, looked at every five seconds.
struct Bench {
    clock: SimClock,
    sensors: SimSensors,
    gpus: SimGpus,
    thermal: Thermal,
}

impl Bench {
    fn new() -> Self {
        Self {
            clock: SimClock::at(1_700_000_000),
            sensors: SimSensors::default(),
            gpus: SimGpus::default(),
            thermal: Thermal::default(),
        }
    }

    fn processor(&self, celsius: f32) {
        self.sensors.set(heated("cpu-thermal", celsius));
    }

    fn look(&mut self) -> Derate {
        let now = Duration::from_millis(self.clock.unix_millis());
        self.thermal.step(&self.sensors.read(), &self.gpus.read(), now)
    }

    /// What it says after so many seconds.
    fn after(&mut self, seconds: u64) -> Derate {
        let mut derate = self.look();
        for _ in 0..seconds / 5 {
            self.clock.advance(Duration::from_secs(5));
            derate = self.look();
        }
        derate
    }

    fn percent_after(&mut self, seconds: u64) -> f32 {
        self.after(seconds).percent.0
    }
}

fn heated(sensor: &str, celsius: f32) -> Readings {
    Readings { temperatures: BTreeMap::from([(sensor.to_owned(), Celsius(celsius))]), ..Readings::default() }
}

#[test]
fn a_warm_processor_costs_a_step_a_minute_down_to_half() {
    let mut bench = Bench::new();
    bench.processor(86.0);
    assert_eq!(bench.percent_after(55), 100.0);
    let derate = bench.after(5);
    let reason = derate.reasons.first().unwrap();
    assert_eq!(
        (derate.percent, reason.cause, reason.cause.event()),
        (Percent(75.0), Cause::ProcessorHeat, Some("CPU-TEMP-HIGH"))
    );
    assert!(reason.text.contains("cpu-thermal is at 86.0 °C"), "{}", reason.text);
    assert_eq!(bench.percent_after(60), 50.0);
    assert_eq!(bench.percent_after(3600), 50.0);
}

#[test]
fn a_hot_one_costs_more_and_one_near_its_end_everything_at_once() {
    let mut bench = Bench::new();
    bench.processor(96.0);
    assert_eq!(bench.percent_after(60), 50.0);
    assert_eq!(bench.percent_after(60), 25.0);
    assert_eq!(bench.percent_after(3600), 25.0);
    bench.processor(103.5);
    assert_eq!(bench.look().percent, Percent(0.0));
}

#[test]
fn a_short_peak_costs_nothing() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.processor(90.0);
        assert_eq!(bench.percent_after(40), 100.0);
        bench.processor(70.0);
        assert_eq!(bench.percent_after(10), 100.0);
    }
}

#[test]
fn it_recovers_a_step_each_five_minutes_and_only_well_below_the_limit() {
    let mut bench = Bench::new();
    bench.processor(96.0);
    assert_eq!(bench.percent_after(120), 25.0);
    // Between good and bad nothing moves, however long.
    bench.processor(80.0);
    assert_eq!(bench.percent_after(7200), 25.0);
    bench.processor(76.9);
    assert_eq!(bench.percent_after(295), 25.0);
    assert_eq!(bench.percent_after(5), 50.0);
    assert_eq!(bench.percent_after(300), 75.0);
    // A look at the limit starts the wait anew.
    bench.processor(79.0);
    assert_eq!(bench.percent_after(5), 75.0);
    bench.processor(60.0);
    assert_eq!(bench.percent_after(295), 75.0);
    let derate = bench.after(10);
    assert_eq!((derate.percent, derate.reasons), (Percent(100.0), Vec::new()));
}

#[test]
fn a_sensor_with_a_low_critical_temperature_has_lower_limits() {
    let mut bench = Bench::new();
    let mut readings = heated("cpu-thermal", 78.0);
    readings.critical.insert("cpu-thermal".to_owned(), Celsius(90.0));
    bench.sensors.set(readings);
    assert_eq!(bench.percent_after(60), 75.0);
}

#[test]
fn a_disk_counts_by_its_own_limit_only() {
    let mut bench = Bench::new();
    bench.sensors.set(heated("acpitz", 120.0));
    assert_eq!(bench.percent_after(600), 100.0);
    let mut readings = heated("nvme/Composite", 76.0);
    readings.critical.insert("nvme/Composite".to_owned(), Celsius(84.8));
    bench.sensors.set(readings);
    assert_eq!(bench.after(60).reasons.first().unwrap().cause, Cause::DeviceHeat);
}

#[test]
fn a_card_has_limits_of_its_own_and_lower_ones_when_it_slows_down_early() {
    let card = |celsius, slowdown| {
        let slowdown_at = Some(Celsius(slowdown));
        let temperature = Some(Celsius(celsius));
        GpuReadings { address: "0000:01:00.0".to_owned(), temperature, slowdown_at, ..GpuReadings::default() }
    };
    let mut bench = Bench::new();
    bench.gpus.set(vec![card(84.0, 100.0)]);
    let derate = bench.after(60);
    assert_eq!((derate.percent, derate.reasons.first().unwrap().cause), (Percent(75.0), Cause::GpuHeat));
    let mut bench = Bench::new();
    bench.gpus.set(vec![card(80.0, 89.0)]);
    assert_eq!(bench.percent_after(60), 75.0);
    let mut bench = Bench::new();
    bench.gpus.set(vec![card(80.0, 100.0)]);
    assert_eq!(bench.percent_after(600), 100.0);
}

#[test]
fn five_throttled_minutes_of_fifteen_cost_a_step_and_fewer_do_not() {
    let slowed = |slowed: bool| {
        let throttle = Throttle { slowed: Some(slowed), ..Throttle::default() };
        Readings { throttle, ..Readings::default() }
    };
    let mut bench = Bench::new();
    // One minute in four.
    for _ in 0..10 {
        bench.sensors.set(slowed(true));
        assert_eq!(bench.percent_after(60), 100.0);
        bench.sensors.set(slowed(false));
        assert_eq!(bench.percent_after(180), 100.0);
    }
    bench.sensors.set(slowed(true));
    let derate = bench.after(360);
    assert_eq!(derate.reasons.first().unwrap().cause, Cause::Throttled);
    bench.sensors.set(slowed(false));
    assert_eq!(bench.percent_after(900), 100.0);
}

#[test]
fn counters_of_throttling_count_by_what_they_rise_and_not_by_what_they_were() {
    let counted = |events| {
        let throttle = Throttle { core_events: Some(events), ..Throttle::default() };
        Readings { throttle, ..Readings::default() }
    };
    let mut bench = Bench::new();
    bench.sensors.set(counted(1_000_000));
    assert_eq!(bench.percent_after(3600), 100.0);
    for events in 0..80u64 {
        bench.sensors.set(counted(1_000_000 + events));
        bench.after(5);
    }
    assert_eq!(bench.look().reasons.first().unwrap().cause, Cause::Throttled);
}

#[test]
fn low_voltage_and_a_supply_that_holds_a_card_back_cost_steps() {
    let mut bench = Bench::new();
    let throttle = Throttle { under_voltage: Some(true), ..Throttle::default() };
    bench.sensors.set(Readings { throttle, ..Readings::default() });
    let derate = bench.after(60);
    assert_eq!(derate.reasons.first().unwrap().cause.event(), Some("PWR-UNDERVOLT"));
    let mut bench = Bench::new();
    let card = |reason| GpuReadings { address: "g".to_owned(), throttle: vec![reason], ..GpuReadings::default() };
    bench.gpus.set(vec![card(ThrottleReason::PowerCap)]);
    assert_eq!(bench.percent_after(3600), 100.0);
    bench.gpus.set(vec![card(ThrottleReason::PowerBrake)]);
    assert_eq!(bench.percent_after(120), 50.0);
}

#[test]
fn a_cap_set_later_costs_by_its_size_and_one_that_was_there_costs_nothing() {
    let card = |watts| GpuReadings {
        address: "g".to_owned(),
        power_limit: Some(Watts(watts)),
        power_limit_default: Some(Watts(450.0)),
        ..GpuReadings::default()
    };
    let mut bench = Bench::new();
    bench.gpus.set(vec![card(300.0)]);
    assert_eq!(bench.percent_after(600), 100.0);
    bench.gpus.set(vec![card(160.0)]);
    let derate = bench.after(65);
    assert_eq!((derate.percent, derate.reasons.first().unwrap().cause), (Percent(50.0), Cause::Capped));
    // Half lifted: half of the way back.
    bench.gpus.set(vec![card(240.0)]);
    assert_eq!(bench.percent_after(3600), 75.0);
    bench.gpus.set(vec![card(300.0)]);
    assert_eq!(bench.percent_after(305), 100.0);
}

#[test]
fn a_power_mode_that_lowers_the_clocks_is_noticed() {
    let clocked = |megahertz| {
        let frequency = |allowed| Frequency {
            current: None,
            allowed: Some(Megahertz(allowed)),
            most: Some(Megahertz(1984)),
            governor: None,
        };
        let policies = ["policy0", "policy4"].map(|name| (name.to_owned(), frequency(megahertz)));
        Readings { frequencies: BTreeMap::from(policies), ..Readings::default() }
    };
    let mut bench = Bench::new();
    bench.sensors.set(clocked(1984));
    bench.look();
    bench.sensors.set(clocked(1190));
    assert_eq!(bench.percent_after(65), 50.0);
}

#[test]
fn a_fan_that_stands_still_costs_half_and_an_idle_one_nothing() {
    let fan = |rpm, duty| {
        let fan = Fan { rpm: Some(rpm), most: Some(5000), duty: Some(Percent(duty)), target: None };
        Readings { fans: BTreeMap::from([("pwmfan".to_owned(), fan)]), ..Readings::default() }
    };
    let mut bench = Bench::new();
    bench.sensors.set(fan(0, 10.0));
    assert_eq!(bench.percent_after(600), 100.0);
    bench.sensors.set(fan(120, 80.0));
    let derate = bench.after(65);
    assert_eq!((derate.percent, derate.reasons.first().unwrap().cause), (Percent(50.0), Cause::FanFailed));
}

#[test]
fn a_sensor_that_falls_silent_while_hot_is_not_taken_for_cool() {
    let mut bench = Bench::new();
    bench.processor(96.0);
    assert_eq!(bench.percent_after(120), 25.0);
    bench.sensors.set(Readings::default());
    let derate = bench.after(600);
    assert_eq!(derate.percent, Percent(25.0));
    assert!(derate.reasons.first().unwrap().text.contains("nothing was heard"));
    assert_eq!(bench.percent_after(900), 100.0);
}

#[test]
fn a_clock_that_jumps_back_neither_cools_nor_heats() {
    let mut bench = Bench::new();
    bench.processor(96.0);
    assert_eq!(bench.percent_after(60), 50.0);
    bench.clock.set(std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000));
    bench.processor(60.0);
    assert_eq!(bench.percent_after(295), 50.0);
    assert_eq!(bench.percent_after(5), 75.0);
}

proptest! {
    #[test]
    fn any_course_of_temperatures_ends_where_it_should(
        course in proptest::collection::vec((any::<f32>(), 0u64..400), 0..40),
    ) {
        let mut thermal = Thermal::default();
        let mut now = Duration::ZERO;
        let mut before = (Duration::ZERO, 100.0f32);
        for (celsius, seconds) in course {
            now += Duration::from_secs(seconds);
            let derate = thermal.step(&heated("cpu", celsius), &[], now);
            let percent = derate.percent.0;
            prop_assert!([0.0, 25.0, 50.0, 75.0, 100.0].contains(&percent));
            prop_assert_eq!(derate.reasons.is_empty(), percent == 100.0);
            // It rises by one step at a time, but for a sensor that was forgotten.
            prop_assert!(percent <= before.1 + 25.0 || now - before.0 >= FORGET || seconds >= 900);
            before = (now, percent);
        }
        for _ in 0..6 {
            now += Duration::from_secs(300);
            thermal.step(&heated("cpu", 40.0), &[], now);
        }
        prop_assert_eq!(thermal.step(&heated("cpu", 40.0), &[], now).percent.0, 100.0);
    }

    #[test]
    fn no_readings_are_too_strange(rounds in proptest::collection::vec(
        (any::<u32>(), any::<f32>(), any::<f32>(), any::<u64>(), any::<u32>(), ".{0,12}"), 0..20)
    ) {
        let mut thermal = Thermal::default();
        for (at, celsius, critical, events, rpm, name) in rounds {
            let mut readings = heated(&name, celsius);
            readings.critical.insert(name.clone(), Celsius(critical));
            readings.throttle = Throttle { core_events: Some(events), over_current_events: Some(events), ..Throttle::default() };
            let fan = Fan { rpm: Some(rpm), target: Some(at), most: None, duty: Some(Percent(celsius)) };
            readings.fans.insert(name.clone(), fan);
            let gpu = GpuReadings {
                address: name, temperature: Some(Celsius(critical)), slowdown_at: Some(Celsius(celsius)),
                power_limit: Some(Watts(celsius)), ..GpuReadings::default()
            };
            let percent = thermal.step(&readings, &[gpu], Duration::from_secs(at.into())).percent.0;
            prop_assert!((0.0..=100.0).contains(&percent));
        }
    }
}
