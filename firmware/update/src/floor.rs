//! The floor in two places, the disk and the TPM: the higher one holds. A disk image put back has an old file, a new board
//! has an empty TPM, and neither lowers it. Without a TPM, or with one that fails, the file alone counts.

use fleet_protocol::version::Version;

use crate::paths::Paths;
use crate::state::{State, StateError};
use crate::tpm::{Tpm, TpmError};

/// Where the floor is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// On the disk and in the TPM.
    Both,
    /// On the disk alone, for this reason.
    Disk(String),
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Both => f.write_str("on the disk and in the TPM"),
            Self::Disk(reason) => write!(f, "on the disk alone: {reason}"),
        }
    }
}

/// Brings both to the higher one. What the TPM does never stops anybody; a damaged file without a TPM does, as before.
///
/// # Errors
/// [`StateError`] when the file is damaged and the TPM has nothing to put in its place, or cannot be written.
pub(crate) fn settle(paths: &Paths) -> Result<(Option<Version>, Kept), StateError> {
    let (state, tpm) = (State::of(paths), Tpm::at(paths.tpm()));
    let in_tpm = read(&tpm);
    if let Err(error) = &in_tpm
        && !matches!(error, TpmError::None)
    {
        tracing::warn!(reason = crate::stage::text(error), "the floor is kept on the disk alone");
    }
    let higher = in_tpm.as_ref().ok().and_then(Clone::clone);
    let on_disk = match (state.floor(), &higher) {
        (Err(StateError::Floor(path)), Some(floor)) => {
            tracing::warn!(path = %path.display(), %floor, "the floor's file is damaged; the TPM has it");
            state.put_floor(floor)?;
            Some(floor.clone())
        }
        (floor, _) => floor?,
    };
    let floor = on_disk.clone().max(higher.clone());
    let Some(wanted) = &floor else { return Ok((None, kept(in_tpm))) };
    if on_disk.as_ref() < Some(wanted) {
        tracing::warn!(floor = %wanted, "the disk has an older floor than the TPM: it was put back");
        state.raise_floor(wanted)?;
    }
    let in_tpm = match in_tpm {
        Ok(known) if known.as_ref() < Some(wanted) => tpm.write(&wanted.to_string()).map(|()| floor.clone()),
        other => other,
    };
    Ok((floor, kept(in_tpm)))
}

/// What is kept where, without changing anything.
pub(crate) fn told(paths: &Paths) -> Kept {
    kept(read(&Tpm::at(paths.tpm())))
}

fn kept(in_tpm: Result<Option<Version>, TpmError>) -> Kept {
    match in_tpm {
        Ok(_) => Kept::Both,
        Err(error) => Kept::Disk(crate::stage::text(&error)),
    }
}

/// A record that makes no sense is as good as none: the file has it, and writes it again.
fn read(tpm: &Tpm) -> Result<Option<Version>, TpmError> {
    Ok(tpm.read()?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn without_a_tpm_the_file_alone_counts_and_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(settle(&paths).unwrap().0, None);
        State::of(&paths).raise_floor(&"1.2".parse().unwrap()).unwrap();
        let (floor, kept) = settle(&paths).unwrap();
        assert_eq!(floor, Some("1.2".parse().unwrap()));
        assert_eq!(kept.to_string(), "on the disk alone: there is no TPM");
        files::put(&paths.state().join("floor"), b"nonsense", 0o644).unwrap();
        assert!(matches!(settle(&paths), Err(StateError::Floor(_))));
    }
}
