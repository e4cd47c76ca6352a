//! millrace-controller: the reference fleet controller
fn main() {}
