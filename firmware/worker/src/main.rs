//! millrace-worker: decode a segment once, encode its renditions
fn main() {}
