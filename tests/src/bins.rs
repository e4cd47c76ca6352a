//! Where the product's own binaries are: beside the program that asks.
use std::path::PathBuf;

/// The path of one of our binaries in the same build profile as the caller.
///
/// # Panics
/// When the binary has not been built; the message says how to.
pub fn bin(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a running program has a path");
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not built: run `just build` first"))
}
