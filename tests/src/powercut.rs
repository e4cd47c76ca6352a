//! A process whose unsynced writes can be thrown away.
//!
//! [`Disk`] runs a program with `tests/powercut/shim.c` loaded: below the disk's root the program sees all it
//! wrote, while a shadow keeps what would survive a power cut. Kill the program, ask for [`Disk::survived`], and
//! that directory is what a real machine would find after the cut.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub mod tickets;

/// How unkind the disk is.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Percentage of unsynced sectors and name changes that survive all the same, picked at random.
    pub leak: u32,
    /// Seed of that chance.
    pub seed: u64,
    /// Does fdatasync promise what it does not do?
    pub lie: bool,
    /// Bytes of growth until the disk is full.
    pub full_after: Option<u64>,
    /// Calls of fsync and fdatasync until they fail.
    pub syncs: Option<u64>,
}

impl Faults {
    /// Nothing fails, and nothing unsynced survives.
    pub const NONE: Self = Self { leak: 0, seed: 1, lie: false, full_after: None, syncs: None };
}

/// A directory on a disk that can lose power.
#[derive(Debug)]
pub struct Disk {
    dir: tempfile::TempDir,
    shim: PathBuf,
}

impl Disk {
    /// An empty disk.
    ///
    /// # Errors
    /// When there is no C compiler, or no room.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        for name in ["root", "shadow/data", "shadow/dirs", "shadow/grave"] {
            fs::create_dir_all(dir.path().join(name))?;
        }
        let (source, shim) = (dir.path().join("shim.c"), dir.path().join("shim.so"));
        fs::write(&source, include_str!("../powercut/shim.c"))?;
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&shim, &source])
            .args(["-ldl", "-pthread"])
            .status()?;
        if !compiled.success() {
            return Err(io::Error::other("the power-cut shim does not compile"));
        }
        let disk = Self { dir, shim };
        disk.keep_all(&disk.root())?;
        Ok(disk)
    }

    /// A disk that already holds a copy of a directory's files, all of them durable.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn holding(files: &Path) -> io::Result<Self> {
        let disk = Self::new()?;
        copy_tree(files, &disk.root())?;
        disk.keep_all(&disk.root())?;
        Ok(disk)
    }

    /// The directory whose files are on the disk.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root").canonicalize().expect("the root is there")
    }

    /// A program that runs with this disk.
    #[must_use]
    pub fn command(&self, program: &Path, faults: Faults) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", &self.shim)
            .env("POWERCUT_ROOT", self.root())
            .env("POWERCUT_SHADOW", self.dir.path().join("shadow"))
            .env("POWERCUT_LEAK", faults.leak.to_string())
            .env("POWERCUT_SEED", faults.seed.to_string())
            .env("POWERCUT_LIE", u8::from(faults.lie).to_string());
        if let Some(bytes) = faults.full_after {
            command.env("POWERCUT_FULL_AFTER", bytes.to_string());
        }
        if let Some(calls) = faults.syncs {
            command.env("POWERCUT_SYNCS", calls.to_string());
        }
        command
    }

    /// What is left after the power went, now that no program runs any more. Each call makes it afresh.
    ///
    /// # Errors
    /// When it cannot be written out.
    pub fn survived(&self) -> io::Result<PathBuf> {
        let to = self.dir.path().join("survived");
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        self.restore(fs::metadata(self.root())?.ino(), &to)?;
        Ok(to)
    }

    fn restore(&self, inode: u64, to: &Path) -> io::Result<()> {
        fs::create_dir(to)?;
        let names = match fs::read_to_string(self.shadow("dirs", inode)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            names => names?,
        };
        for line in names.lines() {
            let mut words = line.splitn(3, ' ');
            let inode = words.next().and_then(|word| word.parse().ok());
            let (Some(inode), Some(kind), Some(name)) = (inode, words.next(), words.next()) else {
                return Err(io::Error::other(format!("the shim wrote {line:?}")));
            };
            let path = to.join(name);
            if kind == "d" {
                self.restore(inode, &path)?;
            } else if self.shadow("data", inode).exists() {
                fs::copy(self.shadow("data", inode), &path)?;
            } else {
                // The name reached the disk, the contents never did.
                fs::write(&path, [])?;
            }
        }
        Ok(())
    }

    /// Takes everything below a directory for durable.
    fn keep_all(&self, dir: &Path) -> io::Result<()> {
        let mut names = String::new();
        let mut children = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            children.insert(entry.path(), entry.metadata()?);
        }
        for (path, metadata) in children {
            let kind = if metadata.is_dir() { 'd' } else { 'f' };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            writeln!(names, "{} {kind} {name}", metadata.ino()).expect("strings take everything");
            if metadata.is_dir() {
                self.keep_all(&path)?;
            } else {
                fs::copy(&path, self.shadow("data", metadata.ino()))?;
            }
        }
        fs::write(self.shadow("dirs", fs::metadata(dir)?.ino()), names)
    }

    fn shadow(&self, kind: &str, inode: u64) -> PathBuf {
        self.dir.path().join("shadow").join(kind).join(inode.to_string())
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let path = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &path)?;
        } else {
            fs::copy(entry.path(), path)?;
        }
    }
    Ok(())
}
