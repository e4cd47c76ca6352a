//! millrace-node: read configuration, build, run, stop
fn main() {}
