//! Thermal zones of the kernel, by their type.
use std::path::Path;

use super::{Readings, parse, unused};
use crate::read::Root;
use crate::units::Celsius;

/// No zone has more trip points.
const MAX_TRIPS: usize = 16;

pub(super) fn read(root: &Root, readings: &mut Readings) {
    let zones = Path::new("sys/class/thermal");
    for zone in root.names(zones).into_iter().filter(|name| name.starts_with("thermal_zone")) {
        let dir = zones.join(&zone);
        let name = root.text(dir.join("type")).filter(|name| !name.is_empty()).unwrap_or(zone);
        // A broken sensor reads absurdly and is left out; a sleeping one cannot be read.
        let Some(celsius) = root.number(dir.join("temp")).and_then(parse::millidegrees) else { continue };
        let name = unused(&readings.temperatures, name);
        if let Some(critical) = critical(root, &dir) {
            readings.critical.insert(name.clone(), critical);
        }
        readings.temperatures.insert(name, celsius);
    }
}

fn critical(root: &Root, dir: &Path) -> Option<Celsius> {
    let trips = (0..MAX_TRIPS).map_while(|trip| Some((trip, root.text(dir.join(format!("trip_point_{trip}_type")))?)));
    let (trip, _) = trips.into_iter().find(|(_, kind)| kind == "critical")?;
    let celsius = root.number(dir.join(format!("trip_point_{trip}_temp"))).and_then(parse::millidegrees)?;
    // Firmware without an idea writes zero or less.
    (celsius.0 > 30.0).then_some(celsius)
}
