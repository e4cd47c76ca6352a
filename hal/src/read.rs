//! Small files of `/proc` and `/sys`, below a root that may be a fixture.
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// No file we read is longer; a fixture or a driver gone wrong may be.
const MAX: u64 = 256 * 1024;

/// Text of `root`/`path` without trailing white space and the zero bytes of device trees.
pub(crate) fn text(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(below(root, path)).ok()?.take(MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// A number in `root`/`path`.
pub(crate) fn number<T: std::str::FromStr>(root: &Path, path: impl AsRef<Path>) -> Option<T> {
    text(root, path)?.trim().parse().ok()
}

/// Names in the directory `root`/`path`, sorted; none when it does not exist.
pub(crate) fn names(root: &Path, path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(below(root, path)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The last part of what the link `root`/`path` points at.
pub(crate) fn link_name(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    let to = fs::read_link(below(root, path)).ok()?;
    Some(to.file_name()?.to_string_lossy().into_owned())
}

/// `path` below `root`, also when it is written as absolute.
pub(crate) fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A fixture: files below a temporary root.
#[cfg(test)]
pub(crate) fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = below(root.path(), path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(to) => std::os::unix::fs::symlink(to, path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }
    root
}
