//! millrace-signer: hold the hot key; sign only what policy allows
fn main() {}
