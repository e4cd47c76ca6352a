//! What the machine says of itself: which image runs, which boot this is, and whether the version is on trial.
//!
//! systemd-boot counts tries in the name of the kernel image: `millrace_1.2.0+3-0.efi` has three left. It tells the
//! system by the EFI variable `LoaderBootCountPath` which file it took; systemd's bless service renames the file to
//! `millrace_1.2.0.efi`. The variable stays until the next boot, so what counts is the file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use fleet_protocol::release::PRODUCT;
use fleet_protocol::version::Version;

use crate::files::{self, FileError};
use crate::paths::Paths;

/// Name of the variable in efivarfs.
const BOOT_COUNT_PATH: &str = "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Largest of the small files read here.
const SMALL: u64 = 64 * 1024;

/// Why the machine cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error(transparent)]
    File(#[from] FileError),
    /// The image does not say something it must.
    #[error("this image does not say its {0} in os-release: it is not one of ours")]
    Unsaid(&'static str),
    /// The image's version is not one of ours.
    #[error("this image calls itself version {0:?}")]
    Version(String),
}

/// The running image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) version: Version,
    pub(crate) profile: String,
    pub(crate) arch: &'static str,
    /// When it was made, Unix seconds: the clock cannot rightly be before.
    pub(crate) built: i64,
}

/// Whether the running version is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// Nothing counts: it is good.
    Blessed,
    /// It has still to prove itself.
    OnTrial,
}

/// How far systemd-boot's counter of an installed version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// There is no kernel image of it.
    Absent,
    /// It is good.
    Blessed,
    /// So many tries are left, and so many were used.
    Counting { left: u32, done: u32 },
}

impl Image {
    /// Reads os-release.
    pub(crate) fn read(paths: &Paths) -> Result<Self, MachineError> {
        use std::os::unix::fs::MetadataExt as _;
        let path = paths.os_release();
        let text = files::get(&path, SMALL)?.unwrap_or_default();
        let fields = fields(&String::from_utf8_lossy(&text));
        let field = |key: &'static str| fields.get(key).cloned().ok_or(MachineError::Unsaid(key));
        if field("IMAGE_ID")? != PRODUCT {
            return Err(MachineError::Unsaid("IMAGE_ID"));
        }
        let version = field("IMAGE_VERSION")?;
        let version = version.parse().map_err(|_| MachineError::Version(version))?;
        let built = fs::metadata(&path).map_err(files::io_at(&path))?.mtime();
        Ok(Self { version, profile: field("VARIANT_ID")?, arch: architecture(), built })
    }
}

/// systemd's name of the processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// The id of this boot.
pub(crate) fn boot_id(paths: &Paths) -> Result<String, MachineError> {
    let bytes = files::get(&paths.at("proc/sys/kernel/random/boot_id"), SMALL)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() { Err(MachineError::Unsaid("boot id")) } else { Ok(text) }
}

/// Whether this boot is a try.
pub(crate) fn trial(paths: &Paths) -> Result<Trial, MachineError> {
    let variable = paths.efivars().join(BOOT_COUNT_PATH);
    let Some(bytes) = files::get(&variable, SMALL)? else { return Ok(Trial::Blessed) };
    // Four bytes of attributes, then UTF-16 with a zero at the end, with backslashes or slashes.
    let units: Vec<u16> = bytes
        .get(4..)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)]))
        .take_while(|unit| *unit != 0)
        .collect();
    let name = String::from_utf16_lossy(&units).replace('\\', "/");
    let path: PathBuf = paths.boot().join(name.trim_start_matches('/'));
    // Once blessed, or found bad, it has another name.
    Ok(if path.exists() { Trial::OnTrial } else { Trial::Blessed })
}

/// What systemd-boot knows of a version.
pub(crate) fn installed(paths: &Paths, version: &Version) -> Result<Installed, MachineError> {
    let dir = paths.boot().join("EFI/Linux");
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Installed::Absent),
        entries => entries.map_err(files::io_at(&dir))?,
    };
    let prefix = format!("{PRODUCT}_{version}");
    let mut found = Installed::Absent;
    for entry in entries {
        let entry = entry.map_err(files::io_at(&dir))?;
        if is_empty(&entry) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".efi")) else { continue };
        // The image's builder adds the processor to the first one's name: millrace_1.0.0_x86-64.efi.
        let (middle, counter) = rest.split_once('+').map_or((rest, None), |(middle, counter)| (middle, Some(counter)));
        if !middle.is_empty() && !middle.starts_with('_') {
            continue;
        }
        match counter {
            None => return Ok(Installed::Blessed),
            Some(counter) => {
                let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
                if let (Ok(left), Ok(done)) = (left.parse(), done.parse()) {
                    found = Installed::Counting { left, done };
                }
            }
        }
    }
    Ok(found)
}

