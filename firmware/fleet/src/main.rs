//! millrace-fleet: report health, obey the fleet
fn main() {}
