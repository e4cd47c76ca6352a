//! NVIDIA's management library, opened when the driver is there and not before.
use std::fmt;
use std::path::PathBuf;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_MEMORY_TEMP;
use nvml_wrapper::{Device, Nvml};

use super::{GpuReadings, ThrottleReason};
use crate::read::Root;
use crate::units::{Bytes, Celsius, Megahertz, Percent, Watts};

/// No machine has more cards; a driver gone wrong may say so.
const MAX_CARDS: u32 = 64;

/// The library: where it is, and itself once it is open.
pub(super) struct Library {
    place: Place,
    open: Option<Nvml>,
}

enum Place {
    /// Nowhere: a fixture has no library.
    None,
    /// Where the loader finds it, when the driver is loaded.
    Usual,
    /// Here.
    At(PathBuf),
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}

impl Library {
    pub(super) fn none() -> Self {
        Self { place: Place::None, open: None }
    }

    pub(super) fn usual() -> Self {
        Self { place: Place::Usual, open: None }
    }

    pub(super) fn at(path: PathBuf) -> Self {
        Self { place: Place::At(path), open: None }
    }

    /// Readings of all cards; none without a driver or a library. A driver that was changed under us is opened
    /// anew the next time.
    pub(super) fn read(&mut self, root: &Root) -> Vec<GpuReadings> {
        if self.open.is_none() {
            self.open = match &self.place {
                Place::None => None,
                Place::Usual if !root.exists("proc/driver/nvidia/version") && !root.exists("dev/nvidiactl") => None,
                Place::Usual => Nvml::init().ok(),
                Place::At(path) => Nvml::builder().lib_path(path.as_os_str()).init().ok(),
            };
        }
        let Some(nvml) = &self.open else { return Vec::new() };
        let Ok(count) = nvml.device_count() else {
            self.open = None;
            return Vec::new();
        };
        (0..count.min(MAX_CARDS)).map(|index| card(nvml, index)).collect()
    }
}

fn card(nvml: &Nvml, index: u32) -> GpuReadings {
    let device = match nvml.device_by_index(index) {
        Ok(device) => device,
        Err(error) => return lost(format!("nvidia{index}"), &error),
    };
    let address = device.pci_info().ok().and_then(|pci| address(&pci.bus_id));
    let address = address.unwrap_or_else(|| format!("nvidia{index}"));
    // A card that fell off the bus answers nothing; one reading that every card has tells.
    match device.temperature(TemperatureSensor::Gpu) {
        Err(error @ (NvmlError::GpuLost | NvmlError::Unknown | NvmlError::Uninitialized)) => lost(address, &error),
        temperature => readings(&device, address, temperature.ok()),
    }
}

fn lost(address: String, error: &NvmlError) -> GpuReadings {
    GpuReadings { address, fault: Some(error.to_string()), ..GpuReadings::default() }
}

fn readings(device: &Device<'_>, address: String, temperature: Option<u32>) -> GpuReadings {
    let busy = device.utilization_rates().ok();
    let memory = device.memory_info().ok();
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    let limit = device.enforced_power_limit().or_else(|_| device.power_management_limit());
    GpuReadings {
        address,
        name: device.name().ok(),
        busy: busy.and_then(|busy| percent(busy.gpu)),
        encoder: device.encoder_utilization().ok().and_then(|used| percent(used.utilization)),
        decoder: device.decoder_utilization().ok().and_then(|used| percent(used.utilization)),
        encoder_sessions: device.encoder_stats().ok().map(|stats| stats.session_count),
        memory_used: memory.as_ref().map(|memory| Bytes(memory.used)),
        memory_total: memory.as_ref().map(|memory| Bytes(memory.total)),
        temperature: temperature.and_then(celsius),
        hotspot: None,
        memory_temperature: memory_temperature(device),
        slowdown_at: device.temperature_threshold(TemperatureThreshold::Slowdown).ok().and_then(celsius),
        power: device.power_usage().ok().and_then(milliwatts),
        power_limit: limit.ok().and_then(milliwatts),
        power_limit_default: device.power_management_limit_default().ok().and_then(milliwatts),
        throttle: device.current_throttle_reasons().map(reasons).unwrap_or_default(),
        ecc_corrected: ecc(MemoryError::Corrected),
        ecc_uncorrected: ecc(MemoryError::Uncorrected),
        clock: device.clock_info(Clock::SM).ok().map(Megahertz),
        memory_clock: device.clock_info(Clock::Memory).ok().map(Megahertz),
        fan: device.fan_speed(0).ok().and_then(percent),
        fault: None,
    }
}

