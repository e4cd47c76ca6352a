//! millrace: the one command people type
fn main() {}
