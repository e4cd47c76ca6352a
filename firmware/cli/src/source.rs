//! The file a person gives us: MPEG-TS, or a clear word about what else it is.
use std::path::Path;

use crate::failure::{Code, Failure, Result, unreadable};

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MpegTs,
    Mp4,
}

/// A file read whole.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a file and says what it is.
pub(crate) fn read(path: &Path) -> Result<Source> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    let kind = kind(&bytes).ok_or_else(|| {
        let text = format!("{} is neither MPEG-TS nor MP4", path.display());
        Failure::new(Code::Data, text).advise(conversion(path))
    })?;
    Ok(Source { kind, bytes })
}

/// Reads a file that must be MPEG-TS.
pub(crate) fn read_ts(path: &Path) -> Result<Vec<u8>> {
    let source = read(path)?;
    match source.kind {
        Kind::MpegTs => Ok(source.bytes),
        Kind::Mp4 => {
            let text = format!("{} is MP4; a stream is made of MPEG-TS", path.display());
            Err(Failure::new(Code::Data, text).advise(conversion(path)))
        }
    }
}

/// How to make a transport stream of a file.
pub(crate) fn conversion(path: &Path) -> String {
    let to = path.with_extension("ts");
    format!(
        "convert it without loss: ffmpeg -i {} -c copy -pes_payload_size 0 {}",
        path.display(),
        to.file_name().unwrap_or_default().to_string_lossy()
    )
}

fn kind(bytes: &[u8]) -> Option<Kind> {
    if bytes.get(4..8) == Some(b"ftyp") || bytes.get(4..8) == Some(b"styp") {
        return Some(Kind::Mp4);
    }
    mpegts::demux(bytes).is_ok().then_some(Kind::MpegTs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_shows_in_its_bytes_and_not_in_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.ts");
        std::fs::write(&path, b"\0\0\0\x18ftypisom").unwrap();
        let failure = read_ts(&path).unwrap_err();
        assert_eq!(failure.code, Code::Data);
        assert!(failure.to_string().contains("ffmpeg -i"));
        std::fs::write(&path, b"GIF89a").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("neither MPEG-TS nor MP4"));
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().code, Code::NoInput);
    }
}