fn memory_temperature(device: &Device<'_>) -> Option<Celsius> {
    let values = device.field_values_for(&[FieldId(NVML_FI_DEV_MEMORY_TEMP)]).ok()?;
    match values.into_iter().next()?.ok()?.value.ok()? {
        // Cards without such a sensor may say 0.
        SampleValue::U32(value) if value > 0 => celsius(value),
        SampleValue::U64(value) if value > 0 => celsius(u32::try_from(value).ok()?),
        SampleValue::F64(_) | SampleValue::U32(_) | SampleValue::U64(_) | SampleValue::I64(_) => None,
    }
}

/// The library writes `00000000:01:00.0`, the kernel `0000:01:00.0`.
fn address(bus: &str) -> Option<String> {
    let (domain, rest) = bus.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    Some(format!("{domain:04x}:{}", rest.to_ascii_lowercase()))
}

fn reasons(bits: ThrottleReasons) -> Vec<ThrottleReason> {
    let known = [
        (ThrottleReasons::SW_POWER_CAP, ThrottleReason::PowerCap),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, ThrottleReason::Heat),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, ThrottleReason::HardwareHeat),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, ThrottleReason::PowerBrake),
    ];
    let mut reasons: Vec<_> =
        known.into_iter().filter(|(bit, _)| bits.contains(*bit)).map(|(_, reason)| reason).collect();
    // The general bit is set beside the particular ones.
    let explained = reasons.contains(&ThrottleReason::HardwareHeat) || reasons.contains(&ThrottleReason::PowerBrake);
    if bits.contains(ThrottleReasons::HW_SLOWDOWN) && !explained {
        reasons.push(ThrottleReason::Hardware);
    }
    reasons
}

fn percent(value: u32) -> Option<Percent> {
    u8::try_from(value).ok().filter(|value| *value <= 100).map(|value| Percent(f32::from(value)))
}

fn celsius(value: u32) -> Option<Celsius> {
    u8::try_from(value).ok().filter(|value| *value <= 200).map(|value| Celsius(f32::from(value)))
}

fn milliwatts(value: u32) -> Option<Watts> {
    let value = Some(value).filter(|value| *value <= 10_000_000)?;
    #[expect(clippy::cast_precision_loss, reason = "at most 10000000, which an f32 holds exactly")]
    let watts = value as f32 / 1000.0;
    Some(Watts(watts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_those_of_the_kernel() {
        assert_eq!(address("00000000:01:00.0").as_deref(), Some("0000:01:00.0"));
        assert_eq!(address("0000000A:C1:00.0").as_deref(), Some("000a:c1:00.0"));
    }

    #[test]
    fn the_general_bit_counts_only_when_nothing_explains_it() {
        let slow = ThrottleReasons::HW_SLOWDOWN;
        assert_eq!(reasons(slow), [ThrottleReason::Hardware]);
        assert_eq!(reasons(slow | ThrottleReasons::HW_THERMAL_SLOWDOWN), [ThrottleReason::HardwareHeat]);
        assert_eq!(reasons(ThrottleReasons::GPU_IDLE), []);
    }

    proptest! {
        #[test]
        fn no_bits_and_numbers_are_too_strange(bits in any::<u64>(), value in any::<u32>(), bus in ".{0,40}") {
            let _ = (reasons(ThrottleReasons::from_bits_retain(bits)), percent(value), celsius(value), milliwatts(value));
            let _ = address(&bus);
        }
    }
}
