//! Small files of `/proc` and `/sys`, below a root that may be a fixture.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// No file we read is longer; a fixture or a driver gone wrong may be.
const MAX: u64 = 256 * 1024;
/// No directory we list has more entries.
const MAX_NAMES: usize = 4096;

/// What was looked at, by path below the root.
pub(crate) type Seen = BTreeMap<PathBuf, Entry>;

/// One thing that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A file that was read, without trailing white space and zero bytes.
    File(String),
    /// A link of which only the target was read.
    Link(PathBuf),
    /// Something of which only the presence was seen, such as a device node.
    Present,
}

/// The directory below which everything is read; it can note what it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
    seen: Option<Arc<Mutex<Seen>>>,
}

impl Root {
    /// Reads below `path` (`/` on a real system).
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None }
    }

    /// The same, noting all that is found.
    pub(crate) fn noting(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: Some(Arc::default()) }
    }

    /// All that was found so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.as_ref().map(|seen| seen.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// Is it the real system?
    pub(crate) fn is_real(&self) -> bool {
        self.path == Path::new("/")
    }

    /// `path` below the root, also when it is written as absolute.
    pub(crate) fn below(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative(path.as_ref()))
    }

    /// Text of `path` without trailing white space and the zero bytes of device trees.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.below(&path)).ok()?.take(MAX).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
        self.note(path.as_ref(), || Entry::File(text.clone()));
        Some(text)
    }

    /// A number in `path`.
    pub(crate) fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.trim().parse().ok()
    }

    /// Names in the directory `path`, sorted; none when it does not exist. Not noted: what is read in it is.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.below(path)).into_iter().flatten().flatten().take(MAX_NAMES);
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Names in the directory `path` that are `wanted`, sorted; noted as present.
    pub(crate) fn nodes(&self, path: impl AsRef<Path>, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut names = self.names(&path);
        names.retain(|name| wanted(name));
        for name in &names {
            self.note(&path.as_ref().join(name), || Entry::Present);
        }
        names
    }

    /// Is there anything at `path`?
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        let there = self.below(&path).exists();
        if there {
            self.note(path.as_ref(), || Entry::Present);
        }
        there
    }

    /// The last part of what the link `path` points at.
    pub(crate) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let to = fs::read_link(self.below(&path)).ok()?;
        self.note(path.as_ref(), || Entry::Link(to.clone()));
        Some(to.file_name()?.to_string_lossy().into_owned())
    }

    fn note(&self, path: &Path, entry: impl FnOnce() -> Entry) {
        let Some(seen) = &self.seen else { return };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let path = relative(path).to_owned();
        let entry = entry();
        // What a file holds says more than that it is there.
        if entry != Entry::Present || !seen.contains_key(&path) {
            seen.insert(path, entry);
        }
    }
}

fn relative(path: &Path) -> &Path {
    let mut components = path.components();
    while let Some(Component::RootDir) = components.clone().next() {
        components.next();
    }
    components.as_path()
}

/// A temporary directory, in memory where it can be: fixtures are hundreds of small files.
#[cfg(test)]
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A fixture: files below a temporary root.
#[cfg(test)]
pub(crate) fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = scratch();
    for (path, text) in files {
        let path = root.path().join(relative(Path::new(path)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(to) => std::os::unix::fs::symlink(to, path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }
    root
}