/// Removes kernel images without anything in them. A power cut leaves one where it meets the renaming of a new one: on the
/// boot partition's file system the name comes first, and size and place after it. The boot loader passes it over; the
/// installer would take it for installed, and never write it again.
pub(crate) fn remove_empty(paths: &Paths) -> Result<(), MachineError> {
    let dir = paths.boot().join("EFI/Linux");
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(files::io_at(&dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(files::io_at(&dir))?;
        if is_empty(&entry) && entry.file_name().to_string_lossy().ends_with(".efi") {
            tracing::warn!(path = %entry.path().display(), "a power cut left a kernel image without content: removed");
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_empty(entry: &fs::DirEntry) -> bool {
    entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// A box in a directory, running this version.
    pub(crate) fn machine(root: &Path, version: &str) -> Paths {
        let paths = Paths::below(root);
        let put = |path: PathBuf, text: &str| files::put(&path, text.as_bytes(), 0o644).unwrap();
        let os_release = format!("NAME=\"Debian\"\nIMAGE_ID=millrace\nIMAGE_VERSION=\"{version}\"\nVARIANT_ID=x86\n");
        put(paths.at("etc/os-release"), &os_release);
        put(paths.at("proc/sys/kernel/random/boot_id"), "first\n");
        fs::create_dir_all(paths.boot().join("EFI/Linux")).unwrap();
        fs::create_dir_all(paths.staged()).unwrap();
        paths
    }

    /// What systemd-boot leaves when it starts a file.
    pub(crate) fn booted(paths: &Paths, file: &str, boot: &str) {
        let text: Vec<u8> = format!("\\EFI\\Linux\\{file}\0").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let variable = [&[6, 0, 0, 0][..], &text].concat();
        files::put(&paths.efivars().join(BOOT_COUNT_PATH), &variable, 0o644).unwrap();
        files::put(&paths.boot().join("EFI/Linux").join(file), b"kernel", 0o644).unwrap();
        files::put(&paths.at("proc/sys/kernel/random/boot_id"), boot.as_bytes(), 0o644).unwrap();
    }

    #[test]
    fn a_kernel_image_without_content_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = machine(dir.path(), "1.2.0");
        let [torn, whole] =
            ["millrace_1.3.0+3-0.efi", "millrace_1.2.0.efi"].map(|name| paths.boot().join("EFI/Linux").join(name));
        files::put(&torn, b"", 0o644).unwrap();
        files::put(&whole, b"kernel", 0o644).unwrap();
        assert_eq!(installed(&paths, &"1.3.0".parse().unwrap()).unwrap(), Installed::Absent);
        remove_empty(&paths).unwrap();
        assert!(!torn.exists() && whole.exists());
    }

    #[test]
    fn an_image_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::read(&machine(dir.path(), "1.2.0")).unwrap();
        assert_eq!((image.version.to_string().as_str(), image.profile.as_str()), ("1.2.0", "x86"));
        let foreign = "NAME=Debian\n";
        fs::write(dir.path().join("etc/os-release"), foreign).unwrap();
        assert!(matches!(Image::read(&Paths::below(dir.path())), Err(MachineError::Unsaid("IMAGE_ID"))));
    }

    #[test]
    fn a_trial_lasts_while_the_counted_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let paths = machine(dir.path(), "1.2.0");
        assert_eq!(trial(&paths).unwrap(), Trial::Blessed);
        booted(&paths, "millrace_1.2.0+2-1.efi", "second");
        assert_eq!(trial(&paths).unwrap(), Trial::OnTrial);
        let entries = paths.boot().join("EFI/Linux");
        fs::rename(entries.join("millrace_1.2.0+2-1.efi"), entries.join("millrace_1.2.0.efi")).unwrap();
        assert_eq!(trial(&paths).unwrap(), Trial::Blessed);
    }

    #[test]
    fn the_counter_stands_in_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let paths = machine(dir.path(), "1.2.0");
        let entries = paths.boot().join("EFI/Linux");
        let state = |version: &str| installed(&paths, &version.parse().unwrap()).unwrap();
        for name in
            ["millrace_1.1.0_x86-64.efi", "millrace_1.2.0+0-3.efi", "millrace_1.3.0+3.efi", "millrace_1.20.0.efi"]
        {
            fs::write(entries.join(name), b"kernel").unwrap();
        }
        assert_eq!(state("1.1.0"), Installed::Blessed);
        assert_eq!(state("1.2.0"), Installed::Counting { left: 0, done: 3 });
        assert_eq!(state("1.3.0"), Installed::Counting { left: 3, done: 0 });
        assert_eq!(state("1.2"), Installed::Absent);
        assert_eq!(state("1.20.0"), Installed::Blessed);
    }
}
